package bridge_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

func newOpen(t *testing.T) (*bridge.Bridge, *bridgetest.Uplink) {
	t.Helper()
	b, up := newBridge(t, bridge.Options{AckTimeout: time.Second})
	b.ConnectOthers(bridge.Connection{Uplink: up, MaxPayload: 8})
	return b, up
}

func TestOthersLeaveNothingBehind(t *testing.T) {
	b, up := newOpen(t)
	if !b.Known("anything") {
		t.Error("an unlisted device is not known")
	}
	for i := range 100 {
		id := bridge.DeviceID(fmt.Sprintf("v%d", i))
		submit(t, b, id, "1", "2")
		if err := b.Submit(t.Context(), reading(id, "too large")); !errors.Is(err, bridge.ErrTooLarge) {
			t.Errorf("error %v", err)
		}
	}
	if n := b.Visitors(); n != 100 {
		t.Errorf("%d lanes, want 100", n)
	}
	for up.Pull() != nil {
	}
	up.Lose()
	for f := up.Pull(); f != nil; f = up.Pull() {
		f.Ack()
	}
	checkHeld(t, b, 0)
	if n := b.Visitors(); n != 0 {
		t.Errorf("%d lanes are left", n)
	}
}

// Readings that time out while the broker is away must not pile up lanes in the
// session's queue.
func TestOthersWhileTheBrokerIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, up := newOpen(t)
		for i := range 50 {
			if _, err := b.Accept(t.Context(), reading(bridge.DeviceID(fmt.Sprintf("v%d", i%5)), "1")); err == nil {
				t.Fatal("accepted")
			}
		}
		checkHeld(t, b, 0)
		if n := up.Offered(); n > 5 {
			t.Errorf("%d lanes wait for the session, there are 5 devices", n)
		}
		nothing(t, up)
		if n := b.Visitors(); n != 0 {
			t.Errorf("%d lanes are left", n)
		}
	})
}

func TestOthersAreBounded(t *testing.T) {
	b, up := newOpen(t)
	for i := range bridge.MaxVisitors {
		p, err := b.Begin(reading(bridge.DeviceID(fmt.Sprintf("v%d", i)), "1"))
		if err != nil {
			t.Fatal(err)
		}
		p.Withdraw()
	}
	var ue *bridge.UnavailableError
	if err := b.Submit(t.Context(), reading("one more", "1")); !errors.As(err, &ue) {
		t.Errorf("error %v, want an *UnavailableError", err)
	}
	submit(t, b, "v0", "1")
	submit(t, b, "a", "2")
	next(t, up, "1").Ack()
	next(t, up, "2").Ack()
	nothing(t, up)
	submit(t, b, "one more", "3")
	next(t, up, "3").Ack()
	nothing(t, up)
	if n := b.Visitors(); n != 0 {
		t.Errorf("%d lanes are left", n)
	}
}
