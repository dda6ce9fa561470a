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
	return r.acceptKeyed(ctx, nil, async, rs...)
}

// acceptKeyed takes the readings' keys as the texts of each; "" is none.
func (r *rig) acceptKeyed(ctx context.Context, texts []string, async bool, rs ...bridge.Reading) <-chan []bridge.Accepted {
	var keys []bridge.Key
	for i, text := range texts {
		k := bridge.Key{Value: text}
		if text != "" {
			k.Digest[0] = rs[i].Payload[0]
		}
		keys = append(keys, k)
	}
	c := make(chan []bridge.Accepted, 1)
	go func() { c <- r.AcceptAll(ctx, rs, keys, async) }()
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

// What has to be stored goes to the spool at once, of all devices together: as a
// whole where the link is down, where nobody waits or where the device wants it so.
func TestAcceptAllSharesCommits(t *testing.T) {
	for name, c := range map[string]struct {
		down, async bool
		devices     []bridge.DeviceID
	}{
		"one device":        {async: true, devices: []bridge.DeviceID{"a"}},
		"down":              {down: true, devices: []bridge.DeviceID{"a", "b", "c"}},
		"nobody waits":      {async: true, devices: []bridge.DeviceID{"a", "b", "c"}},
		"spooled first":     {devices: []bridge.DeviceID{"s"}},
		"with a direct one": {devices: []bridge.DeviceID{"s", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
				if c.down {
					r.down()
				}
				r.sp.Manual = true
				var rs []bridge.Reading
				for i, n := range numbers(60) {
					rs = append(rs, reading(c.devices[i%len(c.devices)], n))
				}
				done := r.acceptAll(t.Context(), c.async, rs...)
				r.appends(t, 1)
				r.commit()
				r.appends(t, 1)
				r.up.SetTrouble("")
				if c.down {
					states(t, done) // they are told before the link is up
				}
				sent := map[bridge.DeviceID][]string{}
				for range rs {
					f := r.any(t)
					sent[f.Reading.Device] = append(sent[f.Reading.Device], string(f.Reading.Payload))
					f.Ack()
				}
				r.commit()
				r.empty(t)
				for i, d := range c.devices {
					for k, got := range sent[d] {
						if want := string(rs[i+k*len(c.devices)].Payload); got != want {
							t.Fatalf("%s: %s is sent at place %d, want %s", d, got, k, want)
						}
					}
				}
			})
		})
	}
}

// A page stores what waits of its devices along with what is new, behind it; while
// the spool is busy with a device, what is new of that one comes later.
func TestAcceptAllBehindOthers(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.sp.Manual = true
		first := r.acceptHow(t.Context(), reading("a", "1"), async)
		r.appends(t, 1)
		c := r.acceptAll(t.Context(), true, reading("a", "2"), reading("b", "1"), reading("a", "3"), reading("b", "2"))
		r.appends(t, 2) // b's; a's first one is still on its way
		r.commit()
		r.appends(t, 3)
		if got := <-first; got.err != nil {
			t.Error(got.err)
		}
		if got, want := states(t, c), slices.Repeat([]string{"stored"}, 4); !slices.Equal(got, want) {
			t.Errorf("got %q", got)
		}
		r.stored(t, "1", "1", "2", "2", "3")
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

// A reading with a key stays one, within a page, in the next one, beside a single
// one and after all of it; what else is in the pages does not wait for it.
func TestAcceptAllKeys(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		ctx := t.Context()
		page := r.acceptKeyed(ctx, []string{"k1", "", "k1", "k2", "k1"}, false,
			reading("a", "1"), reading("a", "2"), reading("a", "1"), reading("a", "3"), reading("a", "4"))
		again := r.acceptKeyed(ctx, []string{"k2", "k1"}, false, reading("a", "3"), reading("a", "1"))
		single := r.acceptHow(ctx, reading("a", "3"), key("k2", '3'))
		synctest.Wait()
		r.ack(t, "1", "2", "3")
		synctest.Wait()
		got, second := <-page, <-again
		// What comes behind one that is spooled first is stored.
		for i, want := range []bridge.State{bridge.Delivered, bridge.Spooled, bridge.Delivered, bridge.Spooled, ""} {
			if got[i].Receipt.State != want {
				t.Errorf("reading %d: %+v", i, got[i])
			}
		}
		if !errors.Is(got[4].Err, bridge.ErrKeyReused) {
			t.Errorf("another reading with the key: %v", got[4].Err)
		}
		if got[0].Receipt != got[2].Receipt || second[1].Receipt != got[0].Receipt || second[0].Receipt != got[3].Receipt {
			t.Errorf("%+v and %+v", got, second)
		}
		if s := wantState(t, single, bridge.Spooled); s != got[3].Receipt {
			t.Errorf("by itself %+v, want %+v", s, got[3].Receipt)
		}
		later := <-r.acceptKeyed(ctx, []string{"k1", "k2"}, true, reading("a", "1"), reading("a", "4"))
		if later[0].Receipt.ID != got[0].Receipt.ID || !errors.Is(later[1].Err, bridge.ErrKeyReused) {
			t.Errorf("later: %+v", later)
		}
		r.empty(t)
		if n := r.KeysUnderWay(); n != 0 {
			t.Errorf("%d keys are left", n)
		}
	})
}

// Two pages that have each other's keys, the other way round, both come to an end.
func TestAcceptAllCrossedKeys(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.sp.Manual = true
		one := r.acceptKeyed(t.Context(), []string{"k1"}, true, reading("a", "1"))
		two := r.acceptKeyed(t.Context(), []string{"k1", "k2"}, true, reading("a", "1"), reading("a", "2"))
		three := r.acceptKeyed(t.Context(), []string{"k2", "k1", "k3"}, true, reading("a", "2"), reading("a", "1"), reading("a", "3"))
		four := r.acceptKeyed(t.Context(), []string{"k3", "k2"}, true, reading("a", "3"), reading("a", "2"))
		for range 3 {
			r.commit()
			synctest.Wait()
		}
		for i, c := range []<-chan []bridge.Accepted{one, two, three, four} {
			if len(c) == 0 {
				t.Fatalf("page %d has no end", i+1)
			}
			for k, got := range <-c {
				if got.Receipt.State != bridge.Spooled {
					t.Errorf("page %d, reading %d: %+v", i+1, k, got)
				}
			}
		}
		r.stored(t, "1", "2", "3")
	})
}

// Who goes away leaves its keys in good hands: a repetition waits for the first.
func TestAcceptAllKeysCanceled(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.sp.Manual = true
		ctx, cancel := context.WithCancel(t.Context())
		gone := r.acceptKeyed(ctx, []string{"k", "k"}, true, reading("a", "1"), reading("a", "1"))
		cancel()
		if got, want := states(t, gone), []string{"canceled", "canceled"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		again := r.acceptKeyed(t.Context(), []string{"k"}, true, reading("a", "1"))
		if len(again) != 0 {
			t.Fatalf("answered before the first is stored: %+v", <-again)
		}
		r.commit()
		if got, want := states(t, again), []string{"stored"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		r.stored(t, "1")
		if n := r.KeysUnderWay(); n != 0 {
			t.Errorf("%d keys are left", n)
		}
	})
}

// What has its end when the context is done is told so, not that it has none.
func TestAcceptAllCanceledLate(t *testing.T) {
	for range 20 { // select takes any that is ready
		bubble(t, bridge.Options{AckTimeout: time.Hour}, func(t *testing.T, r *rig) {
			ctx, cancel := context.WithCancel(t.Context())
			c := r.acceptAll(ctx, false, reading("a", "1"), reading("b", "2"), reading("b", "3"))
			late := r.any(t)
			if late.Reading.Device != "a" {
				t.Fatalf("the first one sent is of %s", late.Reading.Device)
			}
			r.ack(t, "2", "3")
			synctest.Wait()
			cancel()
			if got, want := states(t, c), []string{"canceled", "delivered", "delivered"}; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			late.Ack()
			r.empty(t)
		})
	}
}

// Whoever has a reading with a key and goes away is answered, also by itself.
func TestKeyedCanceled(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.sp.Manual = true
		ctx, cancel := context.WithCancel(t.Context())
		gone := r.acceptHow(ctx, reading("a", "1"), key("k", 1))
		synctest.Wait()
		cancel()
		wantError(t, gone, context.Canceled)
		again := r.acceptHow(t.Context(), reading("a", "1"), key("k", 1))
		synctest.Wait()
		if len(again) != 0 {
			t.Fatal("answered before the first is stored")
		}
		r.commit()
		r.any(t).Ack()
		wantState(t, again, bridge.Delivered)
		r.commit()
		r.empty(t)
		if n := r.KeysUnderWay(); n != 0 {
			t.Errorf("%d keys are left", n)
		}
	})
}
