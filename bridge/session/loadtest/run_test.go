//go:build linux

package main

import (
	"context"
	"os"
	"testing"
	"time"
)

// small is a run that a test can afford.
func small(t *testing.T, mode string) options {
	t.Helper()
	t.Parallel()
	if _, err := findMosquitto(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return options{
		Mode: mode, Sessions: 200, Auth: authJWT, Rate: 100, KeepAlive: time.Minute, Life: time.Hour,
		Steps: 2, Steady: 2 * time.Second, Period: time.Second, Away: 2 * time.Second, Calm: 2 * time.Second,
	}
}

// made makes a run and checks what all have in common: that nothing was lost,
// and that the budget was kept.
func made(t *testing.T, o options) *result {
	t.Helper()
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r, err := run(ctx, o, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", r.table())
	if err := r.err(); err != nil {
		t.Error(err)
	}
	if r.done.Reached != o.Sessions {
		t.Errorf("%d of %d devices had their downlink", r.done.Reached, o.Sessions)
	}
	// The broker counts what it let in, the witness and the sender of downlinks
	// among it.
	if got := int(r.accepted); got < o.Sessions || got > len(r.done.Dials)+10 {
		t.Errorf("the broker let %d in, of %d attempts", got, len(r.done.Dials))
	}
	return r
}

// The broker is killed under 200 sessions in the middle of traffic, and starts
// again without theirs.
func TestStorm(t *testing.T) {
	o := small(t, modeStorm)
	r := made(t, o)
	if n := len(r.done.Dials); n < 2*o.Sessions {
		t.Errorf("%d connects: the sessions did not come back", n)
	}
	if r.balance.Accepted < 2*o.Sessions {
		t.Errorf("%d readings only", r.balance.Accepted)
	}
}

func TestLoad(t *testing.T) {
	o := small(t, modeLoad)
	o.TLS, o.Idle = true, time.Second
	r := made(t, o)
	if want := 2 * o.Sessions; r.balance.Accepted != want || len(r.done.Dials) != o.Sessions {
		t.Errorf("%d readings and %d connects, want %d and %d", r.balance.Accepted, len(r.done.Dials), want, o.Sessions)
	}
	if bytes, goroutines := r.perSession(); bytes <= 0 || goroutines < 1 {
		t.Errorf("%.0f bytes and %.1f goroutines a session", bytes, goroutines)
	}
}

func TestRotation(t *testing.T) {
	o := small(t, modeRotation)
	o.Sessions, o.Steps, o.Period = 5, 1, 10*time.Millisecond
	o.Life, o.Steady = 3*time.Second, 8*time.Second
	r := made(t, o)
	if n := len(r.gaps); n < 2*o.Sessions {
		t.Errorf("%d rotations", n)
	}
	if b := r.balance; b.Repeated > 0 {
		t.Errorf("%d readings came twice: a renewal was no orderly reconnect", b.Repeated)
	}
}
