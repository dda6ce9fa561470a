package session

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"fieldbridge/bridge"
)

// A session that takes over unsubscribes what it does not want, once.
func TestReplace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		old := newRig(t, srv, func(o *Options) { o.Subscribe = []bridge.DeviceID{dev, "dev-2", "dev-3"} })
		between := newRig(t, srv, func(o *Options) { o.Subscribe = []bridge.DeviceID{dev, "dev-2"} })
		between.Replace(old.Session)
		r := newRig(t, srv, func(o *Options) { o.Subscribe = []bridge.DeviceID{"dev-2"} })
		r.Replace(between.Session)
		r.run()
		p := srv.accept(true)
		p.subscribed(1)
		un := receive[*packets.Unsubscribe](p)
		if want := []string{downTo + "/#", "/down/device/id/dev-3/#"}; !slices.Equal(un.Topics, want) {
			t.Errorf("unsubscribed %q, want %q", un.Topics, want)
		}
		p.send(&packets.Unsuback{PacketID: un.PacketID, Reasons: []byte{0, 0x11}, Properties: &packets.Properties{}})
		r.submit(dev, "1")
		p.puback(p.publish("1").PacketID, 0)
		p.cut()
		p = srv.accept(true)
		time.Sleep(time.Hour)
		p.silent()
	})
}

// An unsubscription without an answer is tried again.
func TestReplaceOverALostConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		old := newRig(t, srv, subscribing)
		r := newRig(t, srv, nil)
		r.Replace(old.Session)
		r.run()
		p := srv.accept(true)
		receive[*packets.Unsubscribe](p)
		p.cut()
		p = srv.accept(true)
		un := receive[*packets.Unsubscribe](p)
		p.send(&packets.Unsuback{PacketID: un.PacketID, Reasons: []byte{0}, Properties: &packets.Properties{}})
		r.submit(dev, "1")
		p.puback(p.publish("1").PacketID, 0)
	})
}

// The broker keeps a session, unless it is abandoned.
func TestAbandon(t *testing.T) {
	for _, abandon := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			srv := newServer(t)
			r := start(t, srv, nil)
			p := srv.accept(false)
			synctest.Wait()
			if abandon {
				r.Abandon()
			}
			go r.cancel()
			d := receive[*packets.Disconnect](p)
			if expiry := d.Properties.SessionExpiryInterval; (expiry != nil && *expiry == 0) != abandon {
				t.Errorf("abandoned %v: expiry %v", abandon, expiry)
			}
		})
	}
}
