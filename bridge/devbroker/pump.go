package devbroker

import (
	"errors"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// pump writes to one connection what the broker sends on its own account: the
// PUBACKs that were held back, and downlinks.
func (b *Broker) pump(c *conn) {
	for {
		select {
		case <-c.wake:
		case <-c.gate.closed:
			return
		}
		for {
			pk, ok := b.next(c)
			if !ok {
				break
			}
			err := c.client.WritePacket(pk)
			switch {
			case errors.Is(err, packets.ErrPacketTooLarge):
				// What the client cannot take counts as delivered (section 3.1.2.11.4).
				b.log.Warn("downlink dropped", "client", c.client.ID, "reason", "it is larger than the client's maximum packet size")
				b.acknowledged(c, pk.PacketID)
			case err != nil:
				_ = c.gate.Close()
				return
			}
			if pk.FixedHeader.Type == packets.Puback {
				// Not before it is written: until then, later ones must wait behind it.
				b.mu.Lock()
				c.held = c.held[1:]
				b.mu.Unlock()
			}
		}
	}
}

// next decides what pump writes now, if anything.
func (b *Broker) next(c *conn) (packets.Packet, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !c.isEstablished() || c.session == nil || c.session.conn != c {
		return packets.Packet{}, false
	}
	if len(c.held) > 0 && !b.holdAcks {
		return packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: c.held[0]}, true
	}
	return c.session.next(c, time.Now())
}

// hold notes a PUBACK that is owed, if PUBACKs are withheld or older ones have
// not been sent yet: they go out in order (section 4.6).
func (b *Broker) hold(c *conn, id uint16) bool {
	b.mu.Lock()
	if !b.holdAcks && len(c.held) == 0 {
		b.mu.Unlock()
		return false
	}
	c.held = append(c.held, id)
	exceeded := len(c.held) > int(b.opts.ReceiveMaximum)
	b.mu.Unlock()
	c.notify()
	if exceeded {
		b.log.Warn("connection ended", "client", c.connect.ClientID, "code", show(0x93), "reason", "more publishes are unacknowledged than the receive maximum allows")
		b.sendDisconnect(c, 0x93)
	}
	return true
}
