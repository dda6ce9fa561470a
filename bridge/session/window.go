package session

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"fieldbridge/bridge"
)

// window is the session state (MQTT v5 section 4.1): the publishes in flight
// and the downlinks not yet acknowledged. It outlives connections.
//
// The calls go: begin, then any of the others, then end, as often as there are
// connections; close at the end.
type window struct {
	limit     int // our own bound of the publishes in flight
	receive   int // and of the downlinks without their PUBACK
	downlinks func(*packets.Publish) (handled bool)
	onPuback  func(code byte, reason string) (bridge.Outcome, bool)
	acked     func(packetID uint16) // a downlink's PUBACK has been written; called with mu held

	mu        sync.Mutex // guards what follows
	conn      *conn      // nil while there is no connection
	max       int        // limit, or the server's Receive Maximum if lower
	flights   map[uint16]*flight
	most      int // flights there have been in the map
	sent      int // flights sent on this connection
	resend    []*flight
	lastSeq   uint64
	lastID    uint16
	subID     uint16 // of the SUBSCRIBE that has no answer yet, or 0
	reconnect bool   // a PUBACK asked for it
	acks      []*ack
	lost      *packets.Disconnect // the server's DISCONNECT on this connection
	suspects  suspects
	single    bool // the broker asked for fewer publishes
}

// flight is a publish without its PUBACK.
type flight struct {
	message
	id     uint16
	seq    uint64
	dup    bool
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
	return &window{limit: min(limit, maxWindow), receive: limit, acked: func(uint16) {}}
}

// begin takes over a connection that the server has accepted. With the session
// present, what is in flight goes out again by resume, oldest first, with DUP and
// its packet id (section 4.4); otherwise it is lost.
func (w *window) begin(c *conn, ca *packets.Connack) {
	w.mu.Lock()
	culprit, verdict := w.convict()
	if culprit != nil {
		defer culprit.source.Resolve(culprit.entry, verdict)
	}
	w.conn, w.max, w.sent, w.subID = c, w.limit, 0, 0
	w.reconnect, w.lost = false, nil
	if p := ca.Properties; p != nil && p.ReceiveMaximum != nil {
		w.max = min(w.max, int(*p.ReceiveMaximum))
	}
	inflight := w.ordered()
	if ca.SessionPresent {
		for _, f := range inflight {
			if !f.sentAt.IsZero() {
				f.dup = true
			}
			f.sentAt = time.Time{}
		}
		w.resend = inflight
		for _, a := range w.acks {
			a.seen = false
		}
		w.mu.Unlock()
		return
	}
	w.flights, w.resend, w.acks = nil, nil, nil
	w.mu.Unlock()
	for _, f := range inflight {
		f.source.Resolve(f.entry, bridge.Outcome{Kind: bridge.Lost, Reason: "the broker lost the session"})
	}
}

// ordered is called with mu held.
func (w *window) ordered() []*flight {
	if len(w.flights) == 0 {
		return nil
	}
	fs := make([]*flight, 0, len(w.flights))
	for _, f := range w.flights {
		fs = append(fs, f)
	}
	slices.SortFunc(fs, func(a, b *flight) int { return cmp.Compare(a.seq, b.seq) })
	return fs
}

// end notes that the connection is no more, and the server's DISCONNECT if there
// was one.
func (w *window) end(d *packets.Disconnect) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn, w.lost = nil, d
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
		if w.flights[f.id] != f {
			continue // acknowledged by now
		}
		w.sent++
		f.sentAt = now
		again = append(again, f)
	}
	all := len(w.resend) == 0
	w.mu.Unlock()
	for _, f := range again {
		conn.publish(&f.message, f.id, f.dup, 0)
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

// publish sends a reading in a packet of at most limit bytes, 0 for no limit. The
// caller has asked for room before and is the only one who publishes, so the
// order of sending is that of the calls. The write is made without the mutex:
// PUBACKs come in meanwhile.
func (w *window) publish(f *flight, limit int, now time.Time) {
	w.mu.Lock()
	w.lastSeq++
	f.seq, f.id = w.lastSeq, w.freeID()
	if w.flights == nil {
		w.flights = map[uint16]*flight{}
	}
	w.flights[f.id] = f
	w.most = max(w.most, len(w.flights))
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
	conn.publish(&f.message, f.id, false, limit)
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
		if !flying && w.lastID != w.subID {
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

// subscribing returns a packet id for a SUBSCRIBE, one at a time.
func (w *window) subscribing() uint16 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.subID = w.freeID()
	return w.subID
}

// subscribed reports whether a SUBACK or UNSUBACK with this id is awaited, once.
func (w *window) subscribed(id uint16) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id == 0 || id != w.subID {
		return false
	}
	w.subID = 0
	return true
}

// keptFlights is how large a map may be kept for a session that is idle: a map
// does not shrink by itself.
const keptFlights = 64

// acknowledged takes a PUBACK in.
func (w *window) acknowledged(id uint16, code byte, reason string) {
	w.mu.Lock()
	f := w.flights[id]
	if f == nil {
		w.mu.Unlock()
		return // not ours, or answered twice
	}
	if delete(w.flights, id); len(w.flights) == 0 && w.most > keptFlights {
		w.flights, w.most = nil, 0
	}
	w.suspects.clear(f)
	if !f.sentAt.IsZero() {
		w.sent--
		if code < 0x80 && w.conn != nil {
			w.conn.aliases.confirm(f.topic, id)
		}
	}
	o, reconnect := w.onPuback(code, reason)
	w.reconnect = w.reconnect || reconnect
	w.mu.Unlock()
	f.source.Resolve(f.entry, o)
}

// received hands a downlink on. Its PUBACK goes out when delivered is called
// for it and for all that came before (section 4.6). It returns an error if the
// server sends more than it was told to (section 3.3.4).
func (w *window) received(p *packets.Publish) error {
	w.mu.Lock()
	if w.again(p) {
		w.mu.Unlock()
		w.flushAcks()
		return nil
	}
	seen := 0
	for _, a := range w.acks {
		if a.seen {
			seen++
		}
	}
	if seen >= w.receive {
		w.mu.Unlock()
		return &violation{0x93, fmt.Sprintf("the broker sent more downlinks at once than the %d that it was told", w.receive)}
	}
	w.acks = append(w.acks, &ack{packet: p, seen: true})
	w.mu.Unlock()
	if !w.downlinks(p) {
		w.delivered(p)
	}
	return nil
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
		// Without a reason code it stands for 0x00 (section 3.4.2.1). At QoS 2,
		// which nothing here asks for, PUBREC takes its place.
		kind := packets.PUBACK
		if a.packet.QoS == 2 {
			kind = packets.PUBREC
		}
		w.conn.packet(kind<<4, 2, byte(a.packet.PacketID>>8), byte(a.packet.PacketID))
		sent = append(sent, a.packet.PacketID)
	}
	// A connection gathers packets, so only this tells whether they are out.
	if len(sent) > 0 && w.conn.sync() != nil {
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
	w.flights, w.resend = nil, nil
	w.mu.Unlock()
	for _, f := range inflight {
		f.source.Resolve(f.entry, bridge.Outcome{Kind: bridge.Lost, Reason: "the gateway is stopping"})
	}
}
