package session

import (
	"fmt"

	"github.com/eclipse/paho.golang/packets"
)

// read takes what the broker sends until the connection ends. It is the
// connection's one goroutine besides that of Run, which waits for it in leave.
func (c *connection) read() {
	defer c.s.signal()
	defer close(c.done)
	var answered bool // a PUBACK has come since the pump was told
	tell := func() {
		if answered {
			answered = false
			c.s.signal()
		}
	}
	// PUBACKs come many at a time, and so go the publishes that they make room
	// for: the pump is told once for all that one read brought.
	c.link.conn.before = tell
	defer tell()
	var last *packets.Disconnect
	for last == nil {
		p, err := c.link.conn.next()
		if err == nil {
			answered = answered || p.kind == packets.PUBACK
			last, err = c.handle(p)
		}
		if err != nil {
			c.link.conn.note(err)
			break
		}
	}
	c.s.window.end(last)
}

// handle does what a packet asks for. It returns the packet if it is the
// broker's DISCONNECT, and an error if the connection must end.
func (c *connection) handle(p packet) (*packets.Disconnect, error) {
	switch p.kind {
	case packets.PUBACK:
		id, code, reason, err := unpackPuback(p.body)
		if err != nil {
			return nil, err
		}
		c.s.window.acknowledged(id, code, reason)
		return nil, nil
	case packets.PINGRESP, packets.PUBREC, packets.PUBCOMP:
		return nil, nil // that it came is noted; or answers to what is never sent
	case packets.PUBLISH, packets.PUBREL, packets.SUBACK, packets.UNSUBACK, packets.DISCONNECT:
	default:
		return nil, &violation{0x82, fmt.Sprintf("the broker sent a packet of type %d, which has no place here", p.kind)}
	}
	content, err := unpack(p)
	if err != nil {
		return nil, err
	}
	switch content := content.(type) {
	case *packets.Publish:
		if content.QoS == 0 {
			c.s.downlink(content)
			return nil, nil
		}
		return nil, c.s.window.received(content)
	case *packets.Pubrel:
		// The end of a downlink at QoS 2, whose id may come anew from here on.
		id := content.PacketID
		c.link.conn.packet(packets.PUBCOMP<<4, 2, byte(id>>8), byte(id))
	case *packets.Suback:
		c.answered(content.PacketID, content)
	case *packets.Unsuback:
		c.answered(content.PacketID, content)
	case *packets.Disconnect:
		return content, nil
	}
	return nil, nil
}

// answered passes on the answer to a SUBSCRIBE or UNSUBSCRIBE if it is awaited.
func (c *connection) answered(id uint16, p packets.Packet) {
	if c.s.window.subscribed(id) {
		select {
		case c.answers <- p:
		default: // nobody waits for it any more
		}
	}
}
