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

func TestSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, subscribing)
		p := srv.accept(false)
		sub := receive[*packets.Subscribe](p)
		if len(sub.Subscriptions) != 1 {
			t.Fatalf("%v", sub)
		}
		if s := sub.Subscriptions[0]; s.Topic != downTo+"/#" || s.QoS != 1 || s.RetainHandling != 1 || s.NoLocal || s.RetainAsPublished {
			t.Errorf("%+v", s)
		}
		r.submit(dev, "1")
		synctest.Wait()
		p.silent() // up once subscribed
		p.send(&packets.Suback{PacketID: sub.PacketID, Reasons: []byte{1}, Properties: &packets.Properties{}})
		p.puback(p.publish("1").PacketID, 0)
		p.cut()
		p = srv.accept(true) // the session has the subscription
		time.Sleep(time.Hour)
		p.silent()
		p.cut()
		p = srv.accept(false)
		p.subscribed(1)
	})
}

// Readings go up although downlinks are refused; that is said once a session.
func TestSubscribeRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, func(o *Options) {
			o.Subscribe = []bridge.DeviceID{dev, "dev-2", "dev-3"}
			o.Secrets = []bridge.Secret{bridge.NewSecret(secret)}
		})
		p := srv.accept(false)
		sub := receive[*packets.Subscribe](p)
		p.send(&packets.Suback{PacketID: sub.PacketID, Reasons: []byte{1, 0x87, 1}, Properties: &packets.Properties{ReasonString: "/down/" + secret}})
		r.submit(dev, "1")
		p.puback(p.publish("1").PacketID, 0)
		synctest.Wait()
		if n := len(r.log.lines("level=ERROR", "no downlinks", "device=dev-2", "SUBACK 0x87", "not authorized")); n != 1 || len(r.log.lines("level=ERROR")) != 1 {
			t.Errorf("log:\n%s", r.log)
		}
		checkSecrets(t, r)
		p.cut()
		p = srv.accept(true)
		p.subscribed(1) // asked again
		r.submit(dev, "2")
		p.publish("2")
	})
}

func TestNoWildcards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, subscribing)
		p, _ := srv.next()
		p.connack(0, false, &packets.Properties{WildcardSubAvailable: ptr(byte(0))})
		r.submit(dev, "1")
		p.publish("1")
		if n := len(r.log.lines("level=ERROR", "wildcards")); n != 1 {
			t.Errorf("log:\n%s", r.log)
		}
	})
}

func TestManyFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		want := map[string]bool{}
		start(t, srv, func(o *Options) {
			for i := range 120 {
				id := bridge.DeviceID(fmt.Sprintf("d%d", i))
				o.Subscribe = append(o.Subscribe, id)
				want["/down/device/id/"+string(id)+"/#"] = true
			}
		})
		p := srv.accept(false)
		for len(want) > 0 {
			sub := p.subscribed(1)
			if n := len(sub.Subscriptions); n > filtersPerSubscribe {
				t.Errorf("%d filters in one SUBSCRIBE", n)
			}
			for _, s := range sub.Subscriptions {
				if !want[s.Topic] {
					t.Errorf("%s twice or not at all", s.Topic)
				}
				delete(want, s.Topic)
			}
		}
		synctest.Wait()
		p.silent()
	})
}

func TestNoSuback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, subscribing)
		p := srv.accept(false)
		receive[*packets.Subscribe](p)
		p.left()
		synctest.Wait()
		if s := r.Trouble(); !strings.Contains(s, "subscribe: no answer") {
			t.Errorf("trouble %q", s)
		}
		p = srv.accept(true)
		p.subscribed(1)
		r.submit(dev, "1")
		p.publish("1")
	})
}
