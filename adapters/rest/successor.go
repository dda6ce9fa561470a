package rest

import (
	"errors"
	"fmt"
	"net"
	"net/http"
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

// handOver lets the connections that are open, and the requests that are being
// sent, come to an end before the drain: http.Server drops requests that it
// reads once that has begun, and with a successor no client need know.
func (s *Server) handOver() {
	if !s.followed.Load() {
		return
	}
	s.http.SetKeepAlivesEnabled(false)
	over := time.NewTimer(handOverTime)
	defer over.Stop()
	look := time.NewTicker(handOverLook)
	defer look.Stop()
	for s.conns.Load() > 0 {
		select {
		case <-look.C:
		case <-over.C:
			return
		}
	}
}

// count is told of every connection's states by http.Server.
func (s *Server) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		s.conns.Add(1)
	case http.StateClosed, http.StateHijacked:
		s.conns.Add(-1)
	}
}
