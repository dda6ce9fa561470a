//go:build !linux

package clock

import (
	"errors"
	"time"
)

// Gateways run Linux. Elsewhere, where the software is developed, the clock is
// judged by the build time alone.
func adjtimex() (state int, status int32, err error) { return 0, 0, errors.ErrUnsupported }

// newMonotonic counts from now: there is no boot id either that would let
// another process make use of it.
func newMonotonic() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
