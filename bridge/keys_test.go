package bridge_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

func key(value string, digest byte) bridge.Handling {
	return bridge.Handling{Key: bridge.Key{Value: value, Digest: [32]byte{digest}}}
}

func TestTwins(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		ctx := t.Context()
		first := r.acceptHow(ctx, reading("a", "1"), key("k", 1))
		synctest.Wait()
		twin := r.acceptHow(ctx, reading("a", "1"), key("k", 1))
		wantError(t, r.acceptHow(ctx, reading("a", "2"), key("k", 2)), bridge.ErrKeyReused)
		other := r.acceptHow(ctx, reading("b", "x"), key("k", 1)) // another device
		synctest.Wait()
		gone, cancel := context.WithCancel(ctx)
		third := r.acceptHow(gone, reading("a", "1"), key("k", 1))
		cancel()
		wantError(t, third, context.Canceled)
		for range 2 {
			r.any(t).Ack()
		}
		want := wantState(t, first, bridge.Delivered)
		if got := wantState(t, twin, bridge.Delivered); got != want {
			t.Errorf("got %+v and %+v", want, got)
		}
		if got := wantState(t, other, bridge.Delivered); got.ID == want.ID {
			t.Error("two devices share a key")
		}
		// Later, too.
		r.stored(t)
		if got := wantState(t, r.acceptHow(ctx, reading("a", "1"), key("k", 1)), bridge.Delivered); got.ID != want.ID || got.Time != want.Time {
			t.Errorf("got %+v and %+v", want, got)
		}
		wantError(t, r.acceptHow(ctx, reading("a", "2"), key("k", 2)), bridge.ErrKeyReused)
		r.empty(t)
		if n := r.KeysUnderWay(); n != 0 {
			t.Errorf("%d keys are left", n)
		}
	})
}

// A repetition while the reading is stored and after a restart.
func TestKeySurvivesRestart(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		ctx := t.Context()
		r.up.SetTrouble("the broker is away")
		want := wantState(t, r.acceptHow(ctx, reading("a", "1"), key("k", 1)), bridge.Spooled)
		if got := wantState(t, r.acceptHow(ctx, reading("a", "1"), key("k", 1)), bridge.Spooled); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		again := r.restart(t, bridge.Options{})
		if got := wantState(t, again.acceptHow(ctx, reading("a", "1"), key("k", 1)), bridge.Spooled); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		wantError(t, again.acceptHow(ctx, reading("a", "2"), key("k", 2)), bridge.ErrKeyReused)
		again.ack(t, "1")
		again.stored(t)
		if got := wantState(t, again.acceptHow(ctx, reading("a", "1"), key("k", 1)), bridge.Delivered); got.ID != want.ID {
			t.Errorf("got %+v, want %+v", got, want)
		}
		again.empty(t)
	})
}

// The first sender goes away before its reading is stored: its repetition is
// still the same reading.
func TestOwnerOfKeyGoesAway(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.sp.Manual = true
		ctx, cancel := context.WithCancel(t.Context())
		owner := r.acceptHow(ctx, reading("a", "1"), key("k", 1))
		synctest.Wait()
		twin := r.acceptHow(t.Context(), reading("a", "1"), key("k", 1))
		synctest.Wait()
		cancel()
		unanswered(t, twin)
		after := r.acceptHow(t.Context(), reading("a", "1"), key("k", 1))
		synctest.Wait()
		r.commit()
		r.ack(t, "1")
		want := wantState(t, twin, bridge.Delivered)
		if got := wantState(t, after, bridge.Delivered); got != want {
			t.Errorf("got %+v and %+v", want, got)
		}
		<-owner
		r.sp.Commit(1)
		r.empty(t)
		r.appends(t, 1)
	})
}

func TestKeyLatePuback(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		first := r.acceptHow(t.Context(), reading("a", "1"), key("k", 1))
		f := r.next(t, "1")
		unanswered(t, first)
		time.Sleep(time.Second)
		wantState(t, first, bridge.Spooled)
		f.Ack()
		r.stored(t)
		wantState(t, r.acceptHow(t.Context(), reading("a", "1"), key("k", 1)), bridge.Delivered)
		r.empty(t)
	})
}

func TestKeyOfRefused(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		first := r.acceptHow(t.Context(), reading("a", "1"), key("k", 1))
		r.next(t, "1").Refuse(0x99, "payload format invalid")
		synctest.Wait()
		for i, c := range []<-chan accepted{first, r.acceptHow(t.Context(), reading("a", "1"), key("k", 1))} {
			var re *bridge.RejectedError
			if a := answer(t, c); !errors.As(a.err, &re) || re.Code != 0x99 {
				t.Errorf("%d: got %+v, %v", i, a.receipt, a.err)
			}
		}
		r.empty(t)
	})
}

// A key whose reading was not accepted is free.
func TestKeyOfFailed(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.sp.Fail(bridge.ErrSpoolFull)
		wantError(t, r.acceptHow(t.Context(), reading("a", "1"), key("k", 1)), bridge.ErrSpoolFull)
		r.sp.Fail(nil)
		r.sp.FailReads(errDisk)
		var ue *bridge.UnavailableError
		if a := answer(t, r.acceptHow(t.Context(), reading("a", "1"), key("k", 1))); !errors.As(a.err, &ue) {
			t.Errorf("got %+v, %v", a.receipt, a.err)
		}
		r.sp.FailReads(nil)
		got := r.acceptHow(t.Context(), reading("a", "2"), key("k", 2))
		r.ack(t, "2")
		wantState(t, got, bridge.Delivered)
		r.empty(t)
	})
}
