package session

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// TestPoison has a broker that disconnects whenever it gets one certain reading:
// that one is refused after bounded tries, all others arrive in order, and the
// broker sees no more connections than that takes. It is the same whether the
// broker keeps the session or not.
func TestPoison(t *testing.T) {
	for _, code := range []byte{0x81, 0x82, 0x95} {
		for _, present := range []bool{true, false} {
			t.Run(fmt.Sprintf("0x%02X, session present %t", code, present), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := newServer(t)
					r := start(t, srv, func(o *Options) { o.ReceiveMaximum = 8 })
					p := srv.accept(false)
					synctest.Wait()
					for i := range 20 {
						r.submit(dev, fmt.Sprint(i))
					}
					const poison = "5"
					got := map[string]bool{}
					var order []string
					connections := 1
					for over := time.Now().Add(2 * time.Hour); len(got) < 19 && time.Now().Before(over); {
						synctest.Wait()
						select {
						case c, ok := <-p.in:
							if !ok {
								p = srv.accept(present)
								connections++
								continue
							}
							pub, isPublish := c.(*packets.Publish)
							if !isPublish {
								continue
							}
							if string(pub.Payload) == poison {
								p.disconnect(code, "")
								p = srv.accept(present)
								connections++
								continue
							}
							if !got[string(pub.Payload)] {
								got[string(pub.Payload)] = true
								order = append(order, string(pub.Payload))
							}
							p.puback(pub.PacketID, 0)
						default:
							time.Sleep(time.Second)
						}
					}
					want := []string{}
					for i := range 20 {
						if fmt.Sprint(i) != poison {
							want = append(want, fmt.Sprint(i))
						}
					}
					if fmt.Sprint(order) != fmt.Sprint(want) {
						t.Errorf("arrived: %v", order)
					}
					if connections > 1+1+strikesAllowed {
						t.Errorf("%d connections", connections)
					}
					synctest.Wait()
					r.held(0)
					if n := r.window.inFlight(); n != 0 {
						t.Errorf("%d in flight", n)
					}
				})
			})
		}
	}
}

func TestBlamesPublish(t *testing.T) {
	for code := range 256 {
		want := slices.Contains([]int{0x81, 0x82, 0x90, 0x95, 0x99}, code)
		if blamesPublish(byte(code)) != want {
			t.Errorf("0x%02X", code)
		}
	}
}
