package clock

import "time"

// Stamp is when something happened, also on a machine that does not know the
// time.
type Stamp struct {
	// Wall is the wall time, without a monotonic part, or zero if the clock was
	// not trusted.
	Wall time.Time
	// Boot is the id of the boot that Mono counts from.
	Boot string
	// Mono is the time since boot, that in suspend included.
	Mono time.Duration
}

// Resolve returns the wall time of s and whether it is known: Wall if s has one,
// else made from wallAtBoot, if that is not zero and s is of the boot bootID. A
// Stamp of an earlier boot without Wall stays unknown for ever: nothing says how
// long the machine was off.
func (s Stamp) Resolve(bootID string, wallAtBoot time.Time) (time.Time, bool) {
	switch {
	case !s.Wall.IsZero():
		return s.Wall, true
	case s.Boot == "" || s.Boot != bootID || wallAtBoot.IsZero():
		return time.Time{}, false
	}
	return wallAtBoot.Add(s.Mono), true
}
