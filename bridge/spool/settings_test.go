package spool

import (
	"errors"
	"testing"

	"fieldbridge/bridge"
)

// Limits change while the spool is open, and what is stored stays.
func TestSetLimits(t *testing.T) {
	one := sized("a", 0)
	size := sizeOf(&one)
	d := open(t, Options{})
	n := 0
	add := func(device string, want error) {
		t.Helper()
		n++
		if _, err := tryAppend(t, d, []bridge.Reading{sized(device, n)}, nil); !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
		checkInvariants(t, d)
	}
	for range 5 {
		add("a", nil)
	}
	d.SetLimits(Limits{MaxBytes: 3 * size})
	add("a", bridge.ErrSpoolFull)
	if left := len(loadAll(t, d, "a")); left != 5 {
		t.Errorf("%d readings are left, want 5", left)
	}
	d.SetLimits(Limits{MaxBytes: 5 * size, WhenFull: DropOldest})
	add("b", nil)
	if left := len(loadAll(t, d, "a")); left != 4 {
		t.Errorf("%d readings of a are left, want 4", left)
	}
	d.SetLimits(Limits{MaxBytesPerDevice: size})
	add("b", bridge.ErrSpoolFull)
	add("c", nil)
	d.SetLimits(Limits{})
	add("b", nil)
}
