package session

import (
	"time"
	"unicode/utf8"

	"github.com/eclipse/paho.golang/packets"
	"github.com/google/uuid"

	"fieldbridge/bridge"
)

// packet makes the PUBLISH for a reading.
func (s *Session) packet(r *bridge.Reading) *packets.Publish {
	props := &packets.Properties{ContentType: r.ContentType}
	if bridge.IsText(r.ContentType) && utf8.Valid(r.Payload) {
		utf8Payload := byte(1)
		props.PayloadFormat = &utf8Payload
	}
	if s.opts.UserProperties {
		props.User = []packets.User{
			{Key: "id", Value: r.ID.String()},
			{Key: "time", Value: r.Time.UTC().Format(time.RFC3339Nano)},
			{Key: "gateway", Value: s.opts.Gateway},
		}
	}
	return &packets.Publish{
		Topic:      s.opts.Topics.uplink(r),
		QoS:        1,
		Payload:    r.Payload,
		Properties: props,
	}
}

// oversized compares a packet with the broker's Maximum Packet Size (MQTT v5
// section 3.2.2.3.6). A packet above it would cost the connection.
func (c *connection) oversized(p *packets.Publish) (bridge.Outcome, bool) {
	if c.maxPacket == 0 {
		return bridge.Outcome{}, false
	}
	n := 0
	for _, b := range p.Buffers() {
		n += len(b)
	}
	for rest := n; rest > 127; rest >>= 7 {
		n++ // the remaining length has seven bits a byte (section 1.5.5)
	}
	n += 2 // its last byte, and the packet type
	if n <= c.maxPacket {
		return bridge.Outcome{}, false
	}
	return bridge.Outcome{Kind: bridge.Refused, Code: 0x95, Reason: codeName(0x95)}, true
}

// downlink hands a message on. It reports false if nobody will ever call the
// window back for it, so that it is acknowledged at once.
func (s *Session) downlink(p *packets.Publish) bool {
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
		s.opts.Downlinks(d, func() { s.window.delivered(p) })
		return true
	}
	// The broker may send at QoS 0 as much as it likes (section 4.9), so the
	// bound that Receive Maximum sets for the others is kept here.
	if s.unasked.Add(1) > int32(s.opts.ReceiveMaximum) {
		s.unasked.Add(-1)
		s.log.Warn("downlink at QoS 0 dropped, its target is too slow", "device", device, "subtopic", subtopic)
		return true
	}
	s.opts.Downlinks(d, func() { s.unasked.Add(-1) })
	return true
}
