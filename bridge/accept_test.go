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

// While the link is up and acknowledgements come in time, nothing is written.
func TestNothingIsSpooledWhileAcksComeInTime(t *testing.T) {
	bubble(t, bridge.Options{AckTimeout: time.Second}, func(t *testing.T, r *rig) {
		for i := range 100 {
			got := r.accept(t, reading("a", fmt.Sprint(i)))
			r.submit(t, "b", fmt.Sprint("b", i))
			f := []*bridgetest.Flight{r.any(t), r.any(t)}
			time.Sleep(999 * time.Millisecond)
			f[0].Ack()
			f[1].Ack()
			wantState(t, got, bridge.Delivered)
		}
		r.appends(t, 0)
		r.empty(t)
	})
}

func TestAcceptDelivered(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		measured := time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)
		x := reading("a", "1")
		x.ID, x.Time = uuid.Must(uuid.NewV7()), measured
		got := r.accept(t, x)
		r.ack(t, "1")
		if rec := wantState(t, got, bridge.Delivered); rec.ID != x.ID || rec.Time != measured {
			t.Errorf("got %+v", rec)
		}
		r.empty(t)
	})
}

func TestAcceptGivesIDAndTime(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		now := time.Now()
		got := r.accept(t, reading("a", "1"))
		f := r.next(t, "1")
		f.Ack()
		rec := wantState(t, got, bridge.Delivered)
		if rec.ID.Version() != 7 || rec.ID != f.Reading.ID {
			t.Errorf("id %s in the receipt, %s in the reading", rec.ID, f.Reading.ID)
		}
		if !rec.Time.Equal(now) || rec.Time != f.Reading.Time {
			t.Errorf("time %s in the receipt, %s in the reading", rec.Time, f.Reading.Time)
		}
	})
}

// A direct reading that is refused leaves nothing behind if its sender is told.
func TestAcceptRefused(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		got := r.accept(t, reading("a", "1"))
		r.next(t, "1").Refuse(0x99, "payload format invalid")
		var re *bridge.RejectedError
		if a := answer(t, got); !errors.As(a.err, &re) || re.Code != 0x99 || re.Reason != "payload format invalid" {
			t.Errorf("error %v", a.err)
		}
		if want := "refused by the broker with reason code 0x99 (payload format invalid)"; re.Error() != want {
			t.Errorf("error %q, want %q", re, want)
		}
		r.empty(t)
		if d := r.sp.Dead(); len(d) != 0 || r.sp.Appends() != 0 {
			t.Errorf("dead letters %v", d)
		}
	})
}

func TestSubmittedIsRefused(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.submit(t, "a", "1")
		r.next(t, "1").Refuse(0x90, "topic name invalid")
		r.empty(t)
		d := r.sp.Dead()
		if len(d) != 1 || string(d[0].Reading.Payload) != "1" || d[0].Epitaph != (bridge.Epitaph{Code: 0x90, Reason: "topic name invalid"}) {
			t.Errorf("dead letters %v", d)
		}
	})
}

// Only answers of the broker count as attempts, lost connections do not.
func TestAcceptRetriedThenRefused(t *testing.T) {
	bubble(t, bridge.Options{AckTimeout: time.Minute}, func(t *testing.T, r *rig) {
		got := r.accept(t, reading("a", "1"))
		for range 5 {
			r.next(t, "1")
			r.up.Lose()
		}
		for range 3 {
			unanswered(t, got)
			r.next(t, "1").Retry(0x80, 3)
		}
		var re *bridge.RejectedError
		if a := answer(t, got); !errors.As(a.err, &re) || re.Code != 0x80 {
			t.Errorf("error %v", a.err)
		}
		r.empty(t)
	})
}

func TestAcceptNot(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		if err := r.Connect("small", bridge.Connection{Uplink: r.up, MaxPayload: 4}); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			x    bridge.Reading
			want error
			text string
		}{
			{reading("nobody", "1"), bridge.ErrUnknownDevice, `unknown device: "nobody"`},
			{reading("small", "12345"), bridge.ErrTooLarge, "payload too large: 5 bytes, the connector takes at most 4"},
		} {
			for _, key := range []string{"", "k"} {
				_, err := r.Accept(t.Context(), tt.x, bridge.Handling{Key: bridge.Key{Value: key}})
				if !errors.Is(err, tt.want) || err.Error() != tt.text {
					t.Errorf("Accept: error %v, want %s", err, tt.text)
				}
			}
			if err := r.Submit(t.Context(), tt.x); !errors.Is(err, tt.want) {
				t.Errorf("Submit: error %v, want %v", err, tt.want)
			}
		}
		r.submit(t, "small", "1234")
		r.ack(t, "1234")
		r.empty(t)
		if r.Known("nobody") || !r.Known("small") {
			t.Error("Known is wrong")
		}
		if err := r.Connect("small", bridge.Connection{Uplink: r.up}); !errors.Is(err, bridge.ErrInvalid) {
			t.Errorf("connected twice: error %v", err)
		}
	})
}

// A sender that goes away leaves its reading behind.
func TestAcceptCancelled(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := r.Accept(ctx, reading("a", "1"), bridge.Handling{})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("error %v", err)
		}
		r.held(t, 1)
		time.Sleep(time.Second)
		r.stored(t, "1")
		r.ack(t, "1")
		r.empty(t)
	})
}

func TestLostIsSentAgainInOrder(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.submit(t, "a", numbers(6)...)
		for i := range 4 {
			r.next(t, fmt.Sprint(i))
		}
		r.up.InFlight()[2].Ack()
		r.up.Lose()
		for _, want := range []string{"0", "1", "3", "4", "5"} {
			r.next(t, want)
		}
		r.nothing(t)
		r.held(t, 5)
		r.appends(t, 0)
	})
}

func TestSourcesTakeTurns(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.submit(t, "a", numbers(5)...)
		r.submit(t, "b", "x", "y")
		for _, want := range []string{"0", "x", "1", "y", "2", "3", "4"} {
			r.next(t, want)
		}
	})
}

// A broker that asks one device for patience does not hold up the others.
func TestRetryRestsOneLane(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.submit(t, "a", "1", "2", "3")
		first, second := r.next(t, "1"), r.next(t, "2")
		second.Retry(0x97, 0)
		first.Retry(0x97, 0)
		r.nothing(t)
		r.submit(t, "b", "x")
		r.ack(t, "x")
		r.submit(t, "a", "4")
		r.nothing(t)
		began := time.Now()
		r.ack(t, "1", "2", "3", "4")
		if d := time.Since(began); d < 250*time.Millisecond || d > 500*time.Millisecond {
			t.Errorf("rested for %s, want 250 to 500 ms", d)
		}
		r.empty(t)
	})
}

func TestRetryPauseGrows(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.submit(t, "a", "1")
		r.next(t, "1").Retry(0x97, 0)
		for bound := 500 * time.Millisecond; bound < 10*time.Minute; bound *= 2 {
			began := time.Now()
			r.next(t, "1").Retry(0x97, 0)
			hi := min(bound, bridge.RetryPauseMax)
			if d := time.Since(began); d < hi/2 || d > hi {
				t.Errorf("rested for %s, want %s to %s", d, hi/2, hi)
			}
		}
		r.ack(t, "1")
		r.empty(t)
	})
}

func TestDrain(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		if err := r.Drain(t.Context()); err != nil {
			t.Errorf("empty: %v", err)
		}
		r.submit(t, "a", "1", "2")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "2 readings") {
			t.Errorf("with two: %v", err)
		}
		done := make(chan error, 2)
		for range cap(done) {
			go func() { done <- r.Drain(t.Context()) }()
		}
		r.ack(t, "1")
		synctest.Wait()
		if len(done) > 0 {
			t.Error("drained while one is held")
		}
		r.next(t, "2").Refuse(0x90, "")
		for range cap(done) {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}
