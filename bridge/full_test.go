package bridge_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

var errDisk = errors.New("append: input/output error")

func TestSpoolFull(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want func(error) bool
	}{
		"full": {fmt.Errorf("append: %w: max_bytes", bridge.ErrSpoolFull), func(err error) bool { return errors.Is(err, bridge.ErrSpoolFull) }},
		"broken": {errDisk, func(err error) bool {
			var ue *bridge.UnavailableError
			return errors.As(err, &ue) && ue.RetryAfter > 0
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
				// sent: the broker may have it, and the sender is told so.
				refused := func(what string, c <-chan accepted, sent bool) {
					t.Helper()
					if a := answer(t, c); !tt.want(a.err) || strings.Contains(a.err.Error(), "may have it") != sent {
						t.Errorf("%s: %+v, %v", what, a.receipt, a.err)
					}
				}
				r.submit(t, "a", "1")
				r.next(t, "1")
				r.sp.Fail(tt.err)
				late := r.accept(t, reading("a", "2")) // waits behind 1 for its PUBACK
				synctest.Wait()
				r.next(t, "2")
				time.Sleep(time.Second)
				refused("late", late, true)
				refused("async", r.acceptHow(t.Context(), reading("b", "x"), async), false)
				refused("first", r.accept(t, reading("s", "y")), false)
				r.submit(t, "s", "z") // nobody to tell
				r.held(t, 2)
				if c := r.Counts(); c.Dropped != 1 || c.Spooled != 0 {
					t.Errorf("counts: %+v", c)
				}
				if n := strings.Count(r.log.String(), "reading dropped"); n != 1 {
					t.Errorf("%d readings dropped in the log:\n%s", n, r.log)
				}
				// What came over a line stays in memory; direct readings go on.
				direct := r.accept(t, reading("b", "v"))
				r.ack(t, "v")
				wantState(t, direct, bridge.Delivered)
				// A sender that was told no may repeat it, so it is not sent again.
				r.up.Lose()
				flight := r.next(t, "1")
				r.nothing(t)
				// It recovers by itself.
				r.stored(t)
				r.sp.Fail(nil)
				time.Sleep(time.Second)
				r.stored(t, "1")
				r.submit(t, "a", "3")
				r.stored(t, "1", "3")
				flight.Ack()
				r.ack(t, "3")
				r.empty(t)
			})
		})
	}
}

// While the link is down and the spool is full, lines are dropped and counted,
// but not those that are in memory already.
func TestSpoolFullAndLinkDown(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.submit(t, "a", "1", "2")
		r.sp.Fail(bridge.ErrSpoolFull)
		r.down()
		r.submit(t, "a", "3")
		wantError(t, r.accept(t, reading("a", "4")), bridge.ErrSpoolFull)
		r.held(t, 2)
		if c := r.Counts(); c.Dropped != 1 {
			t.Errorf("counts: %+v", c)
		}
		r.sp.Fail(nil)
		r.submit(t, "a", "5") // takes along what is in memory
		r.stored(t, "1", "2", "5")
		r.held(t, 0)
		r.up.SetTrouble("")
		r.ack(t, "1", "2", "5")
		r.empty(t)
		if c := r.Counts(); c.Spooled != 3 {
			t.Errorf("counts: %+v", c)
		}
	})
}

// There is no room for the lines that wait, but there would be for a reading
// behind them: it must not get into the spool before them.
func TestNothingOvertakesInTheSpool(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.sp.Manual = true
		r.submit(t, "a", "1", "2", "3")
		r.sp.SetLimit(2)
		time.Sleep(time.Second) // 1, 2 and 3 are on their way
		r.appends(t, 1)
		got := r.acceptHow(t.Context(), reading("a", "4"), async)
		r.submit(t, "a", "5")
		synctest.Wait()
		r.commit()
		wantError(t, got, bridge.ErrSpoolFull)
		r.stored(t)
		r.sp.SetLimit(5)
		r.submit(t, "a", "6")
		time.Sleep(time.Second)
		r.commit()
		r.stored(t, "1", "2", "3", "6")
		again := r.restart(t, bridge.Options{})
		again.sp.Manual = false
		again.ack(t, "1", "2", "3", "6")
		again.empty(t)
	})
}

// A sender whose reading was in flight when it was told no: whatever the broker
// answers, it is over.
func TestAbandonedIsNotSentAgain(t *testing.T) {
	for name, end := range map[string]bridge.Outcome{
		"lost":    {Kind: bridge.Lost},
		"retry":   {Kind: bridge.Retry, Code: 0x97},
		"acked":   {Kind: bridge.Acked},
		"refused": {Kind: bridge.Refused, Code: 0x90},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
				got := r.accept(t, reading("a", "1"))
				f := r.next(t, "1")
				r.sp.Fail(bridge.ErrSpoolFull)
				time.Sleep(time.Second)
				wantError(t, got, bridge.ErrSpoolFull)
				r.held(t, 1)
				r.sp.Fail(nil)
				r.submit(t, "a", "2")
				f.Resolve(end)
				r.ack(t, "2")
				r.empty(t)
				if d := r.sp.Dead(); len(d) != 0 {
					t.Errorf("dead letters: %v", d)
				}
			})
		})
	}
}

// Above half of the memory budget readings go to the spool, above all of it they
// are refused.
func TestMemoryBudget(t *testing.T) {
	x := reading("a", strings.Repeat("x", 1000))
	budget := 4 * bridge.Size(x)
	bubble(t, bridge.Options{MemoryBudget: budget}, func(t *testing.T, r *rig) {
		r.sp.Manual = true
		for range 2 {
			if err := r.Submit(t.Context(), x); err != nil {
				t.Fatal(err)
			}
		}
		r.appends(t, 0)
		got := r.accept(t, x)
		r.appends(t, 1) // all three
		if err := r.Submit(t.Context(), x); err != nil {
			t.Fatal(err)
		}
		for name, err := range map[string]error{
			"submit": r.Submit(t.Context(), x),
			"accept": answer(t, r.accept(t, x)).err,
			"other":  r.Submit(t.Context(), reading("b", "1")),
		} {
			var ue *bridge.UnavailableError
			if !errors.As(err, &ue) || ue.RetryAfter <= 0 {
				t.Errorf("%s: error %v", name, err)
			}
		}
		r.held(t, 4)
		r.commit()
		r.held(t, 4)
		unanswered(t, got)
		for range 4 {
			f := r.any(t)
			f.Ack()
			r.commit()
			synctest.Wait()
		}
		wantState(t, got, bridge.Delivered)
		r.empty(t)
	})
}
