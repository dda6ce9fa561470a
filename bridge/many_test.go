package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

func (r *rig) acceptAll(ctx context.Context, async bool, rs ...bridge.Reading) <-chan []bridge.Accepted {
	c := make(chan []bridge.Accepted, 1)
	go func() { c <- r.AcceptAll(ctx, rs, async) }()
	synctest.Wait()
	return c
}

// states are the results in short: a state, or an error's kind.
func states(t *testing.T, c <-chan []bridge.Accepted) (got []string) {
	t.Helper()
	synctest.Wait()
	if len(c) == 0 {
		t.Fatal("no answer yet")
	}
	for _, a := range <-c {
		var rejected *bridge.RejectedError
		switch {
		case a.Err == nil:
			got = append(got, string(a.Receipt.State))
		case errors.As(a.Err, &rejected):
			got = append(got, "rejected")
		case errors.Is(a.Err, bridge.ErrUnknownDevice):
			got = append(got, "unknown")
		case errors.Is(a.Err, context.Canceled):
			got = append(got, "canceled")
		default:
			got = append(got, fmt.Sprint(a.Err))
		}
	}
	return got
}

// Each reading has its own end, at its place, and one that fails holds up none.
func TestAcceptAllAnswersEach(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		c := r.acceptAll(t.Context(), false, reading("a", "1"), reading("nobody", "2"), reading("a", "3"), reading("a", "4"))
		r.ack(t, "1")
		r.next(t, "3").Refuse(0x99, "payload format invalid")
		r.ack(t, "4")
		if got, want := states(t, c), []string{"delivered", "unknown", "rejected", "delivered"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		r.appends(t, 0)
		r.empty(t)
	})
}

// What the broker leaves open is stored, all of it after the same time, and
// goes out in order.
func TestAcceptAllStoresWhatIsLate(t *testing.T) {
	bubble(t, bridge.Options{AckTimeout: time.Second}, func(t *testing.T, r *rig) {
		c := r.acceptAll(t.Context(), false, reading("a", "1"), reading("a", "2"), reading("a", "3"))
		r.ack(t, "1")
		time.Sleep(time.Second)
		r.commit()
		if got, want := states(t, c), []string{"delivered", "stored", "stored"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		r.stored(t, "2", "3")
		r.ack(t, "2", "3")
		r.commit()
		r.empty(t)
	})
}

// What comes while the spool is busy with a device goes there in one commit.
func TestAcceptAllSharesCommits(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.down()
		r.sp.Manual = true
		var rs []bridge.Reading
		for _, n := range numbers(50) {
			rs = append(rs, reading("a", n))
		}
		c := r.acceptAll(t.Context(), true, rs...)
		r.commit()
		want := slices.Repeat([]string{"stored"}, 50)
		if got := states(t, c); !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		r.stored(t, numbers(50)...)
		r.appends(t, 2)
	})
}

// Who goes away gets an error for what has no end; that is kept all the same.
func TestAcceptAllCanceled(t *testing.T) {
	bubble(t, bridge.Options{AckTimeout: time.Second}, func(t *testing.T, r *rig) {
		ctx, cancel := context.WithCancel(t.Context())
		c := r.acceptAll(ctx, false, reading("a", "1"), reading("a", "2"))
		r.ack(t, "1")
		synctest.Wait()
		cancel()
		if got, want := states(t, c), []string{"delivered", "canceled"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		r.ack(t, "2")
		r.empty(t)
	})
}
