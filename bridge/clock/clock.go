package clock

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

const (
	// pollUntrusted is short because tokens, and so all sessions, wait for it.
	pollUntrusted = time.Second
	// pollTrusted is how late a step can be told of. State and Stamp see it at
	// once.
	pollTrusted = 10 * time.Second
	// stepThreshold is what is told as a step. Slewing is none, however far it
	// goes: it moves both clocks.
	stepThreshold = time.Second
	// noise is what two readings of the same offset may differ by, because the
	// two clocks cannot be read at one instant.
	noise = 10 * time.Millisecond
)

// Options configure a Clock. The zero value reads this machine's clocks.
type Options struct {
	// RequireSync: without the kernel's word that the clock is synchronised, it
	// is not trusted, however plausible.
	RequireSync bool
	// Built is when the software was built. Default: BuildTime.
	Built time.Time
	// LastTrusted is the latest trusted time that is on record, or zero. Who
	// records it takes Stamp.Wall, also when that is earlier than what is on
	// record: a clock that was wrong, and is right again, must not be measured
	// by its mistake.
	LastTrusted time.Time
	// Adjtimex returns the kernel's clock state and its status bits, as
	// adjtimex(2) does with no modes set. Default: the system call.
	Adjtimex func() (state int, status int32, err error)
	// BootID returns an id that no other boot has. Default:
	// /proc/sys/kernel/random/boot_id, see proc_sys_kernel(5).
	BootID func() (string, error)
	// Monotonic returns the time since boot, that in suspend included, which
	// nobody can set. Default: CLOCK_BOOTTIME, see clock_gettime(2).
	Monotonic func() time.Duration
	// Now is the wall clock. Default: time.Now.
	Now func() time.Time
	// Logger gets one line per change. Default: nothing is logged.
	Logger *slog.Logger
}

// State is what is known about the wall clock.
type State struct {
	// Trusted: tokens may be minted and Stamps have wall time.
	Trusted bool
	// Synchronised is what the kernel said at the last look.
	Synchronised bool
	// Reason says why it is trusted or not, and in the latter case what to do.
	Reason string
	// Since is the time since boot (as Stamp.Mono) at which Trusted became what
	// it is, or was seen first.
	Since time.Duration
}

// Change is what Changes tells. Whoever did not fetch one before the next gets
// both in one: Trusted as it is now and Stepped in sum, which may be zero. So
// every Change is a reason to mint tokens anew, whatever its fields.
type Change struct {
	// Trusted is State.Trusted after the change.
	Trusted bool
	// Stepped is by how much the wall clock was set, forward if positive. Zero:
	// by 1 s at most.
	Stepped time.Duration
}

// Clock watches the wall clock. Its methods may be called from any goroutine;
// all but Run and Wait return at once.
type Clock struct {
	requireSync bool
	floor       time.Time // the later of Options.Built and Options.LastTrusted
	floorName   string
	boot        string
	adjtimex    func() (int, int32, error)
	mono        func() time.Duration
	now         func() time.Time
	logger      *slog.Logger

	mu    sync.Mutex // guards what follows
	state State
	base  time.Time     // the wall time at boot, give or take noise
	told  time.Time     // base as of the last step that was told
	ready chan struct{} // closed while state.Trusted
	subs  []chan Change // sent to with mu held only
}

// New makes a Clock and takes a first look, so that State is right at once. If
// this boot has no id that can be read, it gets a random one: Stamps are then
// of no use to another process.
func New(o Options) *Clock {
	if o.Built.IsZero() {
		o.Built = BuildTime()
	}
	if o.Adjtimex == nil {
		o.Adjtimex = adjtimex
	}
	if o.BootID == nil {
		o.BootID = bootID
	}
	if o.Monotonic == nil {
		o.Monotonic = newMonotonic()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Clock{
		requireSync: o.RequireSync,
		floor:       o.Built, floorName: "when this software was built",
		adjtimex: o.Adjtimex, mono: o.Monotonic, now: o.Now, logger: o.Logger,
		ready: make(chan struct{}),
	}
	if o.LastTrusted.After(o.Built) {
		c.floor, c.floorName = o.LastTrusted, "the last trusted time"
	}
	boot, err := o.BootID()
	if err != nil {
		boot = "random-" + rand.Text()
		c.logger.Warn("boot id unknown, times of readings from before the clock is trusted will not survive a restart", "error", err)
	}
	c.boot = boot
	c.first()
	return c
}

// first takes the look that later ones are compared with.
func (c *Clock) first() {
	c.mu.Lock()
	s := c.sample()
	c.base = s.base()
	c.told = c.base
	c.state = c.judge(s.wall)
	c.state.Since = s.mono
	if c.state.Trusted {
		close(c.ready)
	}
	state := c.state
	c.mu.Unlock()
	c.logTrust(state)
}

// Run looks at the clock every second until it is trusted and every ten seconds
// from then on. It returns nil when ctx is done.
func (c *Clock) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if c.look(true).state.Trusted {
			timer.Reset(pollTrusted)
		} else {
			timer.Reset(pollUntrusted)
		}
	}
}

// State returns what is known, which is as old as the last look. A step since
// then makes for a new look.
func (c *Clock) State() State {
	return c.look(false).state
}

// Stamp returns the time now.
func (c *Clock) Stamp() Stamp {
	v := c.look(false)
	s := Stamp{Boot: c.boot, Mono: v.mono}
	if v.state.Trusted {
		s.Wall = v.wall
	}
	return s
}

// Boot returns the id of this boot, as in the Stamps.
func (c *Clock) Boot() string { return c.boot }

// WallAtBoot returns the wall time at which this boot began, so that
// Stamp.Resolve can tell when a Stamp was made, and whether it can be trusted:
// if not, the time is zero. From one call to the next it moves by milliseconds,
// or with a step. So whoever resolves a Stamp keeps the result: resolved again,
// the same reading would have another time.
func (c *Clock) WallAtBoot() (time.Time, bool) {
	v := c.look(false)
	if !v.state.Trusted {
		return time.Time{}, false
	}
	return v.base, true
}

// Changes returns a channel of its own for each caller, which gets every change
// that is seen after the call, in time or added up. It is never closed and lives
// as long as the Clock: call Changes once per consumer, then State, in this
// order.
func (c *Clock) Changes() <-chan Change {
	ch := make(chan Change, 1) // 1: what is not fetched is added up in it
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs = append(c.subs, ch)
	return ch
}

// Wait returns nil once the clock is trusted. Run must be running. The error is
// ctx's, with the reason why the clock is not trusted.
func (c *Clock) Wait(ctx context.Context) error {
	for {
		v := c.look(false)
		if v.state.Trusted {
			return nil
		}
		select {
		case <-v.ready:
		case <-ctx.Done():
			return fmt.Errorf("wait for a trusted clock: %w: %s", ctx.Err(), v.state.Reason)
		}
	}
}
