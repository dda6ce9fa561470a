package bridge

import (
	"context"
	"fmt"
	"time"
)

// Used is what counts against the memory budget.
func (b *Bridge) Used() int64 {
	b.budget.mu.Lock()
	defer b.budget.mu.Unlock()
	return b.budget.used
}

// Size is what a reading counts against the memory budget.
func Size(r Reading) int64 { return r.size() }

// Visitors is the number of lanes of devices that are not listed.
func (b *Bridge) Visitors() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.passing)
}

// KeysUnderWay is the number of keyed readings that are being accepted.
func (b *Bridge) KeysUnderWay() int {
	b.kmu.Lock()
	defer b.kmu.Unlock()
	return len(b.keys)
}

// What the tests share with the package.
const (
	MaxVisitors = maxVisitors
	PageBytes   = pageBytes
	LoadRetry   = loadRetry
	StoreRetry  = storeRetry
)

// Listed is how many bytes a device's lane holds in its list.
func (b *Bridge) Listed(id DeviceID) int64 {
	l := b.devices[id].lane
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.listed
}

// CheckLanes compares what the lanes hold with what they count. Nothing may
// happen meanwhile.
func (b *Bridge) CheckLanes() error {
	var bytes int64
	count := 0
	for _, l := range b.lanes() {
		n, sum, err := l.check()
		if err != nil {
			return fmt.Errorf("lane of %s: %w", l.device, err)
		}
		count += n
		bytes += sum
	}
	b.budget.mu.Lock()
	defer b.budget.mu.Unlock()
	if b.budget.count != count || b.budget.used != bytes {
		return fmt.Errorf("the budget has %d readings of %d bytes, the lanes %d of %d",
			b.budget.count, b.budget.used, count, bytes)
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	for id, v := range b.passing {
		if n, _, _ := v.check(); int(v.held.Load()) != n {
			return fmt.Errorf("visitor %s: counted %d readings, it has %d", id, v.held.Load(), n)
		}
		if v.idle() || v.vacated() && v.held.Load() == 0 {
			return fmt.Errorf("visitor %s is kept and has nothing", id)
		}
	}
	return nil
}

func (l *Lane) check() (n int, bytes int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	durable, away := 0, 0
	var unsent, prev *Entry
	for e := l.head; e != nil; e = e.next {
		switch {
		case e.prev != prev:
			return 0, 0, fmt.Errorf("the links of %s are wrong", e.Reading.Payload)
		case prev != nil && e.order <= prev.order:
			return 0, 0, fmt.Errorf("%s is out of order", e.Reading.Payload)
		case prev != nil && l.strays == nil && e.seq != 0 && e.seq <= prev.seq:
			return 0, 0, fmt.Errorf("%s has number %d behind %d", e.Reading.Payload, e.seq, prev.seq)
		case e.state != waiting && e.state != inFlight:
			return 0, 0, fmt.Errorf("%s is listed in state %d", e.Reading.Payload, e.state)
		case e.seq > l.through && !l.strays[e.seq]:
			return 0, 0, fmt.Errorf("%s with number %d is not covered by %d", e.Reading.Payload, e.seq, l.through)
		case e.state == inFlight && e.held():
			return 0, 0, fmt.Errorf("%s is in flight and must not", e.Reading.Payload)
		case e.seq == 0 && !e.spooling && !e.abandoned && l.overdue == nil:
			return 0, 0, fmt.Errorf("%s is in memory only and nobody looks after it", e.Reading.Payload)
		case e.done != nil && e.told:
			return 0, 0, fmt.Errorf("%s was told and waits", e.Reading.Payload)
		}
		if e.state == waiting && unsent == nil {
			unsent = e
		}
		if e.seq != 0 || e.spooling {
			durable++
		}
		n++
		bytes += e.Reading.size()
		prev = e
	}
	listed := bytes
	for _, q := range [][]*Entry{l.batch, l.queue} {
		for _, e := range q {
			if e.state == unlisted {
				away++
				n++
				bytes += e.Reading.size()
			}
		}
	}
	switch {
	case l.tail != prev:
		err = fmt.Errorf("the tail is wrong")
	case l.unsent != unsent:
		err = fmt.Errorf("the oldest that waits is not %v", l.unsent)
	case l.listed != listed:
		err = fmt.Errorf("%d bytes are listed, counted %d", listed, l.listed)
	case l.durable != durable || l.away != away:
		err = fmt.Errorf("%d durable and %d away, counted %d and %d", durable, away, l.durable, l.away)
	case l.batch == nil && (l.pending()):
		err = fmt.Errorf("something waits for the spool, which is not busy")
	case l.paused == nil && l.elsewhere == 0 && !l.offered && l.unsent != nil && !l.unsent.held():
		err = fmt.Errorf("something is to be sent and the session does not know")
	case l.paused == nil && l.elsewhere == 0 && !l.departed() && !l.offered && !l.loading && l.unsent == nil && l.newest > l.through:
		err = fmt.Errorf("there is a backlog and the session does not know")
	}
	return n, bytes, err
}

// RetryPauseMax is the longest rest of a lane.
const RetryPauseMax = 30 * time.Second

// AcceptPage is AcceptAll that tells the end of each reading by itself.
func (b *Bridge) AcceptPage(ctx context.Context, rs []Reading, async bool, end func(i int, got Receipt, err error)) {
	for i, p := range b.addAll(rs, nil, async) {
		go func() {
			if p.entry == nil {
				end(i, Receipt{}, p.Err)
				return
			}
			got, err := b.await(ctx, rs[i], p.lane, p.entry, p.done)
			end(i, got, err)
		}()
	}
}
