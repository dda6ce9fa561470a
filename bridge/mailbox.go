package bridge

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// ErrNoMailbox: no route of the device leads to its mailbox.
var ErrNoMailbox = errors.New("no mailbox")

// Mailbox holds the downlinks of one device that apps fetch themselves. They stay
// in the store until they are deleted or expire. It is data and has no goroutine
// of its own. All methods may be called from any goroutine.
type Mailbox struct {
	target *target
	turn   chan struct{} // capacity 1: held while downlinks are taken out
	left   func(d *Downlink, why error)

	next   atomic.Int64 // when the next may expire, in Unix nanoseconds
	maxAge atomic.Int64 // that next was reckoned with

	mu      sync.Mutex // guards changed
	changed chan struct{}
}

// MailboxTargets is what the names of mailboxes as targets begin with; the
// device's id is behind it.
const MailboxTargets = "mailbox "

// newMailbox is called with the Bridge's mu held.
func (b *Bridge) newMailbox(id DeviceID) *Mailbox {
	m := &Mailbox{turn: make(chan struct{}, 1), left: b.opts.Fetched, changed: make(chan struct{})}
	if m.left == nil {
		m.left = func(*Downlink, error) {}
	}
	m.target = &target{
		name: MailboxTargets + string(id), maxAge: &b.maxAge, logger: b.logger,
		store: b.opts.Downlinks, reply: b.reply, box: m,
	}
	return m
}

// Mailbox returns a device's mailbox, or ErrUnknownDevice or ErrNoMailbox. It is
// the same one until a route to it is taken away; then Changed tells.
func (b *Bridge) Mailbox(id DeviceID) (*Mailbox, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	switch m := b.boxes[id]; {
	case m != nil:
		return m, nil
	case b.devices[id] == nil && b.open == nil:
		return nil, fmt.Errorf("%w: %q", ErrUnknownDevice, id)
	default:
		return nil, fmt.Errorf("%w: %q", ErrNoMailbox, id)
	}
}

// Changed returns a channel that is closed when a downlink comes, or when the
// mailbox is taken away. Whoever waits asks for it before Fetch.
func (m *Mailbox) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *Mailbox) stir() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.changed)
	m.changed = make(chan struct{})
}

// arrived notes when a downlink expires, and tells those who wait.
func (m *Mailbox) arrived(d *StoredDownlink) {
	m.expiresAt(d.expiry(m.target.maxAge))
	m.stir()
}

// expiresAt brings next forward.
func (m *Mailbox) expiresAt(at time.Time) {
	for {
		next := m.next.Load()
		if at.UnixNano() >= next || m.next.CompareAndSwap(next, at.UnixNano()) {
			return
		}
	}
}

// Fetch returns the downlinks behind the number after that have not expired,
// oldest first: up to limit of them with payloads of about maxBytes, but at least
// one if there is one. more says that there may be others behind them. Fetching
// changes nothing.
func (m *Mailbox) Fetch(ctx context.Context, after int64, limit, maxBytes int) (page []StoredDownlink, more bool, err error) {
	now, bytes := time.Now(), 0
	err = m.walk(ctx, after, func(d *StoredDownlink) bool {
		if !now.Before(d.expiry(m.target.maxAge)) {
			return true
		}
		bytes += len(d.Payload) + len(d.CorrelationData)
		if more = len(page) == limit || len(page) > 0 && bytes > maxBytes; more {
			return false
		}
		page = append(page, *d)
		return true
	})
	return page, more, err
}

// Find returns the downlink with this id, expired or not, if it is there.
func (m *Mailbox) Find(ctx context.Context, id string) (found StoredDownlink, ok bool, err error) {
	err = m.walk(ctx, 0, func(d *StoredDownlink) bool {
		if ok = d.ID == id; ok {
			found = *d
		}
		return !ok
	})
	return found, ok, err
}

// Expires is when a downlink of the mailbox is given up.
func (m *Mailbox) Expires(d *StoredDownlink) time.Time { return d.expiry(m.target.maxAge) }

// Delete takes a downlink out, durably: an app has it. One that has expired
// counts, too, as long as it is there. An answer goes up first, if the downlink
// has a response topic; nil is none. It reports whether the downlink was there.
// After an error it still is, and its answer may be on its way.
func (m *Mailbox) Delete(ctx context.Context, id string, answer *Answer) (bool, error) {
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	d, ok, err := m.Find(ctx, id)
	if !ok || err != nil {
		return false, err
	}
	if answer != nil && d.ResponseTopic != "" && !m.target.reply(ctx, d, answer) {
		return false, ctx.Err()
	}
	deleted := make(chan error, 1)
	m.target.store.DeleteDownlink(d.Seq, func(err error) { deleted <- err })
	// Not until ctx is done: it is out already, or comes back.
	if err := <-deleted; err != nil {
		return false, fmt.Errorf("delete downlink: %w", err)
	}
	m.left(&d.Downlink, nil)
	return true, nil
}

// walk calls f with the downlinks behind after, oldest first, until it returns
// false.
func (m *Mailbox) walk(ctx context.Context, after int64, f func(*StoredDownlink) bool) error {
	for {
		loaded := make(chan targetPageResult, 1)
		m.target.store.LoadDownlinks(m.target.name, after, targetPage, func(p []StoredDownlink, err error) {
			loaded <- targetPageResult{p, err}
		})
		var got targetPageResult
		select {
		case got = <-loaded:
		case <-ctx.Done():
			return ctx.Err()
		}
		if got.err != nil {
			return fmt.Errorf("read mailbox: %w", got.err)
		}
		for i := range got.page {
			if !f(&got.page[i]) {
				return nil
			}
			after = got.page[i].Seq
		}
		if len(got.page) < targetPage {
			return nil
		}
	}
}

// expire makes dead letters of what has expired, if it is time to look.
func (m *Mailbox) expire(ctx context.Context) {
	now, maxAge := time.Now(), m.target.maxAge.Load()
	if m.next.Load() > now.UnixNano() && m.maxAge.Load() == maxAge {
		return
	}
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	default:
		return // somebody takes one out: next time
	}
	m.maxAge.Store(maxAge)
	m.next.Store(math.MaxInt64) // what arrives meanwhile brings it forward
	var said sync.Once          // one line for a disk that is full, not one for each downlink
	err := m.walk(ctx, 0, func(d *StoredDownlink) bool {
		if at := d.expiry(m.target.maxAge); now.Before(at) {
			m.expiresAt(at)
			return true
		}
		m.bury(d.Seq, d.Downlink, &said)
		return true
	})
	if err != nil && ctx.Err() == nil {
		m.target.logger.Error("mailbox not read", "target", m.target.name, "error", err, "retry_in", storeRetry)
		m.expiresAt(now.Add(storeRetry))
	}
}

// bury makes a dead letter of a downlink that has expired, or has it looked for
// again if that fails.
func (m *Mailbox) bury(seq int64, d Downlink, said *sync.Once) {
	m.target.store.BuryDownlink(seq, Epitaph{Reason: errExpired.Error()}, func(err error) {
		if err != nil {
			said.Do(func() {
				m.target.logger.Error("downlinks have expired and cannot be made dead letters", "target", m.target.name,
					"device", d.Device, "id", d.ID, "error", err, "retry_in", storeRetry)
			})
			m.expiresAt(time.Now().Add(storeRetry))
			return
		}
		m.target.logger.Error("downlink not fetched in time, now a dead letter", "target", m.target.name,
			"device", d.Device, "subtopic", d.Subtopic, "id", d.ID)
		m.left(&d, errExpired)
	})
}

// expiryLook is how often the mailboxes are asked whether it is time to look.
const expiryLook = time.Second

// expireMailboxes runs until ctx is done.
func (b *Bridge) expireMailboxes(ctx context.Context) {
	tick := time.NewTicker(expiryLook)
	defer tick.Stop()
	var boxes []*Mailbox
	for {
		boxes = boxes[:0]
		b.mu.RLock()
		for _, m := range b.boxes {
			boxes = append(boxes, m)
		}
		b.mu.RUnlock()
		for _, m := range boxes {
			m.expire(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
