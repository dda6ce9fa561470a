package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// DeliveryPolicy bounds the attempts to deliver one downlink. The pause between
// two doubles from MinPause to MaxPause, with full jitter.
type DeliveryPolicy struct {
	// Attempts, at most. Default 6.
	Attempts int
	// MinPause is the bound of the first pause. Default 500 ms.
	MinPause time.Duration
	// MaxPause bounds every pause, also one that the target asks for. Default 30 s.
	MaxPause time.Duration
	// Timeout bounds one attempt. The targets have closer bounds of their own;
	// this one must leave a slow serial line the time it takes. Default 5 min.
	Timeout time.Duration
}

func (p DeliveryPolicy) withDefaults() DeliveryPolicy {
	if p.Attempts <= 0 {
		p.Attempts = 6
	}
	if p.MinPause <= 0 {
		p.MinPause = 500 * time.Millisecond
	}
	if p.MaxPause <= 0 {
		p.MaxPause = 30 * time.Second
	}
	if p.Timeout <= 0 {
		p.Timeout = 5 * time.Minute
	}
	return p
}

func (p DeliveryPolicy) pause(attempt int, asked time.Duration) time.Duration {
	if asked > 0 {
		return min(asked, p.MaxPause)
	}
	return rand.N(min(p.MinPause<<min(attempt-1, 16), p.MaxPause)) + time.Millisecond
}

// Route is where a device's downlinks go.
type Route struct {
	// Filter selects by sub topic (see MatchFilter); "" selects all.
	Filter string
	// Target names the deliverer for people: `serial "scale"`.
	Target string
	// To gets the downlinks. Routes with the same To share one order.
	To Deliverer
}

type route struct {
	filter string
	target *target
}

// Route adds a route for the downlinks of a device that is connected. A
// downlink goes to every route whose filter matches.
func (b *Bridge) Route(id DeviceID, r Route) error {
	if err := CheckFilter(r.Filter); err != nil {
		return fmt.Errorf("route %q: %w", id, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.devices[id]
	if d == nil {
		return fmt.Errorf("route %q: %w", id, ErrUnknownDevice)
	}
	t := b.targets[r.To]
	if t == nil {
		t = &target{
			name: r.Target, to: r.To, policy: b.opts.Delivery, logger: b.logger,
			wake: make(chan struct{}, 1),
		}
		b.targets[r.To] = t
	}
	d.routes = append(d.routes, route{filter: r.Filter, target: t})
	return nil
}

// Downlink takes a downlink and returns at once. done is called, from another
// goroutine or before Downlink returns, when every matching route has it or has
// given up; then the broker can be told. It is not called for what is still
// undelivered when Run ends, so that the broker keeps it. The number of
// downlinks held is bounded by what the session lets the broker send without
// having it acknowledged.
func (b *Bridge) Downlink(d Downlink, done func()) {
	b.mu.RLock()
	var to []*target
	if dev := b.devices[d.Device]; dev != nil {
		for _, r := range dev.routes {
			if MatchFilter(r.filter, d.Subtopic) {
				to = append(to, r.target)
			}
		}
	}
	b.mu.RUnlock()
	if len(to) == 0 {
		b.logger.Warn("downlink has no route, dropped: add a [[device.downlink]] block that matches",
			"device", d.Device, "subtopic", d.Subtopic, "id", d.ID)
		done()
		return
	}
	var left atomic.Int32
	left.Store(int32(len(to)))
	for _, t := range to {
		t.push(job{d: d, done: func() {
			if left.Add(-1) == 0 {
				done()
			}
		}})
	}
}

type job struct {
	d    Downlink
	done func()
}

// target delivers to one Deliverer, one downlink after the other.
type target struct {
	name   string
	to     Deliverer
	policy DeliveryPolicy
	logger *slog.Logger
	wake   chan struct{} // capacity 1: a signal that jobs has grown

	mu   sync.Mutex // guards jobs
	jobs []job
}

func (t *target) push(j job) {
	t.mu.Lock()
	t.jobs = append(t.jobs, j)
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *target) pop() (job, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.jobs) == 0 {
		t.jobs = nil
		return job{}, false
	}
	j := t.jobs[0]
	t.jobs[0] = job{}
	t.jobs = t.jobs[1:]
	return j, true
}

func (t *target) run(ctx context.Context) error {
	for {
		j, ok := t.pop()
		if !ok {
			select {
			case <-t.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if err := t.deliver(ctx, j.d); err != nil {
			if ctx.Err() != nil {
				return nil // not acknowledged: the broker sends it again
			}
			t.logger.Error("downlink not delivered, given up", "target", t.name,
				"device", j.d.Device, "subtopic", j.d.Subtopic, "id", j.d.ID, "error", err)
		}
		j.done()
	}
}

var errExpired = errors.New("its message expiry interval has passed")

// deliver makes attempts until one succeeds or no other is worth it.
func (t *target) deliver(ctx context.Context, d Downlink) error {
	for attempt := 1; ; attempt++ {
		if !d.Expires.IsZero() && !time.Now().Before(d.Expires) {
			return errExpired
		}
		actx, cancel := context.WithTimeout(ctx, t.policy.Timeout)
		err := t.to.Deliver(actx, d)
		cancel()
		if err == nil {
			return nil
		}
		var de *DeliveryError
		var asked time.Duration
		if errors.As(err, &de) {
			if de.Permanent {
				return err
			}
			asked = de.RetryAfter
		}
		if attempt == t.policy.Attempts {
			return fmt.Errorf("%d attempts: %w", attempt, err)
		}
		pause := t.policy.pause(attempt, asked)
		t.logger.Warn("downlink not delivered yet", "target", t.name, "device", d.Device,
			"id", d.ID, "attempt", attempt, "retry_in", pause, "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
