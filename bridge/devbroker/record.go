package devbroker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"fieldbridge/bridge"
)

// UserProperty is one MQTT user property; keys may repeat.
type UserProperty struct{ Key, Value string }

// Message is one PUBLISH. What Messages and Next return must not be changed.
type Message struct {
	// ClientID is the client that published it.
	ClientID string
	// Device, Subtopic and Connector (empty for device credentials) are read out
	// of the topic. Publish builds the topic from them if Topic is empty.
	Device    bridge.DeviceID
	Subtopic  string
	Connector string
	// Topic may hold a connector's secret: show RedactedTopic instead.
	Topic       string
	ContentType string
	Payload     []byte
	// PayloadFormat is 1 for UTF-8, 0 for unspecified or absent.
	PayloadFormat  byte
	UserProperties []UserProperty
	// ResponseTopic may hold a connector's secret.
	ResponseTopic   string
	CorrelationData []byte
	// MessageExpiry is zero if absent; whole seconds.
	MessageExpiry time.Duration
	QoS           byte
	Retain        bool
	Duplicate     bool
	PacketID      uint16
	Received      time.Time
}

// LogValue keeps topics and payloads out of logs.
func (m Message) LogValue() slog.Value {
	return slog.GroupValue(slog.String("client", m.ClientID), slog.String("device", string(m.Device)),
		slog.String("subtopic", m.Subtopic), slog.String("content_type", m.ContentType), slog.Int("bytes", len(m.Payload)))
}

// User returns the first user property with this key, or "".
func (m Message) User(key string) string {
	for _, p := range m.UserProperties {
		if p.Key == key {
			return p.Value
		}
	}
	return ""
}

func newMessage(clientID string, pk packets.Packet) Message {
	m := Message{
		ClientID:        clientID,
		Topic:           pk.TopicName,
		ContentType:     pk.Properties.ContentType,
		Payload:         pk.Payload, // mochi makes a new slice for each packet
		PayloadFormat:   pk.Properties.PayloadFormat,
		ResponseTopic:   pk.Properties.ResponseTopic,
		CorrelationData: pk.Properties.CorrelationData,
		MessageExpiry:   time.Duration(pk.Properties.MessageExpiryInterval) * time.Second,
		QoS:             pk.FixedHeader.Qos,
		Retain:          pk.FixedHeader.Retain,
		Duplicate:       pk.FixedHeader.Dup,
		PacketID:        pk.PacketID,
		Received:        time.Now(),
	}
	for _, p := range pk.Properties.User {
		m.UserProperties = append(m.UserProperties, UserProperty{p.Key, p.Val})
	}
	return m
}

// Connect is one CONNECT and how it was answered. It never has the password.
type Connect struct {
	ClientID        string
	Username        string
	UsernamePresent bool
	PasswordPresent bool
	ProtocolVersion byte
	CleanStart      bool
	KeepAlive       time.Duration
	// SessionExpiry is in seconds, as sent (MQTT v5 section 3.1.2.11.2).
	SessionExpiry        uint32
	SessionExpiryPresent bool
	// ReceiveMaximum, MaximumPacketSize and TopicAliasMaximum are zero if absent.
	ReceiveMaximum    uint16
	MaximumPacketSize uint32
	TopicAliasMaximum uint16
	Will              bool
	UserProperties    []UserProperty
	At                time.Time

	// Code and SessionPresent are those of the CONNACK.
	Code           byte
	SessionPresent bool
	// Refused says which rule the CONNECT broke, or is "".
	Refused string
}

func newConnect(pk packets.Packet) Connect {
	c := Connect{
		ClientID:             pk.Connect.ClientIdentifier,
		Username:             string(pk.Connect.Username),
		UsernamePresent:      pk.Connect.UsernameFlag,
		PasswordPresent:      pk.Connect.PasswordFlag,
		ProtocolVersion:      pk.ProtocolVersion,
		CleanStart:           pk.Connect.Clean,
		KeepAlive:            time.Duration(pk.Connect.Keepalive) * time.Second,
		SessionExpiry:        pk.Properties.SessionExpiryInterval,
		SessionExpiryPresent: pk.Properties.SessionExpiryIntervalFlag,
		ReceiveMaximum:       pk.Properties.ReceiveMaximum,
		MaximumPacketSize:    pk.Properties.MaximumPacketSize,
		TopicAliasMaximum:    pk.Properties.TopicAliasMaximum,
		Will:                 pk.Connect.WillFlag,
		At:                   time.Now(),
	}
	for _, p := range pk.Properties.User {
		c.UserProperties = append(c.UserProperties, UserProperty{p.Key, p.Val})
	}
	return c
}

// link is one place in the endless list of messages. Subscriptions hold on to
// the place they have reached, so what nobody has to read any more is collected.
type link struct {
	ready chan struct{} // closed when m and next are set
	m     Message
	next  *link
}

// record is what has happened.
type record struct {
	limit  int
	closed chan struct{} // closed by close

	mu       sync.Mutex // guards what follows
	last     *link      // the place of the next message
	messages []Message
	connects []Connect
}

func newRecord(limit int) *record {
	return &record{limit: limit, closed: make(chan struct{}), last: &link{ready: make(chan struct{})}}
}

func (r *record) close() { close(r.closed) }

func (r *record) message(m Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = bounded(append(r.messages, m), r.limit)
	l := r.last
	l.m, l.next = m, &link{ready: make(chan struct{})}
	r.last = l.next
	close(l.ready)
}

func (r *record) connect(c Connect) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.connects = bounded(append(r.connects, c), r.limit)
}

// bounded drops the oldest once there are twice as many as wanted, so that the
// cost of moving the rest is spread over as many additions.
func bounded[T any](s []T, limit int) []T {
	if len(s) < 2*limit {
		return s
	}
	return append(make([]T, 0, 2*limit), s[len(s)-limit:]...)
}

func lastOf[T any](s []T, limit int) []T {
	return append([]T(nil), s[max(0, len(s)-limit):]...)
}

// Messages returns the accepted publishes in the order in which they came, the
// last Options.History of them.
func (b *Broker) Messages() []Message {
	b.record.mu.Lock()
	defer b.record.mu.Unlock()
	return lastOf(b.record.messages, b.record.limit)
}

// Connects returns the CONNECTs that were answered, the last Options.History of
// them.
func (b *Broker) Connects() []Connect {
	b.record.mu.Lock()
	defer b.record.mu.Unlock()
	return lastOf(b.record.connects, b.record.limit)
}

// Subscription reads the accepted publishes one by one. It is for one goroutine
// and needs no closing; what it has not read yet stays in memory.
type Subscription struct {
	at     *link
	closed <-chan struct{}
}

// Subscribe starts a Subscription with the next accepted publish.
func (b *Broker) Subscribe() *Subscription {
	b.record.mu.Lock()
	defer b.record.mu.Unlock()
	return &Subscription{at: b.record.last, closed: b.record.closed}
}

// Next waits for the next accepted publish. It returns ctx's error, or ErrClosed
// when the broker is closed and everything has been read.
func (s *Subscription) Next(ctx context.Context) (Message, error) {
	select {
	case <-s.at.ready:
	default:
		select {
		case <-s.at.ready:
		case <-ctx.Done():
			return Message{}, ctx.Err()
		case <-s.closed:
			return Message{}, ErrClosed
		}
	}
	m := s.at.m
	s.at = s.at.next
	return m, nil
}
