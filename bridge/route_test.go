package bridge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

// router is a bridge whose downlinks run, inside a synctest bubble.
type router struct {
	*bridge.Bridge
	t      *testing.T
	log    bytes.Buffer
	mu     sync.Mutex
	done   []string // guarded by mu: ids of the downlinks that were done
	cancel context.CancelFunc
	ended  chan error
}

func newRouter(t *testing.T, p bridge.DeliveryPolicy) *router {
	t.Helper()
	r := &router{t: t, ended: make(chan error, 1)}
	r.Bridge, _ = newBridge(t, bridge.Options{Delivery: p, Logger: slog.New(slog.NewTextHandler(&r.log, nil))})
	return r
}

func (r *router) route(id bridge.DeviceID, filter string, to bridge.Deliverer) {
	r.t.Helper()
	if err := r.Route(id, bridge.Route{Filter: filter, Target: `serial "scale"`, To: to}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *router) run() {
	ctx, cancel := context.WithCancel(r.t.Context())
	r.cancel = cancel
	go func() { r.ended <- r.Run(ctx) }()
	r.t.Cleanup(cancel)
}

// send hands over a downlink whose id and payload are the same.
func (r *router) send(id bridge.DeviceID, subtopic, payload string) {
	r.Downlink(bridge.Downlink{ID: payload, Device: id, Subtopic: subtopic, Payload: []byte(payload)}, r.note(payload))
}

func (r *router) note(id string) func() {
	return func() {
		r.mu.Lock()
		r.done = append(r.done, id)
		r.mu.Unlock()
	}
}

// want checks what is done. Sorted ids match any order: between targets there is
// none.
func (r *router) want(done ...string) {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.IsSorted(done) {
		slices.Sort(r.done)
	}
	if !slices.Equal(r.done, done) {
		r.t.Errorf("done: %q, want %q", r.done, done)
	}
}

func payloads(to *bridgetest.Deliverer) (s []string) {
	for _, d := range to.Attempts() {
		s = append(s, string(d.Payload))
	}
	return s
}

func wantAttempts(t *testing.T, to *bridgetest.Deliverer, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := payloads(to); !slices.Equal(got, want) {
		t.Errorf("attempts: %q, want %q", got, want)
	}
	if to.Overlapped() {
		t.Error("attempts ran at the same time")
	}
}

func TestRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t, bridge.DeliveryPolicy{})
		var all, valve, other bridgetest.Deliverer
		r.route("a", "", &all)
		r.route("a", "valve/#", &valve)
		r.route("b", "", &other)
		r.run()
		r.send("a", "valve/1", "1")
		r.send("a", "lamp", "2")
		r.send("b", "valve/1", "3")
		r.send("a", "", "4")
		wantAttempts(t, &all, "1", "2", "4")
		wantAttempts(t, &valve, "1")
		wantAttempts(t, &other, "3")
		r.want("1", "2", "3", "4")
	})
}

func TestRouteErrors(t *testing.T) {
	b, _ := newBridge(t, bridge.Options{})
	if err := b.Route("nobody", bridge.Route{To: &bridgetest.Deliverer{}}); !errors.Is(err, bridge.ErrUnknownDevice) {
		t.Errorf("error %v", err)
	}
	if err := b.Route("a", bridge.Route{Filter: "#/x", To: &bridgetest.Deliverer{}}); !errors.Is(err, bridge.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}

func TestNoRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t, bridge.DeliveryPolicy{})
		r.route("a", "valve", &bridgetest.Deliverer{})
		r.send("a", "lamp", "1") // without Run: done at once
		r.send("b", "", "2")
		r.send("nobody", "", "3")
		r.want("1", "2", "3")
		if n := strings.Count(r.log.String(), "no route"); n != 3 {
			t.Errorf("%d lines in the log, want 3:\n%s", n, &r.log)
		}
	})
}

func TestRunWaitsWithoutRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t, bridge.DeliveryPolicy{})
		r.run()
		synctest.Wait()
		if len(r.ended) > 0 {
			t.Error("Run has returned")
		}
		r.cancel()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
	})
}

// Done is told once, when the slowest of several routes has it.
func TestSeveralRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t, bridge.DeliveryPolicy{})
		release := make(chan struct{})
		slow := bridgetest.Deliverer{Answer: func(context.Context, bridge.Downlink, int) error { <-release; return nil }}
		var quick bridgetest.Deliverer
		r.route("a", "", &slow)
		r.route("a", "#", &quick)
		r.run()
		r.send("a", "x", "1")
		wantAttempts(t, &quick, "1")
		r.want()
		close(release)
		r.want("1")
	})
}

// One target's order holds over all devices and sub topics that lead to it, and
// holds up no other target.
func TestSlowTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t, bridge.DeliveryPolicy{})
		release := make(chan struct{})
		slow := bridgetest.Deliverer{Answer: func(context.Context, bridge.Downlink, int) error { <-release; return nil }}
		var quick bridgetest.Deliverer
		r.route("a", "", &slow)
		r.route("b", "", &slow)
		r.route("c", "", &quick)
		r.run()
		for i, id := range []bridge.DeviceID{"a", "b", "c", "b", "a", "c"} {
			r.send(id, "x", fmt.Sprint(i))
		}
		wantAttempts(t, &quick, "2", "5")
		wantAttempts(t, &slow, "0")
		r.want("2", "5")
		close(release)
		wantAttempts(t, &slow, "0", "1", "3", "4")
		r.want("2", "5", "0", "1", "3", "4")
	})
}

var errBusy = errors.New("the line is busy")

func TestDeliveryIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t, bridge.DeliveryPolicy{Attempts: 6, MinPause: time.Second, MaxPause: 4 * time.Second})
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
		r.route("a", "", &to)
		r.run()
		r.send("a", "x", "1")
		r.send("a", "x", "2")
		time.Sleep(time.Minute)
		r.want("1", "2")
		wantAttempts(t, &to, "1", "1", "1", "1", "1", "1", "2")
		for i, bound := range []time.Duration{1, 2, 4, 4, 4} {
			if d := at[i+1].Sub(at[i]); d <= 0 || d > bound*time.Second+time.Millisecond {
				t.Errorf("pause %d was %s, want up to %d s", i+1, d, bound)
			}
		}
	})
}

func TestRetryAfterOfTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t, bridge.DeliveryPolicy{MinPause: time.Millisecond, MaxPause: 30 * time.Second})
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
		r.route("a", "", &to)
		r.run()
		r.send("a", "x", "1")
		time.Sleep(time.Minute)
		r.want("1")
		if a, b := at[1].Sub(at[0]), at[2].Sub(at[1]); a != 7*time.Second || b != 30*time.Second {
			t.Errorf("waited %s and %s, want 7s and 30s", a, b)
		}
	})
}

func TestDeliveryGivenUp(t *testing.T) {
	for name, tt := range map[string]struct {
		err      error
		attempts int
		want     string
	}{
		"permanent": {fmt.Errorf("w: %w", &bridge.DeliveryError{Err: errors.New("410 Gone"), Permanent: true}), 1, "410 Gone"},
		"attempts":  {errBusy, 3, "3 attempts: the line is busy"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRouter(t, bridge.DeliveryPolicy{Attempts: 3})
				to := bridgetest.Deliverer{Answer: func(_ context.Context, d bridge.Downlink, _ int) error {
					if d.ID == "1" {
						return tt.err
					}
					return nil
				}}
				r.route("a", "", &to)
				r.run()
				r.send("a", "x", "1")
				r.send("a", "x", "2")
				time.Sleep(time.Minute)
				r.want("1", "2")
				if got := len(to.Attempts()); got != tt.attempts+1 {
					t.Errorf("%d attempts, want %d and one", got, tt.attempts)
				}
				if s := r.log.String(); !strings.Contains(s, "given up") || !strings.Contains(s, tt.want) || !strings.Contains(s, `serial \"scale\"`) {
					t.Errorf("log:\n%s", s)
				}
			})
		})
	}
}

func TestDownlinkExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t, bridge.DeliveryPolicy{Attempts: 100, MinPause: 2 * time.Second, MaxPause: 2 * time.Second})
		to := bridgetest.Deliverer{Answer: func(_ context.Context, d bridge.Downlink, _ int) error {
			if d.ID == "1" {
				return errBusy
			}
			return nil
		}}
		r.route("a", "", &to)
		r.run()
		expiring := bridge.Downlink{ID: "1", Device: "a", Payload: []byte("1"), Expires: time.Now().Add(10 * time.Second)}
		r.Downlink(expiring, r.note("1"))
		expiring.ID = "2" // waits behind the first until it is too late for it as well
		r.Downlink(expiring, r.note("2"))
		r.send("a", "x", "3")
		time.Sleep(9 * time.Second)
		r.want()
		time.Sleep(4 * time.Second)
		r.want("1", "2", "3")
		if n := strings.Count(r.log.String(), "message expiry"); n != 2 {
			t.Errorf("%d of 2 in the log:\n%s", n, &r.log)
		}
	})
}

func TestAttemptTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter(t, bridge.DeliveryPolicy{Attempts: 2, Timeout: 5 * time.Second, MinPause: time.Nanosecond})
		to := bridgetest.Deliverer{Answer: func(ctx context.Context, _ bridge.Downlink, _ int) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		r.route("a", "", &to)
		r.run()
		began := time.Now()
		r.send("a", "x", "1")
		time.Sleep(time.Minute)
		r.want("1")
		if got := len(to.Attempts()); got != 2 {
			t.Errorf("%d attempts in %s, want 2", got, time.Since(began))
		}
	})
}

// What is undelivered when Run ends is not done: the broker keeps it.
func TestRunEndsBeforeDelivery(t *testing.T) {
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
			synctest.Test(t, func(t *testing.T) {
				r := newRouter(t, bridge.DeliveryPolicy{MinPause: time.Hour, MaxPause: time.Hour, Timeout: time.Hour})
				to := bridgetest.Deliverer{Answer: func(ctx context.Context, _ bridge.Downlink, _ int) error { return answer(ctx) }}
				r.route("a", "", &to)
				r.run()
				r.send("a", "x", "1")
				r.send("a", "x", "2")
				synctest.Wait()
				began := time.Now()
				r.cancel()
				if err := <-r.ended; err != nil {
					t.Error(err)
				}
				if d := time.Since(began); d != 0 {
					t.Errorf("Run returned after %s", d)
				}
				r.want()
				wantAttempts(t, &to, "1")
			})
		})
	}
}
