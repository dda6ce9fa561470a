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
// Accept. All are given to their devices, in order, before one is waited for:
// what must be stored while the spool is busy with a device's earlier ones goes
// there in one commit. There is one result a reading, at its place. One that is
// not accepted does not hold up the others.
//
// When ctx is done first, the readings without an end have its error, and what
// becomes of them is not known. With async none waits for the broker (see
// Handling.Async). The readings, and so the memory, are bounded by the caller.
func (b *Bridge) AcceptAll(ctx context.Context, rs []Reading, async bool) []Accepted {
	type pending struct {
		lane  *Lane
		entry *Entry
		done  chan Outcome
	}
	results := make([]Accepted, len(rs))
	waiting := make([]pending, len(rs))
	for i := range rs {
		b.complete(&rs[i])
		p := &waiting[i]
		p.done = make(chan Outcome, 1)
		p.lane, p.entry, results[i].Err = b.add(rs[i], Handling{Async: async}, p.done)
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
				results[i].Err = fmt.Errorf("accept reading of %q: %w", rs[i].Device, ctx.Err())
				p.entry = nil
			}
		}
	}
	return results
}
