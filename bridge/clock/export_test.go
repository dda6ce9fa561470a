package clock

// For the tests.
var (
	Adjtimex    = adjtimex
	ReadBootID  = readBootID
	BuildTimeOf = buildTime
)

// Look does what Run does at each tick.
func (c *Clock) Look() { c.look(true) }
