package rest

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// Successor makes a server with other options on the same socket, so that no
// connection is refused in between: run it, then end the context of s, which
// answers what it has begun. Options.Listen is not looked at. The caller must
// call Run or Close.
func (s *Server) Successor(o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
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
	return newServer(o, s.accepter, ln), nil
}
