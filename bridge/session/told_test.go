package session

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"fieldbridge/bridge"
)

func valve() *packets.Publish {
	return &packets.Publish{PacketID: 7, QoS: 1, Topic: downTo + "/valve", Payload: []byte("open"), Properties: &packets.Properties{
		ContentType: "text/plain", ResponseTopic: "/answer", CorrelationData: []byte{1, 2}, MessageExpiry: ptr(uint32(30)),
	}}
}

// What was stored before the gateway started again is known by its origin when
// the broker repeats it.
func TestOrigin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, p := subscribed(t, nil)
		p.send(valve())
		synctest.Wait()
		first := r.delivered("open")[0].origin
		if first.Session != dev || first.PacketID != 7 || first.Duplicate || first.Digest == [32]byte{} {
			t.Errorf("%+v", first)
		}
		r.stop()

		srv := newServer(t)
		r = start(t, srv, subscribing)
		p = srv.accept(true)
		p.subscribed(1)
		again := valve()
		again.Duplicate = true
		again.Properties.MessageExpiry = ptr(uint32(3)) // the broker counts it down
		p.send(again)
		synctest.Wait()
		want := first
		want.Duplicate = true
		if got := r.delivered("open")[0].origin; got != want {
			t.Errorf("repeated: %+v, want %+v", got, want)
		}
	})
}

func TestOriginOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, p := subscribed(t, nil)
		p.send(valve())
		others := []struct {
			name   string
			change func(*packets.Publish)
		}{
			{"payload", func(p *packets.Publish) { p.Payload = []byte("shut") }},
			{"no payload", func(p *packets.Publish) { p.Payload = nil }},
			{"topic", func(p *packets.Publish) { p.Topic += "/2" }},
			{"content type", func(p *packets.Publish) { p.Properties.ContentType = "text/csv" }},
			{"response topic", func(p *packets.Publish) { p.Properties.ResponseTopic = "/other" }},
			{"correlation data", func(p *packets.Publish) { p.Properties.CorrelationData = []byte{1} }},
			{"a byte of the topic in the payload", func(p *packets.Publish) {
				p.Topic, p.Payload = downTo+"/valv", []byte("eopen")
			}},
			{"no properties", func(p *packets.Publish) { p.Properties = &packets.Properties{} }},
		}
		payloads := []string{"open"}
		for i, o := range others {
			pub := valve()
			pub.PacketID += uint16(i) + 1
			o.change(pub)
			payloads = append(payloads, string(pub.Payload))
			p.send(pub)
		}
		p.downlink(0, false, downTo+"/valve", "q")
		synctest.Wait()
		ds := r.delivered(append(payloads, "q")...)
		seen := map[[32]byte]string{ds[0].origin.Digest: "the first"}
		for i, o := range others {
			got := ds[i+1].origin
			if same, ok := seen[got.Digest]; ok {
				t.Errorf("%s: the digest of %s", o.name, same)
			}
			seen[got.Digest] = o.name
			if got.PacketID != 7+uint16(i)+1 || got.Session != dev {
				t.Errorf("%s: %+v", o.name, got)
			}
		}
		if o := ds[len(ds)-1].origin; o != (bridge.Origin{}) {
			t.Errorf("at QoS 0: %+v, want nothing", o)
		}
	})
}

// Acked is told once for each PUBACK, in order, and not before it.
func TestAcked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, srv, p := subscribed(t, nil)
		for i, payload := range numbered(4) {
			p.downlink(uint16(i+1), false, downTo+"/a", payload)
		}
		p.downlink(0, false, downTo+"/a", "q")
		p.downlink(5, false, "/no/downlink", "x")
		synctest.Wait()
		ds := r.delivered("0", "1", "2", "3", "q")
		ds[4].done() // has no PUBACK
		ds[1].done()
		acked(t, p)
		r.told("acked")
		ds[0].done()
		acked(t, p, 1, 2)
		r.told("acked", "acked dev-1 1", "acked dev-1 2")
		ds[0].done()
		acked(t, p)
		r.told("acked")

		p.cut()
		synctest.Wait()
		ds[2].done()
		ds[3].done()
		synctest.Wait()
		r.told("acked") // nothing can be sent
		p = srv.accept(true)
		acked(t, p)
		r.told("acked")
		p.downlink(3, true, downTo+"/a", "2")
		acked(t, p, 3)
		r.told("acked", "acked dev-1 3")
		p.downlink(4, true, downTo+"/a", "3")
		p.downlink(5, true, "/no/downlink", "x")
		acked(t, p, 4, 5)
		r.told("acked", "acked dev-1 4", "acked dev-1 5")
	})
}

// A session that the broker has lost has no PUBACKs to send.
func TestAckedNotAfterLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, srv, p := subscribed(t, nil)
		p.downlink(1, false, downTo+"/a", "1")
		synctest.Wait()
		p.cut()
		p = srv.accept(false)
		p.subscribed(1)
		synctest.Wait()
		r.delivered("1")[0].done()
		acked(t, p)
		r.told("acked")
	})
}

// recorder is a transport that keeps what is written to it.
type recorder struct {
	net.Conn
	strings.Builder
}

func (r *recorder) Write(b []byte) (int, error)      { return r.Builder.Write(b) }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

// The PUBACK has been written to the transport when Acked is told.
func TestAckedAfterWrite(t *testing.T) {
	w := newWindow(8)
	var wire recorder
	w.begin(newConn(&wire), &packets.Connack{SessionPresent: true})
	told := 0
	w.acked = func(uint16) {
		if told++; wire.String() != "\x40\x02\x00\x07" {
			t.Errorf("written: %q", wire.String())
		}
	}
	pub := valve()
	w.downlinks = func(*packets.Publish) bool { return true }
	_ = w.received(pub)
	w.delivered(pub)
	if told != 1 {
		t.Errorf("told %d times", told)
	}
}

// A PUBACK that could not be written is sent when the broker repeats the
// downlink.
func TestAckedNotWithoutWrite(t *testing.T) {
	w := newWindow(8)
	var ids []uint16
	w.acked = func(id uint16) { ids = append(ids, id) }
	w.downlinks = func(*packets.Publish) bool { return true }
	broken, end := net.Pipe()
	_ = broken.Close()
	w.begin(newConn(end), &packets.Connack{SessionPresent: true})
	pub := valve()
	_ = w.received(pub)
	w.delivered(pub)
	w.end(nil)
	if len(ids) != 0 {
		t.Fatalf("told of %d before it was written", ids)
	}
	w.begin(newConn(&recorder{}), &packets.Connack{SessionPresent: true})
	again := valve()
	again.Duplicate = true
	_ = w.received(again)
	if len(ids) != 1 || ids[0] != 7 {
		t.Errorf("told of %d, want 7 once", ids)
	}
}

// Forgotten is told whenever the broker has no session, the first time too.
func TestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, subscribing)
		p, _ := srv.next()
		synctest.Wait()
		r.told("forgotten") // not known yet
		p.connack(0, false, nil)
		synctest.Wait()
		r.told("forgotten", "forgotten dev-1") // before a downlink can come
		p.subscribed(1)
		p.cut()
		p = srv.accept(true)
		synctest.Wait()
		r.told("forgotten")
		p.cut()
		p, _ = srv.next()
		p.connack(0x88, false, nil)
		p, _ = srv.next()
		r.told("forgotten") // a refusal says nothing of the session
		p.connack(0, false, nil)
		p.subscribed(1)
		p.cut()
		p = srv.accept(false)
		p.subscribed(1)
		synctest.Wait()
		r.told("forgotten", "forgotten dev-1", "forgotten dev-1")
	})
}

// Down is told when the connection is lost, or cannot be had for another reason,
// and not each time it fails.
func TestDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		srv.setAway(errAway)
		r := start(t, srv, renewIn(time.Hour))
		time.Sleep(time.Hour)
		r.told("down", "down")
		srv.setAway(nil)
		p := srv.accept(false)
		synctest.Wait()
		r.told("down")
		for range 5 {
			time.Sleep(55 * time.Minute)
			p.left() // to renew the credentials
			p = srv.accept(true)
		}
		synctest.Wait()
		r.told("down")
		for range 3 {
			p.cut()
			synctest.Wait()
			r.told("down", "down")
			p = srv.accept(true)
			synctest.Wait()
			r.told("down")
		}
		p.cut()
		synctest.Wait()
		srv.setAway(errors.New("no route to host"))
		time.Sleep(time.Hour)
		r.told("down", "down", "down") // for two reasons
		r.stop()
		r.told("down", "down")
	})
}

// A session that is stopped while it is up says so when nothing is in flight any
// more, so that what came back can be stored.
func TestDownAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, nil)
		r.submit(dev, "1")
		srv.accept(false).publish("1")
		r.stop()
		r.told("down", "down")
		if lost := r.queues[dev].losses(); len(lost) != 1 {
			t.Errorf("lost %q", lost)
		}
	})
}

// deafened is a transport whose writes fail from some moment on.
type deafened struct {
	net.Conn
	broken *atomic.Bool
}

func (c deafened) Write(b []byte) (int, error) {
	if c.broken.Load() {
		return 0, errors.New("broken pipe")
	}
	return c.Conn.Write(b)
}

// The same as TestAckedNotWithoutWrite, through a connection.
func TestAckedNotWhenBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		srv := newServer(t)
		ep, err := NewEndpoint(EndpointOptions{Address: "broker.example:1883", Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := srv.dial(ctx, network, address)
			return deafened{c, &broken}, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		r := start(t, srv, func(o *Options) { subscribing(o); o.Endpoint = ep })
		p := srv.accept(false)
		p.subscribed(1)
		p.downlink(1, false, downTo+"/a", "1")
		synctest.Wait()
		broken.Store(true)
		r.delivered("1")[0].done()
		broken.Store(false)
		p = srv.accept(true)
		synctest.Wait()
		r.told("acked")
		p.downlink(1, true, downTo+"/a", "1")
		acked(t, p, 1)
		r.told("acked", "acked dev-1 1")
		r.delivered("1")
	})
}
