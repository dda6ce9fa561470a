package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

// router is a rig whose downlinks run, inside a synctest bubble.
type router struct {
	*rig
	t      *testing.T
	mu     sync.Mutex
	done   []string // guarded by mu: ids of the downlinks that the broker may be told of
	cancel context.CancelFunc
	ended  chan error
}

func newRouter(t *testing.T, p bridge.DeliveryPolicy) *router {
	t.Helper()
	return &router{t: t, rig: newRig(t, bridge.Options{Delivery: p})}
}

func routing(t *testing.T, p bridge.DeliveryPolicy, test func(t *testing.T, r *router)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newRouter(t, p)) })
}

func (r *router) route(id bridge.DeviceID, filter, target string, to bridge.Deliverer) {
	r.t.Helper()
	if err := r.Route(id, bridge.Route{Filter: filter, Target: target, To: to}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *router) run() {
	ctx, cancel := context.WithCancel(r.t.Context())
	r.cancel, r.ended = cancel, make(chan error, 1)
	ended, b := r.ended, r.Bridge
	go func() { ended <- b.Run(ctx) }()
	r.t.Cleanup(cancel)
}

// stop ends Run, which must take no time.
func (r *router) stop() {
	r.t.Helper()
	synctest.Wait()
	began := time.Now()
	r.cancel()
	if err := <-r.ended; err != nil {
		r.t.Error(err)
	}
	if d := time.Since(began); d != 0 {
		r.t.Errorf("Run returned after %s", d)
	}
}

// send hands over a downlink whose id and payload are the same.
func (r *router) send(id bridge.DeviceID, subtopic, payload string) {
	r.sendFrom(bridge.Origin{}, id, subtopic, payload)
}

func (r *router) sendFrom(o bridge.Origin, id bridge.DeviceID, subtopic, payload string) {
	r.Downlink(downlink(id, subtopic, payload), o, r.note(payload))
}

func downlink(id bridge.DeviceID, subtopic, payload string) bridge.Downlink {
	return bridge.Downlink{ID: payload, Device: id, Subtopic: subtopic, Payload: []byte(payload), Received: time.Now()}
}

func (r *router) note(id string) func() {
	return func() {
		r.mu.Lock()
		r.done = append(r.done, id)
		r.mu.Unlock()
	}
}

// want checks what the broker may be told of, in any order: it is sorted.
func (r *router) want(done ...string) {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	got := slices.Sorted(slices.Values(r.done))
	if !slices.Equal(got, done) {
		r.t.Errorf("done: %q, want %q", got, done)
	}
}

// left checks which downlinks the spool holds.
func (r *router) left(want ...string) {
	r.t.Helper()
	synctest.Wait()
	var got []string
	for _, d := range r.sp.StoredDownlinks() {
		got = append(got, d.ID)
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("stored: %q, want %q", got, want)
	}
}

func wantAttempts(t *testing.T, to *bridgetest.Deliverer, want ...string) {
	t.Helper()
	synctest.Wait()
	var got []string
	for _, d := range to.Attempts() {
		got = append(got, string(d.Payload))
	}
	if !slices.Equal(got, want) {
		t.Errorf("attempts: %q, want %q", got, want)
	}
	if to.Overlapped() {
		t.Error("attempts ran at the same time")
	}
}

func TestRoutes(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		var all, valve, other bridgetest.Deliverer
		r.route("a", "", "all", &all)
		r.route("a", "valve/#", "valve", &valve)
		r.route("a", "valve/1", "valve", &valve) // twice to one target is once
		r.route("b", "", "other", &other)
		r.run()
		r.send("a", "valve/1", "1")
		r.send("a", "lamp", "2")
		r.send("b", "valve/1", "3")
		r.send("a", "", "4")
		wantAttempts(t, &all, "1", "2", "4")
		wantAttempts(t, &valve, "1")
		wantAttempts(t, &other, "3")
		r.want("1", "2", "3", "4")
		r.left()
	})
}

func TestRouteErrors(t *testing.T) {
	r := newRig(t, bridge.Options{})
	var one, two bridgetest.Deliverer
	for _, tt := range []struct {
		id    bridge.DeviceID
		route bridge.Route
		want  error
	}{
		{"nobody", bridge.Route{To: &one}, bridge.ErrUnknownDevice},
		{"a", bridge.Route{Filter: "#/x", To: &one}, bridge.ErrInvalid},
		{"a", bridge.Route{Target: "name", To: &one}, nil},
		{"b", bridge.Route{Target: "name", To: &one}, nil},
		{"a", bridge.Route{Target: "name", To: &two}, bridge.ErrInvalid},
	} {
		if err := r.Route(tt.id, tt.route); !errors.Is(err, tt.want) {
			t.Errorf("%+v: error %v, want %v", tt.route, err, tt.want)
		}
	}
	b := bridge.New(bridge.Options{Spool: r.sp})
	if err := b.Connect("a", bridge.Connection{Uplink: r.up}); err != nil {
		t.Fatal(err)
	}
	if err := b.Route("a", bridge.Route{To: &one}); !errors.Is(err, bridge.ErrInvalid) {
		t.Errorf("without a store: error %v", err)
	}
}

func TestNoRoute(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		r.route("a", "valve", "valve", &bridgetest.Deliverer{})
		r.send("a", "lamp", "1") // without Run: done at once
		r.send("b", "", "2")
		r.send("nobody", "", "3")
		r.want("1", "2", "3")
		r.left()
		if n := strings.Count(r.log.String(), "no route"); n != 3 {
			t.Errorf("%d lines in the log, want 3:\n%s", n, r.log)
		}
	})
}

func TestRunWaitsWithoutRoutes(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		r.run()
		synctest.Wait()
		if len(r.ended) > 0 {
			t.Error("Run has returned")
		}
		r.stop()
	})
}

// The broker is told when the downlink is stored for all its targets: not
// before, and not only when they have it.
func TestStoredBeforeDone(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		r.sp.Manual = true
		release := make(chan struct{})
		slow := bridgetest.Deliverer{Answer: func(context.Context, bridge.Downlink, int) error { <-release; return nil }}
		var quick bridgetest.Deliverer
		r.route("a", "", "slow", &slow)
		r.route("a", "#", "quick", &quick)
		r.run()
		r.send("a", "x", "1")
		r.want()
		wantAttempts(t, &quick)
		r.sp.Sync(1)
		r.want()
		r.left("1", "1")
		r.sp.Commit(0)
		r.want("1")
		wantAttempts(t, &slow, "1")
		wantAttempts(t, &quick, "1")
		r.commit()
		r.left("1")
		close(release)
		r.commit()
		r.left()
	})
}

// What the broker repeats because it has not seen our PUBACK is not delivered
// twice; a new downlink under the same packet id is.
func TestDuplicateDownlink(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		var to bridgetest.Deliverer
		r.route("a", "", "to", &to)
		r.run()
		o := bridge.Origin{Session: "client", PacketID: 7, Digest: [32]byte{1}}
		r.sendFrom(o, "a", "x", "1")
		r.want("1")
		o.Duplicate = true
		r.sendFrom(o, "a", "x", "1")
		r.want("1", "1")
		wantAttempts(t, &to, "1")
		// Nor by the next process.
		r.stop()
		r.rig = r.restart(t, bridge.Options{})
		r.route("a", "", "to", &to)
		r.run()
		r.sendFrom(o, "a", "x", "1")
		r.want("1", "1", "1")
		wantAttempts(t, &to, "1")
		// Something else with the same id, repeated as well, and lost before it
		// came here.
		o.Digest = [32]byte{2}
		r.sendFrom(o, "a", "x", "2")
		wantAttempts(t, &to, "1", "2")
		r.sp.DownlinkAcked("client", 7)
		synctest.Wait()
		r.sendFrom(o, "a", "x", "3")
		wantAttempts(t, &to, "1", "2", "3")
		r.left()
	})
}

// A store that fails is tried again, in order, and the broker is told nothing
// meanwhile. Other devices go their way.
func TestDownlinkNotStored(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		var to, other bridgetest.Deliverer
		r.route("a", "", "to", &to)
		r.route("b", "", "other", &other)
		r.run()
		r.sp.Manual = true
		r.sp.Fail(bridge.ErrSpoolFull)
		r.send("a", "x", "1")
		r.send("a", "x", "2")
		r.sp.Commit(1) // 1 fails
		r.sp.Fail(nil)
		r.sp.Manual = false
		r.send("a", "x", "3")
		r.send("b", "x", "4")
		r.want("4")
		wantAttempts(t, &to)
		wantAttempts(t, &other, "4")
		time.Sleep(bridge.StoreRetry)
		r.want("1", "2", "3", "4")
		wantAttempts(t, &to, "1", "2", "3")
		if n := strings.Count(r.log.String(), "downlink not stored"); n != 1 {
			t.Errorf("%d lines in the log:\n%s", n, r.log)
		}
		r.left()
	})
}

// One target's order holds over all devices and sub topics that lead to it, and
// holds up no other target.
func TestSlowTarget(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		release := make(chan struct{})
		slow := bridgetest.Deliverer{Answer: func(context.Context, bridge.Downlink, int) error { <-release; return nil }}
		var quick bridgetest.Deliverer
		r.route("a", "", "slow", &slow)
		r.route("b", "", "slow", &slow)
		r.route("c", "", "quick", &quick)
		r.run()
		for i, id := range []bridge.DeviceID{"a", "b", "c", "b", "a", "c"} {
			r.send(id, "x", fmt.Sprint(i))
			synctest.Wait()
		}
		wantAttempts(t, &quick, "2", "5")
		wantAttempts(t, &slow, "0")
		r.want("0", "1", "2", "3", "4", "5")
		r.left("0", "1", "3", "4")
		close(release)
		wantAttempts(t, &slow, "0", "1", "3", "4")
		r.left()
	})
}

// Many downlinks are read in pages, also while more come.
func TestManyDownlinks(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		to := bridgetest.Deliverer{Answer: func(context.Context, bridge.Downlink, int) error {
			time.Sleep(time.Millisecond)
			return nil
		}}
		r.route("a", "", "to", &to)
		r.run()
		for _, n := range numbers(100) {
			r.send("a", "x", n)
			if len(n)%2 == 0 {
				time.Sleep(time.Millisecond / 2)
			}
		}
		time.Sleep(time.Second)
		wantAttempts(t, &to, numbers(100)...)
		r.left()
	})
}

var errBusy = errors.New("the line is busy")

func TestDeliveryIsRetried(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{MinPause: time.Second, MaxPause: 4 * time.Second}, func(t *testing.T, r *router) {
		var at []time.Time
		to := bridgetest.Deliverer{Answer: func(_ context.Context, d bridge.Downlink, attempt int) error {
			if d.ID == "1" {
				at = append(at, time.Now())
				if attempt < 6 {
					return errBusy
				}
			}
			return nil
		}}
		r.route("a", "", "to", &to)
		r.run()
		r.send("a", "x", "1")
		r.send("a", "x", "2")
		time.Sleep(time.Minute)
		wantAttempts(t, &to, "1", "1", "1", "1", "1", "1", "2")
		for i, bound := range []time.Duration{1, 2, 4, 4, 4} {
			if d := at[i+1].Sub(at[i]); d <= 0 || d > bound*time.Second+time.Millisecond {
				t.Errorf("pause %d was %s, want up to %d s", i+1, d, bound)
			}
		}
		r.left()
	})
}

func TestRetryAfterOfTarget(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{MinPause: time.Millisecond, MaxPause: 30 * time.Second}, func(t *testing.T, r *router) {
		var at []time.Time
		to := bridgetest.Deliverer{Answer: func(_ context.Context, _ bridge.Downlink, attempt int) error {
			at = append(at, time.Now())
			switch attempt {
			case 1:
				return &bridge.DeliveryError{Err: errBusy, RetryAfter: 7 * time.Second}
			case 2: // wrapped, and more than we are ready to wait
				return fmt.Errorf("deliver: %w", &bridge.DeliveryError{Err: errBusy, RetryAfter: time.Hour})
			}
			return nil
		}}
		r.route("a", "", "to", &to)
		r.run()
		r.send("a", "x", "1")
		time.Sleep(time.Minute)
		r.left()
		if a, b := at[1].Sub(at[0]), at[2].Sub(at[1]); a != 7*time.Second || b != 30*time.Second {
			t.Errorf("waited %s and %s, want 7s and 30s", a, b)
		}
	})
}

func TestDeliveryRefused(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		to := bridgetest.Deliverer{Answer: func(_ context.Context, d bridge.Downlink, _ int) error {
			if d.ID == "1" {
				return fmt.Errorf("w: %w", &bridge.DeliveryError{Err: errors.New("410 Gone"), Permanent: true})
			}
			return nil
		}}
		r.route("a", "", `serial "scale"`, &to)
		r.run()
		r.send("a", "x", "1")
		r.send("a", "x", "2")
		wantAttempts(t, &to, "1", "2")
		r.left()
		if d := r.sp.Dead(); len(d) != 1 || d[0].Downlink.ID != "1" || d[0].Epitaph.Reason != "w: 410 Gone" {
			t.Errorf("dead letters: %+v", d)
		}
		if s := r.log.String(); !strings.Contains(s, "dead letter") || !strings.Contains(s, `serial \"scale\"`) {
			t.Errorf("log:\n%s", s)
		}
	})
}

func TestDownlinkExpires(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{MinPause: 2 * time.Second, MaxPause: 2 * time.Second, MaxAge: time.Hour}, func(t *testing.T, r *router) {
		to := bridgetest.Deliverer{Answer: func(_ context.Context, d bridge.Downlink, _ int) error {
			if d.ID == "1" || d.ID == "4" {
				return errBusy
			}
			return nil
		}}
		r.route("a", "", "to", &to)
		r.run()
		d := downlink("a", "x", "1")
		d.Expires = time.Now().Add(10 * time.Second)
		r.Downlink(d, bridge.Origin{}, r.note("1"))
		d.ID = "2" // waits behind the first until it is too late for it as well
		r.Downlink(d, bridge.Origin{}, r.note("2"))
		r.send("a", "x", "3")
		time.Sleep(9 * time.Second)
		r.left("1", "2", "3")
		time.Sleep(time.Second)
		r.left()
		r.send("a", "x", "4") // without an expiry of its own
		time.Sleep(time.Hour - time.Second)
		r.left("4")
		time.Sleep(time.Second)
		r.left()
		var dead []string
		for _, d := range r.sp.Dead() {
			dead = append(dead, d.Downlink.ID+" "+d.Epitaph.Reason)
		}
		if want := []string{"1 expired; last attempt: the line is busy", "2 expired", "4 expired; last attempt: the line is busy"}; !slices.Equal(dead, want) {
			t.Errorf("dead letters %q, want %q", dead, want)
		}
	})
}

func TestAttemptTimeout(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{Timeout: 5 * time.Second, MinPause: time.Nanosecond}, func(t *testing.T, r *router) {
		to := bridgetest.Deliverer{Answer: func(ctx context.Context, _ bridge.Downlink, attempt int) error {
			if attempt == 3 {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		r.route("a", "", "to", &to)
		r.run()
		r.send("a", "x", "1")
		time.Sleep(11 * time.Second)
		wantAttempts(t, &to, "1", "1", "1")
		r.left()
	})
}

// What is undelivered when Run ends is delivered by the next process, in order,
// and its attempts go on counting.
func TestDownlinksOverRestart(t *testing.T) {
	answers := map[string]func(context.Context) error{
		"under way":        func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"between attempts": func(context.Context) error { return errBusy },
		"permanent, late": func(ctx context.Context) error {
			<-ctx.Done()
			return &bridge.DeliveryError{Err: ctx.Err(), Permanent: true}
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			p := bridge.DeliveryPolicy{MinPause: time.Hour, MaxPause: time.Hour, Timeout: time.Hour}
			routing(t, p, func(t *testing.T, r *router) {
				to := bridgetest.Deliverer{Answer: func(ctx context.Context, _ bridge.Downlink, _ int) error { return answer(ctx) }}
				r.route("a", "", "to", &to)
				r.route("b", "", "to", &to)
				r.run()
				r.send("a", "x", "1")
				synctest.Wait()
				r.send("b", "x", "2")
				synctest.Wait()
				r.send("a", "x", "3")
				r.want("1", "2", "3")
				r.stop()
				wantAttempts(t, &to, "1")
				r.left("1", "2", "3")
				if n := r.sp.StoredDownlinks()[0].Tries; (n == 1) != (name == "between attempts") {
					t.Errorf("%d attempts are noted", n)
				}
				r.rig = r.restart(t, bridge.Options{Delivery: p})
				var next bridgetest.Deliverer
				r.route("a", "", "to", &next)
				r.route("b", "", "to", &next)
				r.run()
				wantAttempts(t, &next, "1", "2", "3")
				r.left()
				if d := r.sp.Dead(); len(d) != 0 {
					t.Errorf("dead letters: %+v", d)
				}
			})
		})
	}
}

func TestDownlinksNotRead(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		var to bridgetest.Deliverer
		r.route("a", "", "to", &to)
		r.sp.FailReads(errDisk)
		r.run()
		r.send("a", "x", "1")
		wantAttempts(t, &to)
		r.want("1")
		r.sp.FailReads(nil)
		time.Sleep(bridge.StoreRetry)
		wantAttempts(t, &to, "1")
		r.left()
		if !strings.Contains(r.log.String(), "downlinks not read") {
			t.Errorf("log:\n%s", r.log)
		}
	})
}
