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

// Defaults of Options.
const (
	DefaultAckTimeout   = time.Second
	DefaultMemoryBudget = 16 << 20
)

var errFull = errors.New("memory budget used up")

// Options configure a Bridge. Zero values other than Spool are defaults.
type Options struct {
	// AckTimeout is how long Accept waits for the broker's PUBACK. Default 1 s.
	AckTimeout time.Duration
	// MemoryBudget bounds the bytes of all readings in memory. Above half of it
	// new ones go to the spool. Default 16 MiB.
	MemoryBudget int64
	// Spool stores what the broker does not take in time. Required.
	Spool Spool
	// Downlinks stores downlinks. Required if there are routes.
	Downlinks Downlinks
	// Delivery paces the attempts to bring a downlink to its target.
	Delivery DeliveryPolicy
	// Stamp sets when a reading that does not say so was received: Time or, while
	// the wall clock cannot be trusted, Boot and Mono. Default: Time is now.
	Stamp func(*Reading)
	// Published is told, if set, how long each reading took from its coming in
	// to its PUBACK. Not those that the spool alone had meanwhile: after an
	// outage, or a restart, nobody remembers when they came. It is called from
	// the sessions' goroutines, several at once, and must not block.
	Published func(took time.Duration)
	// Delivered is told, if set, of every reading that the broker has
	// acknowledged, and GaveUp of every downlink that has become a dead letter,
	// and why. Both are called from many goroutines, must not block, and must
	// not change or keep what they are given.
	Delivered func(*Reading)
	GaveUp    func(d *Downlink, why error)
	// Fetched is told, if set, of each downlink that has left a mailbox: an app
	// has deleted it, or why says why it is a dead letter now. It must not block,
	// and must not change or keep what it is given.
	Fetched func(d *Downlink, why error)
	// Logger gets what an operator should know. Default: nothing is logged.
	Logger *slog.Logger
}

// Bridge takes readings in, hands them to their device's session in order, and
// brings downlinks to their targets. All methods may be called from any
// goroutine, Connect, ConnectOthers and Route too, but those before the first
// reading; later there are Change and Reroute.
type Bridge struct {
	opts   Options
	budget *budget
	logger *slog.Logger

	mu      sync.RWMutex // guards what follows
	devices map[DeviceID]*device
	open    *Connection        // takes readings of devices that are not listed; nil: none does
	passing map[DeviceID]*Lane // lanes of such devices, as long as they hold something
	at      map[Uplink][]*Lane // lanes of the listed devices
	targets map[Deliverer]*target
	boxes   map[DeviceID]*Mailbox

	rerouted   chan struct{} // capacity 1: targets came or went
	ackTimeout atomic.Int64  // nanoseconds
	maxAge     atomic.Int64  // of downlinks, in nanoseconds

	counts counters

	kmu  sync.Mutex // guards keys
	keys map[keyID]*keyed
}

type device struct {
	lane   *Lane
	routes []route

	mu       sync.Mutex // guards arrivals
	arrivals []*arrival // downlinks to be stored; the first is under way
}

// maxVisitors bounds the lanes of devices that are not listed. They pile up only
// while the broker is away.
const maxVisitors = 10_000

// Connection is how a device's readings leave.
type Connection struct {
	Uplink Uplink
	// MaxPayload is the largest payload in bytes; 0 means no limit.
	MaxPayload int64
	// SpoolFirst stores every reading before it is sent: durability "always".
	SpoolFirst bool
}

// New makes a Bridge without devices.
func New(o Options) *Bridge {
	if o.AckTimeout <= 0 {
		o.AckTimeout = DefaultAckTimeout
	}
	if o.MemoryBudget <= 0 {
		o.MemoryBudget = DefaultMemoryBudget
	}
	if o.Stamp == nil {
		o.Stamp = func(r *Reading) { r.Time = time.Now() }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Delivery = o.Delivery.withDefaults()
	b := &Bridge{
		opts:    o,
		budget:  &budget{max: o.MemoryBudget},
		logger:  o.Logger,
		devices: map[DeviceID]*device{},
		passing: map[DeviceID]*Lane{},
		at:      map[Uplink][]*Lane{},
		targets: map[Deliverer]*target{},
		boxes:   map[DeviceID]*Mailbox{},
		keys:    map[keyID]*keyed{},

		rerouted: make(chan struct{}, 1),
	}
	b.Tune(o.AckTimeout, o.Delivery.MaxAge)
	return b
}

// Tune changes Options.AckTimeout and DeliveryPolicy.MaxAge from now on; zero
// leaves one as it is.
func (b *Bridge) Tune(ackTimeout, maxAge time.Duration) {
	if ackTimeout > 0 {
		b.ackTimeout.Store(int64(ackTimeout))
	}
	if maxAge > 0 {
		b.maxAge.Store(int64(maxAge))
	}
}

// Connect adds a device.
func (b *Bridge) Connect(id DeviceID, c Connection) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.devices[id]; ok {
		return fmt.Errorf("connect %q: %w: the device is connected already", id, ErrInvalid)
	}
	lane := b.newLane(id, c)
	b.devices[id] = &device{lane: lane}
	b.at[c.Uplink] = append(b.at[c.Uplink], lane)
	return nil
}

// ConnectOthers lets readings of devices that are not listed leave by c.
func (b *Bridge) ConnectOthers(c Connection) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open = &c
}

func (b *Bridge) newLane(id DeviceID, c Connection) *Lane {
	l := &Lane{
		device: id, spool: b.opts.Spool, ackTimeout: &b.ackTimeout, budget: b.budget,
		counts: &b.counts, published: b.opts.Published, delivered: b.opts.Delivered, logger: b.logger, forget: b.forget, pause: retryPause,
	}
	l.terms.Store(&c)
	l.at = &berth{lane: l, uplink: c.Uplink}
	return l
}

// newGuest makes the lane of a device that is not listed. It is called with mu
// held and with open set.
func (b *Bridge) newGuest(id DeviceID) *Lane {
	l := b.newLane(id, *b.open)
	l.guest.Store(true)
	b.passing[id] = l
	return l
}

// forget drops the lane of a device that is not listed when it holds nothing.
func (b *Bridge) forget(l *Lane) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.passing[l.device] == l && l.held.Load() == 0 && (l.vacated() || l.idle()) {
		delete(b.passing, l.device)
	}
}

// retryPause is how long a lane rests after the broker refused a reading for
// the time being: 500 ms doubling to 30 s, half of it jitter.
func retryPause(attempt int) time.Duration {
	d := min(500*time.Millisecond<<min(max(attempt-1, 0), 6), 30*time.Second)
	return d/2 + rand.N(d/2)
}

// lane finds the device's lane, which is kept until leave is called. There is
// always room for a device that is stored: it could not be drained otherwise.
func (b *Bridge) lane(id DeviceID, stored bool) (l *Lane, leave func(), err error) {
	if l, err = b.find(id, stored); l == nil && err == nil {
		l, err = b.invite(id)
	}
	if err != nil {
		return nil, nil, err
	}
	return l, func() { l.hold(-1) }, nil
}

// find returns a lane that is there, held once, or nil if one may be made.
func (b *Bridge) find(id DeviceID, stored bool) (*Lane, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	l := b.passing[id]
	if d := b.devices[id]; d != nil {
		l = d.lane
	}
	switch {
	case b.devices[id] == nil && b.open == nil && (!stored || l == nil):
		return nil, fmt.Errorf("%w: %q", ErrUnknownDevice, id)
	case l != nil:
		l.held.Add(1)
		return l, nil
	case !stored && len(b.passing) >= maxVisitors:
		return nil, &UnavailableError{
			Reason:     "readings of too many devices wait for the broker",
			RetryAfter: retryAfter,
		}
	}
	return nil, nil
}

// invite is find for a device that had no lane a moment ago.
func (b *Bridge) invite(id DeviceID) (*Lane, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.passing[id]
	switch d := b.devices[id]; {
	case d != nil:
		l = d.lane
	case b.open == nil:
		return nil, fmt.Errorf("%w: %q", ErrUnknownDevice, id)
	case l == nil:
		l = b.newGuest(id)
	}
	l.held.Add(1)
	return l, nil
}

// Held is the number of readings in memory, on their way to the broker or to the
// spool. What is in the spool only is not counted.
func (b *Bridge) Held() int { return b.budget.held() }

// Drain waits until no reading is held (see Held) or ctx is done.
func (b *Bridge) Drain(ctx context.Context) error {
	select {
	case <-b.budget.drained():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain: %d readings are not acknowledged: %w", b.Held(), ctx.Err())
	}
}

// Run delivers downlinks, and gives up those in mailboxes that expire, until ctx
// is done.
func (b *Bridge) Run(ctx context.Context) error {
	var expiring sync.WaitGroup
	expiring.Go(func() { b.expireMailboxes(ctx) })
	defer expiring.Wait()
	type runner struct {
		cancel context.CancelFunc
		done   chan struct{}
	}
	running := map[*target]runner{}
	stop := func(keep map[*target]bool) {
		for t, r := range running {
			if !keep[t] {
				r.cancel()
			}
		}
		for t, r := range running {
			if !keep[t] {
				<-r.done
				delete(running, t)
			}
		}
	}
	defer stop(nil)
	for {
		wanted := map[*target]bool{}
		b.mu.RLock()
		for _, t := range b.targets {
			wanted[t] = true
		}
		b.mu.RUnlock()
		stop(wanted) // first: one that came may stand for the same target
		for t := range wanted {
			if _, ok := running[t]; ok {
				continue
			}
			tctx, cancel := context.WithCancel(ctx)
			r := runner{cancel, make(chan struct{})}
			running[t] = r
			go func() {
				defer close(r.done)
				t.run(tctx)
			}()
		}
		select {
		case <-b.rerouted:
		case <-ctx.Done():
			return nil
		}
	}
}
