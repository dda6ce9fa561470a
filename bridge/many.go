package bridge

import (
	"context"
	"fmt"
	"time"
)

// Accepted is what became of one of the readings given to AcceptAll: a receipt,
// or an error as Accept returns them.
type Accepted struct {
	Receipt Receipt
	Err     error
}

// AcceptAll takes readings together and waits until each has an end as with
// Accept. All are given to their devices, in order, before one is waited for, and
// what of them has to be stored goes to the spool together. There is one result a
// reading, at its place. One that is not accepted does not hold up the others.
//
// When ctx is done first, the readings without an end have its error, and what
// becomes of them is not known. With async none waits for the broker (see
// Handling.Async). The readings, and so the memory, are bounded by the caller.
func (b *Bridge) AcceptAll(ctx context.Context, rs []Reading, async bool) []Accepted {
	results := make([]Accepted, len(rs))
	waiting := b.addAll(rs, async)
	for i := range waiting {
		results[i].Err = waiting[i].err
	}
	timer := time.NewTimer(time.Duration(b.ackTimeout.Load()))
	defer timer.Stop()
	for i := range waiting {
		for p := &waiting[i]; p.entry != nil; {
			select {
			case o := <-p.done:
				results[i].Receipt, results[i].Err = receipt(rs[i], o)
				p.entry = nil
			case <-timer.C:
				for _, late := range waiting[i:] {
					if late.entry != nil {
						late.lane.content(late.entry)
					}
				}
			case <-ctx.Done():
				results[i].Receipt, results[i].Err = givenUp(rs[i], p.done, ctx.Err())
				p.entry = nil
			}
		}
	}
	return results
}

// givenUp is what a sender is told who waits no longer: the end of the reading all
// the same if there is one, or why nobody waits.
func givenUp(r Reading, done <-chan Outcome, why error) (Receipt, error) {
	select {
	case o := <-done:
		return receipt(r, o)
	default:
		return Receipt{}, fmt.Errorf("accept reading of %q: %w", r.Device, why)
	}
}

// pending is a reading that was given to its lane; without an entry err says why
// it was not.
type pending struct {
	lane  *Lane
	entry *Entry
	done  chan Outcome
	err   error
}

// addAll gives readings to their lanes, together.
func (b *Bridge) addAll(rs []Reading, async bool) []pending {
	page := &addition{}
	defer page.close(b.opts.Spool)
	all := make([]pending, len(rs))
	for i := range rs {
		b.complete(&rs[i])
		p := &all[i]
		p.done = make(chan Outcome, 1)
		p.lane, p.entry, p.err = b.add(rs[i], Handling{Async: async}, p.done, page)
	}
	return all
}

// addition is a page of readings that is being added to lanes. Until it is closed
// they store nothing, so that the spool syncs once for all of it. What can be sent
// is not held up.
type addition struct {
	lanes []*Lane
	known map[*Lane]bool
}

// join adds a lane. It is called before the first reading is added to it, with the
// lane held.
func (p *addition) join(l *Lane) {
	if p == nil || p.known[l] {
		return
	}
	if p.known == nil {
		p.known = map[*Lane]bool{}
	}
	p.known[l] = true
	p.lanes = append(p.lanes, l)
	l.hold(1)
	l.mu.Lock()
	l.pages++
	l.mu.Unlock()
}

// close gives the spool what the lanes have to store.
func (p *addition) close(spool Spool) {
	var all []Append
	for _, l := range p.lanes {
		l.mu.Lock()
		l.pages--
		if a := l.gather(); a.Done != nil {
			all = append(all, a)
		}
		l.mu.Unlock()
	}
	if len(all) > 0 {
		spool.AppendAll(all)
	}
	for _, l := range p.lanes {
		l.hold(-1)
	}
}
