package session

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func onDemand(o *Options) { o.OnDemand, o.IdleTimeout = true, 10*time.Second }

// A session on demand connects for a reading and leaves when none has come for a
// while; the next reading finds the session at the broker.
func TestOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, onDemand)
		time.Sleep(time.Hour)
		if st := r.State(); srv.dialed() != 0 || st.Up || !st.Idle || st.Trouble != "" {
			t.Fatalf("%d connections, state %+v", srv.dialed(), st)
		}
		for i := range 5 {
			r.submit(dev, fmt.Sprint(i))
			began := time.Now()
			p := srv.accept(i > 0)
			p.puback(p.publish(fmt.Sprint(i)).PacketID, 0)
			if time.Since(began) != 0 {
				t.Errorf("came after %s", time.Since(began))
			}
			time.Sleep(9 * time.Second)
			r.submit(dev, "more") // it is needed for longer
			p.puback(p.publish("more").PacketID, 0)
			time.Sleep(9 * time.Second)
			if st := r.State(); !st.Up || st.Idle {
				t.Errorf("state %+v", st)
			}
			began = time.Now()
			p.left()
			if d := time.Since(began); d != time.Second {
				t.Errorf("left after %s more", d)
			}
			synctest.Wait()
			if st := r.State(); st.Up || !st.Idle || st.Trouble != "" || !st.TokenExpires.IsZero() {
				t.Errorf("state %+v", st)
			}
			time.Sleep(time.Hour)
		}
		r.told("down")
		r.held(0)
		if r.minted() != 5 {
			t.Errorf("%d tokens, want one for each connection", r.minted())
		}
		r.Renew() // the clock was set: nothing to do without a connection
		synctest.Wait()
		if srv.dialed() != 5 {
			t.Errorf("%d connections", srv.dialed())
		}
	})
}

// A reading without PUBACK, and a downlink that is being delivered, keep the
// connection.
func TestOnDemandStaysWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, srv, p := subscribed(t, onDemand) // connects once, to subscribe
		r.submit(dev, "1")
		pub := p.publish("1")
		time.Sleep(25 * time.Second)
		p.downlink(1, false, downTo+"/valve", "open")
		p.puback(pub.PacketID, 0)
		time.Sleep(time.Hour + 3*time.Second) // not the moment at which it looks
		p.silent()
		if !r.State().Up {
			t.Fatalf("state %+v", r.State())
		}
		r.delivered("open")[0].done()
		acked(t, p, 1)
		p.left()
		time.Sleep(time.Hour)
		if srv.dialed() != 1 || !r.State().Idle {
			t.Errorf("%d connections, state %+v", srv.dialed(), r.State())
		}
		// Downlinks that waited at the broker come with the next reading.
		r.submit(dev, "2")
		p = srv.accept(true)
		p.downlink(2, false, downTo+"/valve", "shut")
		p.puback(p.publish("2").PacketID, 0)
		synctest.Wait()
		r.delivered("open", "shut")
	})
}

// A reading that comes while the session leaves is not left behind.
func TestOnDemandRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, onDemand)
		r.submit(dev, "0")
		for i := range 50 {
			p := srv.accept(i > 0)
			p.puback(p.publish(fmt.Sprint(i)).PacketID, 0)
			synctest.Wait()
			time.Sleep(10 * time.Second) // wakes at the moment the session leaves
			r.submit(dev, fmt.Sprint(i+1))
			// Either it left, and the reading comes on the next connection, or the
			// reading came first; then the connection is lost.
			<-p.in
			p.cut()
		}
	})
}

// While there is something to send and no connection can be had, the session is
// down and says so.
func TestOnDemandDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		srv.setAway(errAway)
		r := start(t, srv, onDemand)
		r.submit(dev, "1")
		time.Sleep(time.Minute)
		if st := r.State(); st.Up || st.Idle || st.Trouble == "" {
			t.Errorf("state %+v", st)
		}
		r.told("down", "down")
		srv.setAway(nil)
		p := srv.accept(false)
		p.puback(p.publish("1").PacketID, 0)
		p.left()
		synctest.Wait()
		if st := r.State(); !st.Idle || st.Trouble != "" {
			t.Errorf("state %+v", st)
		}
	})
}
