package rest

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestConnectionsOfSuccessorsCount(t *testing.T) {
	in, entered, let := held()
	s := start(t, Options{MaxConnections: 1}, in)
	one := postAside(t, s.url("/v1/devices/d1/uplink"))
	within(t, entered)
	next, err := s.Successor(Options{MaxConnections: 1})
	if err != nil {
		t.Fatal(err)
	}
	before := s
	s = run(t, next)
	before.stop()
	<-before.Shut()
	if n := s.Connections(); n != 1 {
		t.Errorf("%d connections are open, want that of the predecessor", n)
	}
	two := postAside(t, s.url("/v1/devices/d1/uplink"))
	let <- struct{}{}
	if p := within(t, one); p.err != nil || p.status != http.StatusOK {
		t.Errorf("answer %d, error %v", p.status, p.err)
	}
	if err := within(t, before.done); err != nil {
		t.Error(err)
	}
	within(t, entered)
	let <- struct{}{}
	if p := within(t, two); p.err != nil || p.status != http.StatusOK {
		t.Errorf("answer %d, error %v", p.status, p.err)
	}
	for deadline := time.Now().Add(patience); s.Connections() > 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open", s.Connections())
		}
	}
}

// Who waits for room holds nobody up at the end.
func TestEndWhileOneWaits(t *testing.T) {
	for name, end := range map[string]func(*running){
		"drain": func(r *running) { r.stop() },
		"close": func(r *running) { _ = r.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			in, entered, _ := held()
			s := start(t, Options{MaxConnections: 1, DrainTimeout: time.Millisecond}, in)
			one := postAside(t, s.url("/v1/devices/d1/uplink"))
			within(t, entered)
			conn := dial(t, s.Addr())
			write(t, conn, request("POST", "/v1/devices/d1/uplink", "1"))
			end(s)
			if err := within(t, s.done); err != nil {
				t.Error(err)
			}
			if p := within(t, one); p.status == http.StatusOK {
				t.Error("a reading that was not accepted got 200")
			}
			if n := s.Connections(); n > 1 {
				t.Errorf("%d connections are open", n)
			}
		})
	}
}

// Nor is a successor kept waiting.
func TestHandOverWhileOneWaits(t *testing.T) {
	in := newIntake()
	synctest.Test(t, func(t *testing.T) {
		entered, let := in.hold()
		o, err := Options{MaxConnections: 1, MaxConcurrent: 2}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		p := newPipes()
		s := newServer(o, in, p)
		s.followed.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		one, two := p.dial(), p.dial() // the second has been accepted, too
		defer one.Close()
		defer two.Close()
		write(t, one, request("POST", "/v1/devices/d1/uplink", "1"))
		<-entered
		cancel()
		<-s.Shut()
		write(t, two, request("POST", "/v1/devices/d1/uplink", "1"))
		<-entered
		close(let)
		for _, conn := range []net.Conn{one, two} {
			if a, _ := response(t, conn); a.status != http.StatusOK {
				t.Errorf("status %d: %s", a.status, a.body)
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Connections give way below TLS as well, and on Unix sockets.
func TestOtherConnectionsGiveWay(t *testing.T) {
	ca := newAuthority(t, "ca")
	for name, o := range map[string]Options{
		"tls":  {TLS: &TLS{Certificate: ca.server()}},
		"unix": {Listen: "unix:" + filepath.Join(t.TempDir(), "s")},
	} {
		t.Run(name, func(t *testing.T) {
			var y yields
			o.MaxConnections, o.GaveWay = 2, y.add
			s := start(t, o, newIntake())
			secure := func(conn net.Conn) net.Conn {
				if o.TLS == nil {
					return conn
				}
				return tls.Client(conn, &tls.Config{RootCAs: ca.pool(), ServerName: "127.0.0.1"})
			}
			silent := dial(t, s.Addr()) // has not even shaken hands
			kept := secure(dial(t, s.Addr()))
			if a := exchange(t, kept, request("GET", "/healthz", "")); a.status != http.StatusOK {
				t.Fatalf("status %d", a.status)
			}
			for _, cut := range []net.Conn{silent, kept} {
				if a := exchange(t, secure(dial(t, s.Addr())), request("POST", "/v1/devices/d1/uplink", "1")); a.status != http.StatusOK {
					t.Fatalf("status %d", a.status)
				}
				expectCut(t, cut)
			}
			y.check(t, YieldHeader, YieldIdle)
		})
	}
}

// Without a file descriptor left, who is idle gives way, and who comes is served
// as soon as there is one.
func TestOutOfDescriptors(t *testing.T) {
	var log logBuffer
	var y yields
	s := start(t, Options{Logger: log.logger(), GaveWay: y.add}, newIntake())
	kept, idler := dial(t, s.Addr()), dial(t, s.Addr())
	for _, conn := range []net.Conn{kept, idler} {
		if a := exchange(t, conn, request("GET", "/healthz", "")); a.status != http.StatusOK {
			t.Fatalf("status %d", a.status)
		}
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	}
	defer restore()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	var fill []*os.File
	defer func() {
		for _, f := range fill {
			f.Close()
		}
	}()
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		fill = append(fill, f)
	}
	fill[len(fill)-1].Close()
	fill = fill[:len(fill)-1]
	late := dial(t, s.Addr()) // takes the last one
	write(t, late, request("POST", "/v1/devices/d1/uplink", "1"))
	for deadline := time.Now().Add(patience); !strings.Contains(log.String(), "too many open files"); {
		if time.Now().After(deadline) {
			t.Fatalf("log:\n%s", log.String())
		}
		// Who is here is served meanwhile.
		if a := exchange(t, kept, request("POST", "/v1/devices/d1/uplink", "1")); a.status != http.StatusOK {
			t.Fatalf("status %d", a.status)
		}
	}
	for deadline := time.Now().Add(patience); len(y.take()) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nobody gave way")
		}
		if a := exchange(t, kept, request("POST", "/v1/devices/d1/uplink", "1")); a.status != http.StatusOK {
			t.Fatalf("status %d", a.status)
		}
	}
	expectCut(t, idler)
	if a := exchange(t, late, ""); a.status != http.StatusOK {
		t.Errorf("status %d", a.status)
	}
}
