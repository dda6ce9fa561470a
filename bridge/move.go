package bridge

import (
	"fmt"
	"maps"
	"time"
)

// berth is a lane's place at one uplink, and what the uplink knows as its
// Source. A lane that moves gets another berth: what an uplink does with one
// that was left has no effect.
type berth struct {
	lane   *Lane
	uplink Uplink
}

var _ Source = (*berth)(nil)

// Next implements Source.
func (b *berth) Next() *Entry { return b.lane.next(b) }

// Resolve implements Source.
func (b *berth) Resolve(e *Entry, o Outcome) { b.lane.resolve(b, e, o) }

// offer offers the berth, if there is one, to its uplink. It is called without
// the lane's mutex.
func (b *berth) offer() {
	if b != nil {
		b.uplink.Offer(b)
	}
}

// nowhere is the uplink of lanes whose device is not configured any more.
type nowhere struct{}

// Offer implements Uplink.
func (nowhere) Offer(Source) {}

// Trouble implements Uplink.
func (nowhere) Trouble() string { return "the device is not configured any more" }

// Changes are what a new configuration asks of a Bridge that runs.
type Changes struct {
	// Connect has the devices that are new, or leave in another way than before.
	Connect map[DeviceID]Connection
	// Disconnect has the devices that are there no more.
	Disconnect []DeviceID
	// Others is how readings of devices that are not listed leave; nil: they are
	// refused.
	Others *Connection
}

// Change makes devices come, move and go, without losing a reading or the order
// of any device. An error is that of the spool, and then nothing has changed.
// Calls must not overlap; everything else may go on meanwhile.
//
// A device that moves takes along what is in memory. What its old uplink has in
// flight is waited for, up to Options.AckTimeout, unless that one is in trouble,
// and then sent again: it may arrive twice. What is in memory of a device that
// goes is stored, its senders are told so, and it stays in the spool until the
// device is back.
func (b *Bridge) Change(c Changes) error {
	backlogs, release, err := b.census()
	if err != nil {
		return fmt.Errorf("change devices: %w", err)
	}
	defer release()
	moves := map[*Lane]Connection{}
	var recalled []*berth
	b.mu.Lock()
	b.open = c.Others
	gone := Connection{Uplink: nowhere{}}
	if b.open != nil {
		gone = *b.open
	}
	for id, to := range c.Connect {
		switch lane := b.passing[id]; {
		case b.devices[id] != nil:
			moves[b.devices[id].lane] = to
		case lane != nil:
			delete(b.passing, id)
			lane.guest.Store(false)
			b.devices[id] = &device{lane: lane}
			moves[lane] = to
		default:
			lane = b.newLane(id, to)
			b.devices[id] = &device{lane: lane}
			recalled = append(recalled, lane.remember(backlogs[id]))
		}
	}
	for _, id := range c.Disconnect {
		if d := b.devices[id]; d != nil {
			delete(b.devices, id)
			b.passing[id] = d.lane
			d.lane.guest.Store(true)
		}
	}
	for _, lane := range b.passing {
		moves[lane] = gone
	}
	if b.open != nil {
		for id, bl := range backlogs {
			if b.devices[id] == nil && b.passing[id] == nil {
				lane := b.newGuest(id)
				recalled = append(recalled, lane.remember(bl))
			}
		}
	}
	b.mu.Unlock()
	for lane, to := range moves {
		lane.hold(1)
		lane.move(to)
		lane.hold(-1) // forgets it if there is nothing to keep it for
	}
	b.index()
	for _, at := range recalled {
		at.offer()
	}
	return nil
}

// index notes which listed devices are at which uplink.
func (b *Bridge) index() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.at)
	for _, d := range b.devices {
		u := d.lane.terms.Load().Uplink
		b.at[u] = append(b.at[u], d.lane)
	}
}

// census is what the spool holds. Until release is called no lane of a device
// that is not listed is forgotten: what it has stored since would be missing.
func (b *Bridge) census() (backlogs map[DeviceID]Backlog, release func(), err error) {
	b.mu.RLock()
	passing := maps.Clone(b.passing)
	for _, lane := range passing {
		lane.held.Add(1)
	}
	b.mu.RUnlock()
	release = func() {
		for _, lane := range passing {
			lane.hold(-1)
		}
	}
	list, err := b.opts.Spool.Backlogs()
	if err != nil {
		release()
		return nil, nil, err
	}
	backlogs = make(map[DeviceID]Backlog, len(list))
	for _, bl := range list {
		backlogs[bl.Device] = bl
	}
	return backlogs, release, nil
}

// remember is for a lane that nobody knows yet. It returns what has to be
// offered.
func (l *Lane) remember(b Backlog) *berth {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.Readings > 0 {
		l.through, l.newest = b.Oldest-1, b.Newest
	}
	return l.mustOffer()
}

// move changes how the lane's readings leave.
func (l *Lane) move(to Connection) {
	// Asked without mu: an uplink may hold its own mutex when it calls Next.
	troubled := l.terms.Load().Uplink.Trouble() != ""
	l.mu.Lock()
	l.terms.Store(&to)
	if l.at.uplink == to.Uplink {
		l.mu.Unlock()
		return
	}
	l.at = &berth{lane: l, uplink: to.Uplink}
	l.offered, l.elsewhere = false, 0
	for e := l.head; e != nil; e = e.next {
		if e.carrier != nil {
			l.elsewhere++
		}
	}
	var leave []*Entry
	_, away := to.Uplink.(nowhere)
	switch {
	case l.elsewhere > 0 && (troubled || away):
		leave = l.reclaim()
	case l.elsewhere > 0 && l.reclaiming == nil:
		l.reclaiming = time.AfterFunc(l.timeout(), l.reclaimNow)
	}
	if away {
		l.spillAll()
		leave = append(leave, l.vacate()...)
	}
	offer := l.mustOffer()
	l.mu.Unlock()
	for _, e := range leave {
		l.left(e)
	}
	offer.offer()
}

// reclaimNow is reclaim for what has waited long enough.
func (l *Lane) reclaimNow() {
	l.mu.Lock()
	l.reclaiming = nil
	leave := l.reclaim()
	offer := l.mustOffer()
	l.mu.Unlock()
	for _, e := range leave {
		l.left(e)
	}
	offer.offer()
}

// reclaim takes back what an uplink that the lane has left did not resolve. It is
// called with mu held and returns what the caller has to let go.
func (l *Lane) reclaim() (leave []*Entry) {
	for e := l.head; e != nil; {
		next := e.next
		if e.carrier != nil && e.carrier != l.at {
			e.carrier = nil
			if e.abandoned {
				l.unlink(e)
				leave = append(leave, e)
			} else {
				l.await(e)
			}
		}
		e = next
	}
	l.elsewhere = 0
	return leave
}

// await makes an entry of the list wait for its turn. It is called with mu held.
func (l *Lane) await(e *Entry) {
	e.state = waiting
	if l.unsent == nil || e.order < l.unsent.order {
		l.unsent = e
	}
}

// vacate takes everything out of memory once all of it is in the spool. It is
// called with mu held and returns what the caller has to let go.
func (l *Lane) vacate() (leave []*Entry) {
	for e := l.head; e != nil; e = e.next {
		if e.state != waiting || e.seq == 0 || e.done != nil {
			return nil
		}
	}
	for l.head != nil {
		e := l.head
		l.unlink(e)
		leave = append(leave, e)
	}
	l.strays, l.through = nil, 0 // it is all read again, should the device be back
	return leave
}

// departed reports whether the lane's device is not configured any more.
func (l *Lane) departed() bool {
	_, ok := l.terms.Load().Uplink.(nowhere)
	return ok
}

// vacated reports whether nothing of a departed lane is left or expected.
func (l *Lane) vacated() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.departed() && !l.loading
}
