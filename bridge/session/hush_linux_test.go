package session

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

// sockets gives both ends of a TCP connection.
func sockets(t testing.TB) (client, conn net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if conn, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), conn.Close() })
	return client, conn
}

// secured is sockets with a TLS session of one version.
func secured(version uint16) func(t testing.TB) (client, conn net.Conn) {
	return func(t testing.TB) (net.Conn, net.Conn) {
		t.Helper()
		now := time.Now()
		ca := newAuthority(t.(*testing.T), "Test Root", now.Add(-time.Hour), now.Add(time.Hour))
		cert, key := certificate(t.(*testing.T), "localhost", now.Add(-time.Hour), now.Add(time.Hour), ca, "localhost")
		client, conn := sockets(t)
		there := tls.Server(conn, &tls.Config{
			Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}, SessionTicketsDisabled: true,
		})
		here := tls.Client(client, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		go func() { _ = there.Handshake() }()
		if err := here.Handshake(); err != nil {
			t.Fatal(err)
		}
		return here, there
	}
}

// A PINGRESP wakes nobody until it is looked for; anything else does, and so does
// the end.
func TestHush(t *testing.T) {
	for name, tt := range map[string]struct {
		pair  func(t testing.TB) (client, conn net.Conn)
		wakes bool
	}{
		"plain":   {sockets, false},
		"TLS 1.3": {secured(tls.VersionTLS13), false},
		"TLS 1.2": {secured(tls.VersionTLS12), true}, // its records are longer: as if not hushed
	} {
		t.Run(name, func(t *testing.T) {
			client, conn := tt.pair(t)
			got := make(chan []byte)
			go func() {
				defer close(got)
				for b := make([]byte, 64); ; {
					n, err := io.ReadAtLeast(client, b, 1)
					if err != nil {
						return
					}
					got <- append([]byte(nil), b[:n]...)
				}
			}()
			take := func(n int) {
				t.Helper()
				for n > 0 {
					select {
					case b := <-got:
						n -= len(b)
					case <-time.After(patience):
						t.Fatal("nothing was read")
					}
				}
			}
			pingresp := []byte{0xd0, 0}
			kept := 0
			for range 10 {
				if !hush(client) {
					t.Fatal("cannot be hushed")
				}
				_, _ = conn.Write(pingresp)
				select {
				case <-got: // at once; or the reader was not back in its wait yet
					heed(client)
				case <-time.After(50 * time.Millisecond):
					if !heed(client) {
						t.Error("it is neither read nor kept")
					}
					kept++
					take(2)
				}
				if heed(client) {
					t.Error("what was read is kept")
				}
			}
			if (kept == 0) != tt.wakes {
				t.Errorf("kept %d times", kept)
			}
			for _, b := range []string{"\x40\x02\x00\x01", "\xe0\x01\x8e"} { // PUBACK, DISCONNECT
				hush(client)
				_, _ = conn.Write(pingresp)
				_, _ = conn.Write([]byte(b))
				take(2 + len(b))
			}
			hush(client)
			_ = conn.Close()
			select {
			case <-got:
			case <-time.After(patience):
				t.Fatal("the end was not noticed")
			}
		})
	}
	one, two := net.Pipe()
	if hush(one) {
		t.Error("a pipe was hushed")
	}
	_, _ = one.Close(), two.Close()
}

// A session over a socket stays up on PINGRESPs that nobody reads as they come,
// takes downlinks meanwhile, and notices when they do not come.
func TestHushedSession(t *testing.T) {
	srv := newServer(t)
	srv.pair = func() (client, conn net.Conn) { return sockets(t) }
	r := start(t, srv, func(o *Options) { o.KeepAlive = time.Second; subscribing(o) })
	p := srv.accept(false)
	p.subscribed(1)
	downlinks := 0
	for n, seen := 0, int32(0); n < 4; n++ {
		for began := time.Now(); p.pings.Load() == seen; time.Sleep(time.Millisecond) {
			if time.Since(began) > patience {
				t.Fatalf("no PINGREQ after %d", seen)
			}
		}
		seen = p.pings.Load()
		if n%2 == 0 {
			continue // nothing but the PINGRESP
		}
		p.downlink(0, false, downTo, "x")
		downlinks++
		count := func() int {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.downs)
		}
		for began := time.Now(); count() < downlinks; time.Sleep(time.Millisecond) {
			if time.Since(began) > patience {
				t.Fatal("no downlink")
			}
		}
	}
	r.told("down")
	p.freeze()
	for began := time.Now(); len(r.log.lines("session down", "keep alive")) != 1; time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatal("a dead link is not noticed")
		}
	}
}
