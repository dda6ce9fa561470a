package devbroker

import (
	"container/heap"
	"time"
)

// expiry is a connection and when its token is over, on time.Now's clock.
type expiry struct {
	at time.Time
	c  *conn
}

type expiries []expiry

func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e expiries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *expiries) Push(x any)        { *e = append(*e, x.(expiry)) }
func (e *expiries) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = expiry{}
	*e = (*e)[:last]
	return x
}

// expire cuts the connections whose token is over, with DISCONNECT 0x87. What
// akenza does then is not known; this is the worst that a platform may do.
func (b *Broker) expire() {
	var waiting expiries
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var fire <-chan time.Time
		if len(waiting) > 0 {
			timer.Reset(time.Until(waiting[0].at))
			fire = timer.C
		}
		select {
		case e := <-b.expiry:
			heap.Push(&waiting, e)
		case <-fire:
			e := heap.Pop(&waiting).(expiry)
			if e.c.gate.isClosed() {
				continue
			}
			b.freezer.wait(b.done)
			b.log.Info("token expired", "client", e.c.connect.ClientID, "code", show(0x87))
			b.sendDisconnect(e.c, 0x87)
		case <-b.done:
			return
		}
	}
}

// expireAt has c cut when its token is over.
func (b *Broker) expireAt(c *conn) {
	if c.who.expires.IsZero() {
		return
	}
	e := expiry{at: time.Now().Add(c.who.expires.Sub(b.opts.Now())), c: c}
	select {
	case b.expiry <- e:
	case <-b.done:
	}
}
