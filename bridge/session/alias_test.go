package session

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"fieldbridge/bridge"
)

func aliasing(o *Options) { o.TopicAlias = true }

// allow accepts the next connection with a Topic Alias Maximum.
func allow(srv *server, present bool, aliases uint16) *peer {
	p, _ := srv.next()
	p.connack(0, present, &packets.Properties{TopicAliasMaximum: &aliases})
	return p
}

// on receives a PUBLISH and checks its topic and alias, 0 for none.
func on(t *testing.T, p *peer, payload, topic string, alias uint16) *packets.Publish {
	t.Helper()
	pub := p.publish(payload)
	got := uint16(0)
	if a := pub.Properties.TopicAlias; a != nil {
		got = *a
	}
	if pub.Topic != topic || got != alias {
		t.Errorf("%s: topic %q, alias %d; want %q, %d", payload, pub.Topic, got, topic, alias)
	}
	return pub
}

// A topic is left out once the broker has acknowledged its alias, and neither on
// the next connection nor in a packet that is sent again.
func TestTopicAlias(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, aliasing)
		p := allow(srv, false, 2)
		r.submit(dev, "1", "2")
		first := on(t, p, "1", upTo, 1)
		second := on(t, p, "2", upTo, 0)
		p.puback(second.PacketID, 0)
		synctest.Wait()
		r.submit(dev, "3") // the first, which gives the alias, may be refused still
		p.puback(on(t, p, "3", upTo, 0).PacketID, 0)
		p.puback(first.PacketID, 0)
		synctest.Wait()
		r.submit(dev, "4")
		p.puback(on(t, p, "4", "", 1).PacketID, 0)
		r.submit("dev-2", "5")
		p.puback(on(t, p, "5", "/up/device/id/dev-2", 2).PacketID, 0)
		synctest.Wait()
		r.submit("dev-3", "6") // there is no third alias
		p.puback(on(t, p, "6", "/up/device/id/dev-3", 0).PacketID, 0)
		r.submit("dev-2", "7")
		on(t, p, "7", "", 2)
		p.cut()

		p = allow(srv, true, 2)
		if again := on(t, p, "7", "/up/device/id/dev-2", 0); !again.Duplicate {
			t.Error("repeated without DUP")
		} else {
			p.puback(again.PacketID, 0)
		}
		r.submit("dev-2", "8")
		p.puback(on(t, p, "8", "/up/device/id/dev-2", 1).PacketID, 0)
		synctest.Wait()
		r.held(0)
	})
}

// A publish that is refused may not have told the broker its alias.
func TestTopicAliasRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, aliasing)
		p := allow(srv, false, 10)
		r.submit(dev, "1")
		p.puback(on(t, p, "1", upTo, 1).PacketID, 0x90)
		for i := range 3 {
			synctest.Wait()
			r.submit(dev, fmt.Sprint(i))
			p.puback(on(t, p, fmt.Sprint(i), upTo, 0).PacketID, 0)
		}
	})
}

// A broker that objects to an alias gets none any more.
func TestTopicAliasInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, aliasing)
		p := allow(srv, false, 10)
		r.submit(dev, "1")
		on(t, p, "1", upTo, 1)
		p.disconnect(0x94, "")
		p = allow(srv, true, 10)
		p.puback(on(t, p, "1", upTo, 0).PacketID, 0)
		r.submit(dev, "2")
		on(t, p, "2", upTo, 0)
	})
}

func TestNoTopicAlias(t *testing.T) {
	for name, tt := range map[string]struct {
		off     bool
		allowed uint16
		uplink  string
		size    uint32
	}{
		"off":         {true, 10, "/up/device/id/{device}", 1000},
		"not allowed": {false, 0, "/up/device/id/{device}", 1000},
		"short topic": {false, 10, "u/{device}", 1000},
		"no room":     {false, 10, "/up/device/id/{device}", 44},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				r := start(t, srv, func(o *Options) { o.TopicAlias, o.Topics.Uplink = !tt.off, tt.uplink })
				p, _ := srv.next()
				p.connack(0, false, &packets.Properties{TopicAliasMaximum: &tt.allowed, MaximumPacketSize: &tt.size})
				topic := Topics{Uplink: tt.uplink}.uplink(&bridge.Reading{Device: dev})
				for _, s := range []string{"1", "2", "3"} {
					r.submit(dev, s)
					p.puback(on(t, p, s, topic, 0).PacketID, 0)
					synctest.Wait()
				}
			})
		})
	}
}

// With aliases as without, everything arrives in order.
func TestTopicAliasKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, func(o *Options) { o.TopicAlias, o.ReceiveMaximum = true, 4 })
		r.submit(dev, numbered(100)...)
		next := 0
		for next < 100 {
			p := allow(srv, true, 1)
			known := ""
			for range 17 {
				pub := receive[*packets.Publish](p)
				if pub.Topic != "" {
					known = pub.Topic
				}
				if known != upTo || string(pub.Payload) != fmt.Sprint(next) {
					t.Fatalf("%q on %q, want %d", pub.Payload, known, next)
				}
				p.puback(pub.PacketID, 0)
				if next++; next == 100 {
					break
				}
			}
			synctest.Wait() // what is in flight is repeated
			for len(p.in) > 0 {
				p.puback(receive[*packets.Publish](p).PacketID, 0)
				next++
				synctest.Wait()
			}
			p.cut()
			time.Sleep(time.Millisecond)
		}
		r.held(0)
	})
}
