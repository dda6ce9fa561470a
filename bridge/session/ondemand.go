package session

import (
	"context"
	"errors"
	"time"
)

// errIdle ends a connection that is not needed now.
var errIdle = errors.New("nothing to send")

// wanted waits until there is a reason to connect: at once unless the session is
// one on demand. It reports false if ctx is done.
func (s *Session) wanted(ctx context.Context) bool {
	if !s.opts.OnDemand {
		return ctx.Err() == nil
	}
	// The broker has to hear once which downlinks to keep for us.
	for !s.pending() && (s.met || len(s.opts.Subscribe) == 0) {
		s.setIdle()
		select {
		case <-s.wake:
		case <-s.renew: // there is nothing to renew
		case <-ctx.Done():
			return false
		}
	}
	s.mu.Lock()
	s.idle = false
	s.mu.Unlock()
	return ctx.Err() == nil
}

// idleWatch finds out that a connection is not needed any more. C is nil if it
// always is.
type idleWatch struct {
	C     <-chan time.Time
	timer *time.Timer
	after time.Duration
}

func (s *Session) watchIdle() *idleWatch {
	w := &idleWatch{after: s.opts.IdleTimeout}
	if s.opts.OnDemand {
		w.timer = time.NewTimer(w.after)
		w.C = w.timer.C
	}
	return w
}

// touch begins the wait anew: something was sent, or came.
func (w *idleWatch) touch() {
	if w.timer != nil {
		w.timer.Reset(w.after)
	}
}

func (w *idleWatch) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}

// quiet reports whether nothing waits, in either direction.
func (s *Session) quiet() bool {
	return !s.pending() && s.window.unacknowledged() == 0 && s.unasked.Load() == 0
}

// unacknowledged is how many downlinks have no PUBACK yet.
func (w *window) unacknowledged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acks)
}
