package clock_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fieldbridge/bridge/clock"
)

func sinceBoot(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

func TestThisMachine(t *testing.T) {
	state, status, err := clock.Adjtimex()
	if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOSYS) {
		t.Errorf("adjtimex: %v", err)
	}
	t.Logf("adjtimex: state %d, status %#x, error %v", state, status, err)

	o := clock.Options{Built: time.Unix(0, 0)}
	low := sinceBoot(t)
	began := time.Now()
	c := clock.New(o)
	s := c.Stamp()
	ended := time.Now()
	high := sinceBoot(t)
	if s.Mono < low || s.Mono > high {
		t.Errorf("%s since boot, want %s to %s", s.Mono, low, high)
	}
	if st := c.State(); !st.Trusted || err != nil && st.Synchronised {
		t.Errorf("state %+v", st)
	}
	// Between two calls the clock may have been set, by 1 s with a leap second.
	if s.Wall.Before(began.Add(-2*time.Second)) || s.Wall.After(ended.Add(2*time.Second)) {
		t.Errorf("wall time %s, want %s to %s", s.Wall, began, ended)
	}
	at, ok := c.WallAtBoot()
	if d := s.Wall.Sub(at.Add(s.Mono)); !ok || d.Abs() > 2*time.Second {
		t.Errorf("boot at %s, %t, differs by %s", at, ok, d)
	}
	// With Go's monotonic time in them, comparisons would not see that the
	// wall clock was set.
	if s.Wall != s.Wall.Round(0) || at != at.Round(0) {
		t.Errorf("a monotonic part is in %s or %s", s.Wall, at)
	}
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(raw)); c.Boot() != got || s.Boot != got {
		t.Errorf("boot %q and %q, want %q", c.Boot(), s.Boot, got)
	}
}
