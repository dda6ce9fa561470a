package rest

import (
	"sync"
	"time"
)

// Yield is what a connection was waiting for when it had to give way to
// another.
type Yield string

// The yields.
const (
	// YieldHeader: the header of a request had not come in time. It was closed.
	YieldHeader Yield = "header"
	// YieldIdle: the next request. It was closed.
	YieldIdle Yield = "idle"
	// YieldBody: the rest of a request's body. It was answered with 503, or
	// closed if too many were being answered.
	YieldBody Yield = "body"
	// YieldAnswer: the client, to take its answer, or to send the rest of a body
	// that nobody wants. It was closed.
	YieldAnswer Yield = "answer"
)

// Yields are all of them.
var Yields = []Yield{YieldHeader, YieldIdle, YieldBody, YieldAnswer}

const (
	// slow is how long a header, a body or an answer may be on its way, or the next
	// request be waited for, before the connection has to give way to others.
	slow = time.Second
	// look is how often those that wait for room look for somebody who has
	// become slow.
	look = 50 * time.Millisecond
	// leavingShare of the connections may be taking leave beside those that are
	// open.
	leavingShare = 8
)

// conns are the connections of a server and its successors. There are at most
// max of them: beyond, somebody who does nothing gives way to who comes.
type conns struct {
	mu        sync.Mutex // guards the rest, and what conn says
	max       int
	open      int   // all but those that are leaving or gone
	leaving   int   // told to give way, and still to be answered
	opening   queue // in the order of since, as the next
	idle      queue
	receiving queue
	answering queue         // in the order of since
	room      chan struct{} // capacity 1: somebody has become idle, or is gone
}

func newConns() *conns { return &conns{room: make(chan struct{}, 1)} }

// limit sets how many connections there may be.
func (t *conns) limit(most int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.max = most
}

// count is how many there are.
func (t *conns) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open + t.leaving
}

// admit gives a new connection its place, as soon as there is one: meanwhile
// those behind it are in the kernel's queue. It is above the limit if the
// listener closes first.
func (t *conns) admit(c *conn, closed <-chan struct{}) {
	for !t.place(c, false) {
		if t.yield() {
			continue
		}
		again := time.NewTimer(look)
		select {
		case <-t.room:
		case <-again.C:
		case <-closed:
			again.Stop()
			t.place(c, true)
			return
		}
		again.Stop()
	}
}

// place reports whether a connection has a place now.
func (t *conns) place(c *conn, always bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open >= t.max && !always {
		return false
	}
	t.open++
	t.move(c, opening)
	return true
}

// yield makes one connection give way. It reports whether one does.
func (t *conns) yield() bool {
	t.mu.Lock()
	c, why := t.victim(time.Now())
	if c == nil {
		t.mu.Unlock()
		return false
	}
	cut := why != YieldBody || t.leaving >= max(t.max/leavingShare, 1)
	if cut {
		t.open--
		t.move(c, departed)
	} else {
		t.tell(c)
	}
	t.mu.Unlock()
	if cut {
		_ = c.Conn.Close()
	}
	c.server.gaveWay(why)
	return true
}

// victim is who has to go: first who keeps a header back, then who has been idle
// for the longest time, then who sends its body the slowest, and then who does not
// take its answer. Nobody goes whose request has come whole and is not answered,
// or who has done something just now: a client that sends often keeps its
// connection, whatever others do.
func (t *conns) victim(now time.Time) (*conn, Yield) {
	if c := t.opening.first; c != nil && now.Sub(c.since) >= slow {
		return c, YieldHeader
	}
	for c := t.idle.first; c != nil && now.Sub(c.since) >= slow; c = t.idle.first {
		if !c.pending() {
			return c, YieldIdle
		}
		t.move(c, opening) // http.Server has not seen it yet
	}
	if c := t.slowest(now, false); c != nil {
		return c, YieldBody
	}
	if c := t.answering.first; c != nil && now.Sub(c.since) >= slow {
		return c, YieldAnswer
	}
	return nil, ""
}

// slowest finds the slow body that comes with the fewest bytes a second, among
// all or those that have a slot; nil if there is none.
func (t *conns) slowest(now time.Time, slot bool) (found *conn) {
	least := 0.0
	for c := t.receiving.first; c != nil; c = c.next {
		took := now.Sub(c.since)
		if took < slow || slot && !c.slot {
			continue
		}
		if rate := float64(c.got) / took.Seconds(); found == nil || rate < least {
			found, least = c, rate
		}
	}
	return found
}

// tell makes who waits for a body give up, and answer.
func (t *conns) tell(c *conn) {
	t.open--
	t.leaving++
	t.move(c, leaving)
	// With the lock: afterwards it may be another request's.
	_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
}

// hurry tells all of a server whose bodies are waited for to give up.
func (t *conns) hurry(s *Server) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := t.receiving.first; c != nil; {
		next := c.next
		if c.server == s {
			t.tell(c)
		}
		c = next
	}
}

// freeSlot tells the slowest body that has a slot to give way. waits says that
// there are others that may become slow.
func (t *conns) freeSlot() (told, waits bool) {
	t.mu.Lock()
	c := t.slowest(time.Now(), true)
	if c != nil {
		t.tell(c)
	}
	for r := t.receiving.first; r != nil && !waits; r = r.next {
		waits = r.slot
	}
	t.mu.Unlock()
	if c != nil {
		c.server.gaveWay(YieldBody)
	}
	return c != nil, waits
}

// move puts a connection where those of a phase are.
func (t *conns) move(c *conn, p phase) {
	if c.in != nil {
		c.in.remove(c)
	}
	c.phase.Store(p)
	switch p {
	case opening:
		c.since = time.Now()
		t.opening.push(c)
	case idle:
		c.since = time.Now()
		t.idle.push(c)
	case receiving:
		t.receiving.push(c)
	case answering:
		c.since = time.Now()
		t.answering.push(c)
	}
}

// roomy wakes who waits for room.
func (t *conns) roomy() {
	select {
	case t.room <- struct{}{}:
	default:
	}
}

// queue is a list of connections.
type queue struct{ first, last *conn }

func (q *queue) push(c *conn) {
	c.in, c.prev, c.next = q, q.last, nil
	if q.last == nil {
		q.first = c
	} else {
		q.last.next = c
	}
	q.last = c
}

func (q *queue) remove(c *conn) {
	if c.prev == nil {
		q.first = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		q.last = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.in, c.prev, c.next = nil, nil, nil
}
