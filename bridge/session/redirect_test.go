package session

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

func TestServers(t *testing.T) {
	for _, tt := range []struct {
		reference string
		want      []string
	}{
		{"", nil},
		{"b.example", []string{"b.example:1883"}},
		{"b.example:8883", []string{"b.example:8883"}},
		{"  b.example:8883 10.0.0.1 [fe80::1]:99 [::1] ::1", []string{"b.example:8883", "10.0.0.1:1883", "[fe80::1]:99", "[::1]:1883", "[::1]:1883"}},
		{"b.example:0 b.example:65536 b.example:x :1883 [::1 mqtts://b.example user@b.example b.example/x", nil},
		{strings.Repeat("a", maxReference+1), nil},
	} {
		if got := servers(tt.reference, "1883"); !slices.Equal(got, tt.want) {
			t.Errorf("%q gives %q, want %q", tt.reference, got, tt.want)
		}
	}
}

func FuzzServers(f *testing.F) {
	f.Add("b.example:8883 [::1]:1")
	f.Fuzz(func(t *testing.T, reference string) {
		for _, s := range servers(reference, "1883") {
			host, port, err := net.SplitHostPort(s)
			if err != nil || !isHost(host) || port == "" {
				t.Fatalf("%q gives %q: %v", reference, s, err)
			}
			if again := servers(s, "1"); !slices.Equal(again, []string{s}) {
				t.Fatalf("%q gives %q, which gives %q", reference, s, again)
			}
		}
	})
}

// dialed is newServer with the addresses that are dialled.
func dialing(t *testing.T, addresses *[]string) (*server, func(*Options)) {
	t.Helper()
	srv := newServer(t)
	ep, err := NewEndpoint(EndpointOptions{Address: "broker.example:1883", Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		*addresses = append(*addresses, address)
		return srv.dial(ctx, network, address)
	}})
	if err != nil {
		t.Fatal(err)
	}
	return srv, func(o *Options) {
		o.Endpoint, o.Backoff = ep, distinct
		o.AllowedServers = []string{"b2.example", "b3.example:8884"}
	}
}

func refer(server string) *packets.Properties { return &packets.Properties{ServerReference: server} }

// A session follows the broker to a server that is allowed, at once, and comes
// back when that one fails.
func TestAnotherServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialed []string
		srv, change := dialing(t, &dialed)
		r := start(t, srv, change)
		p, _ := srv.next()
		began := time.Now()
		p.connack(0x9C, false, refer("evil.example B2.example:1884"))
		p = srv.accept(false)
		if d := time.Since(began); d > time.Second {
			t.Errorf("followed after %s", d)
		}
		time.Sleep(time.Minute)
		p.cut() // a temporary one (0x9C): the next attempt is at the configured one
		p = srv.accept(true)
		time.Sleep(time.Minute)
		p.send(&packets.Disconnect{ReasonCode: 0x9D, Properties: refer("b3.example:8884")})
		p.cut()
		p = srv.accept(true)
		time.Sleep(time.Minute)
		p.cut() // moved for good (0x9D): it stays there
		p, _ = srv.next()
		p.connack(0x88, false, nil) // until that one fails
		srv.accept(true)
		want := []string{"broker.example:1883", "B2.example:1884", "broker.example:1883", "b3.example:8884", "b3.example:8884", "broker.example:1883"}
		if !slices.Equal(dialed, want) {
			t.Errorf("dialled %q, want %q", dialed, want)
		}
		r.stop()
	})
}

// The credentials go nowhere else, and the server that was refused is named.
func TestAnotherServerNotAllowed(t *testing.T) {
	for _, reference := range []string{"evil.example", "b3.example:8885", "b3.example", "b2.example.evil.example", "", "b2.example:x", "\x1b[31m b2.example\x00"} {
		for _, code := range []byte{0x9C, 0x9D} {
			t.Run(fmt.Sprintf("%q 0x%02X", reference, code), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var dialed []string
					srv, change := dialing(t, &dialed)
					r := start(t, srv, change)
					for range 12 {
						p := srv.nextWithin(t, 1000*time.Hour)
						p.connack(code, false, refer(reference))
						p.gone()
						synctest.Wait()
						st := r.State()
						if want := fmt.Sprintf("%q", reference); reference != "" && !strings.Contains(st.Trouble, want) || !st.Alarm {
							t.Fatalf("state %+v, want %s in it", st, want)
						}
					}
					for _, address := range dialed {
						if address != "broker.example:1883" && address != "b2.example:1883" {
							t.Errorf("dialled %s", address)
						}
					}
					r.stop()
				})
			})
		}
	}
}

// Servers that send the session round and round do not do so for long.
func TestAnotherServerLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dialed []string
		srv, change := dialing(t, &dialed)
		r := start(t, srv, change)
		n := connects(srv, 10*time.Minute, func(p *peer) { p.connack(0x9D, false, refer("b2.example")); p.cut() })
		if len(r.log.lines("to each other")) == 0 {
			t.Errorf("log:\n%s", r.log)
		}
		if n < 1+maxHops || n > 50 { // pauses of half an hour on average, but for the hops
			t.Errorf("%d CONNECTs in ten minutes", n)
		}
	})
}

// The certificate of the other server is checked against its own name.
func TestElsewhere(t *testing.T) {
	e, err := NewEndpoint(EndpointOptions{Address: "broker.example:8883", TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	moved := e.elsewhere("[::1]:9")
	if moved.Address != "[::1]:9" || moved.tls.ServerName != "::1" || e.tls.ServerName != "broker.example" || e.Address != "broker.example:8883" {
		t.Errorf("%s %s from %s %s", moved.Address, moved.tls.ServerName, e.Address, e.tls.ServerName)
	}
	if moved.tls.RootCAs != e.tls.RootCAs || moved.tls.MinVersion != tls.VersionTLS12 || moved.tls.ClientSessionCache != e.tls.ClientSessionCache {
		t.Error("the rest has changed")
	}
}
