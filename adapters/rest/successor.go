package rest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Successor makes a server with other options on the same socket, so that no
// connection is refused in between: run it, then end the context of s, which
// answers what it has begun. Options.Listen is not looked at; the other options
// must be such that the endpoint may be where it is. The caller must call Run or
// Close.
func (s *Server) Successor(o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := o.fits(s.listener); err != nil {
		return nil, fmt.Errorf("hand over http listener: %w", err)
	}
	filer, ok := s.listener.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, errors.New("hand over http listener: it cannot be shared; restart to apply")
	}
	f, err := filer.File()
	if err != nil {
		return nil, fmt.Errorf("hand over http listener: %w", err)
	}
	defer f.Close()
	ln, err := net.FileListener(f) // a duplicate: each server closes its own
	if err != nil {
		return nil, fmt.Errorf("hand over http listener: %w", err)
	}
	s.followed.Store(true)
	next := newServer(o, s.accepter, ln)
	next.roster.Store(newRoster(o.clients, s.roster.Load()))
	next.connections = s.connections
	next.before.Store(s)
	if next.socket = s.socket; next.socket != nil {
		next.socket.users.Add(1)
	}
	return next, nil
}

const (
	// handOverTime is what clients get to send what they have begun to a server
	// that has a successor.
	handOverTime = time.Second
	handOverLook = 2 * time.Millisecond
)

// handOver leaves new connections to the successor, lets those that are open, and
// the requests that are being sent, come to an end, and then cuts off what is
// idle and waits for the rest: http.Server drops requests that it reads once its
// Shutdown has begun, and with a successor no client need know.
func (s *Server) handOver(served <-chan error) {
	// First, so that no connection is between being accepted and being known to
	// the server, which would cut it off.
	_ = s.closeListener()
	<-served
	// From now on answers say that the connection is closed. Those that are idle
	// are not closed yet: the next request may be on its way.
	close(s.ending)
	over := time.NewTimer(handOverTime)
	defer over.Stop()
	again := time.NewTicker(handOverLook)
	defer again.Stop()
	for s.live.Load() > 0 {
		select {
		case <-again.C:
			continue
		case <-over.C:
		}
		break
	}
	close(s.last)
	if s.shutdown(s.opts.DrainTimeout) != nil {
		s.cut()
		_ = s.shutdown(cutTime) // Run closes what does not end even now
	}
}

func (s *Server) shutdown(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return s.http.Shutdown(ctx)
}
