package devbroker

import (
	"errors"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
)

// hook is where mochi asks for the rules.
type hook struct {
	mqtt.HookBase
	b *Broker
}

func (h *hook) ID() string { return "akenza" }

func (h *hook) Provides(event byte) bool {
	switch event {
	case mqtt.OnPacketRead, mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnPacketEncode,
		mqtt.OnSessionEstablished, mqtt.OnACLCheck, mqtt.OnPublish,
		mqtt.OnSubscribed, mqtt.OnUnsubscribe, mqtt.OnDisconnect:
		return true
	}
	return false
}

// OnPacketRead sees each packet after it is decoded and before it is looked at.
func (h *hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	c, ok := connOf(cl)
	if !ok {
		return pk, nil
	}
	switch pk.FixedHeader.Type {
	case packets.Connect:
		if c.client == nil { // a second one is a protocol error, which mochi answers
			c.connect = newConnect(pk)
		}
	case packets.Puback:
		h.b.acknowledged(c, pk.PacketID)
	}
	if limit := h.b.opts.MaximumPacketSize; limit > 0 && packetSize(pk.FixedHeader.Remaining) > int64(limit) {
		if pk.FixedHeader.Type != packets.Connect {
			h.b.log.Warn("packet refused", "client", cl.ID, "code", show(0x95), "reason", "it is larger than the maximum packet size")
			h.b.sendDisconnect(c, 0x95)
		}
		return pk, packets.ErrRejectPacket // ends the connection, the only error that mochi passes on
	}
	return pk, nil
}

// packetSize is the size of a packet with its fixed header (MQTT v5 section
// 2.1.4).
func packetSize(remaining int) int64 {
	size := int64(remaining) + 2
	for ; remaining > 127; remaining >>= 7 {
		size++
	}
	return size
}

// OnConnect comes before mochi looks for a session to continue.
func (h *hook) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	c, ok := connOf(cl)
	if !ok {
		return packets.ErrServerUnavailable
	}
	h.b.mu.Lock()
	c.client = cl
	code := h.b.refuseConnect
	h.b.mu.Unlock()
	if code != 0 {
		return h.refuse(c, code, "the broker was told to refuse it")
	}
	who, broken := h.b.authenticate(pk)
	if broken != "" {
		return h.refuse(c, codeBadCredentials, broken)
	}
	c.who = who
	h.b.forgetLapsed(cl.ID)
	if s := h.b.opts.ServerKeepAlive; s > 0 {
		cl.State.Keepalive, cl.State.ServerKeepalive = uint16(s.Seconds()), true
	}
	return nil
}

func (h *hook) refuse(c *conn, code byte, broken string) error {
	c.connect.Refused = broken
	h.b.log.Warn("connect refused", "client", c.connect.ClientID, "code", show(code), "reason", broken)
	_ = h.b.server.SendConnack(c.client, reason(code), false, nil)
	return reason(code)
}

// OnConnectAuthenticate has nothing to add to OnConnect, which can choose the
// reason code.
func (h *hook) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

// OnPacketEncode sees each packet before it is written; the CONNACK is the one
// that matters.
func (h *hook) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	c, ok := connOf(cl)
	if !ok || pk.FixedHeader.Type != packets.Connack {
		return pk
	}
	answered := c.connect
	answered.Code, answered.SessionPresent = pk.ReasonCode, pk.SessionPresent
	h.b.record.connect(answered)
	if pk.ReasonCode == 0 {
		pk.Properties.MaximumPacketSize = h.b.opts.MaximumPacketSize
		pk.Properties.TopicAliasMaximum = h.b.opts.TopicAliasMaximum
		h.b.bind(c, pk.SessionPresent)
	}
	return pk
}

// OnSessionEstablished comes when the CONNACK is written.
func (h *hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	c, ok := connOf(cl)
	if !ok {
		return
	}
	close(c.established)
	c.notify()
	h.b.log.Info("client connected", "client", cl.ID, "device", string(c.who.device), "connector", c.who.connector)
	h.b.expireAt(c)
}

// OnACLCheck decides about subscriptions. Publishes are decided by OnPublish,
// where topic aliases are resolved.
func (h *hook) OnACLCheck(cl *mqtt.Client, topic string, write bool) bool {
	if write {
		return true
	}
	c, ok := connOf(cl)
	if !ok {
		return false
	}
	if _, _, ok = c.who.split(down, topic); !ok {
		h.b.log.Warn("subscribe refused", "client", cl.ID, "code", show(codeNotAuthorized), "reason", "the filter is not one that this client may subscribe to")
	}
	return ok
}

// OnPublish decides about an uplink. No publish is passed on to subscribers.
func (h *hook) OnPublish(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	c, ok := connOf(cl)
	if !ok {
		return pk, packets.ErrRejectPacket
	}
	m := newMessage(cl.ID, pk)
	if code, broken := h.b.judge(c.who, &m); code != 0 {
		h.b.log.Warn("publish refused", "client", cl.ID, "device", string(m.Device), "code", show(code), "reason", broken)
		if pk.FixedHeader.Qos == 0 {
			return pk, packets.ErrRejectPacket // silence; with another error mochi would accept it
		}
		return pk, reason(code)
	}
	if code := h.b.offence(m); code != 0 {
		h.b.log.Warn("client disconnected for a publish", "client", cl.ID, "device", string(m.Device), "code", show(code))
		h.b.sendDisconnect(c, code)
		return pk, packets.ErrRejectPacket // no PUBACK
	}
	h.b.record.message(m)
	if pk.FixedHeader.Qos > 0 && h.b.hold(c, pk.PacketID) {
		return pk, packets.ErrRejectPacket // nothing is sent
	}
	return pk, packets.CodeSuccessIgnore // PUBACK, no subscribers
}

// OnSubscribed comes before the SUBACK is written.
func (h *hook) OnSubscribed(cl *mqtt.Client, pk packets.Packet, codes []byte) {
	c, ok := connOf(cl)
	if !ok {
		return
	}
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	for i, sub := range pk.Filters {
		if c.session != nil && codes[i] < 0x80 {
			c.session.filters[sub.Filter] = codes[i]
		}
	}
}

// OnUnsubscribe comes for a client's own UNSUBSCRIBE only.
func (h *hook) OnUnsubscribe(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	c, ok := connOf(cl)
	if !ok {
		return pk
	}
	h.b.mu.Lock()
	defer h.b.mu.Unlock()
	for _, sub := range pk.Filters {
		if c.session != nil {
			delete(c.session.filters, sub.Filter)
		}
	}
	return pk
}

func (h *hook) OnDisconnect(cl *mqtt.Client, err error, _ bool) {
	if cause := cl.StopCause(); cause != nil {
		err = cause
	}
	if err == nil || errors.Is(err, packets.CodeDisconnect) {
		h.b.log.Info("client disconnected", "client", cl.ID)
		return
	}
	h.b.log.Info("connection lost", "client", cl.ID, "error", err)
}
