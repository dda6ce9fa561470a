package session

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"fieldbridge/bridge"
)

const downTo = "/down/device/id/dev-1"

func subscribing(o *Options) { o.Subscribe = []bridge.DeviceID{dev} }

// subscribed starts a session whose subscription is granted.
func subscribed(t *testing.T, change func(*Options)) (*rig, *server, *peer) {
	t.Helper()
	srv := newServer(t)
	r := start(t, srv, func(o *Options) {
		subscribing(o)
		if change != nil {
			change(o)
		}
	})
	p := srv.accept(false)
	p.subscribed(1)
	synctest.Wait()
	return r, srv, p
}

// acked checks which PUBACKs have come, in order.
func acked(t *testing.T, p *peer, ids ...uint16) {
	t.Helper()
	synctest.Wait()
	for _, id := range ids {
		if len(p.in) == 0 {
			t.Fatalf("no PUBACK for %d", id)
		}
		if pa := receive[*packets.Puback](p); pa.PacketID != id || pa.ReasonCode != 0 {
			t.Fatalf("PUBACK for %d with 0x%02X, want %d", pa.PacketID, pa.ReasonCode, id)
		}
	}
	p.silent()
}

func TestDownlinkFields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, p := subscribed(t, nil)
		p.send(&packets.Publish{PacketID: 9, QoS: 1, Topic: downTo + "/valve/1", Payload: []byte("open"), Properties: &packets.Properties{
			ContentType: "text/plain", ResponseTopic: "/answer", CorrelationData: []byte{1, 2}, MessageExpiry: ptr(uint32(30)),
		}})
		p.downlink(10, false, downTo, "bare")
		p.send(&packets.Publish{PacketID: 11, QoS: 1, Retain: true, Topic: downTo + "/kept", Payload: []byte("kept"), Properties: &packets.Properties{}})
		synctest.Wait()
		ds := r.delivered("open", "bare", "kept")
		d := ds[0]
		if d.Device != dev || d.Subtopic != "valve/1" || d.ContentType != "text/plain" || d.ResponseTopic != "/answer" ||
			string(d.CorrelationData) != "\x01\x02" || d.Received != time.Now() || d.Expires != time.Now().Add(30*time.Second) {
			t.Errorf("%+v", d)
		}
		if b := ds[1]; b.Subtopic != "" || !b.Expires.IsZero() || b.ID == d.ID || b.ID == "" {
			t.Errorf("%+v", b)
		}
		acked(t, p)
		for _, d := range ds {
			d.done()
		}
		acked(t, p, 9, 10, 11)
	})
}

// PUBACKs go out in the order of arrival, whatever the order of delivery
// (MQTT v5 section 4.6), and not before.
func TestDownlinksAckedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, p := subscribed(t, nil)
		for i := range 5 {
			p.downlink(uint16(i+1), false, downTo+"/a", fmt.Sprint(i))
		}
		synctest.Wait()
		ds := r.delivered("0", "1", "2", "3", "4")
		ds[2].done()
		acked(t, p)
		ds[1].done()
		acked(t, p)
		ds[0].done()
		acked(t, p, 1, 2, 3)
		ds[4].done()
		ds[4].done() // twice does no harm
		acked(t, p)
		ds[3].done()
		acked(t, p, 4, 5)
	})
}

// What is being delivered when the connection ends comes again: it is not
// delivered twice, and is acknowledged then.
func TestDownlinkRedelivered(t *testing.T) {
	for _, when := range []string{"before", "while away", "after"} {
		t.Run("done "+when, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, srv, p := subscribed(t, nil)
				p.downlink(1, false, downTo+"/a", "1")
				p.downlink(2, false, downTo+"/a", "2")
				synctest.Wait()
				ds := r.delivered("1", "2")
				if when == "before" {
					ds[1].done() // behind one that is not: no PUBACK yet
				}
				acked(t, p)
				p.cut()
				synctest.Wait()
				if when == "while away" {
					ds[0].done()
					ds[1].done()
				}
				p = srv.accept(true)
				acked(t, p) // not before they have come on this connection
				p.downlink(1, true, downTo+"/a", "1")
				p.downlink(2, true, downTo+"/a", "2")
				p.downlink(3, false, downTo+"/a", "3")
				synctest.Wait()
				ds = r.delivered("1", "2", "3")
				switch when {
				case "before":
					acked(t, p)
					ds[0].done()
				case "after":
					acked(t, p)
					ds[1].done()
					acked(t, p)
					ds[0].done()
				}
				acked(t, p, 1, 2)
				ds[2].done()
				acked(t, p, 3)
			})
		})
	}
}

// Three connections, and a redelivery that itself is interrupted.
func TestDownlinkRedeliveredInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, srv, p := subscribed(t, nil)
		for i := range 4 {
			p.downlink(uint16(i+1), false, downTo+"/a", fmt.Sprint(i))
		}
		synctest.Wait()
		ds := r.delivered("0", "1", "2", "3")
		p.cut()
		p = srv.accept(true)
		p.downlink(1, true, downTo+"/a", "0")
		p.downlink(2, true, downTo+"/a", "1")
		synctest.Wait()
		for _, d := range ds {
			d.done()
		}
		acked(t, p, 1, 2) // 3 and 4 have not come on this connection yet
		p.cut()
		p = srv.accept(true)
		p.downlink(3, true, downTo+"/a", "2")
		p.downlink(4, true, downTo+"/a", "3")
		acked(t, p, 3, 4)
		r.delivered("0", "1", "2", "3")
	})
}

// A server that passes over a downlink has its PUBACK or gave it up; its packet
// id may be used for another.
func TestDownlinkPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, srv, p := subscribed(t, nil)
		p.downlink(1, false, downTo+"/a", "old 1")
		p.downlink(2, false, downTo+"/a", "old 2")
		synctest.Wait()
		old := r.delivered("old 1", "old 2")
		p.cut()
		p = srv.accept(true)
		p.downlink(2, true, downTo+"/a", "old 2")
		p.downlink(1, false, downTo+"/a", "new 1")
		synctest.Wait()
		all := r.delivered("old 1", "old 2", "new 1")
		all[2].done()
		old[0].done() // belongs to nothing any more
		acked(t, p)
		old[1].done()
		acked(t, p, 2, 1)
	})
}

// Without DUP it is another downlink, whatever its packet id.
func TestDownlinkIDUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, srv, p := subscribed(t, nil)
		p.downlink(1, false, downTo+"/a", "old")
		synctest.Wait()
		old := r.delivered("old")
		p.cut()
		p = srv.accept(true)
		p.downlink(1, false, downTo+"/a", "new")
		synctest.Wait()
		old[0].done()
		acked(t, p)
		r.delivered("old", "new")[1].done()
		acked(t, p, 1)
	})
}

func TestServerLostTheDownlinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, srv, p := subscribed(t, nil)
		p.downlink(1, false, downTo+"/a", "old")
		synctest.Wait()
		old := r.delivered("old")
		p.cut()
		p = srv.accept(false)
		p.subscribed(1)
		p.downlink(1, false, downTo+"/a", "new")
		synctest.Wait()
		old[0].done()
		acked(t, p)
		r.delivered("old", "new")[1].done()
		acked(t, p, 1)
	})
}

// A message that is no downlink must be acknowledged all the same, and must not
// hold up those behind it.
func TestNoDownlink(t *testing.T) {
	for _, topic := range []string{"/down/device/id", "/other/device/id/dev-1/a", "dev-1", "/down/s3cr3t-level/id/dev-1/a", "/down/device/id/$x/a", "/"} {
		t.Run(topic, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, _, p := subscribed(t, nil)
				p.downlink(1, false, topic, "x")
				acked(t, p, 1)
				p.downlink(0, false, topic, "y")
				p.downlink(2, false, downTo+"/a", "z")
				synctest.Wait()
				r.delivered("z")
				if n := len(r.log.lines("level=WARN", "is no downlink")); n != 2 {
					t.Errorf("log:\n%s", r.log)
				}
				if strings.Contains(r.log.String(), "s3cr3t") || strings.Contains(r.log.String(), "/down/") {
					t.Errorf("the topic is logged:\n%s", r.log)
				}
			})
		})
	}
}

// At QoS 0 the broker is bound by nothing, so the session bounds what waits.
func TestDownlinkQoS0(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, p := subscribed(t, func(o *Options) { o.ReceiveMaximum = 3 })
		for i := range 5 {
			p.downlink(0, false, downTo+"/a", fmt.Sprint(i))
		}
		synctest.Wait()
		ds := r.delivered("0", "1", "2")
		if n := len(r.log.lines("QoS 0 dropped")); n != 2 {
			t.Errorf("log:\n%s", r.log)
		}
		ds[0].done()
		p.downlink(0, false, downTo+"/a", "5")
		synctest.Wait()
		r.delivered("0", "1", "2", "5")
		acked(t, p)
	})
}

// Downlinks that cannot be delivered do not keep readings from being
// acknowledged.
func TestDownlinksDoNotBlockUplinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, p := subscribed(t, func(o *Options) { o.ReceiveMaximum = 4 })
		for i := range 4 {
			p.downlink(uint16(i+1), false, downTo+"/a", fmt.Sprint(i))
			p.downlink(0, false, downTo+"/a", "q")
		}
		for i := range 50 {
			r.submit(dev, fmt.Sprint(i))
			p.puback(p.publish(fmt.Sprint(i)).PacketID, 0)
		}
		synctest.Wait()
		r.held(0)
	})
}
