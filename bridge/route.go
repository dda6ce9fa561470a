package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// DeliveryPolicy paces the attempts to deliver one downlink, which go on until it
// is delivered, refused for good or expired. The pause between two doubles from
// MinPause to MaxPause, with full jitter.
type DeliveryPolicy struct {
	// MinPause is the bound of the first pause. Default 500 ms.
	MinPause time.Duration
	// MaxPause bounds every pause, also one that the target asks for. Default 30 s.
	MaxPause time.Duration
	// Timeout bounds one attempt. The targets have closer bounds of their own;
	// this one must leave a slow serial line the time it takes. Default 5 min.
	Timeout time.Duration
	// MaxAge is when a downlink without an expiry of its own expires. Default
	// 168 h.
	MaxAge time.Duration
}

func (p DeliveryPolicy) withDefaults() DeliveryPolicy {
	if p.MinPause <= 0 {
		p.MinPause = 500 * time.Millisecond
	}
	if p.MaxPause <= 0 {
		p.MaxPause = 30 * time.Second
	}
	if p.Timeout <= 0 {
		p.Timeout = 5 * time.Minute
	}
	if p.MaxAge <= 0 {
		p.MaxAge = 168 * time.Hour
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
	// Target names the deliverer, for people and in the spool, where it must
	// stay the same over restarts: "serial scale".
	Target string
	// To gets the downlinks. Routes with the same To share one order. Nil is the
	// device's mailbox, which has a name of its own; see Bridge.Mailbox.
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
	if b.opts.Downlinks == nil {
		return fmt.Errorf("route %q: %w: nothing stores downlinks", id, ErrInvalid)
	}
	t, err := b.target(id, r)
	if err != nil {
		return fmt.Errorf("route %q: %w", id, err)
	}
	d.routes = append(d.routes, route{filter: r.Filter, target: t})
	return nil
}

// target finds or makes the target of a route. It is called with mu held.
func (b *Bridge) target(id DeviceID, r Route) (*target, error) {
	if r.To == nil {
		if b.boxes[id] == nil {
			b.boxes[id] = b.newMailbox(id)
		}
		return b.boxes[id].target, nil
	}
	if t := b.targets[r.To]; t != nil {
		return t, nil
	}
	for _, other := range b.targets {
		if other.name == r.Target {
			// Both would deliver what is stored under the name.
			return nil, fmt.Errorf("%w: two targets have the name %q", ErrInvalid, r.Target)
		}
	}
	t := &target{
		name: r.Target, to: r.To, policy: b.opts.Delivery, maxAge: &b.maxAge, logger: b.logger,
		store: b.opts.Downlinks, reply: b.reply, gaveUp: b.opts.GaveUp, wake: make(chan struct{}, 1),
	}
	b.targets[r.To] = t
	return t, nil
}

// Reroute replaces all routes of the devices that it is given, also while the
// Bridge runs. Downlinks that are stored for a target without a route stay
// stored until the target is back. On an error nothing has changed.
func (b *Bridge) Reroute(routes map[DeviceID][]Route) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	before, boxes := maps.Clone(b.targets), maps.Clone(b.boxes)
	made := make(map[DeviceID][]route, len(routes))
	for id, rs := range routes {
		if b.devices[id] == nil && len(rs) > 0 {
			b.targets, b.boxes = before, boxes
			return fmt.Errorf("route %q: %w", id, ErrUnknownDevice)
		}
		for _, r := range rs {
			err := CheckFilter(r.Filter)
			var t *target
			if err == nil {
				t, err = b.target(id, r)
			}
			if err != nil {
				b.targets, b.boxes = before, boxes
				return fmt.Errorf("route %q: %w", id, err)
			}
			made[id] = append(made[id], route{filter: r.Filter, target: t})
		}
	}
	for id := range routes {
		if d := b.devices[id]; d != nil {
			d.routes = made[id]
		}
	}
	used := map[*target]bool{}
	for _, d := range b.devices {
		for _, r := range d.routes {
			used[r.target] = true
		}
	}
	maps.DeleteFunc(b.targets, func(_ Deliverer, t *target) bool { return !used[t] })
	for id, m := range b.boxes {
		if !used[m.target] {
			delete(b.boxes, id)
			m.stir()
		}
	}
	select {
	case b.rerouted <- struct{}{}:
	default:
	}
	return nil
}

// storeRetry is the pause after a downlink could not be stored.
const storeRetry = 5 * time.Second

// Downlink takes a downlink. done is called, from another goroutine or before
// Downlink returns, when the downlink is stored for every matching route; then
// the broker can be told. It is not called while the downlink cannot be stored,
// so that the broker keeps it.
func (b *Bridge) Downlink(d Downlink, o Origin, done func()) {
	var ds []StoredDownlink
	var to []*target
	b.mu.RLock()
	dev := b.devices[d.Device]
	if dev != nil {
		for _, r := range dev.routes {
			if MatchFilter(r.filter, d.Subtopic) && !slices.Contains(to, r.target) {
				to = append(to, r.target)
				ds = append(ds, StoredDownlink{Target: r.target.name, Downlink: d})
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
	if o.Duplicate {
		if seen, err := b.opts.Downlinks.SeenDownlink(o); err == nil && seen {
			done()
			return
		}
	}
	b.store(dev, dev.arrive(&arrival{downlinks: ds, origin: o, targets: to, done: done}))
}

// arrival is a downlink until it is stored.
type arrival struct {
	downlinks []StoredDownlink // one for each target
	origin    Origin
	targets   []*target
	done      func()
}

// arrive queues an arrival and returns it if it is the only one.
func (d *device) arrive(a *arrival) *arrival {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.arrivals = append(d.arrivals, a)
	if len(d.arrivals) > 1 {
		return nil
	}
	return a
}

// arrived removes the first of the queue and returns the next.
func (d *device) arrived() *arrival {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.arrivals[0] = nil
	if d.arrivals = d.arrivals[1:]; len(d.arrivals) == 0 {
		d.arrivals = nil
		return nil
	}
	return d.arrivals[0]
}

// store stores a device's downlinks, one at a time: were two under way and the
// first failed, the second would be delivered first.
func (b *Bridge) store(dev *device, a *arrival) {
	if a == nil {
		return
	}
	b.opts.Downlinks.AppendDownlinks(a.downlinks, a.origin, func(err error) {
		if err != nil {
			b.logger.Error("downlink not stored, the broker keeps it", "device", dev.lane.device,
				"id", a.downlinks[0].ID, "error", err, "retry_in", storeRetry)
			time.AfterFunc(storeRetry, func() { b.store(dev, a) })
			return
		}
		a.done()
		for i, t := range a.targets {
			t.arrived(&a.downlinks[i])
		}
		b.store(dev, dev.arrived())
	})
}

// target delivers to one Deliverer, one downlink after the other, what the store
// holds for it.
type target struct {
	name   string
	to     Deliverer
	store  Downlinks
	reply  func(context.Context, StoredDownlink, *Answer) bool
	policy DeliveryPolicy
	maxAge *atomic.Int64 // nanoseconds; stands for policy.MaxAge
	logger *slog.Logger
	gaveUp func(*Downlink, error) // nil: nobody wants to know
	wake   chan struct{}          // capacity 1: a signal that there may be more
	box    *Mailbox               // if it is one: nothing is delivered
}

// arrived is told of what has been stored.
func (t *target) arrived(d *StoredDownlink) {
	if t.box != nil {
		t.box.arrived(d)
		return
	}
	t.signal()
}

func (t *target) signal() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// targetPage is how many downlinks are read at once.
const targetPage = 16

type targetPageResult struct {
	page []StoredDownlink
	err  error
}

func (t *target) run(ctx context.Context) {
	loaded := make(chan targetPageResult, 1)
	for after := int64(0); ; {
		t.store.LoadDownlinks(t.name, after, targetPage, func(p []StoredDownlink, err error) {
			loaded <- targetPageResult{p, err}
		})
		var got targetPageResult
		select {
		case got = <-loaded:
		case <-ctx.Done():
			return
		}
		for _, d := range got.page {
			if !t.finish(ctx, d) {
				return
			}
			after = d.Seq
		}
		if len(got.page) == targetPage {
			continue
		}
		var again <-chan time.Time
		if got.err != nil {
			t.logger.Error("downlinks not read", "target", t.name, "error", got.err, "retry_in", storeRetry)
			again = time.After(storeRetry)
		}
		select {
		case <-t.wake:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// finish delivers a downlink or gives it up. It reports false when ctx is done
// before that.
func (t *target) finish(ctx context.Context, d StoredDownlink) bool {
	answer, err := t.deliver(ctx, d)
	// The answer first: a crash in between repeats both, and loses neither.
	if answer != nil && d.ResponseTopic != "" && !t.reply(ctx, d, answer) {
		return false
	}
	switch {
	case err == nil:
		t.store.DeleteDownlink(d.Seq, nil)
	case ctx.Err() != nil:
		return false
	default:
		t.logger.Error("downlink not delivered, now a dead letter", "target", t.name,
			"device", d.Device, "subtopic", d.Subtopic, "id", d.ID, "error", err)
		t.store.BuryDownlink(d.Seq, Epitaph{Reason: err.Error()}, nil)
		if t.gaveUp != nil {
			t.gaveUp(&d.Downlink, err)
		}
	}
	return true
}

var errExpired = errors.New("expired")

// deliver makes attempts until one succeeds or no other is worth it.
func (t *target) deliver(ctx context.Context, d StoredDownlink) (*Answer, error) {
	expires := d.expiry(t.maxAge)
	var last error
	for attempt := d.Tries + 1; ; attempt++ {
		if !time.Now().Before(expires) {
			if last != nil {
				return nil, fmt.Errorf("%w; last attempt: %w", errExpired, last)
			}
			return nil, errExpired
		}
		actx, cancel := context.WithTimeout(ctx, t.policy.Timeout)
		answer, err := t.to.Deliver(actx, d.Downlink)
		cancel()
		if err == nil {
			return answer, nil
		}
		last = err
		var de *DeliveryError
		var asked time.Duration
		if errors.As(last, &de) {
			if de.Permanent {
				return answer, last
			}
			asked = de.RetryAfter
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		t.store.TriedDownlink(d.Seq, attempt)
		pause := min(t.policy.pause(attempt, asked), max(time.Until(expires), 0))
		t.logger.Warn("downlink not delivered yet", "target", t.name, "device", d.Device,
			"id", d.ID, "attempt", attempt, "retry_in", pause, "error", last)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
