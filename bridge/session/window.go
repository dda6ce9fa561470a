package session

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"
	paholog "github.com/eclipse/paho.golang/paho/log"
	pahosession "github.com/eclipse/paho.golang/paho/session"

	"fieldbridge/bridge"
)

// window is the session state (MQTT v5 section 4.1): the publishes in flight
// and the downlinks not yet acknowledged. It outlives connections. It
// implements paho's SessionManager; paho calls it from its reading goroutine.
//
// The calls go: ConAckReceived, then any of the others, then ConnectionLost, as
// often as there are connections; close at the end.
type window struct {
	limit     int // our own bound of what is in flight
	downlinks func(*packets.Publish) (handled bool)
	onPuback  func(code byte, reason string) (bridge.Outcome, bool)
	acked     func(packetID uint16) // a downlink's PUBACK has been written; called with mu held
	changed   func()                // room or trouble: the pump should look again; never blocks

	mu        sync.Mutex // guards what follows
	conn      io.Writer  // nil while there is no connection
	max       int        // limit, or the server's Receive Maximum if lower
	flights   map[uint16]*flight
	sent      int // flights sent on this connection
	resend    []*flight
	lastSeq   uint64
	lastID    uint16
	subs      map[uint16]chan<- packets.ControlPacket
	reconnect bool // a PUBACK asked for it
	acks      []*ack
	lost      *packets.Disconnect // the server's DISCONNECT on this connection
	suspects  suspects
	single    bool // the broker asked for fewer publishes
}

// flight is a publish without its PUBACK.
type flight struct {
	seq    uint64
	packet *packets.Publish
	source bridge.Source
	entry  *bridge.Entry
	sentAt time.Time // on this connection; zero: not yet
}

// ack is a downlink that was received and not acknowledged yet.
type ack struct {
	packet *packets.Publish
	seen   bool // received on this connection, so that it can be acknowledged on it
	done   bool
}

// maxWindow leaves packet ids for SUBSCRIBE.
const maxWindow = 60_000

func newWindow(limit int) *window {
	return &window{
		limit:   min(limit, maxWindow),
		flights: map[uint16]*flight{},
		subs:    map[uint16]chan<- packets.ControlPacket{},
		changed: func() {},
		acked:   func(uint16) {},
	}
}

var errRefused = errors.New("refused")

// ConAckReceived implements paho's SessionManager. With the session present,
// what is in flight goes out again by publish, oldest first, with DUP and its
// packet id (section 4.4); otherwise it is lost.
func (w *window) ConAckReceived(conn io.Writer, _ *packets.Connect, ca *packets.Connack) error {
	if ca.ReasonCode != 0 {
		// A broker that knows MQTT 3.1.1 only refuses with its code 1, which
		// paho takes for success.
		return errRefused
	}
	w.mu.Lock()
	culprit, verdict := w.convict()
	if culprit != nil {
		defer culprit.source.Resolve(culprit.entry, verdict)
	}
	w.conn, w.max, w.sent = conn, w.limit, 0
	w.reconnect, w.lost = false, nil
	if p := ca.Properties; p != nil && p.ReceiveMaximum != nil {
		w.max = min(w.max, int(*p.ReceiveMaximum))
	}
	inflight := w.ordered()
	if ca.SessionPresent {
		for _, f := range inflight {
			if !f.sentAt.IsZero() {
				f.packet.Duplicate = true
			}
			f.sentAt = time.Time{}
		}
		w.resend = inflight
		for _, a := range w.acks {
			a.seen = false
		}
		w.mu.Unlock()
		return nil
	}
	w.flights, w.resend, w.acks = map[uint16]*flight{}, nil, nil
	w.mu.Unlock()
	for _, f := range inflight {
		f.source.Resolve(f.entry, bridge.Outcome{Kind: bridge.Lost, Reason: "the broker lost the session"})
	}
	return nil
}

// ordered is called with mu held.
func (w *window) ordered() []*flight {
	fs := make([]*flight, 0, len(w.flights))
	for _, f := range w.flights {
		fs = append(fs, f)
	}
	slices.SortFunc(fs, func(a, b *flight) int { return cmp.Compare(a.seq, b.seq) })
	return fs
}

// ConnectionLost implements paho's SessionManager.
func (w *window) ConnectionLost(d *packets.Disconnect) error {
	w.mu.Lock()
	w.conn = nil
	if d != nil {
		w.lost = d
	}
	subs := w.subs
	w.subs = map[uint16]chan<- packets.ControlPacket{}
	w.mu.Unlock()
	for _, c := range subs {
		c <- packets.ControlPacket{}
	}
	return nil
}

// resume sends again, as far as there is room, what was in flight when the last
// connection ended. It reports whether all of it went out.
func (w *window) resume(now time.Time) bool {
	w.mu.Lock()
	conn := w.conn
	var again []*flight
	for len(w.resend) > 0 && conn != nil && w.sent < w.allowed() {
		f := w.resend[0]
		w.resend = w.resend[1:]
		if w.flights[f.packet.PacketID] != f {
			continue // acknowledged by now
		}
		w.sent++
		f.sentAt = now
		again = append(again, f)
	}
	all := len(w.resend) == 0
	w.mu.Unlock()
	for _, f := range again {
		_, _ = f.packet.WriteTo(conn) // the connection notes its errors
	}
	return all
}

// room is how many publishes may be sent now.
func (w *window) room() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn == nil || w.reconnect || len(w.resend) > 0 {
		return 0
	}
	return w.allowed() - w.sent
}

// allowed is how many publishes may be in flight. It is called with mu held.
func (w *window) allowed() int {
	if w.single || w.suspects.any() {
		return 1
	}
	return w.max
}

// oneAtATime sets whether no more than one publish may be in flight.
func (w *window) oneAtATime(single bool) {
	w.mu.Lock()
	w.single = single
	w.mu.Unlock()
}

// publish sends an entry. The caller has asked for room before and is the only
// one who publishes, so the order of sending is that of the calls. The write is
// made without the mutex: PUBACKs come in meanwhile.
func (w *window) publish(p *packets.Publish, src bridge.Source, e *bridge.Entry, now time.Time) {
	w.mu.Lock()
	w.lastSeq++
	p.PacketID = w.freeID()
	f := &flight{seq: w.lastSeq, packet: p, source: src, entry: e}
	w.flights[p.PacketID] = f
	if w.conn == nil {
		// The connection ended since. The flight is resent or lost with the next.
		w.resend = append(w.resend, f)
		w.mu.Unlock()
		return
	}
	f.sentAt = now
	w.sent++
	conn := w.conn
	w.mu.Unlock()
	_, _ = p.WriteTo(conn) // the connection notes its errors
}

// freeID is called with mu held. The window is smaller than the id space, so
// there is one.
func (w *window) freeID() uint16 {
	for {
		w.lastID++
		if w.lastID == 0 {
			continue
		}
		_, flying := w.flights[w.lastID]
		_, subscribing := w.subs[w.lastID]
		if !flying && !subscribing {
			return w.lastID
		}
	}
}

// oldest is when the publish that waits longest for its PUBACK was sent; the
// zero time if none does.
func (w *window) oldest() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	var t time.Time
	for _, f := range w.flights {
		if !f.sentAt.IsZero() && (t.IsZero() || f.sentAt.Before(t)) {
			t = f.sentAt
		}
	}
	return t
}

func (w *window) inFlight() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.flights)
}

// mustReconnect reports that a PUBACK asked for a new connection.
func (w *window) mustReconnect() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reconnect
}

// disconnected is the server's DISCONNECT on the last connection, or nil.
func (w *window) disconnected() *packets.Disconnect {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// AddToSession implements paho's SessionManager; paho.Client.Subscribe uses it.
func (w *window) AddToSession(_ context.Context, p pahosession.Packet, resp chan<- packets.ControlPacket) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn == nil {
		return pahosession.ErrNoConnection
	}
	if p.Type() == packets.PUBLISH {
		return errors.New("publish: goes through the window, not through paho")
	}
	id := w.freeID()
	p.SetIdentifier(id)
	w.subs[id] = resp
	return nil
}

// PacketReceived implements paho's SessionManager.
func (w *window) PacketReceived(p *packets.ControlPacket, _ chan<- *packets.Publish) error {
	switch c := p.Content.(type) {
	case *packets.Puback:
		w.acknowledged(c)
	case *packets.Publish:
		w.received(c)
	case *packets.Suback, *packets.Unsuback:
		id := p.PacketID()
		w.mu.Lock()
		resp := w.subs[id]
		delete(w.subs, id)
		w.mu.Unlock()
		if resp != nil {
			resp <- *p
		}
	}
	return nil
}

func (w *window) acknowledged(p *packets.Puback) {
	reason := ""
	if p.Properties != nil {
		reason = p.Properties.ReasonString
	}
	w.mu.Lock()
	f := w.flights[p.PacketID]
	if f == nil {
		w.mu.Unlock()
		return // not ours, or answered twice
	}
	delete(w.flights, p.PacketID)
	w.suspects.clear(f)
	if !f.sentAt.IsZero() {
		w.sent--
	}
	o, reconnect := w.onPuback(p.ReasonCode, reason)
	w.reconnect = w.reconnect || reconnect
	w.mu.Unlock()
	f.source.Resolve(f.entry, o)
	w.changed()
}

// received hands a downlink on. Its PUBACK goes out when delivered is called
// for it and for all that came before (section 4.6).
func (w *window) received(p *packets.Publish) {
	w.mu.Lock()
	if w.again(p) {
		w.mu.Unlock()
		w.flushAcks()
		return
	}
	w.acks = append(w.acks, &ack{packet: p, seen: true})
	w.mu.Unlock()
	if !w.downlinks(p) {
		w.delivered(p)
	}
}

// again reports whether p is a downlink that is with us already: sent again
// because the last connection ended before its PUBACK. The server repeats in
// the original order before it sends anything new (sections 4.4 and 4.6), so
// what it passes over it will not repeat. Called with mu held.
func (w *window) again(p *packets.Publish) bool {
	match := -1
	for i, a := range w.acks {
		if p.Duplicate && !a.seen && a.packet.PacketID == p.PacketID && a.packet.Topic == p.Topic {
			match = i
			break
		}
	}
	if match >= 0 {
		w.acks[match].seen = true
	}
	kept := w.acks[:0]
	for i, a := range w.acks {
		if a.seen || (match >= 0 && i > match) {
			kept = append(kept, a)
		}
	}
	clear(w.acks[len(kept):])
	w.acks = kept
	return match >= 0
}

// delivered marks a downlink as done.
func (w *window) delivered(p *packets.Publish) {
	w.mu.Lock()
	for _, a := range w.acks {
		if a.packet == p {
			a.done = true
			break
		}
	}
	w.mu.Unlock()
	w.flushAcks()
}

// flushAcks acknowledges the downlinks that are done and have none before them
// that is not.
func (w *window) flushAcks() {
	var sent []uint16
	w.mu.Lock()
	for _, a := range w.acks {
		if !a.done || !a.seen || w.conn == nil {
			break
		}
		pa := packets.Puback{PacketID: a.packet.PacketID, Properties: &packets.Properties{}}
		cp := packets.ControlPacket{FixedHeader: packets.FixedHeader{Type: packets.PUBACK}, Content: &pa}
		if _, err := cp.WriteTo(w.conn); err != nil {
			break
		}
		sent = append(sent, a.packet.PacketID)
	}
	// A connection gathers packets, so only this tells whether they are out.
	if c, ok := w.conn.(interface{ sync() error }); ok && len(sent) > 0 && c.sync() != nil {
		sent = nil // the broker repeats them on the next connection
	}
	clear(w.acks[:len(sent)])
	w.acks = w.acks[len(sent):]
	// Before anything else is received: the ids can come anew now.
	for _, id := range sent {
		w.acked(id)
	}
	w.mu.Unlock()
}

// close ends the session: whatever is in flight is lost to it.
func (w *window) close() {
	w.mu.Lock()
	inflight := w.ordered()
	w.flights, w.resend = map[uint16]*flight{}, nil
	w.mu.Unlock()
	for _, f := range inflight {
		f.source.Resolve(f.entry, bridge.Outcome{Kind: bridge.Lost, Reason: "the gateway is stopping"})
	}
}

// Ack implements paho's SessionManager. Downlinks are acknowledged by
// delivered, so there is nothing to do when paho's handlers return.
func (w *window) Ack(*packets.Publish) error { return nil }

// Close implements paho's SessionManager; paho does not call it for a state
// that was given to it.
func (w *window) Close() error { return nil }

// SetErrorLogger implements paho's SessionManager.
func (w *window) SetErrorLogger(paholog.Logger) {}

// SetDebugLogger implements paho's SessionManager.
func (w *window) SetDebugLogger(paholog.Logger) {}
