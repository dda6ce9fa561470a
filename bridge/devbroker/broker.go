package devbroker

import (
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"fieldbridge/bridge"
)

// ErrClosed is returned by a closed Broker.
var ErrClosed = errors.New("broker is closed")

const (
	// goodbye is how long Close waits for clients to take their DISCONNECT.
	goodbye = time.Second
	// acceptPause is the wait after a failed accept, such as one without a free
	// file descriptor.
	acceptPause = 100 * time.Millisecond
)

// Broker is a running broker. All methods are safe for concurrent use, but must
// not be called from the functions that are given to RefusePublishes and
// DisconnectPublishes.
type Broker struct {
	opts    Options
	log     *slog.Logger
	server  *mqtt.Server
	freezer freezer
	record  *record
	expiry  chan expiry   // to Broker.expire
	done    chan struct{} // closed by Close
	wg      sync.WaitGroup

	mu            sync.Mutex // guards what follows, and the marked fields of conn and session
	closed        bool
	listeners     []net.Listener
	conns         map[*conn]struct{}
	paused        chan struct{} // if not nil, new connections wait until it is closed
	devices       map[bridge.DeviceID][]crypto.PublicKey
	sessions      map[string]*session // by client id
	refuseConnect byte
	refusePublish func(Message) byte
	endPublish    func(Message) byte
	holdAcks      bool
}

// New starts a broker without listeners. Close must be called.
func New(o Options) (*Broker, error) {
	o.setDefaults()
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("new broker: %w", err)
	}
	b := &Broker{
		opts:     o,
		log:      o.Logger,
		record:   newRecord(o.History),
		expiry:   make(chan expiry),
		done:     make(chan struct{}),
		conns:    map[*conn]struct{}{},
		devices:  map[bridge.DeviceID][]crypto.PublicKey{},
		sessions: map[string]*session{},
	}
	for id, key := range o.Devices {
		b.devices[id] = []crypto.PublicKey{key}
	}
	// mochi logs topics, which hold secrets, and whole packets.
	b.server = mqtt.New(&mqtt.Options{
		Logger:       slog.New(slog.DiscardHandler),
		Capabilities: o.capabilities(),
	})
	if err := b.server.AddHook(&hook{b: b}, nil); err != nil {
		return nil, fmt.Errorf("new broker: %w", err)
	}
	b.wg.Go(b.expire)
	return b, nil
}

// SetDevice replaces the keys that a device's tokens are verified with; any of
// them will do. Without keys the device is removed. Connections that exist stay.
func (b *Broker) SetDevice(id bridge.DeviceID, keys ...crypto.PublicKey) error {
	if _, err := bridge.ParseDeviceID(string(id)); err != nil {
		return fmt.Errorf("set device: %w", err)
	}
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return fmt.Errorf("set device %q: %w", id, err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(keys) == 0 {
		delete(b.devices, id)
		return nil
	}
	b.devices[id] = append([]crypto.PublicKey(nil), keys...)
	return nil
}

// Listen accepts connections on a TCP address (host:port; port 0 picks a free
// one), with TLS if tlsConf is not nil, and returns the address it listens on.
// It may be called several times.
func (b *Broker) Listen(addr string, tlsConf *tls.Config) (net.Addr, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, errors.Join(fmt.Errorf("listen: %w", ErrClosed), l.Close())
	}
	b.listeners = append(b.listeners, l)
	b.wg.Go(func() { b.accept(l, tlsConf) })
	return l.Addr(), nil
}

func (b *Broker) accept(l net.Listener, tlsConf *tls.Config) {
	for {
		raw, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			b.log.Warn("accept failed", "error", err, "retry_in", acceptPause)
			select {
			case <-time.After(acceptPause):
			case <-b.done:
				return
			}
			continue
		}
		c, err := b.attach(raw, tlsConf)
		if err != nil {
			_ = raw.Close()
			return
		}
		go func() { _ = b.serve(c) }() // in b.wg since attach; the hook has logged why it ended
	}
}

// ServeConn serves one connection and returns when it has ended, with nil after
// an orderly DISCONNECT. It is for transports that Listen does not know, such as
// net.Pipe inside a testing/synctest bubble; the Broker must then have been made
// in the bubble. As a pipe has no buffer, Freeze blocks its client's writes too.
func (b *Broker) ServeConn(raw net.Conn) error {
	c, err := b.attach(raw, nil)
	if err != nil {
		return errors.Join(err, raw.Close())
	}
	return b.serve(c)
}

// attach makes raw known, so that faults and Close reach it, and enters it into
// b.wg, which serve leaves.
func (b *Broker) attach(raw net.Conn, tlsConf *tls.Config) (*conn, error) {
	g := newGate(raw, &b.freezer)
	c := &conn{Conn: g, gate: g, done: make(chan struct{}), wake: make(chan struct{}, 1), established: make(chan struct{})}
	if tlsConf != nil {
		c.Conn = tls.Server(g, tlsConf)
	}
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return nil, fmt.Errorf("serve connection: %w", ErrClosed)
		}
		paused := b.paused
		if paused == nil {
			b.conns[c] = struct{}{}
			b.wg.Add(1)
			b.mu.Unlock()
			return c, nil
		}
		b.mu.Unlock()
		<-paused
	}
}

func (b *Broker) serve(c *conn) error {
	defer b.wg.Done()
	var pump sync.WaitGroup
	pump.Go(func() { b.pump(c) })
	_ = c.SetReadDeadline(time.Now().Add(connectTimeout)) // mochi replaces it after the CONNECT
	err := b.server.EstablishConnection("devbroker", c)
	_ = c.gate.Close()
	pump.Wait()
	b.detach(c)
	close(c.done)
	if err != nil && !errors.Is(err, packets.CodeDisconnect) {
		return fmt.Errorf("serve connection: %w", err)
	}
	return nil
}

// detach forgets the connection and starts the clock of the session it had.
func (b *Broker) detach(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, c)
	if s := c.session; s != nil && s.conn == c {
		s.conn = nil
		s.lapses = time.Now().Add(time.Duration(c.client.Properties.Props.SessionExpiryInterval) * time.Second)
	}
}

// Close tells the clients (DISCONNECT 0x8B), closes the listeners and all
// connections, and returns when no goroutine of the broker runs any more. More
// than one call is allowed.
func (b *Broker) Close() error {
	b.mu.Lock()
	first := !b.closed
	b.closed = true
	listeners := b.listeners
	b.listeners = nil
	b.mu.Unlock()
	if !first {
		b.wg.Wait()
		return nil
	}
	var errs []error
	for _, l := range listeners {
		errs = append(errs, l.Close())
	}
	close(b.done)
	b.freezer.set(false)
	conns := b.connections()
	cut := func() {
		for _, c := range conns {
			_ = c.gate.Close()
		}
	}
	timer := time.AfterFunc(goodbye, cut)
	for _, c := range conns {
		b.sendDisconnect(c, 0x8B)
	}
	timer.Stop()
	cut()
	b.wg.Wait()
	b.record.close()
	return errors.Join(append(errs, b.server.Close())...)
}

// connections is a snapshot of the connections that exist.
func (b *Broker) connections() []*conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	conns := make([]*conn, 0, len(b.conns))
	for c := range b.conns {
		conns = append(conns, c)
	}
	return conns
}

// sendDisconnect ends a connection with a reason code, or without one if its
// client has not been accepted yet. It waits for at most writeTimeout, unless
// frozen.
func (b *Broker) sendDisconnect(c *conn, code byte) {
	b.mu.Lock()
	client, accepted := c.client, c.session != nil
	b.mu.Unlock()
	if !accepted {
		_ = c.gate.Close()
		return
	}
	select {
	case <-c.established: // a DISCONNECT must not overtake the CONNACK
	case <-c.gate.closed:
		return
	}
	_ = b.server.DisconnectClient(client, reason(code))
}
