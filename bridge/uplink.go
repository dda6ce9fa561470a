package bridge

// OutcomeKind says what became of a reading that was given to a session.
type OutcomeKind int

// What can become of a reading.
const (
	// Acked: the broker has it (PUBACK below 0x80).
	Acked OutcomeKind = iota
	// Refused: the broker will never take it.
	Refused
	// Retry: the broker did not take it now; a later attempt may succeed.
	Retry
	// Lost: the session ended and the broker may or may not have it. It must be
	// sent again.
	Lost
	// kept: the reading is in the spool. Only for those who wait for it.
	kept
	// failed: the spool did not take the reading.
	failed
)

// Outcome is the end of one attempt to send a reading.
type Outcome struct {
	Kind OutcomeKind
	// Code is the reason code, where there was one.
	Code byte
	// Reason is for people and names no secret.
	Reason string
	// MaxTries, if above zero, bounds the attempts of a Retry: after so many
	// the reading counts as refused.
	MaxTries int

	err error // of failed
}

// Source is a device's readings as a session sees them: it takes the next one
// when it has room for it and says later what became of it. Both methods never
// block and may be called from any goroutine.
type Source interface {
	// Next returns the oldest reading that waits, or nil. The entry is the
	// session's until it calls Resolve. After nil the source offers itself
	// again once it has something.
	Next() *Entry
	// Resolve ends an attempt. It is called once for each entry that Next
	// returned, in the order of their sending when a session is lost.
	Resolve(*Entry, Outcome)
}

// Uplink is what carries readings to a broker.
type Uplink interface {
	// Offer tells the session that src has readings to send. It does not block.
	// Sources are served in turn, so that a busy one does not hold up another.
	Offer(src Source)
	// Trouble says for people why nothing goes out, or "" if all is well. It
	// names no secret.
	Trouble() string
}
