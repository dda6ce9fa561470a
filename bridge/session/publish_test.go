package session

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/google/uuid"

	"fieldbridge/bridge"
)

func TestPublishPacket(t *testing.T) {
	at := time.Date(2024, 5, 6, 7, 8, 9, 10, time.FixedZone("", 7200))
	for _, tt := range []struct {
		name, template   string
		device           bridge.DeviceID
		sub, contentType string
		payload          []byte
		user             bool
		topic            string
		payloadIndicated bool
	}{
		{"device", "/up/device/id/{device}", dev, "", "application/json", []byte(`{"t":1}`), false, "/up/device/id/dev-1", true},
		{"sub topic", "/up/device/id/{device}", dev, "alerts/critical", "text/plain; charset=utf-8", []byte("ü"), true, "/up/device/id/dev-1/alerts/critical", true},
		{"secret", "/up/s3cr3t/id/{device}", "dev-2", "a", "text/csv", []byte("1;2"), true, "/up/s3cr3t/id/dev-2/a", true},
		{"binary", "/up/device/id/{device}", dev, "", "application/octet-stream", []byte("plain"), false, "/up/device/id/dev-1", false},
		{"text that is none", "/up/device/id/{device}", dev, "", "application/xml", []byte{0xff, 0}, false, "/up/device/id/dev-1", false},
		{"empty", "/up/device/id/{device}", dev, "", "text/plain", nil, false, "/up/device/id/dev-1", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				r := start(t, srv, func(o *Options) {
					o.Topics.Uplink, o.UserProperties, o.Gateway = tt.template, tt.user, "gw-1"
				})
				id := uuid.Must(uuid.NewV7())
				rd := bridge.Reading{ID: id, Device: tt.device, Subtopic: bridge.Subtopic(tt.sub), ContentType: tt.contentType, Payload: tt.payload, Time: at}
				r.queues[tt.device].submit(rd)
				p := srv.accept(false)
				pub := receive[*packets.Publish](p)
				if pub.Topic != tt.topic || pub.QoS != 1 || pub.Duplicate || pub.Retain || pub.PacketID == 0 || !bytes.Equal(pub.Payload, tt.payload) {
					t.Errorf("%v", pub)
				}
				x := pub.Properties
				if x.ContentType != tt.contentType || (x.PayloadFormat != nil && *x.PayloadFormat == 1) != tt.payloadIndicated || x.TopicAlias != nil {
					t.Errorf("properties %v", x)
				}
				want := ""
				if tt.user {
					want = fmt.Sprint([]packets.User{{Key: "id", Value: id.String()}, {Key: "time", Value: "2024-05-06T05:08:09.00000001Z"}, {Key: "gateway", Value: "gw-1"}})
				}
				if got := fmt.Sprint(x.User); got != want && tt.user || !tt.user && len(x.User) > 0 {
					t.Errorf("user properties %v, want %v", got, want)
				}
				p.puback(pub.PacketID, 0)
				synctest.Wait()
				r.held(0)
			})
		})
	}
}

// A server that withholds PUBACKs gets no more than both sides allow; PUBACKs in
// any order make room; each device's order holds.
func TestWindow(t *testing.T) {
	for _, tt := range []struct {
		server *uint16
		own    uint16
		want   int
	}{
		{nil, 0, 32},
		{nil, 5, 5},
		{ptr(uint16(3)), 0, 3},
		{ptr(uint16(1)), 20, 1},
		{ptr(uint16(65535)), 20, 20},
		{nil, 65535, 60},
	} {
		t.Run(fmt.Sprintf("%d", tt.want), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				r := start(t, srv, func(o *Options) { o.ReceiveMaximum = tt.own })
				r.submit(dev, numbered(30)...)
				r.submit("dev-2", numbered(30)...)
				p, _ := srv.next()
				p.connack(0, false, &packets.Properties{ReceiveMaximum: tt.server})
				flying := map[uint16]bool{}
				next := map[string]int{}
				for sent := 0; sent < 60; {
					synctest.Wait()
					for len(p.in) > 0 {
						pub := receive[*packets.Publish](p)
						if got := fmt.Sprint(next[pub.Topic]); got != string(pub.Payload) {
							t.Fatalf("%s: %s came, want %s", pub.Topic, pub.Payload, got)
						}
						if flying[pub.PacketID] {
							t.Fatalf("packet id %d twice", pub.PacketID)
						}
						flying[pub.PacketID] = true
						next[pub.Topic]++
						sent++
					}
					if want := min(tt.want, 60-sent+len(flying)); len(flying) != want {
						t.Fatalf("%d in flight, want %d", len(flying), want)
					}
					for id := range flying { // in no order
						delete(flying, id)
						p.puback(id, 0)
						if rand.IntN(3) == 0 {
							break
						}
					}
				}
				for id := range flying {
					p.puback(id, 0)
				}
				synctest.Wait()
				r.held(0)
			})
		})
	}
}

func TestBusyDeviceHoldsUpNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, func(o *Options) { o.ReceiveMaximum = 1 })
		r.submit(dev, numbered(100)...)
		p := srv.accept(false)
		pub := p.publish("0")
		r.submit("dev-2", "x", "y")
		r.submit("dev-3", "z")
		for _, want := range []string{"1", "x", "z", "2", "y", "3"} {
			p.puback(pub.PacketID, 0)
			pub = p.publish(want)
		}
	})
}

// What becomes of a reading, by reason code: how often it is sent, and whether
// on a new connection with fresh credentials.
func TestPubackCodes(t *testing.T) {
	for _, tt := range []struct {
		code      byte
		sent      int // 0: until it succeeds
		reconnect bool
		acked     bool
	}{
		{0x00, 1, false, true},
		{0x10, 1, false, true},
		{0x80, triesUnspecified, false, false},
		{0x83, triesUnspecified, false, false},
		{0x87, triesNotAuthorized, true, false},
		{0x90, 1, false, false},
		{0x91, triesPacketID, true, false},
		{0x96, 0, false, false},
		{0x97, 0, false, false},
		{0x99, 1, false, false},
		{0xFE, 1, false, false},
	} {
		t.Run(fmt.Sprintf("0x%02X", tt.code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				r := start(t, srv, func(o *Options) {
					expiring(o)
					o.Secrets = []bridge.Secret{bridge.NewSecret(secret)}
				})
				r.submit(dev, "1")
				p := srv.accept(false)
				seen := map[uint16]bool{}
				tries := tt.sent
				if tries == 0 {
					tries = 12
				}
				for try := 1; try <= tries; try++ {
					pub := p.publish("1")
					if pub.Duplicate || !tt.reconnect && seen[pub.PacketID] {
						t.Fatalf("try %d: DUP %t, packet id %d; want a new publish", try, pub.Duplicate, pub.PacketID)
					}
					seen[pub.PacketID] = true
					p.send(&packets.Puback{PacketID: pub.PacketID, ReasonCode: tt.code, Properties: &packets.Properties{ReasonString: "topic /up/" + secret}})
					if tt.reconnect {
						p.left()
						p = srv.accept(true)
					}
				}
				if tt.sent == 0 {
					pub := p.publish("1")
					p.puback(pub.PacketID, 0)
				}
				time.Sleep(time.Hour)
				p.silent()
				r.held(0)
				want := 0
				if tt.sent > 0 && !tt.acked {
					want = 1
				}
				refused := r.queues[dev].refusals()
				if len(refused) != want {
					t.Errorf("refused: %+v, want %d", refused, want)
				}
				for _, o := range refused {
					if o.Code != tt.code || !strings.Contains(o.Reason, CodeName(tt.code)) {
						t.Errorf("refused: %+v", o)
					}
				}
				if n := len(srv.conns); n > 0 {
					t.Errorf("%d more connections", n)
				}
				if want := 1; tt.reconnect {
					if want += tries; r.minted() != want {
						t.Errorf("credentials minted %d times, want %d", r.minted(), want)
					}
				}
				checkSecrets(t, r)
			})
		})
	}
}

// Credentials that last for ever are not the reason why a publish is not
// authorized: the connection, which other devices may share, is kept.
func TestNotAuthorizedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, nil)
		r.submit("dev-2", "x")
		p := srv.accept(false)
		for range triesNotAuthorized {
			p.puback(p.publish("x").PacketID, 0x87)
			synctest.Wait()
			r.submit(dev, "1")
			p.puback(p.publish("1").PacketID, 0)
		}
		time.Sleep(time.Hour)
		p.silent()
		if n := srv.dialed(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
		if o := r.queues["dev-2"].refusals(); len(o) != 1 || o[0].Code != 0x87 {
			t.Errorf("refused: %+v", o)
		}
		r.held(0)
		r.told("down")
	})
}

// The sender of a reading learns the code and the broker's words.
func TestPubackOutcome(t *testing.T) {
	o, reconnect := puback(0x99, "no such format")
	if o.Kind != bridge.Refused || o.Code != 0x99 || o.Reason != "payload format invalid: no such format" || reconnect {
		t.Errorf("%+v, reconnect %t", o, reconnect)
	}
	if o, _ := puback(0x10, ""); o.Kind != bridge.Acked || o.Reason != "no matching subscribers" {
		t.Errorf("%+v", o)
	}
}

// A reading that was sent twice as 0x87 or 0x91 asked for does not keep the
// others from being repeated in order.
func TestReconnectKeepsTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, expiring)
		r.submit(dev, "1", "2", "3")
		r.submit("dev-2", "x")
		p := srv.accept(false)
		first := p.publish("1")
		x := p.publish("x")
		two, three := p.publish("2"), p.publish("3")
		p.puback(x.PacketID, 0x87)
		p.left()
		p = srv.accept(true)
		for _, want := range []*packets.Publish{first, two, three} {
			if got := p.publish(string(want.Payload)); !got.Duplicate || got.PacketID != want.PacketID {
				t.Errorf("%v, want DUP and packet id %d", got, want.PacketID)
			}
			p.puback(want.PacketID, 0)
		}
		again := p.publish("x")
		if again.Duplicate {
			t.Error("a new attempt has DUP")
		}
		p.puback(again.PacketID, 0)
		synctest.Wait()
		r.held(0)
	})
}

// The size limit is that of the whole packet, to the byte. What is too large
// costs its sender an answer and nobody the connection.
func TestMaximumPacketSize(t *testing.T) {
	for _, limit := range []int{100, 127, 128, 129, 130, 131, 200, 16386, 16387, 16388} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				r := start(t, srv, func(o *Options) { o.UserProperties = false })
				p, _ := srv.next()
				p.connack(0, false, &packets.Properties{MaximumPacketSize: ptr(uint32(limit))})
				largest := 0
				for n := max(0, limit-60); n <= limit; n++ {
					o := send(r, p, strings.Repeat("x", n))
					if o.Kind == bridge.Acked {
						largest = n
						continue
					}
					if o.Kind != bridge.Refused || o.Code != 0x95 || largest == 0 {
						t.Fatalf("%d bytes: %+v", n, o)
					}
				}
				pub := (&packets.Publish{PacketID: 1, QoS: 1, Topic: upTo, Payload: make([]byte, largest),
					Properties: &packets.Properties{ContentType: "text/plain", PayloadFormat: ptr(byte(1))}})
				var wire bytes.Buffer
				_, _ = pub.WriteTo(&wire)
				if size := wire.Len(); size != limit && size != limit-1 { // a length byte more may take one
					t.Errorf("the largest packet has %d bytes, allowed are %d", size, limit)
				}
				if !r.State().Up || srv.dialed() != 1 {
					t.Errorf("up: %t, %d connections", r.State().Up, srv.dialed())
				}
			})
		})
	}
}

// send sends a reading and acknowledges it, should it come.
func send(r *rig, p *peer, payload string) bridge.Outcome {
	done := r.queues[dev].submit(bridge.Reading{Device: dev, ContentType: "text/plain", Payload: []byte(payload)})
	synctest.Wait()
	if len(p.in) > 0 {
		p.puback(p.publish(payload).PacketID, 0)
	}
	return <-done
}
