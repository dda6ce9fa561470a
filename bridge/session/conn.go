package session

import (
	"bufio"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

const (
	// writeTimeout bounds one write: a peer that takes nothing for so long is
	// gone. A short keep alive bounds it further.
	writeTimeout = 15 * time.Second
	// hurriedTimeout bounds it once the gateway is stopping.
	hurriedTimeout = time.Second
)

// conn is the transport with what spares system calls: reads are buffered, and
// what is written between cork and uncork goes out at once.
//
// It implements sync.Locker because the packets of paho lock the connection
// around their pieces (packets.ControlPacket.WriteTo).
type conn struct {
	net.Conn
	r *bufio.Reader // used by one goroutine at a time: that of login, then the reading one
	// before, if set, is called by the reading goroutine when it has used up
	// what came and is about to wait for more.
	before func()

	born           time.Time    // what the next two count from, so that no clock step matters
	sent, received atomic.Int64 // ns: when something was last written and read

	mu      sync.Mutex // held while one packet is written; guards what follows
	buf     []byte
	corked  bool
	failed  error
	patient time.Duration // bounds a write

	aliases aliases

	hurried atomic.Bool

	emu     sync.Mutex // guards what follows
	first   error      // the first error of the connection: why it ended
	waiting bool       // for CONNACK
}

// readBuffer fits many PUBACKs and the usual downlink, and is held by every
// idle session.
const readBuffer = 512

// maxCorked bounds what is gathered before it is written, and maxKept what is
// kept of the buffer afterwards.
const (
	maxCorked = 32 << 10
	maxKept   = 4 << 10
)

func newConn(c net.Conn) *conn {
	w := &conn{Conn: c, born: time.Now(), patient: writeTimeout}
	w.r = bufio.NewReaderSize(source{w}, readBuffer)
	return w
}

// source is the transport as the read buffer sees it.
type source struct{ c *conn }

func (s source) Read(p []byte) (int, error) {
	if s.c.before != nil {
		s.c.before()
	}
	n, err := s.c.Conn.Read(p)
	if n > 0 {
		s.c.received.Store(int64(time.Since(s.c.born)))
	}
	if err != nil {
		s.c.note(err)
	}
	return n, err
}

// quiet is how long ago something was last written and last read.
func (c *conn) quiet(now time.Time) (sent, received time.Duration) {
	at := now.Sub(c.born)
	return at - time.Duration(c.sent.Load()), at - time.Duration(c.received.Load())
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

// packet writes a whole packet. An error is noted and ends the connection.
func (c *conn) packet(p ...byte) {
	c.Lock()
	_, _ = c.Write(p)
	c.Unlock()
}

// disconnect tells the broker why the connection ends.
func (c *conn) disconnect(code byte) { c.packet(packets.DISCONNECT<<4, 1, code) }

// flush is called with mu held. An error closes the connection, which tells the
// reading side.
func (c *conn) flush() {
	if len(c.buf) == 0 || c.failed != nil {
		return
	}
	now := time.Now()
	_ = c.SetWriteDeadline(now.Add(c.patient))
	if c.hurried.Load() { // after the other deadline, so that hurry comes late in no case
		_ = c.SetWriteDeadline(now.Add(hurriedTimeout))
	}
	if _, err := c.Conn.Write(c.buf); err != nil {
		c.failed = err
		c.note(err)
		if !c.isWaiting() { // login reads what the broker said, and closes it
			_ = c.Close()
		}
	} else {
		_ = c.SetWriteDeadline(time.Time{}) // or it would wake the process when it is over
	}
	c.sent.Store(int64(now.Sub(c.born)))
	if cap(c.buf) > maxKept {
		c.buf = nil // do not hold a burst's buffer while idle
	} else {
		c.buf = c.buf[:0]
	}
}

// release gives the write buffer back; the connection is about to be idle.
func (c *conn) release() {
	c.mu.Lock()
	if len(c.buf) == 0 {
		c.buf = nil
	}
	c.mu.Unlock()
}

// hurry ends the wait for CONNACK at once, and writes soon, also one that is
// under way, because the gateway is stopping.
func (c *conn) hurry() {
	c.hurried.Store(true)
	_ = c.SetWriteDeadline(time.Now().Add(hurriedTimeout))
	c.emu.Lock()
	defer c.emu.Unlock()
	if c.waiting {
		_ = c.SetReadDeadline(time.Now())
	}
}

// await bounds the reads that follow, until awaited.
func (c *conn) await(d time.Duration) {
	c.emu.Lock()
	defer c.emu.Unlock()
	c.waiting = true
	if c.hurried.Load() {
		d = 0
	}
	_ = c.SetReadDeadline(time.Now().Add(d))
}

func (c *conn) isWaiting() bool {
	c.emu.Lock()
	defer c.emu.Unlock()
	return c.waiting
}

// awaited lets reads wait for ever again.
func (c *conn) awaited() {
	c.emu.Lock()
	defer c.emu.Unlock()
	c.waiting = false
	_ = c.SetReadDeadline(time.Time{})
}

// patience bounds writes by d if that is less than the default.
func (c *conn) patience(d time.Duration) {
	c.mu.Lock()
	c.patient = min(writeTimeout, d)
	c.mu.Unlock()
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
