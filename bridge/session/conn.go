package session

import (
	"bufio"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// writeTimeout bounds one write: a peer that takes nothing for so long is gone.
	writeTimeout = 15 * time.Second
	// hurriedTimeout bounds it once the gateway is stopping.
	hurriedTimeout = time.Second
)

// conn gives paho what it needs of a connection and spares system calls: reads
// are buffered (a packet is read in three pieces), a packet's pieces are written
// at once, and between cork and uncork several packets are.
//
// It implements sync.Locker because paho locks the connection around each
// packet (packets.ControlPacket.WriteTo).
type conn struct {
	net.Conn
	r     *bufio.Reader // used by paho's one reading goroutine, as is limit
	limit limiter

	mu     sync.Mutex // held while one packet is written; guards what follows
	buf    []byte
	corked bool
	failed error

	hurried atomic.Bool

	emu   sync.Mutex // guards first
	first error      // the first error of the connection: why it ended
}

// readBuffer fits many PUBACKs and the usual downlink, and is held by every
// idle session.
const readBuffer = 1024

// maxCorked bounds what is gathered before it is written.
const maxCorked = 32 << 10

func newConn(c net.Conn) *conn {
	w := &conn{Conn: c}
	w.r = bufio.NewReaderSize(errReader{w}, readBuffer)
	return w
}

type errReader struct{ c *conn }

func (r errReader) Read(p []byte) (int, error) {
	n, err := r.c.Conn.Read(p)
	if err != nil {
		r.c.note(err)
	}
	return n, err
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if bad := c.limit.pass(p[:n]); bad != nil {
		c.note(bad)
		return 0, bad
	}
	return n, err
}

// Lock begins a packet.
func (c *conn) Lock() { c.mu.Lock() }

// Unlock ends a packet and writes it out unless the connection is corked.
func (c *conn) Unlock() {
	if !c.corked || len(c.buf) >= maxCorked {
		c.flush()
	}
	c.mu.Unlock()
}

// Write adds a piece of a packet. The caller holds the lock.
func (c *conn) Write(p []byte) (int, error) {
	if c.failed != nil {
		return 0, c.failed
	}
	c.buf = append(c.buf, p...)
	return len(p), nil
}

// flush is called with mu held. An error closes the connection, which tells the
// reading side.
func (c *conn) flush() {
	if len(c.buf) == 0 || c.failed != nil {
		return
	}
	_ = c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	if c.hurried.Load() { // after the other deadline, so that hurry comes late in no case
		_ = c.Conn.SetWriteDeadline(time.Now().Add(hurriedTimeout))
	}
	if _, err := c.Conn.Write(c.buf); err != nil {
		c.failed = err
		c.note(err)
		_ = c.Conn.Close()
	}
	if cap(c.buf) > 4<<10 {
		c.buf = nil // do not hold a burst's buffer while idle
	} else {
		c.buf = c.buf[:0]
	}
}

// hurry ends writes soon, also one that is under way, because the gateway is
// stopping.
func (c *conn) hurry() {
	c.hurried.Store(true)
	_ = c.Conn.SetWriteDeadline(time.Now().Add(hurriedTimeout))
}

func (c *conn) cork() {
	c.mu.Lock()
	c.corked = true
	c.mu.Unlock()
}

func (c *conn) uncork() {
	c.mu.Lock()
	c.corked = false
	c.flush()
	c.mu.Unlock()
}

// sync writes out what is gathered and returns why it, or anything before it,
// could not be written.
func (c *conn) sync() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flush()
	return c.failed
}

func (c *conn) note(err error) {
	c.emu.Lock()
	if c.first == nil {
		c.first = err
	}
	c.emu.Unlock()
}

func (c *conn) cause() error {
	c.emu.Lock()
	defer c.emu.Unlock()
	return c.first
}
