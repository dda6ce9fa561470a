package session

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/eclipse/paho.golang/packets"
)

// packet is one packet as it came.
type packet struct {
	kind, flags byte
	body        []byte // what follows the fixed header; valid until the next packet is read
}

// violation is a breach of the protocol by the broker. The broker is told the
// code (MQTT v5 section 4.13).
type violation struct {
	code byte
	text string
}

func (v *violation) Error() string { return v.text }

func malformed(what string) error {
	return &violation{0x81, "the broker sent a malformed " + what + ": does it speak MQTT v5 on this port?"}
}

// next reads one packet. Room is made for what has come, not for the length that
// the other side claims.
func (c *conn) next() (packet, error) {
	head, err := c.r.ReadByte()
	if err != nil {
		return packet{}, err
	}
	p := packet{kind: head >> 4, flags: head & 0x0f}
	if p.kind == 0 {
		return packet{}, malformed("packet type")
	}
	length, err := c.length()
	if err != nil {
		return packet{}, midway(err)
	}
	if length > maxDownlink {
		return packet{}, &violation{0x95, fmt.Sprintf("the broker sent a packet of %d bytes, and at most %d are allowed", length, maxDownlink)}
	}
	if length <= c.r.Size() {
		p.body, err = c.r.Peek(length)
		_, _ = c.r.Discard(len(p.body))
		return p, midway(err)
	}
	var body bytes.Buffer
	_, err = io.CopyN(&body, c.r, int64(length))
	p.body = body.Bytes()
	return p, midway(err)
}

// length reads the remaining length: seven bits a byte, lowest first, in at most
// four bytes (MQTT v5 section 1.5.5).
func (c *conn) length() (int, error) {
	n := 0
	for shift := 0; shift < 28; shift += 7 {
		b, err := c.r.ReadByte()
		if err != nil {
			return 0, err
		}
		n |= int(b&0x7f) << shift
		if b < 0x80 {
			return n, nil
		}
	}
	return 0, malformed("packet length")
}

func midway(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// unpack decodes a packet that is not worth a decoder of our own. What it
// returns shares no memory with the read buffer.
func unpack(p packet) (packets.Packet, error) {
	cp := packets.NewControlPacket(p.kind)
	switch c := cp.Content.(type) {
	case *packets.Publish:
		c.QoS, c.Duplicate, c.Retain = p.flags>>1&3, p.flags&8 != 0, p.flags&1 != 0
	case *packets.Disconnect:
		if len(p.body) == 0 {
			return c, nil // 0x00 may be left out (section 3.14.2.1)
		}
	}
	if err := cp.Content.Unpack(bytes.NewBuffer(p.body)); err != nil {
		return nil, malformed(cp.PacketType())
	}
	switch c := cp.Content.(type) {
	case *packets.Publish:
		if c.QoS == 3 || (c.QoS > 0 && c.PacketID == 0) {
			return nil, malformed("PUBLISH")
		}
	case *packets.Suback:
		c.Reasons = bytes.Clone(c.Reasons)
	case *packets.Unsuback:
		c.Reasons = bytes.Clone(c.Reasons)
	}
	return cp.Content, nil
}

// unpackPuback decodes a PUBACK. Nearly all have no more than a packet id, or
// that and a reason code (section 3.4.2.1), which take no memory.
func unpackPuback(body []byte) (id uint16, code byte, reason string, err error) {
	if n := len(body); n == 2 || n == 3 {
		if n == 3 {
			code = body[2]
		}
		return uint16(body[0])<<8 | uint16(body[1]), code, "", nil
	}
	p, err := unpack(packet{kind: packets.PUBACK, body: body})
	if err != nil {
		return 0, 0, "", err
	}
	pa := p.(*packets.Puback)
	return pa.PacketID, pa.ReasonCode, pa.Properties.ReasonString, nil
}
