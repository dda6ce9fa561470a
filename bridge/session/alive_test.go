package session

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// A dead link is noticed within one and a half keep alives, whatever went before.
func TestDeadLink(t *testing.T) {
	for _, keep := range []time.Duration{time.Second, 2 * time.Second, 10 * time.Second, time.Minute, 5 * time.Minute} {
		for _, after := range []float64{0, 0.3, 0.9, 1, 1.4, 2.7} {
			t.Run(fmt.Sprint(keep, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := newServer(t)
					down := make(chan time.Time, 1)
					start(t, srv, func(o *Options) {
						o.KeepAlive = keep
						o.Down = func(*Session) {
							select {
							case down <- time.Now():
							default:
							}
						}
					})
					p := srv.accept(false)
					time.Sleep(time.Duration(after * float64(keep)))
					synctest.Wait()
					p.freeze()
					frozen := time.Now()
					if d := (<-down).Sub(frozen); d > keep*3/2 || d < keep/8 {
						t.Errorf("noticed after %s", d)
					}
				})
			})
		}
	}
}

// PINGREQ goes out unless there was traffic both ways within the keep alive.
func TestPings(t *testing.T) {
	for _, tt := range []struct {
		name     string
		up, down bool
		min, max int32 // in an hour
	}{
		{"both ways", true, true, 0, 0},
		{"up only", true, false, 60, 70},
		{"down only", false, true, 60, 70},
		{"idle", false, false, 60, 70},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, _, p := subscribed(t, func(o *Options) { o.ReceiveMaximum, o.PubackTimeout = 1000, 2*time.Hour })
				for range 6 * 60 {
					time.Sleep(10 * time.Second)
					if tt.up {
						r.submit(dev, "1")
						p.publish("1") // and no PUBACK
					}
					if tt.down {
						p.downlink(0, false, downTo, "x")
					}
				}
				if n := p.pings.Load(); n < tt.min || n > tt.max {
					t.Errorf("%d PINGREQs in an hour, want %d to %d", n, tt.min, tt.max)
				}
				if s := r.Trouble(); s != "" {
					t.Errorf("trouble %q", s)
				}
			})
		})
	}
}

// The deadline for a PUBACK counts from the publish, wherever the keep alive is.
func TestPubackDeadline(t *testing.T) {
	for idle := range 20 {
		synctest.Test(t, func(t *testing.T) {
			srv := newServer(t)
			r := start(t, srv, nil)
			p := srv.accept(false)
			time.Sleep(time.Duration(idle) * 5 * time.Second)
			r.submit(dev, "1")
			p.publish("1")
			sent := time.Now()
			p.left()
			if d := time.Since(sent); d != 30*time.Second {
				t.Errorf("gave up after %s, want 30s", d)
			}
		})
	}
}

// A broker that does not care for a keep alive is watched all the same.
func TestServerKeepAliveZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, nil)
		p, _ := srv.next()
		p.connack(0, false, &packets.Properties{ServerKeepAlive: ptr(uint16(0))})
		time.Sleep(10 * time.Minute)
		if n := p.pings.Load(); n < 9 || n > 12 {
			t.Errorf("%d PINGREQs in ten minutes, want about 10", n)
		}
		p.freeze()
		time.Sleep(90 * time.Second)
		synctest.Wait()
		if n := len(r.log.lines("session down", "keep alive")); n != 1 {
			t.Errorf("not noticed:\n%s", r.log)
		}
	})
}

// An idle session is two goroutines, the one of Run included.
func TestGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		srv := newServer(t)
		before := runtime.NumGoroutine()
		for range n {
			start(t, srv, subscribing)
			srv.accept(false).subscribed(1)
		}
		time.Sleep(10 * time.Minute)
		// Of the test's own, each peer has two and each rig none.
		if got := runtime.NumGoroutine() - before; got > n*(2+2) {
			t.Errorf("%d goroutines for %d sessions", got-2*n, n)
		}
	})
}

// The session's expiry is the broker's, and a shorter one is said once.
func TestSessionExpiryOverridden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, func(o *Options) { o.SessionExpiry = time.Hour })
		for i, tt := range []struct {
			answer *uint32
			want   time.Duration
			said   int
		}{
			{nil, time.Hour, 0}, {ptr(uint32(60)), time.Minute, 1}, {ptr(uint32(60)), time.Minute, 1},
			{ptr(uint32(7200)), 2 * time.Hour, 1}, {ptr(uint32(0)), 0, 2},
		} {
			p, _ := srv.next()
			p.connack(0, i > 0, &packets.Properties{SessionExpiryInterval: tt.answer})
			synctest.Wait()
			if got := r.State().SessionExpiry; got != tt.want {
				t.Errorf("%d: %s, want %s", i, got, tt.want)
			}
			if n := len(r.log.lines("level=WARN", "session_expiry")); n != tt.said {
				t.Errorf("%d: said %d times, want %d", i, n, tt.said)
			}
			p.cut()
		}
	})
}

// The broker is told what it did wrong.
func TestViolations(t *testing.T) {
	for name, tt := range map[string]struct {
		bytes string
		code  byte
		want  string
	}{
		"packet type 0":      {"\x00\x00", 0x81, "malformed packet type"},
		"length":             {"\x30\xff\xff\xff\xff\x01", 0x81, "malformed packet length"},
		"too large":          {"\x30\x81\x80\x40", 0x95, "a packet of 1048577 bytes"},
		"PUBACK":             {"\x40\x01\x00", 0x81, "malformed PUBACK"},
		"PUBLISH at QoS 3":   {"\x36\x06\x00\x01a\x00\x01\x00", 0x81, "malformed PUBLISH"},
		"PUBLISH without id": {"\x32\x06\x00\x01a\x00\x00\x00", 0x81, "malformed PUBLISH"},
		"CONNACK again":      {"\x20\x03\x00\x00\x00", 0x82, "type 2"},
		"AUTH":               {"\xf0\x00", 0x82, "type 15"},
		"PINGREQ":            {"\xc0\x00", 0x82, "type 12"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, srv, p := subscribed(t, nil)
				_, _ = p.Write([]byte(tt.bytes))
				if d := receive[*packets.Disconnect](p); d.ReasonCode != tt.code {
					t.Errorf("DISCONNECT with 0x%02X, want 0x%02X", d.ReasonCode, tt.code)
				}
				p.gone()
				synctest.Wait()
				if s := r.Trouble(); !strings.Contains(s, tt.want) {
					t.Errorf("trouble %q, want %q in it", s, tt.want)
				}
				srv.accept(true)
			})
		})
	}
}

// More downlinks at once than Receive Maximum are a breach; those of an earlier
// connection do not count before they are repeated.
func TestReceiveMaximumExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, srv, p := subscribed(t, func(o *Options) { o.ReceiveMaximum = 3 })
		for round := range 3 {
			for i := range 3 {
				p.downlink(uint16(i+1), round > 0, downTo, fmt.Sprint(i))
			}
			synctest.Wait()
			p.silent()
			if round < 2 {
				p.cut()
				p = srv.accept(true)
			}
		}
		r.delivered("0", "1", "2")[0].done()
		acked(t, p, 1)
		p.downlink(4, false, downTo, "3")
		p.downlink(5, false, downTo, "4")
		if d := receive[*packets.Disconnect](p); d.ReasonCode != 0x93 {
			t.Errorf("DISCONNECT with 0x%02X, want 0x93", d.ReasonCode)
		}
		r.delivered("0", "1", "2", "3")
	})
}

// A downlink at QoS 2, which somebody else must have subscribed to with our
// client id, gets the answers that end it.
func TestDownlinkQoS2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, p := subscribed(t, nil)
		p.send(&packets.Publish{PacketID: 9, QoS: 2, Topic: downTo, Payload: []byte("x"), Properties: &packets.Properties{}})
		synctest.Wait()
		p.silent()
		r.delivered("x")[0].done()
		if rec := receive[*packets.Pubrec](p); rec.PacketID != 9 || rec.ReasonCode != 0 {
			t.Errorf("%v", rec)
		}
		_, _ = p.Write([]byte{0x62, 2, 0, 9})
		if comp := receive[*packets.Pubcomp](p); comp.PacketID != 9 || comp.ReasonCode != 0 {
			t.Errorf("%v", comp)
		}
		if s := r.Trouble(); s != "" {
			t.Errorf("trouble %q", s)
		}
	})
}

// A DISCONNECT without a reason code is one with 0x00.
func TestDisconnectBare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, nil)
		p := srv.accept(false)
		_, _ = p.Write([]byte{0xe0, 0})
		p.gone()
		synctest.Wait()
		if s := r.Trouble(); !strings.Contains(s, "DISCONNECT 0x00") {
			t.Errorf("trouble %q", s)
		}
	})
}
