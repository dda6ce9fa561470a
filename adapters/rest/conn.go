package rest

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// phase is what a connection is at.
type phase = uint32

const (
	opening   phase = iota // no whole header of a request has come, be it the first or another
	idle                   // between two requests, and nothing of the next has come
	busy                   // the header of a request has come
	receiving              // busy, and somebody waits for more of the body
	answering              // busy, and the answer has begun
	leaving                // busy, told to give way
	departed               // closed
)

// conn is a connection below TLS, if there is any.
type conn struct {
	net.Conn
	conns  *conns
	server *Server
	phase  atomic.Uint32 // written with conns.mu held

	// What follows is guarded by conns.mu.
	since      time.Time // the phase; busy and receiving: the request
	got        int64     // bytes of the request's body
	slot       bool      // the request has one
	in         *queue
	prev, next *conn

	active bool // between StateActive and what follows; of the hook's goroutine
}

// Read drops what comes when the connection has been closed to make room: it is
// as if it had not come.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.came() {
		return 0, net.ErrClosed
	}
	return n, err
}

// came notes that bytes have come. It returns false if the connection is gone.
func (c *conn) came() bool {
	switch c.phase.Load() {
	case idle:
	case departed:
		return false
	default:
		return true
	}
	c.conns.mu.Lock()
	defer c.conns.mu.Unlock()
	if c.phase.Load() == idle {
		c.conns.move(c, opening)
	}
	return c.phase.Load() != departed
}

// CloseWrite is how http.Server ends an answer that the client is to read
// although the rest of its request is not read.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// pending reports whether bytes have come that nobody has read.
func (c *conn) pending() bool {
	s, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	_ = raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, _ = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return n > 0
}

// connOf finds the conn in what http.Server shows.
func connOf(nc net.Conn) *conn {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, _ := nc.(*conn)
	return c
}

// begins notes that a whole header has come.
func (c *conn) begins() {
	c.conns.mu.Lock()
	defer c.conns.mu.Unlock()
	if p := c.phase.Load(); p == departed || p == leaving {
		return
	}
	c.conns.move(c, busy)
	c.since, c.got, c.slot = time.Now(), 0, false
}

// rests notes that a request has been answered.
func (c *conn) rests() {
	c.conns.mu.Lock()
	switch c.phase.Load() {
	case departed:
	case leaving:
		_ = c.Conn.Close() // whoever was told to go need not ask again
	default:
		c.conns.move(c, idle)
	}
	c.conns.mu.Unlock()
	c.conns.roomy()
}

// ends notes that the connection is closed.
func (c *conn) ends() {
	c.conns.mu.Lock()
	switch c.phase.Load() {
	case departed:
	case leaving:
		c.conns.leaving--
	default:
		c.conns.open--
	}
	c.conns.move(c, departed)
	c.conns.mu.Unlock()
	c.conns.roomy()
}

// waits notes that somebody waits for more of a body. It returns false if the
// connection is to give way.
func (c *conn) waits() bool {
	c.conns.mu.Lock()
	defer c.conns.mu.Unlock()
	if c.phase.Load() == busy {
		c.conns.move(c, receiving)
	}
	return c.phase.Load() == receiving
}

// gets notes that n bytes of a body have come, and that nobody waits any more. It
// returns false if the connection is to give way.
func (c *conn) gets(n int) bool {
	c.conns.mu.Lock()
	defer c.conns.mu.Unlock()
	c.got += int64(n)
	if c.phase.Load() == receiving {
		c.conns.move(c, busy)
	}
	return c.phase.Load() == busy
}

// answers notes that the answer begins, or that nobody reads more of the body than
// net/http does before it.
func (c *conn) answers() {
	c.conns.mu.Lock()
	defer c.conns.mu.Unlock()
	if p := c.phase.Load(); p == busy || p == receiving {
		c.conns.move(c, answering)
	}
}

// hasSlot notes that the request has a slot.
func (c *conn) hasSlot() {
	c.conns.mu.Lock()
	defer c.conns.mu.Unlock()
	c.slot = true
}

// state is told of every connection's states by http.Server.
func (s *Server) state(nc net.Conn, state http.ConnState) {
	c := connOf(nc)
	if c.active && state != http.StateActive {
		c.active = false
		s.active.Add(-1)
	}
	switch state {
	case http.StateNew:
		s.live.Add(1)
	case http.StateActive:
		c.active = true
		s.active.Add(1)
		c.begins()
	case http.StateIdle:
		c.rests()
	case http.StateClosed, http.StateHijacked:
		s.live.Add(-1)
		c.ends()
	}
}

func (s *Server) gaveWay(why Yield) {
	if s.opts.GaveWay != nil {
		s.opts.GaveWay(why)
	}
}
