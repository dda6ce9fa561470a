package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// adjtimex asks without setting anything, which needs no privilege.
func adjtimex() (state int, status int32, err error) {
	var t unix.Timex
	state, err = unix.Adjtimex(&t)
	return state, t.Status, err
}

func newMonotonic() func() time.Duration {
	return func() time.Duration {
		var t unix.Timespec
		if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
			// Some sandboxes lack it. Then a suspend looks like a step, which
			// costs new tokens only. This one is always there.
			_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
		}
		return time.Duration(t.Nano())
	}
}
