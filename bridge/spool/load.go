package spool

import (
	"database/sql/driver"
	"sync"
	"time"

	"fieldbridge/bridge"
)

// loaders is how many goroutines read for the Load methods: one that waits for
// the disk must not hold up all the others.
const loaders = 2

// loads are the requests that wait for a loader.
type loads struct {
	mu     sync.Mutex // guards what follows
	cond   sync.Cond
	queue  []func(closed bool)
	closed bool
}

func (l *loads) init() { l.cond.L = &l.mu }

func (l *loads) add(f func(closed bool)) {
	l.mu.Lock()
	closed := l.closed
	if !closed {
		l.queue = append(l.queue, f)
		l.cond.Signal()
	}
	l.mu.Unlock()
	if closed {
		f(true)
	}
}

func (l *loads) close() {
	l.mu.Lock()
	l.closed = true
	l.cond.Broadcast()
	l.mu.Unlock()
}

// next waits for a request; nil means that there will be none.
func (l *loads) next() (f func(closed bool), closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.queue) == 0 && !l.closed {
		l.cond.Wait()
	}
	if len(l.queue) == 0 {
		return nil, true
	}
	f = l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	return f, l.closed
}

func (d *DB) serveLoads() {
	for {
		f, closed := d.loads.next()
		if f == nil {
			return
		}
		f(closed)
	}
}

const (
	// maxHidden is how many deletes may wait for the disk before loads are held
	// up: a broker that is faster than the disk would let them grow without end.
	maxHidden = 8192
	// loadPatience is how long a load waits for them. What the disk does not take
	// at all slows the draining down and does not end it.
	loadPatience = time.Second
)

// hidden are the readings that were deleted as far as callers can see: their
// delete may still wait for its commit, or a load that began before the commit
// may still find them.
type hidden struct {
	mu    sync.Mutex // guards what follows
	seqs  map[int64]int
	loads map[uint64]struct{} // those that run
	next  uint64
	gone  []goneSeqs    // committed, oldest first
	few   chan struct{} // closed at maxHidden, if somebody waits
}

// goneSeqs can be forgotten once no load below epoch runs.
type goneSeqs struct {
	epoch uint64
	seqs  []int64
}

func (h *hidden) init() {
	h.seqs = make(map[int64]int)
	h.loads = make(map[uint64]struct{})
}

func (h *hidden) hide(seqs []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range seqs {
		h.seqs[s]++
	}
}

func (h *hidden) show(seqs []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.forget(seqs)
}

// forget is called with mu held.
func (h *hidden) forget(seqs []int64) {
	for _, s := range seqs {
		if h.seqs[s]--; h.seqs[s] <= 0 {
			delete(h.seqs, s)
		}
	}
	if h.few != nil && len(h.seqs) <= maxHidden {
		close(h.few)
		h.few = nil
	}
}

// await waits until no more than maxHidden are hidden, or for d.
func (h *hidden) await(d time.Duration) {
	h.mu.Lock()
	if len(h.seqs) <= maxHidden {
		h.mu.Unlock()
		return
	}
	if h.few == nil {
		h.few = make(chan struct{})
	}
	few := h.few
	h.mu.Unlock()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-few:
	case <-timer.C:
	}
}

// committed: loads that begin from now on cannot find these any more.
func (h *hidden) committed(seqs []int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.loads) == 0 {
		h.forget(seqs)
		return
	}
	h.gone = append(h.gone, goneSeqs{h.next, seqs})
}

func (h *hidden) begin() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	id := h.next
	h.next++
	h.loads[id] = struct{}{}
	return id
}

func (h *hidden) end(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.loads, id)
	oldest := h.next
	for other := range h.loads {
		oldest = min(oldest, other)
	}
	for len(h.gone) > 0 && h.gone[0].epoch <= oldest {
		h.forget(h.gone[0].seqs)
		h.gone = h.gone[1:]
	}
}

func (h *hidden) has(seq int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seqs[seq] > 0
}

// Load reads a device's readings with a Seq above after, oldest first, until
// maxBytes of them are together; one at least if there is one. What Delete and
// Bury were called for is not among them. It does not wait for the writer, unless
// more than maxHidden deletes do, and then for loadPatience at most.
func (d *DB) Load(device bridge.DeviceID, after int64, maxBytes int, done func([]bridge.Stored, error)) {
	d.loads.add(func(closed bool) {
		if closed {
			done(nil, ErrClosed)
			return
		}
		d.hidden.await(loadPatience)
		var found []bridge.Stored
		err := d.readRepaired(func(c *conn) (err error) {
			found, err = d.load(c, device, after, int64(maxBytes))
			return err
		})
		done(found, wrap("load", err))
	})
}

// loadStep is how many readings a load looks for at a time.
const loadStep = 64

func (d *DB) load(c *conn, device bridge.DeviceID, after, maxBytes int64) ([]bridge.Stored, error) {
	id := d.hidden.begin()
	defer d.hidden.end(id)
	l := loading{device: device, hidden: &d.hidden, left: maxBytes}
	for !l.full {
		seqs := d.seqsAfter(device, after, loadStep)
		if len(seqs) == 0 {
			break
		}
		after = seqs[len(seqs)-1]
		for len(seqs) > 0 && !l.full {
			n := 1
			for n < len(seqs) && seqs[n] == seqs[n-1]+1 {
				n++
			}
			if err := l.run(c, seqs[:n]); err != nil {
				return nil, err
			}
			seqs = seqs[n:]
		}
	}
	if len(l.damaged) > 0 {
		d.discard(device, l.damaged)
	}
	if l.missing {
		d.recount()
	}
	return l.found, nil
}

func (d *DB) seqsAfter(device bridge.DeviceID, after int64, limit int) []int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.use.devices[device]
	if b == nil {
		return nil
	}
	return b.seqs.after(after, limit)
}

// loading is what a Load has so far.
type loading struct {
	device  bridge.DeviceID
	hidden  *hidden
	left    int64 // bytes
	full    bool
	found   []bridge.Stored
	damaged []int64
	missing bool // rows that should be there are not
}

// run reads a run of neighbours.
func (l *loading) run(c *conn, seqs []int64) error {
	rows := 0
	err := c.query("SELECT "+readingColumns+" FROM readings WHERE seq BETWEEN ? AND ?", func(row []driver.Value) error {
		rows++
		r, ok := scanReading(row)
		switch {
		case l.hidden.has(r.Seq):
			return nil
		case !ok || r.Device != l.device:
			l.damaged = append(l.damaged, r.Seq)
			return nil
		}
		n := sizeOf(&r.Reading)
		if l.full = len(l.found) > 0 && n > l.left; l.full {
			return errStop
		}
		l.found = append(l.found, r.Stored)
		l.left -= n
		if l.full = l.left <= 0; l.full {
			return errStop
		}
		return nil
	}, seqs[0], seqs[len(seqs)-1])
	if err != nil || l.full || rows == len(seqs) {
		return err
	}
	for _, s := range seqs {
		if !l.hidden.has(s) {
			return l.look(c, seqs)
		}
	}
	return nil
}

// look finds out whether a row that is not hidden is missing.
func (l *loading) look(c *conn, seqs []int64) error {
	for _, s := range seqs {
		n, err := c.integer("SELECT count(*) FROM readings WHERE seq = ?", s)
		if err != nil {
			return err
		}
		l.missing = l.missing || n == 0 && !l.hidden.has(s)
	}
	return nil
}

// Backlogs says for each device that has readings what the spool holds of it,
// in no order. It waits for the disk.
func (d *DB) Backlogs() ([]bridge.Backlog, error) {
	d.mu.Lock()
	list := make([]bridge.Backlog, 0, len(d.use.devices))
	for device, b := range d.use.devices {
		list = append(list, bridge.Backlog{Device: device, Readings: b.n, Bytes: b.bytes, Oldest: b.seqs.first(), Newest: b.seqs.last()})
	}
	d.mu.Unlock()
	err := d.readRepaired(func(c *conn) error {
		for i := range list {
			err := c.query("SELECT accepted_ms FROM readings WHERE seq = ?", func(row []driver.Value) error {
				list[i].Accepted = fromMillis(row[0])
				return nil
			}, list[i].Oldest)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return list, wrap("look for backlogs", err)
}
