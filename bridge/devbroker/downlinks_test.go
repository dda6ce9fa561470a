package devbroker_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"fieldbridge/bridge/devbroker"
)

// down sends n downlinks named from "first" on.
func down(t *testing.T, b *devbroker.Broker, first, n int) {
	t.Helper()
	for i := range n {
		if err := b.Publish(devbroker.Message{Device: dev, Payload: []byte(fmt.Sprint(first + i))}); err != nil {
			t.Fatal(err)
		}
	}
}

// expect reads one downlink.
func (w *wire) expect(payload string, dup bool) *packets.Publish {
	w.t.Helper()
	p := receive[*packets.Publish](w)
	if string(p.Payload) != payload || p.Duplicate != dup || p.QoS != 1 {
		w.t.Fatalf("downlink %q, dup %t, QoS %d came; want %q, dup %t", p.Payload, p.Duplicate, p.QoS, payload, dup)
	}
	return p
}

func TestDownlinkProperties(t *testing.T) {
	b := newBroker(t, nil)
	w, _ := connected(t, listen(t, b), deviceConnect(t, dev))
	w.subscribe(downlink + "/#")
	err := b.Publish(devbroker.Message{
		Device: dev, Subtopic: "valve/1", ContentType: "application/json", Payload: []byte(`{"open":true}`), PayloadFormat: 1,
		ResponseTopic: uplink + "/answers", CorrelationData: []byte{7}, MessageExpiry: time.Minute,
		UserProperties: []devbroker.UserProperty{{Key: "k", Value: "v"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := w.expect(`{"open":true}`, false)
	props := p.Properties
	if p.Topic != downlink+"/valve/1" || props.ContentType != "application/json" || *props.PayloadFormat != 1 ||
		props.ResponseTopic != uplink+"/answers" || string(props.CorrelationData) != "\x07" || len(props.User) != 1 {
		t.Errorf("downlink %v", p)
	}
	if e := *props.MessageExpiry; e < 50 || e > 60 {
		t.Errorf("message expiry %d", e)
	}
	if b.Pending(dev) != 1 {
		t.Errorf("%d pending before the PUBACK", b.Pending(dev))
	}
	w.ack(p.PacketID)
	eventually(t, "the PUBACK is seen", func() bool { return b.Pending(dev) == 0 })
}

func TestDownlinkForConnector(t *testing.T) {
	b := newBroker(t, nil)
	w, _ := connected(t, listen(t, b), connectorConnect("gateway"))
	w.subscribe("/down/" + secret + "/id/d1/#")
	w.subscribe("/down/" + secret + "/id/d2/#")
	for _, d := range []devbroker.Message{
		{Connector: connector, Device: "d2", Payload: []byte("a")},
		{Topic: "/down/" + secret + "/id/d1/x", Payload: []byte("b")},
	} {
		if err := b.Publish(d); err != nil {
			t.Fatal(err)
		}
		w.expect(string(d.Payload), false)
	}
	for _, d := range []devbroker.Message{
		{Connector: connector, Device: "d3"},
		{Connector: "nobody", Device: "d1"},
		{Device: "d1"},
	} {
		if err := b.Publish(d); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("Publish(%v) = %v", d.Device, err)
		}
	}
}

// What was in flight comes again first, in the old order and with DUP, then what
// came in the meantime, and never more than the client's Receive Maximum.
func TestSessionIsKept(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	c := deviceConnect(t, dev)
	c.Properties.ReceiveMaximum = ptr(uint16(3))
	w, ack := connected(t, addr, c)
	if ack.SessionPresent {
		t.Error("a session before the first connect")
	}
	w.subscribe(downlink + "/#")
	down(t, b, 1, 5)
	first := w.expect("1", false)
	w.expect("2", false)
	w.expect("3", false)
	w.silent()
	w.ack(first.PacketID)
	w.expect("4", false)
	_ = w.Close()
	eventually(t, "the broker notices", func() bool { return !b.Connected(dev) })
	down(t, b, 6, 1)
	if got := b.Pending(dev); got != 5 {
		t.Errorf("%d pending", got)
	}

	for range 2 { // also over a take-over of a living connection
		w, ack = connected(t, addr, c)
		if !ack.SessionPresent {
			t.Fatal("the session is gone")
		}
		w.expect("2", true)
		w.expect("3", true)
		w.expect("4", true)
		w.silent()
	}
	for i, want := range []string{"5", "6"} {
		w.ack(uint16(2 + i)) // packet ids start at 1
		w.expect(want, false)
	}
	if c := b.Connects(); len(c) != 3 || c[0].SessionPresent || !c[2].SessionPresent {
		t.Errorf("recorded %+v", c)
	}
}

func TestTakeOver(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	first, _ := connected(t, addr, deviceConnect(t, dev))
	second, ack := connected(t, addr, deviceConnect(t, dev))
	first.disconnected(0x8E)
	if !ack.SessionPresent {
		t.Error("the session is gone")
	}
	second.ping()
}

// Two CONNECTs with one client id at the same moment: one connection remains.
func TestTakeOverAtOnce(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	for range 50 {
		both := []*wire{dial(t, addr), dial(t, addr)}
		c := deviceConnect(t, dev)
		ended := make(chan *wire, len(both))
		answered := make(chan *wire, 1)
		for _, w := range both {
			go func() {
				_, _ = c.WriteTo(w.Conn)
				_ = w.SetReadDeadline(time.Now().Add(patience))
				for {
					p, err := packets.ReadPacket(w.Conn)
					if err != nil {
						if errors.Is(err, os.ErrDeadlineExceeded) {
							t.Error("both remain")
						}
						ended <- w
						return
					}
					if p.Type == packets.PINGRESP {
						answered <- w
					}
				}
			}()
		}
		lost := <-ended
		left := both[0]
		if left == lost {
			left = both[1]
		}
		left.send(packets.NewControlPacket(packets.PINGREQ))
		select {
		case <-answered:
		case <-ended:
			t.Fatal("both have been thrown out")
		}
		_ = left.Conn.Close()
		<-ended
	}
}

func TestSessionEnds(t *testing.T) {
	for _, tc := range []struct {
		name    string
		connect func(*packets.Connect)
	}{
		{"clean start", func(c *packets.Connect) { c.CleanStart = true }},
		{"no session expiry", func(c *packets.Connect) { c.Properties.SessionExpiryInterval = nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBroker(t, nil)
			addr := listen(t, b)
			c := deviceConnect(t, dev)
			tc.connect(c)
			w, _ := connected(t, addr, c)
			w.subscribe(downlink + "/#")
			w.send(packets.NewControlPacket(packets.DISCONNECT))
			w.closed()
			eventually(t, "the broker notices", func() bool { return !b.Connected(dev) })
			w, ack := connected(t, addr, c)
			if ack.SessionPresent {
				t.Error("the session is still there")
			}
			w.ping()
			if err := b.Publish(devbroker.Message{Device: dev}); !errors.Is(err, devbroker.ErrNoSubscriber) {
				t.Errorf("Publish = %v", err)
			}
		})
	}
}

// A session belongs to who made it, although any client may pick its id.
func TestSessionOfOthers(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	w, _ := connected(t, addr, deviceConnect(t, dev))
	w.subscribe(downlink + "/#")
	_ = w.Close()
	w, _ = connected(t, addr, connectorConnect(dev))
	w.ping()
	if err := b.Publish(devbroker.Message{Device: dev}); !errors.Is(err, devbroker.ErrNoSubscriber) {
		t.Errorf("Publish = %v", err)
	}
}

func TestUnsubscribe(t *testing.T) {
	b := newBroker(t, nil)
	w, _ := connected(t, listen(t, b), deviceConnect(t, dev))
	w.subscribe(downlink + "/#")
	cp := packets.NewControlPacket(packets.UNSUBSCRIBE)
	u := cp.Content.(*packets.Unsubscribe)
	u.PacketID, u.Topics = 9, []string{downlink + "/#"}
	w.send(cp)
	receive[*packets.Unsuback](w)
	if err := b.Publish(devbroker.Message{Device: dev}); !errors.Is(err, devbroker.ErrNoSubscriber) {
		t.Errorf("Publish = %v", err)
	}
}

func TestDownlinkTooLarge(t *testing.T) {
	b := newBroker(t, nil)
	c := deviceConnect(t, dev)
	c.Properties.MaximumPacketSize = ptr(uint32(200))
	w, _ := connected(t, listen(t, b), c)
	w.subscribe(downlink + "/#")
	if err := b.Publish(devbroker.Message{Device: dev, Payload: make([]byte, 200)}); err != nil {
		t.Fatal(err)
	}
	down(t, b, 1, 1)
	w.expect("1", false)
	if got := b.Pending(dev); got != 1 {
		t.Errorf("%d pending", got)
	}
}
