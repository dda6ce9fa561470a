package rest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// freeBody is how much of a body is received without a slot, in bytes: with
	// Options.MaxConnections it bounds the memory of bodies that come slowly.
	freeBody = 16 << 10
	// slotWait is how long a body waits for a slot that others hold who are still
	// sending theirs.
	slotWait = 2 * time.Second
)

// limit bounds the readings in progress. A request takes its slot when its body
// is whole, or larger than what is received without one: whoever sends slowly
// keeps nobody else from sending.
func (s *Server) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := &body{ReadCloser: r.Body, s: s, length: r.ContentLength, conn: connFrom(r.Context())}
		defer b.leave()
		if r.ContentLength == 0 { // nobody will read to its end
			if err := b.enter(); err != nil {
				s.fail(w, err)
				return
			}
		}
		r.Body = b
		next.ServeHTTP(w, r)
	})
}

// limitAll is limit for requests of which parts are accepted before the rest has
// come: they have a slot from the beginning.
func (s *Server) limitAll(next http.Handler) http.Handler {
	return s.limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.Body.(*body).enter(); err != nil {
			s.fail(w, err)
			return
		}
		next.ServeHTTP(w, r)
	}))
}

// body is the body of a request behind limit. Its errors can be a *problem.
type body struct {
	io.ReadCloser
	s      *Server
	length int64 // below zero if it is not known
	conn   *conn // nil without a network
	got    int
	slot   bool
}

// Read returns the last byte only when the request has a slot. With a *problem
// it returns none at all: io.ReadFull would pass over it.
func (b *body) Read(p []byte) (int, error) {
	if !b.slot {
		if b.got >= freeBody {
			if err := b.enter(); err != nil {
				return 0, err
			}
		} else {
			p = p[:min(len(p), freeBody-b.got)]
		}
	}
	if b.conn != nil && !b.conn.waits() {
		return 0, b.s.slowBody()
	}
	n, err := b.ReadCloser.Read(p)
	b.got += n
	if b.conn != nil && !b.conn.gets(n) {
		return 0, b.s.slowBody()
	}
	if (err == io.EOF || int64(b.got) == b.length) && !b.slot {
		if full := b.enter(); full != nil {
			return 0, full
		}
	}
	return n, err
}

// slowBody is the answer to a body that is waited for no longer.
func (s *Server) slowBody() *problem {
	detail := "the body comes slowly while others wait"
	if s.isEnding() {
		detail = "the body has not come in time, and fieldbridge stops"
	}
	return &problem{status: http.StatusServiceUnavailable, retryAfter: time.Second, hangUp: true,
		detail: "not accepted: " + detail + "; send it again after the time in Retry-After"}
}

// enter takes a slot. The error is a *problem.
func (b *body) enter() error {
	if b.slot {
		return nil
	}
	if !b.s.takeSlot() {
		return &problem{status: http.StatusServiceUnavailable, retryAfter: time.Second, hangUp: true,
			detail: fmt.Sprintf("not accepted: %d readings are in progress already; send it again after the time in Retry-After", cap(b.s.slots))}
	}
	b.slot = true
	if b.conn != nil {
		b.conn.hasSlot()
	}
	return nil
}

func (b *body) leave() {
	if b.slot {
		<-b.s.slots
	}
}

// takeSlot waits only if those who are still sending hold slots: the slowest of
// them gives way.
func (s *Server) takeSlot() bool {
	select {
	case s.slots <- struct{}{}:
		return true
	default:
	}
	over := time.NewTimer(slotWait)
	defer over.Stop()
	again := time.NewTicker(look)
	defer again.Stop()
	for freed := false; ; {
		told, others := s.connections.freeSlot()
		if freed = freed || told; !freed && !others {
			return false
		}
		select {
		case s.slots <- struct{}{}:
			return true
		case <-again.C:
		case <-over.C:
			return false
		case <-s.acceptance.base.Done():
			return false
		}
	}
}

type connKey struct{}

func connFrom(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}
