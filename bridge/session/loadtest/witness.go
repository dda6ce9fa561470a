//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
)

// Topics, in akenza's scheme.
const (
	uplinkTopic   = "/up/device/id/{device}"
	downlinkTopic = "/down/device/id/{device}/#"
)

// witness subscribes to all uplinks and enters them in its ledger. It speaks
// MQTT by packets alone: what has come before its connection breaks is read,
// whatever comes after, and acknowledged only when it is entered.
type witness struct {
	addr   string
	ledger *ledger
}

const witnessID = "witness"

// connect opens the witness's session. The broker keeps it for an hour.
func (w *witness) connect(ctx context.Context) (net.Conn, *bufio.Reader, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.addr)
	if err != nil {
		return nil, nil, err
	}
	r := bufio.NewReaderSize(c, 64<<10)
	expiry, receive := uint32(3600), uint16(1000)
	_, err = (&packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: witnessID, CleanStart: false,
		Properties: &packets.Properties{SessionExpiryInterval: &expiry, ReceiveMaximum: &receive},
	}).WriteTo(c)
	if err == nil {
		_, err = await[*packets.Connack](r)
	}
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return c, r, nil
}

// await reads the one packet that must come now.
func await[P any](r *bufio.Reader) (P, error) {
	var zero P
	cp, err := packets.ReadPacket(r)
	if err != nil {
		return zero, err
	}
	p, ok := cp.Content.(P)
	if !ok {
		return zero, fmt.Errorf("%T came, want %T", cp.Content, zero)
	}
	return p, nil
}

// subscribe makes the subscription, which the broker keeps with the session.
func (w *witness) subscribe(ctx context.Context) error {
	c, r, err := w.connect(ctx)
	if err == nil {
		defer c.Close()
		sub := packets.NewControlPacket(packets.SUBSCRIBE)
		s := sub.Content.(*packets.Subscribe)
		s.PacketID, s.Subscriptions = 1, []packets.SubOptions{{Topic: strings.Replace(uplinkTopic, "{device}", "#", 1), QoS: 1}}
		if _, err = sub.WriteTo(c); err == nil {
			var sa *packets.Suback
			if sa, err = await[*packets.Suback](r); err == nil && sa.Reasons[0] >= 0x80 {
				err = fmt.Errorf("SUBACK 0x%02X", sa.Reasons[0])
			}
		}
	}
	if err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	return nil
}

// run reads until ctx is done, over as many connections as it takes.
func (w *witness) run(ctx context.Context) {
	const again = 20 * time.Millisecond
	for ctx.Err() == nil {
		if c, r, err := w.connect(ctx); err == nil {
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			w.read(c, r)
			stop()
			_ = c.Close()
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
}

func (w *witness) read(c net.Conn, r *bufio.Reader) {
	prefix, _, _ := strings.Cut(uplinkTopic, "{device}")
	out := bufio.NewWriterSize(c, 16<<10)
	for {
		cp, err := packets.ReadPacket(r)
		if err != nil {
			return
		}
		if p, ok := cp.Content.(*packets.Publish); ok {
			w.ledger.see(strings.TrimPrefix(p.Topic, prefix), p.Payload, time.Now())
			ack := packets.ControlPacket{
				FixedHeader: packets.FixedHeader{Type: packets.PUBACK},
				Content:     &packets.Puback{PacketID: p.PacketID, Properties: &packets.Properties{}},
			}
			if _, err := ack.WriteTo(out); err != nil {
				continue // there may be more to read
			}
		}
		if r.Buffered() == 0 {
			_ = out.Flush() // as above
		}
	}
}

// sendDownlinks publishes one downlink to each device.
func sendDownlinks(ctx context.Context, addr string, devices int) (err error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("downlinks: %w", err)
	}
	client := paho.NewClient(paho.ClientConfig{Conn: c})
	if _, err := client.Connect(ctx, &paho.Connect{ClientID: "downlinks", KeepAlive: 60, CleanStart: true}); err != nil {
		return fmt.Errorf("downlinks: %w", errors.Join(err, c.Close()))
	}
	defer func() { err = errors.Join(err, client.Disconnect(&paho.Disconnect{})) }()
	for i := range devices {
		topic := strings.NewReplacer("{device}", deviceID(i), "#", "check").Replace(downlinkTopic)
		if _, err := client.Publish(ctx, &paho.Publish{Topic: topic, QoS: 1, Payload: []byte("check")}); err != nil {
			return fmt.Errorf("downlink to %s: %w", deviceID(i), err)
		}
	}
	return nil
}
