package bridge_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

// A new process delivers all that was stored, in order; what was acknowledged
// comes again only if its delete was not durable.
func TestRestart(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.down()
		r.submit(t, "a", "1", "2", "3")
		wantState(t, r.accept(t, reading("a", "4")), bridge.Spooled)
		r.submit(t, "b", "x")
		synctest.Wait()
		r.up.SetTrouble("")
		for _, p := range []string{"1", "x", "2"} {
			f := r.any(t)
			if p == "2" {
				r.sp.Manual = true // its delete gets lost
			}
			f.Ack()
			synctest.Wait()
		}
		acked := map[string]bool{}
		for _, s := range r.sp.Rows() {
			acked[string(s.Payload)] = true
		}
		again := r.restart(t, bridge.Options{})
		again.sp.Manual = false
		early := again.accept(t, reading("a", "5"))
		wantState(t, early, bridge.Spooled)
		seen := ""
		for range len(acked) + 1 {
			f := again.any(t)
			if f.Reading.Device == "a" {
				seen += string(f.Reading.Payload)
			}
			f.Ack()
		}
		if !strings.HasSuffix("12345", seen) || len(seen) < 3 {
			t.Errorf("sent %q", seen)
		}
		again.empty(t)
		direct := again.accept(t, reading("a", "6"))
		again.ack(t, "6")
		wantState(t, direct, bridge.Delivered)
	})
}

func TestRecoverCountsStrangers(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.sp.Insert(reading("gone", "1"))
		r.sp.Insert(reading("a", "2"))
		r.sp.Insert(reading("gone", "3"))
		n, err := r.Recover()
		if n != 2 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		r.ack(t, "2")
		r.nothing(t)
		r.stored(t, "1", "3")
		r.sp.FailReads(errDisk)
		if _, err := r.Recover(); !errors.Is(err, errDisk) {
			t.Errorf("error %v", err)
		}
	})
}

// Another process has put a dead letter back: it is found whatever the lane is
// doing, and nothing is sent twice.
func TestRecoverAfterForeignChange(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, r *rig) []string{
		"idle": func(*testing.T, *rig) []string { return nil },
		"direct": func(t *testing.T, r *rig) []string {
			r.submit(t, "a", "1")
			return []string{"1"}
		},
		"in flight": func(t *testing.T, r *rig) []string {
			r.submit(t, "a", "1")
			r.next(t, "1")
			return []string{"1"}
		},
		"backlog in memory": func(t *testing.T, r *rig) []string {
			r.submit(t, "a", "1", "2")
			r.next(t, "1")
			time.Sleep(time.Second)
			return []string{"1", "2"}
		},
		"backlog": func(t *testing.T, r *rig) []string {
			r.down()
			r.submit(t, "a", "1", "2")
			synctest.Wait()
			r.up.SetTrouble("")
			return []string{"1", "2"}
		},
		"overtaken in the spool": func(t *testing.T, r *rig) []string {
			// The foreign reading gets a lower number than one in memory.
			r.submit(t, "a", "1")
			r.sp.Insert(reading("a", "f"))
			time.Sleep(time.Second)
			return []string{"1"}
		},
		"being stored": func(t *testing.T, r *rig) []string {
			r.sp.Manual = true
			r.submit(t, "a", "1")
			time.Sleep(time.Second)
			synctest.Wait()
			r.sp.Sync(1) // durable, and the lane does not know
			return []string{"1"}
		},
		"being stored, in flight": func(t *testing.T, r *rig) []string {
			r.sp.Manual = true
			r.submit(t, "a", "1")
			r.next(t, "1")
			time.Sleep(time.Second)
			synctest.Wait()
			r.sp.Sync(1)
			return []string{"1"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
				want := map[string]int{"f": 1}
				for _, p := range prepare(t, r) {
					want[p] = 1
				}
				if name != "overtaken in the spool" {
					r.sp.Insert(reading("a", "f"))
				}
				synctest.Wait()
				if _, err := r.Recover(); err != nil {
					t.Fatal(err)
				}
				r.submit(t, "a", "later")
				want["later"] = 1
				got := map[string]int{}
				for _, f := range r.up.InFlight() {
					got[string(f.Reading.Payload)]++
				}
				last := ""
				for {
					synctest.Wait()
					f := r.up.Pull()
					if f == nil {
						synctest.Wait()
						if f = r.up.Pull(); f == nil {
							if r.commit() {
								continue
							}
							break
						}
					}
					last = string(f.Reading.Payload)
					got[last]++
				}
				for p, n := range want {
					if got[p] != n {
						t.Errorf("%q was sent %d times; sent: %v", p, got[p], got)
					}
				}
				if last != "later" && name != "direct" {
					t.Errorf("%q was sent last", last)
				}
				if err := r.CheckLanes(); err != nil {
					t.Error(err)
				}
				for _, f := range r.up.InFlight() {
					f.Ack()
				}
				r.commit()
				r.empty(t)
			})
		})
	}
}

func TestFlush(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		if err := r.Flush(t.Context()); err != nil {
			t.Errorf("empty: %v", err)
		}
		r.submit(t, "a", "1", "2")
		r.submit(t, "b", "x")
		got := r.accept(t, reading("b", "y"))
		r.any(t)
		if err := r.Flush(t.Context()); err != nil {
			t.Error(err)
		}
		wantState(t, got, bridge.Spooled)
		if n := len(r.sp.Rows()); n != 4 {
			t.Errorf("%d readings are stored, want 4", n)
		}
	})
}

// Flush does not return while a batch waits for the one before it.
func TestFlushWaits(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.sp.Manual = true
		wantStored := r.acceptHow(t.Context(), reading("a", "1"), async)
		synctest.Wait()
		behind := r.acceptHow(t.Context(), reading("a", "2"), async)
		synctest.Wait()
		flushed := make(chan error, 1)
		go func() { flushed <- r.Flush(t.Context()) }()
		for range 10 {
			synctest.Wait()
			if len(flushed) > 0 && len(r.sp.Rows()) < 2 {
				t.Fatal("flushed before all was stored")
			}
			r.sp.Commit(1)
		}
		synctest.Wait()
		if len(flushed) == 0 {
			t.Fatal("not flushed")
		}
		if err := <-flushed; err != nil {
			t.Error(err)
		}
		wantState(t, wantStored, bridge.Spooled)
		wantState(t, behind, bridge.Spooled)
	})
}

func TestFlushFails(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.submit(t, "a", "1", "2")
		r.sp.Fail(bridge.ErrSpoolFull)
		if err := r.Flush(t.Context()); !errors.Is(err, bridge.ErrSpoolFull) || !strings.Contains(err.Error(), "2 readings") {
			t.Errorf("error %v", err)
		}
		r.sp.Manual = true
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		r.sp.Fail(nil)
		r.sp.Commit(99)
		r.ack(t, "1", "2")
		r.sp.Commit(99)
		r.empty(t)
	})
}

// The spool of a gateway that was stopped in an orderly way has all it held.
func TestFlushThenRestart(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.submit(t, "a", "1", "2", "3")
		r.next(t, "1")
		r.next(t, "2").Ack()
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		again := r.restart(t, bridge.Options{})
		again.ack(t, "1", "3")
		again.empty(t)
	})
}

var _ bridge.Spool = (*bridgetest.Spool)(nil)
