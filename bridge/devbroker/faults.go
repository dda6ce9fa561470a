package devbroker

import "time"

// Drop cuts the connections of a client without a DISCONNECT. It does not wait
// until the broker has noticed.
func (b *Broker) Drop(clientID string) {
	for _, c := range b.connections() {
		if b.clientID(c) == clientID {
			_ = c.gate.Close()
		}
	}
}

// DropAll cuts all connections without a DISCONNECT.
func (b *Broker) DropAll() {
	for _, c := range b.connections() {
		_ = c.gate.Close()
	}
}

func (b *Broker) clientID(c *conn) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.client == nil {
		return ""
	}
	return c.client.ID
}

// Freeze makes the broker deaf and mute until Thaw: nothing is read, answered or
// closed, and new connections are accepted by the operating system only. It is
// what a half-open link or a stopped process looks like. Timers run on, so that
// a thaw can bring keep-alive timeouts with it.
func (b *Broker) Freeze() { b.freezer.set(true) }

// Thaw ends Freeze. What was sent in the meantime is read now.
func (b *Broker) Thaw() { b.freezer.set(false) }

// ForgetSessions cuts all connections and forgets all sessions, as a restart
// without persistence would: subscriptions, queued downlinks and what is in
// flight are gone when it returns. New connections wait meanwhile.
func (b *Broker) ForgetSessions() {
	b.mu.Lock()
	if b.closed || b.paused != nil { // the other call does it
		b.mu.Unlock()
		return
	}
	paused := make(chan struct{})
	b.paused = paused
	b.mu.Unlock()
	conns := b.connections()
	for _, c := range conns {
		_ = c.gate.Close()
	}
	for _, c := range conns {
		<-c.done
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.server.Clients.GetAll() {
		b.forget(id)
	}
	clear(b.sessions)
	b.paused = nil
	close(paused)
}

// RefuseConnects answers every CONNECT with a reason code of 0x80 or above;
// 0 ends that.
func (b *Broker) RefuseConnects(code byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuseConnect = code
}

// RefusePublishes answers a PUBLISH that no rule refuses with the reason code
// that match returns for it; below 0x80 it is accepted. nil ends that. match is
// called from many goroutines and must not call the Broker.
func (b *Broker) RefusePublishes(match func(Message) byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refusePublish = match
}

// DisconnectPublishes ends the connection of a client that sends a PUBLISH for
// which match returns a reason code of 0x80 or above, with a DISCONNECT that has
// that code, as a broker does with what it calls malformed or too large. The
// message is not accepted. nil ends that; match is as for RefusePublishes.
func (b *Broker) DisconnectPublishes(match func(Message) byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.endPublish = match
}

// Disconnect ends the connections of a client with a DISCONNECT that has this
// reason code. It reports whether there was one; while frozen there is none.
func (b *Broker) Disconnect(clientID string, code byte) bool {
	if b.freezer.frozen() {
		return false
	}
	found := false
	for _, c := range b.connections() {
		if b.clientID(c) == clientID {
			b.sendDisconnect(c, code)
			found = true
		}
	}
	return found
}

// HoldAcks withholds the PUBACKs of publishes, which are accepted nevertheless.
// false sends those that are owed on connections that still exist, in order.
func (b *Broker) HoldAcks(hold bool) {
	b.mu.Lock()
	b.holdAcks = hold
	b.mu.Unlock()
	if hold {
		return
	}
	for _, c := range b.connections() {
		c.notify()
	}
}

// Connected reports whether a client has a connection whose CONNECT was
// accepted.
func (b *Broker) Connected(clientID string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[clientID]
	return s != nil && s.conn != nil
}

// SessionUntil returns until when the session of a disconnected client is kept;
// ok is false if there is none or the client is connected.
func (b *Broker) SessionUntil(clientID string) (until time.Time, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[clientID]
	if s == nil || s.conn != nil || !time.Now().Before(s.lapses) {
		return time.Time{}, false
	}
	return s.lapses, true
}
