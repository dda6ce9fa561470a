package session

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
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
	// LongMin and LongMax are those after the broker threw the session out for
	// another client with its id, or on an administrator's order. The pause is
	// half the bound at least, so that two clients with one id do not fight.
	// Defaults 1 min and 15 min.
	LongMin, LongMax time.Duration
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
	def(&b.LongMin, time.Minute)
	def(&b.LongMax, 15*time.Minute)
	def(&b.Stable, 30*time.Second)
	return b
}

// pauseClass is how urgent the next attempt is.
type pauseClass int

const (
	normal pauseClass = iota
	soon              // at once: the budget of connects is bound enough
	slow              // only a change at the broker or here will help
	long              // somebody else is on it
)

// wait returns the pause after the attempt-th failure in a row (from 1).
func (b Backoff) wait(attempt int, err error) time.Duration {
	class := normal
	if re := asReason(err); re != nil {
		class = re.class()
	}
	return b.pause(class, attempt)
}

func (b Backoff) pause(class pauseClass, attempt int) time.Duration {
	lo, hi := b.Min, b.Max
	switch class {
	case soon:
		lo, hi = b.Min/10, b.Min/10
	case slow:
		lo, hi = b.SlowMin, b.SlowMax
	case long:
		lo, hi = b.LongMin, b.LongMax
	}
	bound := lo
	for i := 1; i < attempt && bound < hi; i++ {
		bound *= 2
	}
	bound = min(bound, hi)
	if class == long {
		return bound/2 + rand.N(bound/2) + time.Millisecond
	}
	return rand.N(bound) + time.Millisecond
}

// history is what a session's pauses go by. A connection that the broker accepts
// and then drops counts as an attempt that failed.
type history struct {
	attempts int // failures in a row
	thrown   int // how often in a row the session was thrown out
	dropped  int // how often in a row a connection was ended without a word
}

// pause returns the pause after a failure; lasted is how long the connection was
// up before, 0 if there was none.
func (h *history) pause(b Backoff, err error, lasted time.Duration) time.Duration {
	stable := b.Stable
	if silent(err) {
		// Some brokers throw a client out without saying so (0x8E). The one that
		// took over comes back after a pause that Max bounds, like ours.
		stable = max(stable, 2*b.Max)
		h.dropped++
	} else if lasted > 0 {
		h.dropped = 0
	}
	if lasted >= stable {
		h.attempts, h.dropped = 0, 0
	}
	// Another client with our id comes back after a pause like ours.
	if lasted >= 2*b.LongMax {
		h.thrown = 0
	}
	h.attempts++
	re := asReason(err)
	if re == nil {
		return b.pause(normal, h.attempts)
	}
	class := re.class()
	if re.Packet == "DISCONNECT" && lasted >= b.Stable {
		switch re.Code {
		case 0x86, 0x87, 0xA0: // what we logged in with has run out
			class = soon
		}
	}
	if class == long {
		h.thrown++
		re.times = h.thrown
		return b.pause(long, h.thrown)
	}
	return b.pause(class, h.attempts)
}

// silent reports whether the other side ended a connection that was up without
// DISCONNECT.
func silent(err error) bool {
	return causeOf(err) == ConnectionLost && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET))
}

// suspicious is how many connections must end without a word, in a row and soon,
// for the log to say what that may mean.
const suspicious = 3

// explain adds to an error what the history makes of it.
func (h *history) explain(err error) error {
	if h.dropped < suspicious {
		return err
	}
	return fmt.Errorf("%w, number %d in a row: does another client use this client id, on a second gateway perhaps, or does something on the way cut connections?", err, h.dropped)
}

// asReason is the broker's answer in an error, or nil.
func asReason(err error) *ReasonError {
	var re *ReasonError
	if errors.As(err, &re) {
		return re
	}
	return nil
}
