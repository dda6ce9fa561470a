package session

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"fieldbridge/bridge"
)

// With the session present, what is in flight is sent again as it was: DUP, the
// same packet ids, the original order, before anything new (MQTT v5 section 4.4).
func TestSessionPresent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, func(o *Options) { o.ReceiveMaximum = 6 })
		r.submit(dev, numbered(10)...)
		p := srv.accept(false)
		var pubs []*packets.Publish
		for i := range 6 {
			pubs = append(pubs, p.publish(fmt.Sprint(i)))
		}
		p.puback(pubs[1].PacketID, 0)
		p.publish("6")
		p.puback(pubs[4].PacketID, 0)
		pubs = append(pubs, nil, p.publish("7"))
		p.cut()

		p = srv.accept(true)
		synctest.Wait()
		for _, i := range []int{0, 2, 3, 5, 6, 7} {
			got := p.publish(fmt.Sprint(i))
			if !got.Duplicate || pubs[i] != nil && got.PacketID != pubs[i].PacketID {
				t.Errorf("%v, want DUP and the packet id of before", got)
			}
			pubs[i] = got
		}
		p.silent()
		for _, i := range []int{0, 2, 3, 5, 6, 7} {
			p.puback(pubs[i].PacketID, 0)
		}
		for _, want := range []string{"8", "9"} {
			pub := p.publish(want)
			if pub.Duplicate {
				t.Errorf("%s is new, but has DUP", want)
			}
			p.puback(pub.PacketID, 0)
		}
		synctest.Wait()
		r.held(0)
	})
}

// A server that allows less in flight than before gets no more than it allows,
// and its slow answers are not taken for none.
func TestSessionPresentWithLessRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, func(o *Options) { o.ReceiveMaximum = 8 })
		r.submit(dev, numbered(10)...)
		p := srv.accept(false)
		for i := range 8 {
			p.publish(fmt.Sprint(i))
		}
		p.cut()
		p, _ = srv.next()
		p.connack(0, true, &packets.Properties{ReceiveMaximum: ptr(uint16(2))})
		var ids []uint16
		for i := range 10 {
			if i >= 2 {
				time.Sleep(12 * time.Second) // each is within the PUBACK timeout
				p.puback(ids[i-2], 0)
			}
			ids = append(ids, p.publish(fmt.Sprint(i)).PacketID)
			synctest.Wait()
			if i >= 1 {
				p.silent()
			}
		}
		if n := srv.dialed(); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
	})
}

// A server that lost the session gets everything as new publishes, in order.
func TestSessionLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, func(o *Options) { o.ReceiveMaximum = 6 })
		r.submit(dev, numbered(8)...)
		r.submit("dev-2", "x")
		p := srv.accept(false)
		for _, s := range []string{"0", "x", "1", "2", "3", "4"} {
			pub := p.publish(s)
			if s == "2" {
				p.puback(pub.PacketID, 0)
			}
		}
		p.publish("5")
		p.cut()
		p = srv.accept(false)
		next := 0
		for range 8 {
			pub := receive[*packets.Publish](p)
			if pub.Duplicate {
				t.Errorf("%v: DUP in a new session", pub)
			}
			p.puback(pub.PacketID, 0)
			if strings.HasSuffix(pub.Topic, "dev-2") {
				continue
			}
			if next == 2 {
				next++ // acknowledged before
			}
			if string(pub.Payload) != fmt.Sprint(next) {
				t.Errorf("%s came, want %d", pub.Payload, next)
			}
			next++
		}
		synctest.Wait()
		p.silent()
		r.held(0)
		if lost := r.queues[dev].losses(); !slices.Equal(lost, []string{"0", "1", "3", "4", "5"}) {
			t.Errorf("lost %q, want what was in flight, in order", lost)
		}
	})
}

// On a live connection nothing is ever sent twice; a PUBACK that does not come is
// cured by a new one.
func TestPubackTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, nil)
		p := srv.accept(false)
		time.Sleep(time.Hour) // idle is no reason
		r.submit(dev, "1", "2")
		one, two := p.publish("1"), p.publish("2")
		p.puback(one.PacketID, 0)
		sent := time.Now()
		p.left()
		if d := time.Since(sent); d < 30*time.Second || d > 46*time.Second {
			t.Errorf("gave up after %s, want 30 to 45 s", d)
		}
		synctest.Wait()
		if s := r.Trouble(); !strings.Contains(s, "did not acknowledge a publish within 30s") {
			t.Errorf("trouble %q", s)
		}
		p = srv.accept(true)
		again := p.publish("2")
		if !again.Duplicate || again.PacketID != two.PacketID {
			t.Errorf("%v, want DUP and packet id %d", again, two.PacketID)
		}
		p.puback(again.PacketID, 0)
		p.puback(again.PacketID, 0) // twice does no harm
		p.puback(777, 0)
		r.submit(dev, "3")
		p.puback(p.publish("3").PacketID, 0)
		synctest.Wait()
		r.held(0)
	})
}

func TestBrokerComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		srv.setAway(errAway)
		r := start(t, srv, nil)
		r.submit(dev, "1", "2")
		time.Sleep(time.Hour)
		if s := r.Trouble(); !strings.Contains(s, "connection refused") {
			t.Errorf("trouble %q", s)
		}
		if n := len(r.log.lines("level=WARN")); n != 1 {
			t.Errorf("%d warnings in an hour, want 1:\n%s", n, r.log)
		}
		srv.setAway(nil)
		began := time.Now()
		p := srv.accept(false)
		p.publish("1")
		p.publish("2")
		if d := time.Since(began); d > time.Minute {
			t.Errorf("came back after %s", d)
		}
	})
}

// The keep alive finds a broker that is frozen.
func TestFrozenBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, func(o *Options) { o.KeepAlive = 10 * time.Second })
		c, _ := srv.next()
		c.connack(0, false, nil)
		time.Sleep(time.Hour)
		if n := srv.dialed(); n != 1 {
			t.Fatalf("%d connections in an hour with a broker that is well", n)
		}
		c.freeze()
		frozen := time.Now()
		srv.accept(true)
		if d := time.Since(frozen); d > 15*time.Second {
			t.Errorf("found after %s", d)
		}
		if n := len(r.log.lines("session down", "keep alive")); n != 1 {
			t.Errorf("log:\n%s", r.log)
		}
	})
}

func TestServerKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		start(t, srv, nil)
		p, _ := srv.next()
		p.connack(0, false, &packets.Properties{ServerKeepAlive: ptr(uint16(2))})
		time.Sleep(time.Minute)
		if n := p.pings.Load(); n < 25 || n > 40 {
			t.Errorf("%d PINGREQs in a minute, want about 30", n)
		}
	})
}

// An answer of a few bytes that are no CONNACK, from a port of something else.
func TestNoBroker(t *testing.T) {
	for name, answer := range map[string]string{
		"HTTP":    "HTTP/1.1 400 Bad Request\r\n\r\n",
		"SSH":     "SSH-2.0-OpenSSH_9.6\r\n",
		"TLS":     "\x15\x03\x01\x00\x02\x02\x46",
		"zeros":   "\x00\x00\x00\x00",
		"PUBLISH": "\x30\x02\x00\x00",
		"AUTH":    "\xf0\x00",
		"length":  "\x20\xff\xff\xff\xff\xff\xff\xff\xff",
		"huge":    "\x20\xff\xff\xff\xff\x0f\x00",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				r := start(t, srv, nil)
				for range 3 {
					p, _ := srv.next()
					go func() { _, _ = io.WriteString(p.Conn, answer); _ = p.Close() }()
					p.gone()
					synctest.Wait()
					if s := r.Trouble(); !strings.Contains(s, "log in: ") {
						t.Errorf("trouble %q", s)
					}
				}
				r.submit(dev, "1")
				srv.accept(false).publish("1")
			})
		})
	}
}

// Garbage after CONNACK ends the connection and nothing else.
func TestGarbage(t *testing.T) {
	for name, answer := range map[string]string{
		"CONNACK again":  "\x20\x03\x00\x00\x00",
		"reserved type":  "\x00\x00",
		"SUBACK of none": "\x90\x04\x00\x07\x00\x00\x40\x02\x00\x09",
		"short PUBACK":   "\x40\x01\x00",
		"AUTH":           "\xf0\x00",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				r := start(t, srv, nil)
				p := srv.accept(false)
				_, _ = io.WriteString(p, answer)
				synctest.Wait()
				p.cut()
				r.submit(dev, "1")
				p = srv.accept(true)
				p.puback(p.publish("1").PacketID, 0)
				synctest.Wait()
				r.held(0)
			})
		})
	}
}

// Run gives back what was in flight; it waits for PUBACKs that are on their way.
func TestStopSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, nil)
		r.submit(dev, "1", "2", "3")
		p := srv.accept(false)
		one, two, _ := p.publish("1"), p.publish("2"), p.publish("3")
		ended := make(chan time.Duration, 1)
		go func() { ended <- r.stop() }()
		synctest.Wait()
		r.submit(dev, "4") // not sent any more
		p.puback(one.PacketID, 0)
		time.Sleep(time.Second)
		p.puback(two.PacketID, 0)
		p.left()
		if d := <-ended; d != settleTimeout {
			t.Errorf("Run ended after %s, want %s", d, settleTimeout)
		}
		r.held(2)
		if lost := r.queues[dev].losses(); !slices.Equal(lost, []string{"3"}) {
			t.Errorf("lost %q, want 3", lost)
		}
		if s := r.Trouble(); s != "the gateway is stopping" {
			t.Errorf("trouble %q", s)
		}
	})
}

// Run returns soon wherever it is.
func TestStopIsPrompt(t *testing.T) {
	backoff := func(o *Options) { o.Backoff = Backoff{Min: time.Hour, Max: time.Hour} }
	for name, tt := range map[string]struct {
		change func(*Options)
		reach  func(*server, *rig)
		limit  time.Duration
	}{
		"backing off":    {backoff, func(srv *server, _ *rig) { srv.setAway(errAway) }, 0},
		"before CONNACK": {nil, func(srv *server, _ *rig) { srv.next() }, 0},
		"subscribing": {
			func(o *Options) { o.Subscribe = []bridge.DeviceID{dev} },
			func(srv *server, _ *rig) { receive[*packets.Subscribe](srv.accept(false)) }, 0,
		},
		"idle": {nil, func(srv *server, _ *rig) { srv.accept(false) }, 0},
		"in flight": {nil, func(srv *server, r *rig) {
			r.submit(dev, "1")
			srv.accept(false).publish("1")
		}, settleTimeout},
		"frozen before CONNECT": {func(o *Options) { o.Endpoint.dial = srvDeaf }, func(*server, *rig) {}, 2 * hurriedTimeout},
		"renewing": {renewIn(time.Second), func(srv *server, _ *rig) {
			srv.accept(false)
			time.Sleep(900 * time.Millisecond)
			srv.next()
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				r := newRig(t, srv, tt.change)
				r.run()
				tt.reach(srv, r)
				synctest.Wait()
				if d := r.stop(); d > tt.limit {
					t.Errorf("Run returned after %s, want at most %s", d, tt.limit)
				}
			})
		})
	}
}

// The same with a broker that takes nothing any more while readings are being
// written. In real time: writers wait for each other with a mutex, which stops
// the clock of a synctest bubble.
func TestStopWhileWriting(t *testing.T) {
	srv := newServer(t)
	r := start(t, srv, nil)
	p := srv.accept(false)
	r.submit(dev, "1")
	p.publish("1")
	p.freeze()
	r.submit(dev, numbered(20)...)
	if d := r.stop(); d > writeTimeout-time.Second {
		t.Errorf("Run returned after %s", d)
	}
}
