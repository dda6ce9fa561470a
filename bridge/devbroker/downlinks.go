package devbroker

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"fieldbridge/bridge"
)

// ErrNoSubscriber: no session, connected or not, is subscribed to the topic.
var ErrNoSubscriber = errors.New("no session is subscribed to the topic")

// session is what outlives a client's connection (MQTT v5 section 4.1). All of
// it is guarded by Broker.mu.
type session struct {
	who     identity
	conn    *conn           // nil while disconnected
	lapses  time.Time       // when the session is over, while disconnected
	window  int             // the client's Receive Maximum
	filters map[string]byte // subscriptions and their granted QoS
	flight  []*downlink     // sent at least once and not acknowledged, oldest first
	queue   []*downlink     // not sent yet
	lastID  uint16
}

// downlink is a message for one session.
type downlink struct {
	pk      packets.Packet
	expires time.Time // zero: never
	sentOn  *conn     // the connection that it was last sent on
}

// forgetLapsed ends the session of a client that stayed away for longer than its
// session expiry. It is called before the client's next session begins.
func (b *Broker) forgetLapsed(clientID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[clientID]
	if s == nil || s.conn != nil || time.Now().Before(s.lapses) {
		return
	}
	b.forget(clientID)
}

// forget ends a disconnected session here and in mochi. b.mu is held.
func (b *Broker) forget(clientID string) {
	delete(b.sessions, clientID)
	if cl, ok := b.server.Clients.Get(clientID); ok {
		b.server.UnsubscribeClient(cl)
		cl.ClearInflights()
		b.server.Clients.Delete(clientID)
	}
}

// bind gives the connection its session, when the CONNACK is about to be sent.
func (b *Broker) bind(c *conn, present bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[c.client.ID]
	if s != nil {
		b.takeOver(s.conn)
	}
	if s == nil || !present {
		s = &session{filters: map[string]byte{}}
		b.sessions[c.client.ID] = s
	}
	s.who, s.conn, s.window = c.who, c, math.MaxUint16
	if n := c.connect.ReceiveMaximum; n > 0 {
		s.window = int(n)
	}
	c.session = s
}

// takeOver ends the connection that a client id had until now [MQTT-3.1.4-3].
// mochi has done so unless the two CONNECTs came at the same moment: then it
// sees neither from the other. The caller holds b.mu.
func (b *Broker) takeOver(former *conn) {
	if former == nil || b.closed {
		return
	}
	select {
	case <-former.gate.closed:
	default:
		b.wg.Go(func() { b.sendDisconnect(former, 0x8E) })
	}
}

// Publish sends a downlink, at QoS 1 or what the subscription was granted, to
// every session that is subscribed; those that are disconnected get it when they
// return. Topic, or else Device with Subtopic and Connector, says where to;
// ContentType, Payload, PayloadFormat, UserProperties, ResponseTopic,
// CorrelationData and MessageExpiry are passed on; the other fields are not
// used. It does not wait for the delivery. The error may be ErrNoSubscriber.
func (b *Broker) Publish(m Message) error {
	if m.Topic == "" {
		topic, err := b.downlinkTopic(m)
		if err != nil {
			return fmt.Errorf("publish: %w", err)
		}
		m.Topic = topic
	}
	pk := downlinkPacket(m)
	now := time.Now()
	var expires time.Time
	if m.MessageExpiry > 0 {
		expires = now.Add(m.MessageExpiry)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("publish: %w", ErrClosed)
	}
	found := false
	for _, s := range b.sessions {
		qos, ok := s.granted(m.Topic)
		if !ok || (s.conn == nil && !now.Before(s.lapses)) {
			continue
		}
		found = true
		if qos == 0 && s.conn == nil {
			continue
		}
		d := &downlink{pk: pk, expires: expires}
		d.pk.FixedHeader.Qos = min(qos, 1)
		s.queue = append(s.queue, d)
		if s.conn != nil {
			s.conn.notify()
		}
	}
	if !found {
		return fmt.Errorf("publish: %w", ErrNoSubscriber)
	}
	return nil
}

// downlinkTopic builds the topic from the words of m.
func (b *Broker) downlinkTopic(m Message) (string, error) {
	level := "device"
	if m.Connector != "" {
		secret, ok := b.opts.Connectors[m.Connector]
		if !ok {
			return "", fmt.Errorf("there is no connector %q", m.Connector)
		}
		level = secret.Reveal()
	}
	topic := down + level + "/id/" + string(m.Device)
	if m.Subtopic != "" {
		topic += "/" + m.Subtopic
	}
	return topic, nil
}

func downlinkPacket(m Message) packets.Packet {
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish},
		TopicName:   m.Topic,
		Payload:     slices.Clone(m.Payload),
		Properties: packets.Properties{
			ContentType:       m.ContentType,
			PayloadFormat:     m.PayloadFormat,
			PayloadFormatFlag: m.PayloadFormat > 0,
			ResponseTopic:     m.ResponseTopic,
			CorrelationData:   slices.Clone(m.CorrelationData),
		},
	}
	for _, p := range m.UserProperties {
		pk.Properties.User = append(pk.Properties.User, packets.UserProperty{Key: p.Key, Val: p.Value})
	}
	return pk
}

// granted returns the highest QoS of the session's subscriptions to a topic.
func (s *session) granted(topic string) (qos byte, ok bool) {
	if _, _, mine := s.who.split(down, topic); !mine {
		return 0, false // the client id has been used with other credentials before
	}
	for filter, q := range s.filters {
		if bridge.MatchFilter(filter, topic) {
			qos, ok = max(qos, q), true
		}
	}
	return qos, ok
}

// Pending returns how many downlinks wait in the session of a client: not yet
// sent, or sent and not acknowledged.
func (b *Broker) Pending(clientID string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[clientID]; s != nil {
		return len(s.queue) + len(s.flight)
	}
	return 0
}

// next decides what to send on connection c now, if anything: first what was in
// flight on an earlier connection, then what is queued, within the window.
func (s *session) next(c *conn, now time.Time) (packets.Packet, bool) {
	unacknowledged := 0
	for _, d := range s.flight {
		if d.sentOn == c {
			unacknowledged++
		}
	}
	if unacknowledged >= s.window {
		return packets.Packet{}, false
	}
	for _, d := range s.flight {
		if d.sentOn != c {
			d.sentOn = c
			return d.packet(true, now), true
		}
	}
	for len(s.queue) > 0 {
		d := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		if !d.expires.IsZero() && !now.Before(d.expires) {
			continue // section 3.3.2.3.3
		}
		if d.pk.FixedHeader.Qos == 0 {
			return d.packet(false, now), true
		}
		d.sentOn, d.pk.PacketID = c, s.freeID()
		s.flight = append(s.flight, d)
		return d.packet(false, now), true
	}
	return packets.Packet{}, false
}

// freeID returns a packet id that is not in flight. There is one, as the window
// is smaller than the number of ids.
func (s *session) freeID() uint16 {
	for {
		s.lastID++
		inUse := slices.ContainsFunc(s.flight, func(d *downlink) bool { return d.pk.PacketID == s.lastID })
		if s.lastID != 0 && !inUse {
			return s.lastID
		}
	}
}

func (d *downlink) packet(dup bool, now time.Time) packets.Packet {
	pk := d.pk
	pk.FixedHeader.Dup = dup
	if !d.expires.IsZero() {
		left := max(1, math.Ceil(d.expires.Sub(now).Seconds()))
		pk.Properties.MessageExpiryInterval = uint32(min(left, math.MaxUint32)) // the time that is left
	}
	return pk
}

// acknowledged takes a downlink out of the session when its PUBACK arrives.
func (b *Broker) acknowledged(c *conn, id uint16) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.session == nil || c.session.conn != c {
		return
	}
	c.session.flight = slices.DeleteFunc(c.session.flight, func(d *downlink) bool {
		return d.pk.PacketID == id && d.sentOn == c
	})
	c.notify()
}
