package clock

import (
	"errors"
	"fmt"
	"time"
)

// sample is both clocks at one instant, or nearly so.
type sample struct {
	wall time.Time
	mono time.Duration
}

func (s sample) base() time.Time { return s.wall.Add(-s.mono) }

// sample reads the wall clock between two readings of the other. If the
// goroutine was held up meanwhile it tries again: that would look like a step.
func (c *Clock) sample() sample {
	var best sample
	var narrow time.Duration
	for try := range 3 {
		before := c.mono()
		// Round takes Go's own monotonic time away: with it, Sub would not see
		// that the wall clock was set.
		wall := c.now().Round(0)
		gap := c.mono() - before
		if try == 0 || gap < narrow {
			best, narrow = sample{wall, before + gap/2}, gap
		}
		if narrow < noise/10 {
			break
		}
	}
	return best
}

// view is what a look found.
type view struct {
	sample
	state State
	base  time.Time
	ready <-chan struct{}
}

// look reads the clocks. It asks the kernel and judges if it must, or if the
// wall clock was set since it did so last.
func (c *Clock) look(must bool) view {
	c.mu.Lock()
	s := c.sample()
	var stepped time.Duration
	was := c.state.Trusted
	if d := s.base().Sub(c.told); d.Abs() > stepThreshold {
		stepped = d
	}
	if must || stepped != 0 {
		c.update(s, stepped)
	}
	v := view{sample: s, state: c.state, base: c.base, ready: c.ready}
	c.mu.Unlock()
	// The logger may be slow, and readings wait for the mutex.
	if stepped != 0 {
		c.logger.Info("clock stepped", "step", stepped, "time", v.wall.UTC())
	}
	if v.state.Trusted != was {
		c.logTrust(v.state)
	}
	return v
}

// update judges s and tells what changed. mu is held.
func (c *Clock) update(s sample, stepped time.Duration) {
	was := c.state
	c.state = c.judge(s.wall)
	c.state.Since = was.Since
	if d := s.base().Sub(c.base); d.Abs() > noise {
		c.base = s.base()
	}
	if stepped != 0 {
		// Steps that are too small to be told of add up until they are not.
		c.told = s.base()
	}
	if c.state.Trusted != was.Trusted {
		c.state.Since = s.mono
		if c.state.Trusted {
			close(c.ready)
		} else {
			c.ready = make(chan struct{})
		}
	}
	if stepped != 0 || c.state.Trusted != was.Trusted {
		c.tell(Change{Trusted: c.state.Trusted, Stepped: stepped})
	}
}

// tell sends to all who asked, without waiting for any. mu is held.
func (c *Clock) tell(change Change) {
	for _, ch := range c.subs {
		sum := change
		select {
		case old := <-ch:
			sum.Stepped += old.Stepped
		default:
		}
		ch <- sum // has room: nobody else sends
	}
}

// judge decides whether a wall clock that shows wall is trusted. What was
// trusted before stays so, as the kernel takes its word back whenever the clock
// is set or the NTP server is away for long. mu is held.
func (c *Clock) judge(wall time.Time) State {
	synced, why := c.synchronised()
	switch {
	case synced:
		return State{Trusted: true, Synchronised: true, Reason: why}
	case !wall.After(c.floor):
		return State{Reason: fmt.Sprintf(
			"%s, and it shows %s, which is not later than %s, %s: check that an NTP client runs here and reaches its server, or set the clock",
			why, second(wall), c.floorName, second(c.floor))}
	case c.state.Trusted:
		return State{Trusted: true, Reason: why + ", but it was trusted before"}
	case c.requireSync:
		return State{Reason: why + ", and require_sync is set: check that an NTP client runs here and reaches its server"}
	default:
		return State{Trusted: true, Reason: fmt.Sprintf("%s, but it is later than %s, %s", why, c.floorName, second(c.floor))}
	}
}

func second(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// synchronised asks the kernel. A sandbox may not let it answer: that is taken
// for no.
func (c *Clock) synchronised() (yes bool, why string) {
	state, status, err := c.adjtimex()
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return false, "this system does not say whether its clock is synchronised"
	case err != nil:
		return false, fmt.Sprintf("the kernel does not say whether the clock is synchronised (adjtimex: %v; the container or the unit must allow this system call)", err)
	case state == timeError || status&staUnsync != 0:
		return false, "the kernel says that the clock is not synchronised"
	}
	return true, "the kernel says that the clock is synchronised"
}

func (c *Clock) logTrust(s State) {
	if s.Trusted {
		c.logger.Info("clock trusted", "reason", s.Reason)
	} else {
		c.logger.Info("clock not trusted, no tokens are minted", "reason", s.Reason)
	}
}
