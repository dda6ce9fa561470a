package session

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A broker that disconnects for too many messages gets one at a time, ever more
// slowly while it complains, and as many as before when it has not complained
// for long. Nothing is lost.
func TestSlowedDown(t *testing.T) {
	for _, code := range []byte{0x96, 0x97} {
		t.Run(fmt.Sprintf("0x%02X", code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				r := start(t, srv, nil)
				r.submit(dev, numbered(40)...)
				p := srv.accept(false)
				next := 0
				for round := range 4 { // pauses of 100, 200, 400, 800 ms
					p.publish(fmt.Sprint(next))
					p.disconnect(code, "")
					p.cut()
					p = srv.accept(true)
					pause := throttleMin << round
					for range 3 {
						pub := p.publish(fmt.Sprint(next))
						sent := time.Now()
						p.puback(pub.PacketID, 0)
						synctest.Wait()
						p.silent()
						next++
						again := p.publish(fmt.Sprint(next)) // in flight alone
						if d := time.Since(sent); d != pause {
							t.Errorf("round %d: the next one came after %s, want %s", round, d, pause)
						}
						p.puback(again.PacketID, 0)
						next++
						time.Sleep(pause)
					}
				}
				for next < 40 {
					p.puback(p.publish(fmt.Sprint(next)).PacketID, 0)
					next++
				}
				time.Sleep(10 * time.Minute)
				r.submit(dev, numbered(20)...)
				began := time.Now()
				for i := range 20 {
					p.publish(fmt.Sprint(i)) // all of them in flight again
				}
				if d := time.Since(began); d != 0 {
					t.Errorf("took %s when all was well again", d)
				}
			})
		})
	}
}

func TestThrottleBounds(t *testing.T) {
	var th throttle
	now := time.Now()
	if th.hold(now, nil) {
		t.Error("holds without a complaint")
	}
	for range 20 {
		th.complaint(now)
	}
	if th.pause != throttleMax {
		t.Errorf("pause %s, want %s", th.pause, throttleMax)
	}
	if !th.active(now.Add(6*throttleRelax)) || th.active(now.Add(7*throttleRelax)) {
		t.Errorf("pause %s after seven quiet minutes", th.pause)
	}
}
