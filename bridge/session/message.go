package session

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
	"unicode/utf8"

	"github.com/eclipse/paho.golang/packets"
	"github.com/google/uuid"

	"fieldbridge/bridge"
)

// message is what the PUBLISH for a reading carries.
func (s *Session) message(r *bridge.Reading) message {
	m := message{
		topic:       s.opts.Topics.uplink(r),
		contentType: r.ContentType,
		payload:     r.Payload,
		text:        bridge.IsText(r.ContentType) && utf8.Valid(r.Payload),
	}
	if r.ResponseTopic != "" {
		m.topic, m.response, m.correlation = r.ResponseTopic, true, r.CorrelationData
	}
	if s.opts.UserProperties {
		m.user, m.id, m.at, m.gateway = true, r.ID, s.opts.When(r), s.opts.Gateway
	}
	return m
}

// unfit says why a message cannot be sent over this connection at all.
func (c *connection) unfit(m *message) (bridge.Outcome, bool) {
	if m.response && !responseTopic(m.topic) {
		return bridge.Outcome{Kind: bridge.Refused, Code: 0x90, Reason: CodeName(0x90) + ": not sent to this response topic"}, true
	}
	return c.oversized(m)
}

// oversized compares a packet with the broker's Maximum Packet Size (MQTT v5
// section 3.2.2.3.6). A packet above it would cost the connection.
func (c *connection) oversized(m *message) (bridge.Outcome, bool) {
	if m.encodable() && m.fits(c.maxPacket) {
		return bridge.Outcome{}, false
	}
	return bridge.Outcome{Kind: bridge.Refused, Code: 0x95, Reason: CodeName(0x95)}, true
}

// downlink hands a message on. It reports false if nobody will ever call the
// window back for it, so that it is acknowledged at once.
func (s *Session) downlink(p *packets.Publish) bool {
	s.used.Store(true)
	device, subtopic, err := s.opts.Topics.downlink(p.Topic)
	if err != nil {
		s.log.Warn("message on a topic that is no downlink, dropped", "error", err)
		return false
	}
	now := time.Now()
	d := bridge.Downlink{
		ID:       uuid.Must(uuid.NewV7()).String(),
		Device:   device,
		Subtopic: subtopic,
		Payload:  p.Payload,
		Received: now,
	}
	if props := p.Properties; props != nil {
		d.ContentType = props.ContentType
		d.ResponseTopic = props.ResponseTopic
		d.CorrelationData = props.CorrelationData
		if props.MessageExpiry != nil {
			d.Expires = now.Add(time.Duration(*props.MessageExpiry) * time.Second)
		}
	}
	if p.QoS > 0 {
		s.opts.Downlinks(d, bridge.Origin{
			Session: s.opts.ClientID, PacketID: p.PacketID, Digest: digest(p), Duplicate: p.Duplicate,
		}, func() { s.window.delivered(p) })
		return true
	}
	// The broker may send at QoS 0 as much as it likes (section 4.9), so the
	// bound that Receive Maximum sets for the others is kept here.
	if s.unasked.Add(1) > int32(s.opts.ReceiveMaximum) {
		s.unasked.Add(-1)
		s.log.Warn("downlink at QoS 0 dropped, its target is too slow", "device", device, "subtopic", subtopic)
		return true
	}
	s.opts.Downlinks(d, bridge.Origin{}, func() { s.unasked.Add(-1) })
	return true
}

// digest is of all that makes a downlink the same one when it is repeated. The
// expiry is not: a broker counts it down (MQTT v5 section 3.3.2.3.3).
func digest(p *packets.Publish) (sum [sha256.Size]byte) {
	h := sha256.New()
	add := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	add([]byte(p.Topic))
	add(p.Payload)
	if props := p.Properties; props != nil {
		add([]byte(props.ContentType))
		add([]byte(props.ResponseTopic))
		add(props.CorrelationData)
	}
	return [sha256.Size]byte(h.Sum(nil))
}
