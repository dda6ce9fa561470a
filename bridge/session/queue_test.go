package session

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"fieldbridge/bridge"
)

// retryPause is how long a queue rests after the broker asked for patience.
const retryPause = 500 * time.Millisecond

// queue is a device's readings in memory, in order. It implements bridge.Source
// and checks that the session keeps to what that asks for.
type queue struct {
	t      testing.TB
	uplink bridge.Uplink

	mu      sync.Mutex // guards what follows
	items   []*item    // what waits or is with the session
	offered bool       // the session will call Next without another Offer
	paused  bool
	refused []bridge.Outcome
	lost    []string // payloads
}

type item struct {
	entry   *bridge.Entry
	flying  bool
	retries int
	done    chan bridge.Outcome // capacity 1
}

// submit queues a reading. What becomes of it comes from the channel.
func (q *queue) submit(r bridge.Reading) <-chan bridge.Outcome {
	if r.ID == uuid.Nil {
		r.ID = uuid.Must(uuid.NewV7())
	}
	if r.Time.IsZero() {
		r.Time = time.Now()
	}
	it := &item{entry: &bridge.Entry{Reading: r}, done: make(chan bridge.Outcome, 1)}
	q.mu.Lock()
	q.items = append(q.items, it)
	q.mu.Unlock()
	q.offer()
	return it.done
}

// offer tells the session, unless it knows, that something waits.
func (q *queue) offer() {
	q.mu.Lock()
	offer := !q.offered && !q.paused && slices.ContainsFunc(q.items, waits)
	q.offered = q.offered || offer
	q.mu.Unlock()
	if offer {
		q.uplink.Offer(q)
	}
}

func waits(it *item) bool { return !it.flying }

// Next implements bridge.Source.
func (q *queue) Next() *bridge.Entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.IndexFunc(q.items, waits)
	if q.paused || i < 0 {
		q.offered = false
		return nil
	}
	q.items[i].flying = true
	return q.items[i].entry
}

// Resolve implements bridge.Source.
func (q *queue) Resolve(e *bridge.Entry, o bridge.Outcome) {
	q.mu.Lock()
	i := slices.IndexFunc(q.items, func(it *item) bool { return it.entry == e && it.flying })
	if i < 0 {
		q.t.Errorf("%s is resolved (%+v) and is not with the session", e.Reading.Payload, o)
		q.mu.Unlock()
		return
	}
	it := q.items[i]
	it.flying = false
	if o.Kind == bridge.Retry {
		if it.retries++; o.MaxTries > 0 && it.retries >= o.MaxTries {
			o.Kind = bridge.Refused
		}
	}
	switch o.Kind {
	case bridge.Retry:
		if !q.paused {
			q.paused = true
			time.AfterFunc(retryPause, q.resume)
		}
	case bridge.Lost:
		q.lost = append(q.lost, string(e.Reading.Payload))
	default:
		if o.Kind == bridge.Refused {
			q.refused = append(q.refused, o)
		}
		q.items = slices.Delete(q.items, i, i+1)
		it.done <- o
	}
	q.mu.Unlock()
	q.offer()
}

func (q *queue) resume() {
	q.mu.Lock()
	q.paused = false
	q.mu.Unlock()
	q.offer()
}

// held is how many readings wait or are with the session.
func (q *queue) held() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// refusals are the outcomes of what the broker refused.
func (q *queue) refusals() []bridge.Outcome {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.refused)
}

// losses are the payloads of what came back as lost, in order.
func (q *queue) losses() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.lost)
}
