package bridge

import (
	"context"
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
// keys is nil, or one for each; without a Value there is none.
//
// When ctx is done first, the readings without an end have its error, and what
// becomes of them is not known. With async none waits for the broker (see
// Handling.Async). The readings, and so the memory, are bounded by the caller.
func (b *Bridge) AcceptAll(ctx context.Context, rs []Reading, keys []Key, async bool) []Accepted {
	waiting := b.addAll(rs, keys, async)
	b.awaitAll(ctx, rs, waiting)
	results := make([]Accepted, len(rs))
	for i := range waiting {
		p := &waiting[i]
		// Only now: two pages can have twins of each other.
		if p.twin != nil {
			p.Receipt, p.Err = p.twin.wait(ctx, rs[i].Device)
		}
		results[i] = p.Accepted
	}
	return results
}

// awaitAll waits for those that were given to their lanes, and releases claims.
func (b *Bridge) awaitAll(ctx context.Context, rs []Reading, waiting []pending) {
	timer := time.NewTimer(time.Duration(b.ackTimeout.Load()))
	defer timer.Stop()
	for i := range waiting {
		p := &waiting[i]
		for p.entry != nil {
			select {
			case o := <-p.done:
				p.Receipt, p.Err = receipt(rs[i], o)
				p.entry = nil
			case <-timer.C:
				for _, late := range waiting[i:] {
					if late.entry != nil {
						late.lane.content(late.entry)
					}
				}
			case <-ctx.Done():
				select {
				case o := <-p.done: // while another one was waited for
					p.Receipt, p.Err = receipt(rs[i], o)
					p.entry = nil
				default:
					p.Err = givenUp(ctx, rs[i].Device)
					b.leave(p, rs[i])
				}
			}
		}
		if p.own != nil {
			b.release(p.id, p.own, p.Receipt, p.Err)
		}
	}
}

// pending is a reading that was given to its lane, or waits for another one with
// its key. With neither an entry nor a twin its end is there.
type pending struct {
	Accepted
	lane  *Lane
	entry *Entry
	done  chan Outcome

	id        keyID
	own, twin *keyed
}

// leave gives a reading up that its sender does not wait for any more. Its claim
// goes on until the spool has it.
func (b *Bridge) leave(p *pending, r Reading) {
	if p.own != nil {
		go func(p pending) {
			receipt, err := b.await(context.Background(), r, p.lane, p.entry, p.done)
			b.release(p.id, p.own, receipt, err)
		}(*p)
	}
	p.entry, p.own = nil, nil
}

// addAll gives readings to their lanes, together.
func (b *Bridge) addAll(rs []Reading, keys []Key, async bool) []pending {
	all := make([]pending, len(rs))
	for i := range keys { // it reads the spool: not while lanes are held up
		if keys[i].Value != "" {
			b.identify(&all[i], rs[i].Device, keys[i])
		}
	}
	page := &addition{}
	defer page.close(b.opts.Spool)
	for i := range rs {
		b.complete(&rs[i])
		p, how := &all[i], Handling{Async: async}
		if p.id.value != "" {
			if p.own == nil || p.known() {
				continue
			}
			how.Key = keys[i]
		}
		p.done = make(chan Outcome, 1)
		p.lane, p.entry, p.Err = b.add(rs[i], how, p.done, page)
	}
	return all
}

// identify looks whether a reading with this key is known, or being accepted.
func (b *Bridge) identify(p *pending, device DeviceID, key Key) {
	p.id = keyID{device, key.Value}
	if p.own, p.twin = b.claim(p.id, key.Digest); p.twin != nil {
		if p.twin.digest != key.Digest {
			p.twin, p.Err = nil, ErrKeyReused
		}
		return
	}
	p.Receipt, _, p.Err = b.remembered(device, key)
}

// known reports whether it has its end without having been added.
func (p *pending) known() bool { return p.Err != nil || p.Receipt != (Receipt{}) }

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
