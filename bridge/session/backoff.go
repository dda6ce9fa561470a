package session

import (
	"errors"
	"math/rand/v2"
	"time"
)

// Backoff says how long to wait between attempts to connect: a random time
// between zero and a bound that doubles with each attempt (full jitter). The
// zero value is the default.
type Backoff struct {
	// Min and Max bound the bound. Defaults 1 s and 1 min.
	Min, Max time.Duration
	// SlowMin and SlowMax are those after an answer that only a change at the
	// broker or in the configuration will turn. Defaults 15 s and 5 min.
	SlowMin, SlowMax time.Duration
	// Stable is how long a connection must last for the count of attempts to
	// start again, so that a broker that accepts and then drops is not
	// hammered. Default 30 s.
	Stable time.Duration
}

func (b Backoff) withDefaults() Backoff {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&b.Min, time.Second)
	def(&b.Max, time.Minute)
	def(&b.SlowMin, 15*time.Second)
	def(&b.SlowMax, 5*time.Minute)
	def(&b.Stable, 30*time.Second)
	return b
}

// wait returns the pause after the attempt-th failure in a row (from 1).
func (b Backoff) wait(attempt int, err error) time.Duration {
	lo, hi := b.Min, b.Max
	var re *ReasonError
	if errors.As(err, &re) && re.slow() {
		lo, hi = b.SlowMin, b.SlowMax
	}
	bound := lo
	for i := 1; i < attempt && bound < hi; i++ {
		bound *= 2
	}
	return rand.N(min(bound, hi)) + time.Millisecond
}
