package devbroker

import (
	"net"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"fieldbridge/bridge"
)

const (
	// connectTimeout is how long a new connection may take until its CONNECT.
	connectTimeout = 10 * time.Second
	// writeTimeout ends connections whose client does not read.
	writeTimeout = 5 * time.Second
)

// freezer is the switch between the broker and its network.
type freezer struct {
	mu   sync.Mutex
	thaw chan struct{} // guarded by mu; nil while not frozen, closed by Thaw
}

// wait blocks while frozen, or until one of the channels is closed.
func (f *freezer) wait(done <-chan struct{}) {
	f.mu.Lock()
	thaw := f.thaw
	f.mu.Unlock()
	if thaw == nil {
		return
	}
	select {
	case <-thaw:
	case <-done:
	}
}

func (f *freezer) set(frozen bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case frozen && f.thaw == nil:
		f.thaw = make(chan struct{})
	case !frozen && f.thaw != nil:
		close(f.thaw)
		f.thaw = nil
	}
}

func (f *freezer) frozen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.thaw != nil
}

// gate is the raw connection, below TLS. While frozen it neither reads nor
// writes nor reports anything, as a stopped process would.
type gate struct {
	net.Conn
	freezer *freezer
	once    sync.Once
	closed  chan struct{} // closed by Close
}

func newGate(raw net.Conn, f *freezer) *gate {
	return &gate{Conn: raw, freezer: f, closed: make(chan struct{})}
}

func (g *gate) isClosed() bool {
	select {
	case <-g.closed:
		return true
	default:
		return false
	}
}

// Read keeps what arrives while frozen until the thaw.
func (g *gate) Read(p []byte) (int, error) {
	g.freezer.wait(g.closed)
	n, err := g.Conn.Read(p)
	g.freezer.wait(g.closed)
	if g.isClosed() {
		return 0, net.ErrClosed
	}
	return n, err
}

// Write has a deadline of its own, so that a client that does not read cannot
// hold up what writes to it for longer.
func (g *gate) Write(p []byte) (int, error) {
	g.freezer.wait(g.closed)
	if g.isClosed() {
		return 0, net.ErrClosed
	}
	_ = g.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	return g.Conn.Write(p)
}

// SetDeadline moves the deadline of reads only: mochi sets both to the client's
// keep alive.
func (g *gate) SetDeadline(t time.Time) error { return g.Conn.SetReadDeadline(t) }

// SetWriteDeadline does nothing; Write sets its own.
func (g *gate) SetWriteDeadline(time.Time) error { return nil }

// Close cuts the connection, also while frozen.
func (g *gate) Close() error {
	var err error
	g.once.Do(func() {
		close(g.closed)
		err = g.Conn.Close()
	})
	return err
}

// conn is one client's connection from accept to close, as mochi sees it
// (mqtt.Client.Net.Conn): the gate or TLS above it.
type conn struct {
	net.Conn
	gate *gate
	done chan struct{} // closed when nothing works for the connection any more
	wake chan struct{} // tells pump to look again; capacity 1, so that nobody waits
	// established is closed when the CONNACK that accepts the client is written.
	established chan struct{}

	// Written by the goroutine that reads the connection, before the CONNACK.
	connect Connect
	who     identity

	// Guarded by Broker.mu.
	client  *mqtt.Client // nil before the CONNECT
	session *session     // nil before a successful CONNACK
	held    []uint16     // packet ids whose PUBACK is owed, in order
}

// Close ends TLS properly unless that would wait for a thaw.
func (c *conn) Close() error {
	if c.gate.freezer.frozen() {
		return c.gate.Close()
	}
	return c.Conn.Close()
}

func (c *conn) isEstablished() bool {
	select {
	case <-c.established:
		return true
	default:
		return false
	}
}

func (c *conn) notify() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// connOf returns the connection of mochi's client.
func connOf(cl *mqtt.Client) (*conn, bool) {
	c, ok := cl.Net.Conn.(*conn)
	return c, ok
}

// identity is who a client proved to be.
type identity struct {
	device    bridge.DeviceID // set for device credentials
	connector string          // set for an uplink secret
	secret    bridge.Secret   // the connector's
	expires   time.Time       // of the token, on Options.Now's clock; zero for a secret
}
