package bridge

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// spill sends everything of the list that is in memory only to the spool. It is
// called with mu held.
func (l *Lane) spill() {
	for e := l.head; e != nil; e = e.next {
		if e.seq == 0 && !e.spooling && !e.abandoned {
			e.spooling = true
			l.durable++
		}
	}
	l.store()
}

// store gives the spool all that is on its way there, in order, in one commit. It
// is called with mu held.
func (l *Lane) store() {
	if a := l.gather(); a.Done != nil {
		l.spool.Append(a.Readings, a.Keys, a.Done)
	}
}

// gather makes a batch of all that is on its way to the spool, in order, unless
// that is busy with an earlier one: were two under way and the first failed, the
// second would come before it in the spool. While a page is added to the lane,
// its batch is made when all of it is there. Without a batch Done is nil. It
// is called with mu held; the caller gives the batch to the spool.
func (l *Lane) gather() (a Append) {
	if l.batch != nil || l.pages > 0 {
		return a
	}
	var batch []*Entry
	for e := l.head; e != nil; e = e.next {
		if e.spooling {
			batch = append(batch, e)
		}
	}
	batch = append(batch, l.queue...)
	l.queue = nil
	if len(batch) == 0 {
		return a
	}
	rs := make([]Reading, len(batch))
	var keys []Key
	for i, e := range batch {
		rs[i] = e.Reading
		if e.key == nil {
			continue
		}
		if keys == nil {
			keys = make([]Key, len(batch))
		}
		keys[i] = *e.key
	}
	l.batch = batch
	return Append{rs, keys, l.stored}
}

// pending reports whether something is to be stored that is not in the batch
// under way. It is called with mu held.
func (l *Lane) pending() bool {
	for e := l.head; e != nil; e = e.next {
		if e.spooling {
			return true
		}
	}
	return len(l.queue) > 0
}

// stored is the spool's answer.
func (l *Lane) stored(first int64, err error) {
	down := l.terms.Load().Uplink.Trouble() != ""
	var leave []*Entry
	l.mu.Lock()
	batch := l.batch
	l.batch, l.failure = nil, err
	for i, e := range batch {
		e.spooling = false
		if e.state == unlisted {
			l.away--
		}
		gone := false
		if err != nil {
			gone = l.refused(e, err)
		} else {
			gone = l.numbered(e, first+int64(i))
		}
		if gone {
			leave = append(leave, e)
		}
	}
	l.counts.spill(len(batch), err)
	if l.pending() {
		l.spill() // with what the spool did not take this time, so that nothing overtakes it
	}
	leave = append(leave, l.evict(down)...)
	offer := l.mustOffer()
	l.mu.Unlock()
	for _, e := range leave {
		l.left(e)
	}
	offer.offer()
}

// numbered handles an entry that is in the spool now, and reports whether it
// leaves. It is called with mu held.
func (l *Lane) numbered(e *Entry, seq int64) bool {
	e.seq, e.key = seq, nil
	listed := e.state != unlisted
	if listed {
		if l.strays != nil {
			l.strays[seq] = true
		}
		if l.newest <= l.through {
			l.through = max(l.through, seq)
		}
	}
	l.newest = max(l.newest, seq)
	switch {
	case e.ended != nil:
		l.settle(e, *e.ended)
		l.unlink(e)
		return true
	case !listed:
		e.answer(Outcome{Kind: kept})
		e.state = gone
		return true
	case e.contented:
		e.answer(Outcome{Kind: kept})
	}
	return false
}

// answer tells who waits, if anyone. It is called with mu held.
func (e *Entry) answer(o Outcome) {
	if e.done != nil {
		e.done <- o
		e.done, e.told = nil, true
	}
}

// refused handles an entry that the spool did not take, and reports whether it
// leaves. What can still be delivered from memory stays: a sender who waits for
// the broker, and lines that nobody will repeat. It is called with mu held.
func (l *Lane) refused(e *Entry, err error) bool {
	if e.state != unlisted {
		l.durable--
	}
	switch {
	case e.ended != nil:
		l.settle(e, *e.ended)
		l.unlink(e)
		return true
	case !e.first && !e.contented:
		l.seen.failure("not stored: " + err.Error())
		l.watch(l.timeout())
		return false
	case e.done == nil:
		l.seen.failure("dropped: " + err.Error())
		l.counts.dropped(l, e, err)
	default:
		l.seen.failure("not accepted: " + err.Error())
	}
	if e.state == inFlight {
		// The broker may have it; it is only not sent again.
		err = fmt.Errorf("%w; the broker has not answered and may have it", err)
		e.answer(Outcome{Kind: failed, Reason: err.Error(), err: err})
		e.abandoned = true
		return false
	}
	e.answer(Outcome{Kind: failed, Reason: err.Error(), err: err})
	l.unlink(e)
	return true
}

// evict takes the end of the list out of memory: all that waits and is in the
// spool while the link is down, else what is more than a page. It is called with
// mu held and returns what the caller has to let go.
func (l *Lane) evict(down bool) (out []*Entry) {
	if l.departed() {
		return l.vacate()
	}
	if l.strays != nil {
		return nil // the numbers of the list are not in its order
	}
	limit := int64(pageBytes)
	if down {
		limit = 0
	}
	for e := l.tail; e != nil && l.listed > limit; e = l.tail {
		// A reading that the broker has refused for now stays, so that its
		// attempts are counted.
		if e.state != waiting || e.seq == 0 || e.done != nil || e.retries > 0 {
			break
		}
		l.through = e.seq - 1
		l.unlink(e)
		out = append(out, e)
	}
	return out
}

// load asks for the next page. It is called with mu held.
func (l *Lane) load() {
	if l.loading || l.newest <= l.through {
		return
	}
	l.loading = true
	p := page{after: l.through, until: l.newest, room: l.budget.reserve()}
	l.spool.Load(l.device, p.after, int(p.room), func(found []Stored, err error) {
		if err != nil {
			l.unloaded(p, err)
			return
		}
		p.found = found
		l.loaded(p)
	})
}

// page is a part of the backlog.
type page struct {
	after, until int64 // the list ended there, and the spool here, when it was asked for
	room         int64 // bytes reserved for it
	found        []Stored
}

// unloaded tries again later.
func (l *Lane) unloaded(p page, err error) {
	l.logger.Error("backlog not read", "device", l.device, "error", err, "retry_in", loadRetry)
	l.budget.unreserve(p.room)
	time.AfterFunc(loadRetry, func() { l.loaded(page{after: -1}) })
}

// loaded is the spool's answer.
func (l *Lane) loaded(p page) {
	l.budget.unreserve(p.room)
	l.hold(1 + len(p.found)) // one more, so that the lane is looked at again even if the page is empty
	l.mu.Lock()
	l.loading = false
	listed := 0
	if p.after == l.through && !l.departed() { // else entries were taken out of the list since, which come before the page
		listed = l.turn(p)
	}
	offer := l.mustOffer()
	l.mu.Unlock()
	l.hold(listed - len(p.found) - 1)
	offer.offer()
}

// turn appends a page to the list and returns how many entries it gave. It is
// called with mu held.
func (l *Lane) turn(p page) (listed int) {
	for _, s := range p.found {
		l.through = s.Seq
		if l.strays[s.Seq] || l.storing(s.Reading.ID) {
			continue
		}
		listed++
		e := &Entry{Reading: s.Reading, since: time.Now(), recalled: true, seq: s.Seq}
		l.budget.force(e.Reading.size())
		l.link(e)
	}
	if len(p.found) == 0 && l.through < p.until {
		l.through = p.until // what was there has been dropped
	}
	return listed
}

// storing reports whether an entry of the list is in the batch under way. The
// spool may have it already and not have said so. It is called with mu held.
func (l *Lane) storing(id uuid.UUID) bool {
	return slices.ContainsFunc(l.batch, func(e *Entry) bool {
		return e.state != unlisted && e.Reading.ID == id
	})
}

// recall tells the lane what the spool holds of its device, at the start or
// after somebody else has changed the spool.
func (l *Lane) recall(b Backlog) {
	l.mu.Lock()
	// What is new can be older than what the list has: it is all read again.
	if l.strays == nil && (l.head != nil || l.batch != nil) {
		l.strays = map[int64]bool{}
	}
	for e := l.head; e != nil; e = e.next {
		if e.seq != 0 {
			l.strays[e.seq] = true
		}
	}
	l.through = min(l.through, b.Oldest-1)
	l.newest = max(l.newest, b.Newest)
	offer := l.mustOffer()
	l.mu.Unlock()
	offer.offer()
}

// watch sees to it that what is in memory only is looked at after d. It is
// called with mu held.
func (l *Lane) watch(d time.Duration) {
	if l.overdue == nil {
		l.overdue = time.AfterFunc(d, l.checkOverdue)
	}
}

// checkOverdue spools what the broker has not acknowledged in time.
func (l *Lane) checkOverdue() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.overdue = nil
	for e := l.head; e != nil; e = e.next {
		if e.seq != 0 || e.spooling || e.abandoned {
			continue
		}
		left := l.timeout() - time.Since(e.since)
		if left > 0 {
			l.watch(left)
			return
		}
		l.spillAll()
		return
	}
}

// spillAll spools what is in memory only; who waits for the broker is content
// with that. It is called with mu held.
func (l *Lane) spillAll() {
	for e := l.head; e != nil; e = e.next {
		switch {
		case e.done == nil:
		case e.seq != 0:
			e.answer(Outcome{Kind: kept})
		default:
			e.contented = true
		}
	}
	l.spill()
}

// spillNow is spillAll for a link that is down or a gateway that stops.
func (l *Lane) spillNow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spillAll()
}

// content is for a sender who waits no longer for the broker: the spool will do.
func (l *Lane) content(e *Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case e.done == nil || e.state == gone:
	case e.seq != 0:
		e.answer(Outcome{Kind: kept})
	default:
		e.contented = true
		if !e.spooling {
			l.spill()
		}
	}
}
