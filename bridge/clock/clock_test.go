package clock_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge/clock"
)

func TestTrust(t *testing.T) {
	for name, tt := range map[string]struct {
		wall        time.Time
		state       int
		status      int32
		err         error
		last        time.Time
		requireSync bool
		trusted     bool
		synced      bool
		reason      []string
	}{
		"synchronised":                {wall: today, state: timeOK, status: staPLL, trusted: true, synced: true, reason: []string{"is synchronised"}},
		"leap second today":           {wall: today, state: timeIns, status: staPLL, trusted: true, synced: true},
		"synchronised and required":   {wall: today, requireSync: true, trusted: true, synced: true},
		"the record was wrong":        {wall: today, last: today.AddDate(50, 0, 0), trusted: true, synced: true},
		"STA_UNSYNC alone":            {wall: today, state: timeOK, status: staUnsync, trusted: true, reason: []string{"not synchronised, but it is later than when this software was built, 2027-03-01T00:00:00Z"}},
		"TIME_ERROR alone":            {wall: today, state: timeError, trusted: true},
		"clock hardware error":        {wall: today, state: timeError, status: staClockErr, requireSync: true},
		"later than the record":       {wall: today, last: last, state: timeError, status: staUnsync, trusted: true, reason: []string{"later than the last trusted time, 2027-05-01T12:00:00Z"}},
		"the record":                  {wall: last, last: last, state: timeError, status: staUnsync},
		"just later":                  {wall: last.Add(1), last: last, state: timeError, status: staUnsync, trusted: true},
		"between build and record":    {wall: built.Add(time.Hour), last: last, state: timeError, status: staUnsync, reason: []string{"not later than the last trusted time, 2027-05-01T12:00:00Z", "NTP client", "set the clock"}},
		"record older than the build": {wall: last.AddDate(-1, 0, 0), last: built.AddDate(-2, 0, 0), state: timeError, status: staUnsync, reason: []string{"when this software was built"}},
		"1970":                        {wall: epoch, state: timeError, status: staUnsync, reason: []string{"it shows 1970-01-01T00:00:07Z", "when this software was built, 2027-03-01T00:00:00Z"}},
		"required":                    {wall: today, last: last, state: timeError, status: staUnsync, requireSync: true, reason: []string{"not synchronised", "require_sync", "NTP client"}},
		"sandbox":                     {wall: today, err: syscall.EPERM, trusted: true, reason: []string{"adjtimex: operation not permitted"}},
		"sandbox, required":           {wall: today, err: syscall.EPERM, requireSync: true, reason: []string{"adjtimex: operation not permitted", "the container or the unit must allow"}},
		"sandbox, 1970":               {wall: epoch, err: syscall.ENOSYS},
		"not Linux, required":         {wall: today, err: errors.ErrUnsupported, requireSync: true, reason: []string{"this system does not say"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := boot(tt.wall)
				m.state, m.status, m.err = tt.state, tt.status, tt.err
				o := m.options()
				o.RequireSync, o.LastTrusted = tt.requireSync, tt.last
				c := clock.New(o)
				got := c.State()
				if got.Trusted != tt.trusted || got.Synchronised != tt.synced || got.Since != uptime || got.Reason == "" {
					t.Errorf("state %+v, want trusted %t, synchronised %t since %s", got, tt.trusted, tt.synced, uptime)
				}
				for _, want := range tt.reason {
					if !strings.Contains(got.Reason, want) {
						t.Errorf("reason %q lacks %q", got.Reason, want)
					}
				}
				s := c.Stamp()
				if s.Boot != "boot-1" || s.Mono != uptime || s.Wall.IsZero() == tt.trusted || tt.trusted && !s.Wall.Equal(tt.wall) {
					t.Errorf("stamp %+v", s)
				}
				at, ok := c.WallAtBoot()
				if ok != tt.trusted || ok && !at.Equal(tt.wall.Add(-uptime)) || !ok && !at.IsZero() {
					t.Errorf("boot at %s, %t", at, ok)
				}
			})
		})
	}
}

// The way of a gateway without a battery: 1970, then the NTP client sets the
// clock, then the kernel calls it synchronised.
func TestBootWithoutBattery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, log := boot(epoch), &lines{}
		o := m.options()
		o.RequireSync, o.LastTrusted, o.Logger = true, last, log.logger()
		c := clock.New(o)
		changes := c.Changes()
		run(t, c)
		waited := make(chan error, 1)
		go func() { waited <- c.Wait(t.Context()) }()

		early := c.Stamp()
		pass(30 * time.Second)
		wantNone(t, changes)
		if got := log.take(); len(got) != 1 || !strings.Contains(got[0], "level=INFO msg=\"clock not trusted, no tokens are minted\"") {
			t.Errorf("log %q", got)
		}

		by := today.Sub(epoch)
		m.step(by)
		pass(1100 * time.Millisecond)
		wantChange(t, changes, clock.Change{Stepped: by})
		if len(waited) != 0 || c.State().Trusted {
			t.Error("trusted before it is synchronised")
		}
		log.take()

		m.sync(true)
		pass(1100 * time.Millisecond)
		wantChange(t, changes, clock.Change{Trusted: true})
		if len(waited) != 1 || <-waited != nil {
			t.Error("Wait did not return")
		}
		if err := c.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if got := c.State(); !got.Trusted || !got.Synchronised || got.Since <= uptime+30*time.Second || got.Since > uptime+33*time.Second {
			t.Errorf("state %+v", got)
		}
		if got := log.take(); len(got) != 1 || !strings.Contains(got[0], "msg=\"clock trusted\"") {
			t.Errorf("log %q", got)
		}
		at, _ := c.WallAtBoot()
		if got, ok := early.Resolve(c.Boot(), at); !ok || !got.Equal(today) {
			t.Errorf("the early stamp is of %s, %t, want %s", got, ok, today)
		}

		pass(time.Hour)
		wantNone(t, changes)
		if got := log.take(); got != nil {
			t.Errorf("log %q", got)
		}
	})
}

func TestStep(t *testing.T) {
	const trusted, untrusted = true, false
	for name, tt := range map[string]struct {
		steps       []time.Duration
		synced      bool
		requireSync bool
		trusted     bool
		told        []clock.Change // after each step; zero: nothing
	}{
		"forward":                     {steps: []time.Duration{time.Hour}, trusted: trusted, told: []clock.Change{{Trusted: trusted, Stepped: time.Hour}}},
		"back":                        {steps: []time.Duration{-time.Hour}, trusted: trusted, told: []clock.Change{{Trusted: trusted, Stepped: -time.Hour}}},
		"just over":                   {steps: []time.Duration{1001 * time.Millisecond}, trusted: trusted, told: []clock.Change{{Trusted: trusted, Stepped: 1001 * time.Millisecond}}},
		"a second":                    {steps: []time.Duration{time.Second}, trusted: trusted, told: []clock.Change{{}}},
		"many small":                  {steps: []time.Duration{700 * time.Millisecond, 700 * time.Millisecond, 700 * time.Millisecond}, trusted: trusted, told: []clock.Change{{}, {Trusted: trusted, Stepped: 1400 * time.Millisecond}, {}}},
		"small ones that cancel out":  {steps: []time.Duration{700 * time.Millisecond, -700 * time.Millisecond, -700 * time.Millisecond}, trusted: trusted, told: []clock.Change{{}, {}, {}}},
		"back before the record":      {steps: []time.Duration{last.Sub(today) - 24*time.Hour}, trusted: untrusted, told: []clock.Change{{Stepped: last.Sub(today) - 24*time.Hour}}},
		"the same, synchronised":      {steps: []time.Duration{last.Sub(today) - 24*time.Hour}, synced: true, trusted: trusted, told: []clock.Change{{Trusted: trusted, Stepped: last.Sub(today) - 24*time.Hour}}},
		"there and back":              {steps: []time.Duration{epoch.Sub(today), today.Sub(epoch)}, trusted: trusted, told: []clock.Change{{Stepped: epoch.Sub(today)}, {Trusted: trusted, Stepped: today.Sub(epoch)}}},
		"there and back, require":     {steps: []time.Duration{epoch.Sub(today), today.Sub(epoch)}, requireSync: true, trusted: untrusted, told: []clock.Change{{Stepped: epoch.Sub(today)}, {Stepped: today.Sub(epoch)}}},
		"back after it was trusted":   {steps: []time.Duration{-time.Hour}, requireSync: true, trusted: trusted, told: []clock.Change{{Trusted: trusted, Stepped: -time.Hour}}},
		"as far as a kernel's can be": {steps: []time.Duration{200 * 365 * 24 * time.Hour}, trusted: trusted, told: []clock.Change{{Trusted: trusted, Stepped: 200 * 365 * 24 * time.Hour}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := boot(today)
				m.sync(true)
				o := m.options()
				o.RequireSync, o.LastTrusted = tt.requireSync, last
				c := clock.New(o)
				changes := c.Changes()
				run(t, c)
				m.sync(tt.synced)
				pass(time.Minute)
				wantNone(t, changes)
				if !c.State().Trusted {
					t.Fatal("trust did not stay")
				}
				for i, by := range tt.steps {
					m.step(by)
					pass(11 * time.Second)
					if tt.told[i] == (clock.Change{}) {
						wantNone(t, changes)
					} else {
						wantChange(t, changes, tt.told[i])
					}
					pass(time.Hour)
					wantNone(t, changes)
				}
				if got := c.State().Trusted; got != tt.trusted {
					t.Errorf("trusted %t, want %t", got, tt.trusted)
				}
				at, ok := c.WallAtBoot()
				if d := m.Now().Add(-m.Monotonic()).Sub(at); ok && d.Abs() > 10*time.Millisecond {
					t.Errorf("boot at %s, wrong by %s", at, d)
				}
			})
		})
	}
}

// Nobody has to wait for the next poll: a stamp or a token made right behind a
// step must not be wrong.
func TestStepIsSeenAtOnce(t *testing.T) {
	for name, see := range map[string]func(*clock.Clock) bool{
		"State":      func(c *clock.Clock) bool { return c.State().Trusted },
		"Stamp":      func(c *clock.Clock) bool { return !c.Stamp().Wall.IsZero() },
		"WallAtBoot": func(c *clock.Clock) bool { _, ok := c.WallAtBoot(); return ok },
		"Wait": func(c *clock.Clock) bool {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			return c.Wait(ctx) == nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, log := boot(today), &lines{}
				o := m.options()
				o.Logger = log.logger()
				c := clock.New(o)
				changes := c.Changes()
				log.take()
				if !see(c) {
					t.Fatal("not trusted")
				}
				m.step(epoch.Sub(today))
				if see(c) {
					t.Error("trusted")
				}
				wantChange(t, changes, clock.Change{Stepped: epoch.Sub(today)})
				if got := log.take(); len(got) != 2 || !strings.Contains(got[0], "clock stepped") || !strings.Contains(got[1], "clock not trusted") {
					t.Errorf("log %q", got)
				}
				m.step(today.Sub(epoch))
				if !see(c) {
					t.Error("not trusted")
				}
				wantChange(t, changes, clock.Change{Trusted: true, Stepped: today.Sub(epoch)})
			})
		})
	}
}

func TestSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := boot(today)
		c := clock.New(m.options())
		changes := c.Changes()
		run(t, c)
		before, boot := c.Stamp(), func() time.Time { at, _ := c.WallAtBoot(); return at }
		at := boot()
		m.change(func() { m.asleep += 8 * time.Hour })
		after := c.Stamp()
		if d := after.Mono - before.Mono; d != 8*time.Hour {
			t.Errorf("slept for %s by the time since boot", d)
		}
		if d := after.Wall.Sub(before.Wall); d != 8*time.Hour {
			t.Errorf("slept for %s by the wall clock", d)
		}
		pass(time.Minute)
		wantNone(t, changes)
		if got := boot(); !got.Equal(at) {
			t.Errorf("boot moved from %s to %s", at, got)
		}
	})
}

// Between the readings of the two clocks the process may be held up.
func TestHeldUpIsNoStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := boot(today)
		c := clock.New(m.options())
		changes := c.Changes()
		at, _ := c.WallAtBoot()
		m.change(func() { m.stall = []time.Duration{time.Minute, 3 * time.Second} })
		if s := c.Stamp(); !s.Wall.Add(-s.Mono).Equal(at) {
			t.Errorf("stamp %+v, boot at %s", s, at)
		}
		wantNone(t, changes)
	})
}

func TestChangesAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := boot(today)
		c := clock.New(m.options())
		quick, slow, lazy := c.Changes(), c.Changes(), c.Changes()
		run(t, c)
		for _, by := range []time.Duration{time.Hour, time.Minute} {
			m.step(by)
			pass(11 * time.Second)
			wantChange(t, quick, clock.Change{Trusted: true, Stepped: by})
		}
		wantChange(t, slow, clock.Change{Trusted: true, Stepped: time.Hour + time.Minute})
		m.step(epoch.Sub(today))
		pass(11 * time.Second)
		wantChange(t, slow, clock.Change{Stepped: epoch.Sub(today)})
		wantChange(t, lazy, clock.Change{Stepped: epoch.Sub(today) + time.Hour + time.Minute})
		late := c.Changes()
		m.step(today.Sub(epoch))
		pass(1100 * time.Millisecond)
		wantChange(t, late, clock.Change{Trusted: true, Stepped: today.Sub(epoch)})
	})
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := boot(epoch)
		c := clock.New(m.options())
		run(t, c)
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		err := c.Wait(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "wait for a trusted clock: ") ||
			!strings.Contains(err.Error(), c.State().Reason[:40]) {
			t.Errorf("error %v", err)
		}
		done := make(chan time.Time, 3)
		for range cap(done) {
			go func() {
				if err := c.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				done <- time.Now()
			}()
		}
		synctest.Wait()
		m.sync(true)
		set := time.Now()
		for range cap(done) {
			if d := (<-done).Sub(set); d > time.Second {
				t.Errorf("waited for %s", d)
			}
		}
	})
}
