package session

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// Pacer is the budget of connects that the sessions of a connector share: at
// most so many a second, evenly spaced. Renewals come first, because one that
// comes too late costs a session that works; then sessions with readings that
// wait; then the others; each in the order in which they came. It may be used
// from any goroutine and runs none of its own.
type Pacer struct {
	interval time.Duration

	mu    sync.Mutex // guards what follows
	queue turns
	next  time.Time   // when the next one may go
	timer *time.Timer // running while anybody waits
	last  uint64
}

// rank orders those who wait; the lower goes first.
type rank int

const (
	renewing rank = iota
	waiting       // has readings that wait
	idling        // has none
)

// NewPacer makes a budget of so many connects a second, at least 1.
func NewPacer(perSecond int) *Pacer {
	return &Pacer{interval: time.Second / time.Duration(max(perSecond, 1))}
}

// turn is somebody who waits. Its fields are guarded by the pacer's mutex.
type turn struct {
	rank  rank
	seq   uint64
	index int           // in the queue; -1: not in it
	come  chan struct{} // closed when it may go
}

func (p *Pacer) join(r rank) *turn {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	t := &turn{rank: r, seq: p.last, come: make(chan struct{})}
	heap.Push(&p.queue, t)
	p.admit()
	return t
}

// hurry changes the rank of a turn.
func (p *Pacer) hurry(t *turn, r rank) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.index >= 0 && t.rank != r {
		t.rank = r
		heap.Fix(&p.queue, t.index)
	}
}

// leave gives a turn up.
func (p *Pacer) leave(t *turn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.index >= 0 {
		heap.Remove(&p.queue, t.index)
	}
	if p.queue.Len() == 0 && p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

// admit lets the first one go if it is time, and sees to the next. It is called
// with mu held.
func (p *Pacer) admit() {
	if p.timer != nil || p.queue.Len() == 0 {
		return
	}
	now := time.Now()
	if !now.Before(p.next) {
		close(heap.Pop(&p.queue).(*turn).come)
		// From now, not from when it was due: the budget is a bound.
		p.next = now.Add(p.interval)
	}
	if p.queue.Len() > 0 {
		var timer *time.Timer
		timer = time.AfterFunc(p.next.Sub(now), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.timer == timer { // not stopped at the last moment
				p.timer = nil
				p.admit()
			}
		})
		p.timer = timer
	}
}

// turns implements heap.Interface.
type turns []*turn

func (q turns) Len() int { return len(q) }
func (q turns) Less(i, j int) bool {
	if q[i].rank != q[j].rank {
		return q[i].rank < q[j].rank
	}
	return q[i].seq < q[j].seq
}
func (q turns) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *turns) Push(x any) {
	t := x.(*turn)
	t.index = len(*q)
	*q = append(*q, t)
}
func (q *turns) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	t.index = -1
	return t
}

// openInTurn waits for the session's turn and opens the next link. The
// credentials are minted after the wait, so that a session that cannot connect
// costs no more signatures than attempts. For a renewal it may be called beside
// Run's goroutine.
func (s *Session) openInTurn(ctx context.Context, renewal bool) (*link, error) {
	if err := s.await(ctx, renewal); err != nil {
		return nil, err
	}
	return s.open(ctx)
}

func (s *Session) await(ctx context.Context, renewal bool) error {
	p := s.opts.Pacer
	if p == nil {
		return ctx.Err()
	}
	r := idling
	var offered, renew <-chan struct{} // those that the connection's loop does not read now
	switch {
	case renewal:
		r = renewing
	default:
		if s.pending() {
			r = waiting
		}
		offered, renew = s.wake, s.renew
	}
	t := p.join(r)
	for {
		select {
		case <-t.come:
			return nil
		case <-offered:
			if s.pending() {
				p.hurry(t, waiting)
			}
		case <-renew: // the credentials are minted after this
		case <-ctx.Done():
			p.leave(t)
			return ctx.Err()
		}
	}
}

// pending reports whether there is anything to send.
func (s *Session) pending() bool {
	s.mu.Lock()
	offered := len(s.ready) > 0
	s.mu.Unlock()
	return offered || s.window.inFlight() > 0
}
