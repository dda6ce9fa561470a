package bridge_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is the deadline for what must happen.
const patience = time.Minute

// newBridge makes a bridge with the devices a, b and c on one uplink.
func newBridge(t testing.TB, o bridge.Options) (*bridge.Bridge, *bridgetest.Uplink) {
	t.Helper()
	b, up := bridge.New(o), &bridgetest.Uplink{}
	for _, id := range []bridge.DeviceID{"a", "b", "c"} {
		if err := b.Connect(id, bridge.Connection{Uplink: up}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, m := range up.Misuse() {
			t.Error(m)
		}
	})
	return b, up
}

func reading(id bridge.DeviceID, payload string) bridge.Reading {
	return bridge.Reading{Device: id, ContentType: "text/plain", Payload: []byte(payload)}
}

func submit(t testing.TB, b *bridge.Bridge, id bridge.DeviceID, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if err := b.Submit(t.Context(), reading(id, p)); err != nil {
			t.Fatal(err)
		}
	}
}

// next pulls a reading, which must be this one.
func next(t testing.TB, up *bridgetest.Uplink, payload string) *bridgetest.Flight {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	f, err := up.Wait(ctx)
	if err != nil {
		t.Fatalf("%q was not sent: %v", payload, err)
	}
	if string(f.Reading.Payload) != payload {
		t.Fatalf("%q was sent, want %q", f.Reading.Payload, payload)
	}
	return f
}

// nothing checks that no reading waits to be sent.
func nothing(t testing.TB, up *bridgetest.Uplink) {
	t.Helper()
	if f := up.Pull(); f != nil {
		t.Fatalf("%q was sent, want nothing", f.Reading.Payload)
	}
}

// checkHeld checks how many readings are held, and that the budget has no more.
func checkHeld(t testing.TB, b *bridge.Bridge, n int) {
	t.Helper()
	if got := b.Held(); got != n {
		t.Errorf("%d readings are held, want %d", got, n)
	}
	if used := b.Used(); (used == 0) != (n == 0) {
		t.Errorf("the budget has %d bytes for %d readings", used, n)
	}
}

type accepted struct {
	receipt bridge.Receipt
	err     error
}

// accept calls Accept in a goroutine that ends with the test.
func accept(t testing.TB, b *bridge.Bridge, r bridge.Reading) <-chan accepted {
	c := make(chan accepted, 1)
	ctx := t.Context()
	go func() {
		rec, err := b.Accept(ctx, r)
		c <- accepted{rec, err}
	}()
	return c
}

func numbered(n int) (s []string) {
	for i := range n {
		s = append(s, fmt.Sprint(i))
	}
	return s
}
