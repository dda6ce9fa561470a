package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

// Defaults of Options.
const (
	DefaultAckTimeout   = time.Second
	DefaultMemoryBudget = 16 << 20
)

var errFull = errors.New("memory budget used up")

// Options configure a Bridge. The zero value is a working one.
type Options struct {
	// AckTimeout is how long Accept waits for the broker's PUBACK. Default 1 s.
	AckTimeout time.Duration
	// MemoryBudget bounds the bytes of all readings that wait. Default 16 MiB.
	MemoryBudget int64
	// Delivery bounds the attempts to bring a downlink to its target.
	Delivery DeliveryPolicy
	// Logger gets what an operator should know. Default: nothing is logged.
	Logger *slog.Logger
}

// Bridge takes readings in, hands them to their device's session in order, and
// brings downlinks to their targets. All methods may be called from any
// goroutine, Connect and Route too, but those before the first reading.
type Bridge struct {
	opts   Options
	budget *budget
	logger *slog.Logger

	mu      sync.RWMutex // guards what follows
	devices map[DeviceID]*device
	open    *Connection           // takes readings of devices that are not listed; nil: none does
	passing map[DeviceID]*visitor // lanes of such devices, as long as they hold something
	targets map[Deliverer]*target
}

type device struct {
	lane   *Lane
	routes []route
}

// visitor is the lane of a device that is not listed, and what keeps it: its
// entries, and its place in the session's queue.
type visitor struct {
	lane *Lane
	held int
}

// maxVisitors bounds the lanes of devices that are not listed. They pile up only
// while the broker is away, when their readings are refused anyway.
const maxVisitors = 10_000

// Connection is how a device's readings leave.
type Connection struct {
	Uplink Uplink
	// MaxPayload is the largest payload in bytes; 0 means no limit.
	MaxPayload int64
}

// New makes a Bridge without devices.
func New(o Options) *Bridge {
	if o.AckTimeout <= 0 {
		o.AckTimeout = DefaultAckTimeout
	}
	if o.MemoryBudget <= 0 {
		o.MemoryBudget = DefaultMemoryBudget
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Delivery = o.Delivery.withDefaults()
	return &Bridge{
		opts:    o,
		budget:  &budget{max: o.MemoryBudget},
		logger:  o.Logger,
		devices: map[DeviceID]*device{},
		passing: map[DeviceID]*visitor{},
		targets: map[Deliverer]*target{},
	}
}

// Connect adds a device.
func (b *Bridge) Connect(id DeviceID, c Connection) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.devices[id]; ok {
		return fmt.Errorf("connect %q: %w: the device is connected already", id, ErrInvalid)
	}
	b.devices[id] = &device{lane: b.newLane(id, c)}
	return nil
}

// ConnectOthers lets readings of devices that are not listed leave by c.
func (b *Bridge) ConnectOthers(c Connection) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = &c
}

func (b *Bridge) newLane(id DeviceID, c Connection) *Lane {
	return &Lane{
		device: id, uplink: c.Uplink, maxPayload: c.MaxPayload,
		budget: b.budget, logger: b.logger, pause: retryPause,
	}
}

// retryPause is how long a lane rests after the broker refused a reading for
// the time being: 500 ms doubling to 30 s, half of it jitter.
func retryPause(attempt int) time.Duration {
	d := min(500*time.Millisecond<<min(max(attempt-1, 0), 6), 30*time.Second)
	return d/2 + rand.N(d/2)
}

// Known reports whether readings of the device are taken.
func (b *Bridge) Known(id DeviceID) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	_, ok := b.devices[id]
	return ok || b.open != nil
}

// Accept takes a reading and waits until the broker has it. The receipt says
// so. Otherwise nothing is kept, and the error is ErrUnknownDevice,
// ErrTooLarge, a *RejectedError (never send it again), an *UnavailableError
// (send it again later; the broker may have it already, if it was on its way
// when the time was up) or ctx's.
func (b *Bridge) Accept(ctx context.Context, r Reading) (Receipt, error) {
	complete(&r)
	done := make(chan Outcome, 1)
	lane, e, err := b.add(r, done)
	if err != nil {
		return Receipt{}, err
	}
	timer := time.NewTimer(b.opts.AckTimeout)
	defer timer.Stop()
	var why error
	select {
	case o := <-done:
		return b.receipt(r, o)
	case <-timer.C:
		why = &UnavailableError{Reason: b.trouble(lane), RetryAfter: retryAfter}
	case <-ctx.Done():
		why = fmt.Errorf("accept reading of %q: %w", r.Device, ctx.Err())
	}
	if !lane.withdraw(e) {
		return b.receipt(r, <-done)
	}
	return Receipt{}, why
}

// retryAfter is what a caller is asked to wait: about the time in which a
// session that is not refused comes back.
const retryAfter = 5 * time.Second

func (b *Bridge) trouble(l *Lane) string {
	if t := l.uplink.Trouble(); t != "" {
		return t
	}
	return fmt.Sprintf("the broker did not acknowledge the reading within %s", b.opts.AckTimeout)
}

func (b *Bridge) receipt(r Reading, o Outcome) (Receipt, error) {
	switch o.Kind {
	case Acked:
		return Receipt{ID: r.ID, Time: r.Time, State: Delivered}, nil
	case Refused:
		return Receipt{}, &RejectedError{Code: o.Code, Reason: o.Reason}
	default:
		return Receipt{}, &UnavailableError{Reason: o.Reason, RetryAfter: retryAfter}
	}
}

// Submit takes a reading that nobody waits for. It returns at once: nil when
// the reading is held, in order, until the broker has it; an *UnavailableError
// when there is no room; ErrUnknownDevice or ErrTooLarge. The reading is held
// in memory: it does not survive the process.
func (b *Bridge) Submit(_ context.Context, r Reading) error {
	complete(&r)
	_, _, err := b.add(r, nil)
	return err
}

func complete(r *Reading) {
	if r.ID == uuid.Nil {
		// NewV7 fails only if the system's randomness does; crypto/rand ends
		// the process before that.
		r.ID = uuid.Must(uuid.NewV7())
	}
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
}

func (b *Bridge) add(r Reading, done chan Outcome) (*Lane, *Entry, error) {
	lane, leave, err := b.lane(r.Device)
	if err != nil {
		return nil, nil, err
	}
	e, err := lane.add(r, done)
	if err == nil {
		return lane, e, nil
	}
	leave()
	switch {
	case errors.Is(err, errFull):
		return nil, nil, &UnavailableError{
			Reason:     "too many readings wait for the broker: " + b.trouble(lane),
			RetryAfter: retryAfter,
		}
	default:
		return nil, nil, fmt.Errorf("%w: %d bytes, the connector takes at most %d", err, len(r.Payload), lane.maxPayload)
	}
}

// lane finds the device's lane. leave undoes the call if nothing was added.
func (b *Bridge) lane(id DeviceID) (l *Lane, leave func(), err error) {
	b.mu.RLock()
	d, open := b.devices[id], b.open
	b.mu.RUnlock()
	switch {
	case d != nil:
		return d.lane, func() {}, nil
	case open == nil:
		return nil, nil, fmt.Errorf("%w: %q", ErrUnknownDevice, id)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.passing[id]
	if v == nil {
		if len(b.passing) >= maxVisitors {
			return nil, nil, &UnavailableError{
				Reason:     "readings of too many devices wait for the broker",
				RetryAfter: retryAfter,
			}
		}
		v = &visitor{lane: b.newLane(id, *open)}
		v.lane.keep = func() { b.keep(v) }
		v.lane.release = func() { b.leave(id) }
		b.passing[id] = v
	}
	v.held++
	return v.lane, v.lane.release, nil
}

// keep counts one more reason not to forget the visitor.
func (b *Bridge) keep(v *visitor) {
	b.mu.Lock()
	v.held++
	b.mu.Unlock()
}

// leave forgets the lane of a device that is not listed when nothing keeps it.
func (b *Bridge) leave(id DeviceID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.passing[id]
	if v.held--; v.held == 0 {
		delete(b.passing, id)
	}
}

// Held is the number of readings that the broker has not acknowledged.
func (b *Bridge) Held() int { return b.budget.held() }

// Drain waits until no reading is held or ctx is done.
func (b *Bridge) Drain(ctx context.Context) error {
	select {
	case <-b.budget.drained():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain: %d readings are not acknowledged: %w", b.Held(), ctx.Err())
	}
}

// Run delivers downlinks until ctx is done. All routes must be there before.
func (b *Bridge) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	b.mu.RLock()
	for _, t := range b.targets {
		g.Go(func() error { return t.run(ctx) })
	}
	g.Go(func() error { <-ctx.Done(); return nil }) // also without a route
	b.mu.RUnlock()
	return g.Wait()
}
