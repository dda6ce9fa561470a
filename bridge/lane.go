package bridge

import (
	"log/slog"
	"sync"
	"time"
)

// Entry is one reading on its lane. Sessions read Reading and nothing else.
type Entry struct {
	Reading Reading

	// The lane's mutex guards what follows.
	seq        uint64
	prev, next *Entry
	state      entryState
	tries      int
	abandoned  bool         // the sender was told no; do not send again
	done       chan Outcome // nil when nobody waits; capacity 1
}

type entryState int

const (
	waiting entryState = iota
	inFlight
	gone
)

// Lane is one device's order: its readings from oldest to newest, each waiting
// or with the session. It is data and has no goroutine. It implements Source.
type Lane struct {
	device     DeviceID
	uplink     Uplink
	maxPayload int64
	budget     *budget
	logger     *slog.Logger
	keep       func() // with mu held: the lane gets a place in the session's queue; may be nil
	release    func() // without mu: an entry has left, or that place; may be nil
	pause      func(attempt int) time.Duration

	mu         sync.Mutex // guards what follows and every entry's fields
	head, tail *Entry
	unsent     *Entry // the oldest entry that waits; nil if none
	lastSeq    uint64
	offered    bool        // the session will call Next without another Offer
	paused     *time.Timer // set while the broker asked for patience
}

// add appends a reading. done is nil when nobody waits for the outcome.
func (l *Lane) add(r Reading, done chan Outcome) (*Entry, error) {
	if l.maxPayload > 0 && int64(len(r.Payload)) > l.maxPayload {
		return nil, ErrTooLarge
	}
	if !l.budget.take(r.size()) {
		return nil, errFull
	}
	e := &Entry{Reading: r, done: done}
	l.mu.Lock()
	l.lastSeq++
	e.seq = l.lastSeq
	e.prev = l.tail
	if l.tail != nil {
		l.tail.next = e
	} else {
		l.head = e
	}
	l.tail = e
	if l.unsent == nil {
		l.unsent = e
	}
	offer := l.mustOffer()
	l.mu.Unlock()
	if offer {
		l.uplink.Offer(l)
	}
	return e, nil
}

// mustOffer reports whether the caller, who holds mu, has to offer the lane.
func (l *Lane) mustOffer() bool {
	if l.offered || l.paused != nil || l.unsent == nil {
		return false
	}
	l.offered = true
	if l.keep != nil {
		l.keep()
	}
	return true
}

// Next implements Source.
func (l *Lane) Next() *Entry {
	l.mu.Lock()
	if l.unsent == nil || l.paused != nil {
		l.offered = false
		l.mu.Unlock()
		if l.release != nil {
			l.release()
		}
		return nil
	}
	defer l.mu.Unlock()
	e := l.unsent
	e.state = inFlight
	e.tries++
	l.unsent = e.next
	for l.unsent != nil && l.unsent.state != waiting {
		l.unsent = l.unsent.next
	}
	return e
}

// Resolve implements Source.
func (l *Lane) Resolve(e *Entry, o Outcome) {
	l.mu.Lock()
	if o.Kind == Retry && o.MaxTries > 0 && e.tries >= o.MaxTries {
		o.Kind = Refused
	}
	again := (o.Kind == Retry || o.Kind == Lost) && !e.abandoned
	if !again {
		done := e.done
		l.unlink(e)
		l.mu.Unlock()
		l.left(e)
		switch {
		case done != nil:
			done <- o
		case o.Kind == Refused:
			l.logger.Error("reading refused by the broker, dropped",
				"device", l.device, "id", e.Reading.ID, "code", o.Code, "reason", o.Reason)
		}
		return
	}
	e.state = waiting
	if l.unsent == nil || e.seq < l.unsent.seq {
		l.unsent = e
	}
	if o.Kind == Retry && l.paused == nil {
		l.paused = time.AfterFunc(l.pause(e.tries), l.resume)
	}
	offer := l.mustOffer()
	l.mu.Unlock()
	if offer {
		l.uplink.Offer(l)
	}
}

func (l *Lane) resume() {
	l.mu.Lock()
	l.paused = nil
	offer := l.mustOffer()
	l.mu.Unlock()
	if offer {
		l.uplink.Offer(l)
	}
}

// withdraw takes an entry back because its sender waits no longer. It reports
// false if the outcome is there already; then it can be read from e.done. An
// entry that is with the session cannot be called back: the broker may have it.
// It is not sent again should the session lose it.
func (l *Lane) withdraw(e *Entry) bool {
	l.mu.Lock()
	switch e.state {
	case gone:
		l.mu.Unlock()
		return false
	case inFlight:
		e.abandoned, e.done = true, nil
		l.mu.Unlock()
		return true
	}
	if l.unsent == e {
		l.unsent = e.next
		for l.unsent != nil && l.unsent.state != waiting {
			l.unsent = l.unsent.next
		}
	}
	l.unlink(e)
	l.mu.Unlock()
	l.left(e)
	return true
}

// unlink is called with mu held.
func (l *Lane) unlink(e *Entry) {
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		l.head = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	} else {
		l.tail = e.prev
	}
	e.prev, e.next, e.state = nil, nil, gone
}

// left gives back what the entry held, without mu.
func (l *Lane) left(e *Entry) {
	l.budget.give(e.Reading.size())
	if l.release != nil {
		l.release()
	}
}
