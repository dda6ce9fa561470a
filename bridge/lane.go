package bridge

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Entry is one reading on its lane. Sessions read Reading and nothing else.
type Entry struct {
	Reading Reading

	// The lane's mutex guards what follows.
	order      uint64
	prev, next *Entry
	state      entryState
	carrier    *berth    // who has it in flight; nil: nobody
	retries    int       // how often the broker asked for another attempt
	since      time.Time // when it came in, by the monotonic clock; does not change
	seq        int64     // its number in the spool; 0 while it is not there
	key        *Key      // nil if it has none, or the spool has it
	spooling   bool      // on its way there: in the lane's batch, or in the next
	first      bool      // must be in the spool before it is sent
	abandoned  bool      // the sender was told no: do not send it again
	recalled   bool      // read from the spool: since is when, not when it came in
	ended      *Outcome  // what became of it while the spool was storing it

	done chan Outcome // nil when nobody waits; capacity 1
	told bool         // its sender has an answer
	// contented: who waits takes the spool for an answer.
	contented bool
}

type entryState int

const (
	waiting entryState = iota
	inFlight
	unlisted // in the spool, or on its way, and not in memory
	gone
)

// Lane is one device's order. It is data and has no goroutine of its own. To an
// uplink it is a Source by its berth there.
//
// In memory is a list of the oldest readings, each waiting or with the session.
// A lane is direct while none of its readings waits in the spool: then a new one
// is added to the list and nothing is written. Otherwise there is a backlog: new
// readings go to the spool, behind all others, and the list is its head, which
// is read in pages. So the order is that of the list, then that of the spool.
type Lane struct {
	device     DeviceID
	spool      Spool
	ackTimeout *atomic.Int64 // nanoseconds; the Bridge's
	budget     *budget
	counts     *counters
	published  func(time.Duration) // nil: nobody wants to know; see Options
	delivered  func(*Reading)      // as published
	logger     *slog.Logger
	forget     func(*Lane) // told when a guest holds nothing; called without mu
	pause      func(attempt int) time.Duration

	terms atomic.Pointer[Connection] // never nil; set with mu held
	held  atomic.Int64               // entries, and those who use the lane
	guest atomic.Bool                // the device is not listed; set with the Bridge's mutex held

	mu         sync.Mutex  // guards what follows and every entry's fields
	at         *berth      // at terms' uplink
	elsewhere  int         // entries in flight at an uplink that was left: they go first
	reclaiming *time.Timer // set while those have time left
	head, tail *Entry
	unsent     *Entry // the oldest entry that waits; nil if none
	listed     int64  // bytes in the list
	lastOrder  uint64
	offered    bool        // the session will call Next without another Offer
	paused     *time.Timer // set while the broker asked for patience
	overdue    *time.Timer // set while an entry may have to be spooled

	through int64    // the list has all of the spool up to this number
	newest  int64    // the highest number in the spool
	batch   []*Entry // what the spool is storing
	pages   int      // that are being added: what is to be stored waits for their end
	queue   []*Entry // what is stored after that and is not in the list
	away    int      // entries on their way to the spool that are not in the list
	durable int      // entries of the list that are in the spool or on their way
	loading bool     // a page is being read
	failure error    // why the spool did not take the last batch; nil if it did
	seen    sightings
	// strays is set after somebody else has changed the spool, until the lane is
	// empty: numbers of entries that a page may have again. While it is set the
	// list is not in the order of its numbers.
	strays map[int64]bool
}

const (
	// pageBytes is what is read of a backlog at once, and about what a lane
	// holds of it in memory.
	pageBytes = 64 << 10
	// loadRetry is the pause after a page could not be read.
	loadRetry = time.Second
)

// direct reports whether a new reading need not be spooled. What is in the spool
// of the lane must all have been sent, and not too long ago to be acknowledged
// soon: a device that always has something in flight would otherwise write all
// its readings for ever, because of one that was late. It is called with mu held.
func (l *Lane) direct() bool {
	if l.durable == 0 {
		return l.whole()
	}
	sent := l.unsent == nil || l.unsent.seq == 0 && !l.unsent.spooling
	return l.whole() && sent && time.Since(l.head.since) < l.timeout()
}

// idle reports whether the lane holds nothing, in memory or in the spool.
func (l *Lane) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head == nil && l.whole()
}

// whole reports whether the list holds everything the lane has, so that a new
// entry may be added to it. It is called with mu held.
func (l *Lane) whole() bool { return l.away == 0 && l.newest <= l.through }

// memoryOnly lists what came in until then and is not in the spool. It is called
// with mu held.
func (l *Lane) memoryOnly(until time.Time) (es []*Entry) {
	for e := l.head; e != nil; e = e.next {
		if e.seq == 0 && !e.abandoned && e.ended == nil && !e.since.After(until) {
			es = append(es, e)
		}
	}
	for _, e := range slices.Concat(l.batch, l.queue) {
		if e.state == unlisted && !e.since.After(until) {
			es = append(es, e)
		}
	}
	return es
}

// add takes a reading. done is nil when nobody waits for the outcome.
func (l *Lane) add(r Reading, how Handling, done chan Outcome) (*Entry, error) {
	terms := l.terms.Load()
	if terms.MaxPayload > 0 && int64(len(r.Payload)) > terms.MaxPayload {
		return nil, ErrTooLarge
	}
	roomy, ok := l.budget.take(r.size())
	if !ok {
		return nil, errFull
	}
	down := terms.Uplink.Trouble() != ""
	e := &Entry{Reading: r, done: done, since: time.Now()}
	l.hold(1)
	l.mu.Lock()
	l.seen.reading = e.since
	if roomy && !down && !terms.SpoolFirst && !how.Async && how.Key.Value == "" && l.direct() {
		l.link(e)
		l.watch(l.timeout())
	} else {
		// Who wants it so, or cannot be served soon, need not wait for the broker.
		e.contented = how.Async || down || !l.direct()
		e.first = true
		if how.Key.Value != "" {
			e.key = &how.Key
		}
		if l.whole() && l.listed < pageBytes && !down {
			l.link(e)
		} else {
			e.state = unlisted
			e.spooling = true
			l.away++
			l.queue = append(l.queue, e)
		}
		l.spill()
	}
	offer := l.mustOffer()
	l.mu.Unlock()
	offer.offer()
	return e, nil
}

// mustOffer returns the berth that the caller, who holds mu, has to offer when it
// holds mu no more, or nil.
func (l *Lane) mustOffer() *berth {
	if l.offered || l.paused != nil || l.elsewhere > 0 {
		return nil
	}
	if ready := l.unsent != nil && !l.unsent.held(); !ready && (l.loading || l.unsent != nil || l.newest <= l.through) {
		return nil
	}
	l.offered = true
	return l.at
}

// held: it must not be sent before it is durable.
func (e *Entry) held() bool { return e.first && e.seq == 0 }

// next is Source's, for a berth.
func (l *Lane) next(b *berth) *Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b != l.at {
		return nil // it was left; the uplink in use knows of the other one
	}
	if l.elsewhere > 0 || l.paused != nil || l.unsent == nil || l.unsent.held() {
		l.offered = false
		if l.unsent == nil && l.paused == nil && l.elsewhere == 0 {
			l.load()
		}
		return nil
	}
	e := l.unsent
	e.state, e.carrier = inFlight, b
	l.advance()
	if l.unsent == nil {
		l.load() // the next page is read while this one is on its way
	}
	return e
}

// advance is called with mu held and moves unsent to the next that waits.
func (l *Lane) advance() {
	for l.unsent = l.unsent.next; l.unsent != nil && l.unsent.state != waiting; {
		l.unsent = l.unsent.next
	}
}

// resolve is Source's, for a berth.
func (l *Lane) resolve(b *berth, e *Entry, o Outcome) {
	l.mu.Lock()
	if e.carrier != b {
		l.mu.Unlock()
		return // it was taken back and is sent again
	}
	e.carrier = nil
	if b != l.at {
		l.elsewhere--
	}
	if o.Kind == Retry {
		// What got lost on the way is no attempt: the broker said nothing about it.
		if e.retries++; o.MaxTries > 0 && e.retries >= o.MaxTries {
			o.Kind = Refused
		}
	}
	l.seen.outcome(o)
	if (o.Kind == Retry || o.Kind == Lost) && !e.abandoned {
		l.await(e)
		if o.Kind == Retry && l.paused == nil {
			l.paused = time.AfterFunc(l.pause(e.retries), l.resume)
		}
		offer := l.mustOffer()
		l.mu.Unlock()
		offer.offer()
		return
	}
	e.answer(o)
	timed := o.Kind == Acked && !e.abandoned && !e.recalled
	storing := slices.Contains(l.batch, e)
	if storing {
		e.ended = &o // the spool's answer finishes it
	} else {
		l.settle(e, o)
		l.unlink(e)
	}
	var offer *berth
	if b != l.at {
		offer = l.mustOffer() // it may have been the last one that was waited for
	}
	l.mu.Unlock()
	if timed && l.published != nil {
		l.published(time.Since(e.since))
	}
	if o.Kind == Acked && l.delivered != nil {
		l.delivered(&e.Reading)
	}
	if !storing {
		l.left(e)
	}
	offer.offer()
}

// settle tells the spool what became of an entry. It is called with mu held.
// What was refused is a dead letter, unless its sender has been told and nothing
// is in the spool.
func (l *Lane) settle(e *Entry, o Outcome) {
	switch {
	case o.Kind == Refused && (!e.told || e.seq != 0):
		l.logger.Error("reading refused by the broker, now a dead letter",
			"device", l.device, "id", e.Reading.ID, "code", o.Code, "reason", o.Reason)
		l.spool.Bury(Stored{Seq: e.seq, Reading: e.Reading}, Epitaph{Code: o.Code, Reason: o.Reason}, l.buried)
	case o.Kind == Acked && e.seq != 0:
		l.spool.Delete([]int64{e.seq})
	}
}

// buried is the spool's answer.
func (l *Lane) buried(err error) {
	if err != nil {
		l.logger.Error("dead letter not stored", "device", l.device, "error", err)
	}
}

func (l *Lane) resume() {
	l.mu.Lock()
	l.paused = nil
	offer := l.mustOffer()
	l.mu.Unlock()
	offer.offer()
}

// link appends an entry to the list. It is called with mu held.
func (l *Lane) link(e *Entry) {
	l.lastOrder++
	e.order, e.state = l.lastOrder, waiting
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
	l.listed += e.Reading.size()
	if e.seq != 0 {
		l.durable++
	}
}

// unlink takes an entry out of the list, if it is there. It is called with mu
// held.
func (l *Lane) unlink(e *Entry) {
	if e.state == unlisted {
		e.state = gone
		return
	}
	if l.unsent == e {
		l.advance()
	}
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
	l.listed -= e.Reading.size()
	if e.seq != 0 || e.spooling {
		l.durable--
		e.spooling = false
	}
	if l.head == nil && l.whole() {
		l.strays = nil
	}
}

// left gives back what an entry held in memory, without mu.
func (l *Lane) left(e *Entry) {
	l.budget.give(e.Reading.size())
	l.hold(-1)
}

// hold counts what keeps the lane of a device that is not listed. It is called
// without mu.
func (l *Lane) hold(n int) {
	if l.held.Add(int64(n)) == 0 && l.guest.Load() {
		l.forget(l)
	}
}

func (l *Lane) timeout() time.Duration { return time.Duration(l.ackTimeout.Load()) }
