package session

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// server is a broker made by hand: it does what the test says, packet by
// packet. With net.Pipe for a network it works inside a synctest bubble.
type server struct {
	t     testing.TB
	conns chan *peer
	pair  func() (client, conn net.Conn) // makes connections; default: net.Pipe

	mu    sync.Mutex // guards what follows
	away  error      // what dialing fails with
	dials int
}

func newServer(t testing.TB) *server {
	return &server{t: t, conns: make(chan *peer, 1000), pair: net.Pipe}
}

func (s *server) dial(context.Context, string, string) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dials++
	if s.away != nil {
		return nil, s.away
	}
	client, conn := s.pair()
	p := &peer{t: s.t, Conn: conn, in: make(chan packets.Packet, 10_000), out: make(chan []byte, 10_000), frozen: make(chan struct{})}
	ended := make(chan struct{})
	go p.read(ended)
	go p.write(ended)
	s.t.Cleanup(func() { _ = conn.Close() })
	s.conns <- p
	return client, nil
}

func (s *server) setAway(err error) {
	s.mu.Lock()
	s.away = err
	s.mu.Unlock()
}

func (s *server) dialed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dials
}

// next is the next connection, with its CONNECT read and not answered.
func (s *server) next() (*peer, *packets.Connect) {
	s.t.Helper()
	select {
	case p := <-s.conns:
		return p, receive[*packets.Connect](p)
	case <-time.After(patience):
		s.t.Fatal("no connection came")
		return nil, nil
	}
}

// accept is next, answered with success.
func (s *server) accept(present bool) *peer {
	s.t.Helper()
	p, _ := s.next()
	p.connack(0, present, nil)
	return p
}

// peer is one connection as the server sees it.
type peer struct {
	net.Conn
	t   testing.TB
	in  chan packets.Packet // closed at the end; holds all of a test
	out chan []byte         // packets; holds all of a test

	pings  atomic.Int32
	frozen chan struct{} // closed by freeze
}

// freeze has the peer take nothing and answer nothing any more.
func (p *peer) freeze() { close(p.frozen) }

// serve acknowledges readings that are numbered from next, each once, until the
// client leaves in order. It returns the number after the last.
func (p *peer) serve(next int) int {
	p.t.Helper()
	for c := range p.in {
		switch c := c.(type) {
		case *packets.Publish:
			if string(c.Payload) != fmt.Sprint(next) || c.Duplicate {
				p.t.Fatalf("%s came, DUP %t; want %d", c.Payload, c.Duplicate, next)
			}
			next++
			p.puback(c.PacketID, 0)
		case *packets.Disconnect:
			if c.ReasonCode != 0 {
				p.t.Errorf("DISCONNECT with 0x%02X", c.ReasonCode)
			}
			return next
		}
	}
	p.t.Error("the connection ended without a DISCONNECT")
	return next
}

// write sends what the test and read queue, so that neither waits for the client
// to take it: a pipe has no buffer.
func (p *peer) write(ended <-chan struct{}) {
	for {
		select {
		case b := <-p.out:
			if b == nil {
				_ = p.Close()
				return
			}
			if _, err := p.Conn.Write(b); err != nil {
				return
			}
		case <-ended:
			return
		}
	}
}

// cut closes the connection when everything is sent.
func (p *peer) cut() { p.out <- nil }

// Write queues bytes.
func (p *peer) Write(b []byte) (int, error) {
	p.out <- bytes.Clone(b)
	return len(b), nil
}

// read takes what comes, so that the client's writes never wait. PINGREQ is
// answered here.
func (p *peer) read(ended chan<- struct{}) {
	defer close(ended)
	defer close(p.in)
	for {
		cp, err := packets.ReadPacket(p.Conn)
		if err != nil {
			return
		}
		select {
		case <-p.frozen:
			return
		default:
		}
		if cp.Type == packets.PINGREQ {
			p.pings.Add(1)
			p.send(packets.NewControlPacket(packets.PINGRESP))
			continue
		}
		p.in <- cp.Content
	}
}

func receive[T packets.Packet](p *peer) T {
	p.t.Helper()
	var want T
	select {
	case got, ok := <-p.in:
		v, is := got.(T)
		if !ok || !is {
			p.t.Fatalf("%T came, want %T", got, want)
		}
		return v
	case <-time.After(patience):
		p.t.Fatalf("nothing came, want %T", want)
	}
	return want
}

// silent checks that nothing has come; the caller has let everything settle.
func (p *peer) silent() {
	p.t.Helper()
	select {
	case got, ok := <-p.in:
		if ok {
			p.t.Fatalf("%T came (%v), want nothing", got, got)
		}
	default:
	}
}

// left checks that the client ends the connection with a DISCONNECT 0x00.
func (p *peer) left() {
	p.t.Helper()
	if d := receive[*packets.Disconnect](p); d.ReasonCode != 0 {
		p.t.Errorf("DISCONNECT with 0x%02X, want 0x00", d.ReasonCode)
	}
	p.gone()
}

// gone checks that the client has closed the connection.
func (p *peer) gone() {
	p.t.Helper()
	select {
	case got, ok := <-p.in:
		if ok {
			p.t.Fatalf("%T came, want the end", got)
		}
	case <-time.After(patience):
		p.t.Fatal("the connection is open still")
	}
}

func (p *peer) send(w io.WriterTo) {
	p.t.Helper()
	var b bytes.Buffer
	_, _ = w.WriteTo(&b)
	p.out <- b.Bytes()
}

func (p *peer) connack(code byte, present bool, props *packets.Properties) {
	p.t.Helper()
	if props == nil {
		props = &packets.Properties{}
	}
	p.send(&packets.Connack{ReasonCode: code, SessionPresent: present, Properties: props})
}

func (p *peer) puback(id uint16, code byte) {
	p.t.Helper()
	p.send(&packets.Puback{PacketID: id, ReasonCode: code, Properties: &packets.Properties{}})
}

func (p *peer) disconnect(code byte, reason string) {
	p.t.Helper()
	p.send(&packets.Disconnect{ReasonCode: code, Properties: &packets.Properties{ReasonString: reason}})
}

// publish receives a PUBLISH, which must have this payload.
func (p *peer) publish(payload string) *packets.Publish {
	p.t.Helper()
	pub := receive[*packets.Publish](p)
	if string(pub.Payload) != payload {
		p.t.Fatalf("PUBLISH of %q came, want %q", pub.Payload, payload)
	}
	return pub
}

// subscribed answers a SUBSCRIBE with one code for all of it.
func (p *peer) subscribed(code byte) *packets.Subscribe {
	p.t.Helper()
	sub := receive[*packets.Subscribe](p)
	p.send(&packets.Suback{PacketID: sub.PacketID, Reasons: bytes.Repeat([]byte{code}, len(sub.Subscriptions)),
		Properties: &packets.Properties{}})
	return sub
}

func (p *peer) downlink(id uint16, dup bool, topic, payload string) {
	p.t.Helper()
	qos := byte(1)
	if id == 0 {
		qos = 0
	}
	p.send(&packets.Publish{PacketID: id, QoS: qos, Duplicate: dup, Topic: topic, Payload: []byte(payload),
		Properties: &packets.Properties{}})
}
