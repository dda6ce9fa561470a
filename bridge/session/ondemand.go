package session

import (
	"context"
	"errors"
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
