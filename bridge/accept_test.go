package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

func TestAcceptDelivered(t *testing.T) {
	b, up := newBridge(t, bridge.Options{})
	measured := time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)
	id := uuid.Must(uuid.NewV7())
	r := reading("a", "1")
	r.ID, r.Time = id, measured
	got := accept(t, b, r)
	next(t, up, "1").Ack()
	if a := <-got; a.err != nil || a.receipt != (bridge.Receipt{ID: id, Time: measured, State: bridge.Delivered}) {
		t.Errorf("got %+v, %v", a.receipt, a.err)
	}
	checkHeld(t, b, 0)
}

func TestAcceptGivesIDAndTime(t *testing.T) {
	b, up := newBridge(t, bridge.Options{})
	before := time.Now()
	got := accept(t, b, reading("a", "1"))
	f := next(t, up, "1")
	f.Ack()
	a := <-got
	if a.err != nil {
		t.Fatal(a.err)
	}
	if a.receipt.ID.Version() != 7 || a.receipt.ID != f.Reading.ID {
		t.Errorf("id %s in the receipt, %s in the reading", a.receipt.ID, f.Reading.ID)
	}
	if a.receipt.Time.Before(before) || time.Now().Before(a.receipt.Time) || a.receipt.Time != f.Reading.Time {
		t.Errorf("time %s in the receipt, %s in the reading", a.receipt.Time, f.Reading.Time)
	}
}

func TestAcceptRefused(t *testing.T) {
	b, up := newBridge(t, bridge.Options{})
	got := accept(t, b, reading("a", "1"))
	next(t, up, "1").Refuse(0x99, "payload format invalid")
	a := <-got
	var re *bridge.RejectedError
	if !errors.As(a.err, &re) || re.Code != 0x99 || re.Reason != "payload format invalid" {
		t.Errorf("error %v", a.err)
	}
	if want := "refused by the broker with reason code 0x99 (payload format invalid)"; a.err.Error() != want {
		t.Errorf("error %q, want %q", a.err, want)
	}
	checkHeld(t, b, 0)
}

func TestAcceptRetriedThenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, up := newBridge(t, bridge.Options{AckTimeout: time.Minute})
		got := accept(t, b, reading("a", "1"))
		for try := 1; try <= 3; try++ {
			f := next(t, up, "1")
			f.Retry(0x80, 3)
		}
		a := <-got
		var re *bridge.RejectedError
		if !errors.As(a.err, &re) || re.Code != 0x80 {
			t.Errorf("error %v", a.err)
		}
		nothing(t, up)
		checkHeld(t, b, 0)
	})
}

func TestAcceptTimeout(t *testing.T) {
	for name, tt := range map[string]struct{ trouble, want string }{
		"trouble": {"broker answered CONNACK 0x86", "not accepted: broker answered CONNACK 0x86"},
		"none":    {"", "not accepted: the broker did not acknowledge the reading within 2s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, up := newBridge(t, bridge.Options{AckTimeout: 2 * time.Second})
				up.SetTrouble(tt.trouble)
				began := time.Now()
				_, err := b.Accept(t.Context(), reading("a", "1"))
				var ue *bridge.UnavailableError
				if !errors.As(err, &ue) || ue.RetryAfter <= 0 || ue.Error() != tt.want {
					t.Errorf("error %v, want %s", err, tt.want)
				}
				if d := time.Since(began); d != 2*time.Second {
					t.Errorf("after %s", d)
				}
				checkHeld(t, b, 0)
				nothing(t, up)
			})
		})
	}
}

func TestAcceptCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, up := newBridge(t, bridge.Options{})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := b.Accept(ctx, reading("a", "1"))
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("error %v", err)
		}
		checkHeld(t, b, 0)
		nothing(t, up)
	})
}

func TestAcceptNot(t *testing.T) {
	b, up := newBridge(t, bridge.Options{})
	if err := b.Connect("small", bridge.Connection{Uplink: up, MaxPayload: 4}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		r    bridge.Reading
		want error
		text string
	}{
		{reading("nobody", "1"), bridge.ErrUnknownDevice, `unknown device: "nobody"`},
		{reading("small", "12345"), bridge.ErrTooLarge, "payload too large: 5 bytes, the connector takes at most 4"},
	} {
		_, err := b.Accept(t.Context(), tt.r)
		if !errors.Is(err, tt.want) || err.Error() != tt.text {
			t.Errorf("Accept: error %v, want %s", err, tt.text)
		}
		if err := b.Submit(t.Context(), tt.r); !errors.Is(err, tt.want) {
			t.Errorf("Submit: error %v, want %v", err, tt.want)
		}
	}
	nothing(t, up)
	checkHeld(t, b, 0)
	submit(t, b, "small", "1234")
	next(t, up, "1234").Ack()
	if b.Known("nobody") || !b.Known("small") {
		t.Error("Known is wrong")
	}
	if err := b.Connect("small", bridge.Connection{Uplink: up}); !errors.Is(err, bridge.ErrInvalid) {
		t.Errorf("connected twice: error %v", err)
	}
}

func TestBudget(t *testing.T) {
	r := reading("a", strings.Repeat("x", 1000))
	b, up := newBridge(t, bridge.Options{MemoryBudget: 3 * bridge.Size(r)})
	up.SetTrouble("the broker is away")
	for range 3 {
		if err := b.Submit(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for name, err := range map[string]error{
		"submit": b.Submit(t.Context(), r),
		"accept": (<-accept(t, b, r)).err,
		"other":  b.Submit(t.Context(), reading("b", "1")),
	} {
		var ue *bridge.UnavailableError
		if !errors.As(err, &ue) || !strings.Contains(ue.Reason, "the broker is away") || ue.RetryAfter <= 0 {
			t.Errorf("%s: error %v", name, err)
		}
	}
	checkHeld(t, b, 3)
	up.Pull().Ack()
	if err := b.Submit(t.Context(), reading("b", "1")); err != nil {
		t.Errorf("after an acknowledgement: %v", err)
	}
	checkHeld(t, b, 3)
}

// A sender that was told no may send the reading again: what was on its way must
// not be repeated by the bridge as well.
func TestAbandonedIsNotSentAgain(t *testing.T) {
	for name, end := range map[string]func(*bridgetest.Flight){
		"lost":    func(f *bridgetest.Flight) { f.Resolve(bridge.Outcome{Kind: bridge.Lost}) },
		"retry":   func(f *bridgetest.Flight) { f.Retry(0x97, 0) },
		"acked":   func(f *bridgetest.Flight) { f.Ack() },
		"refused": func(f *bridgetest.Flight) { f.Refuse(0x90, "") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, up := newBridge(t, bridge.Options{})
				got := accept(t, b, reading("a", "1"))
				f := next(t, up, "1")
				if a := <-got; a.err == nil {
					t.Fatal("accepted without an acknowledgement")
				}
				checkHeld(t, b, 1)
				submit(t, b, "a", "2")
				end(f)
				next(t, up, "2").Ack()
				nothing(t, up)
				checkHeld(t, b, 0)
			})
		})
	}
}

func TestLostIsSentAgainInOrder(t *testing.T) {
	b, up := newBridge(t, bridge.Options{})
	submit(t, b, "a", numbered(6)...)
	for i := range 4 {
		next(t, up, fmt.Sprint(i))
	}
	up.InFlight()[2].Ack()
	up.Lose()
	for _, want := range []string{"0", "1", "3", "4", "5"} {
		next(t, up, want)
	}
	nothing(t, up)
	checkHeld(t, b, 5)
}

func TestSourcesTakeTurns(t *testing.T) {
	b, up := newBridge(t, bridge.Options{})
	submit(t, b, "a", numbered(5)...)
	submit(t, b, "b", "x", "y")
	for _, want := range []string{"0", "x", "1", "y", "2", "3", "4"} {
		next(t, up, want)
	}
}

// A broker that asks one device for patience does not hold up the others.
func TestRetryRestsOneLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, up := newBridge(t, bridge.Options{})
		submit(t, b, "a", "1", "2", "3")
		first, second := next(t, up, "1"), next(t, up, "2")
		second.Retry(0x97, 0)
		first.Retry(0x97, 0)
		nothing(t, up)
		submit(t, b, "b", "x")
		next(t, up, "x").Ack()
		submit(t, b, "a", "4")
		nothing(t, up)
		began := time.Now()
		for _, want := range []string{"1", "2", "3", "4"} {
			next(t, up, want).Ack()
		}
		if d := time.Since(began); d < 250*time.Millisecond || d > 500*time.Millisecond {
			t.Errorf("rested for %s, want 250 to 500 ms", d)
		}
	})
}

func TestRetryPauseGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, up := newBridge(t, bridge.Options{})
		submit(t, b, "a", "1")
		next(t, up, "1").Retry(0x97, 0)
		for bound := 500 * time.Millisecond; bound < 10*time.Minute; bound *= 2 {
			began := time.Now()
			next(t, up, "1").Retry(0x97, 0)
			hi := min(bound, 30*time.Second)
			if d := time.Since(began); d < hi/2 || d > hi {
				t.Errorf("rested for %s, want %s to %s", d, hi/2, hi)
			}
		}
		next(t, up, "1").Ack()
		checkHeld(t, b, 0)
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, up := newBridge(t, bridge.Options{})
		if err := b.Drain(t.Context()); err != nil {
			t.Errorf("empty: %v", err)
		}
		submit(t, b, "a", "1", "2")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "2 readings") {
			t.Errorf("with two: %v", err)
		}
		done := make(chan error, 2)
		for range cap(done) {
			go func() { done <- b.Drain(t.Context()) }()
		}
		next(t, up, "1").Ack()
		synctest.Wait()
		if len(done) > 0 {
			t.Error("drained while one is held")
		}
		next(t, up, "2").Refuse(0x90, "")
		for range cap(done) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}
