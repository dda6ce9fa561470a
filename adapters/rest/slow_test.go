package rest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

// pipes is a listener of in-memory connections, which follow a bubble's clock.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.done) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// withBubble runs a server with the default timeouts on a bubble's clock.
func withBubble(t *testing.T, a Accepter, test func(t *testing.T, p *pipes)) {
	withBubbleStop(t, Options{}, a, func(t *testing.T, p *pipes, _ func() time.Duration) { test(t, p) })
}

// withBubbleStop lets the test end the server, and tells how long its end took.
func withBubbleStop(t *testing.T, o Options, a Accepter, test func(t *testing.T, p *pipes, stop func() time.Duration)) {
	synctest.Test(t, func(t *testing.T) {
		o, err := o.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		p := newPipes()
		ctx, cancel := context.WithCancel(t.Context())
		s, done := newServer(o, a, p), make(chan error, 1)
		_, check := record(t, s)
		go func() {
			defer close(done)
			done <- s.Run(ctx)
		}()
		stop := func() time.Duration {
			begin := time.Now()
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
			return time.Since(begin)
		}
		test(t, p, stop)
		stop()
		check()
	})
}

// response reads one response and tells how long that took.
func response(t *testing.T, conn net.Conn) (answer, time.Duration) {
	t.Helper()
	begin := time.Now()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := readAnswer(resp)
	if err != nil {
		t.Fatal(err)
	}
	return a, time.Since(begin)
}

func write(t *testing.T, conn net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(conn, s); err != nil {
		t.Fatal(err)
	}
}

func TestSlowHeadersAreCut(t *testing.T) {
	withBubble(t, newIntake(), func(t *testing.T, p *pipes) {
		conn := p.dial()
		defer conn.Close()
		begin := time.Now()
		write(t, conn, "POST /v1/devices/d1/uplink HTTP/1.1\r\nHost: localhost\r\n")
		if _, err := io.ReadAll(conn); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d < DefaultReadHeaderTimeout || d > DefaultReadHeaderTimeout+time.Second {
			t.Errorf("cut after %v, want %v", d, DefaultReadHeaderTimeout)
		}
	})
}

func TestSlowBodyIsCut(t *testing.T) {
	in := newIntake()
	withBubble(t, in, func(t *testing.T, p *pipes) {
		conn := p.dial()
		defer conn.Close()
		begin := time.Now()
		write(t, conn, request("POST", "/v1/devices/d1/uplink", "", "Content-Length: 1000", "Content-Type: text/plain"))
		dripped := make(chan struct{})
		go func() { // a byte a second would go on for 16 minutes
			defer close(dripped)
			for {
				if _, err := io.WriteString(conn, "x"); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		defer func() { conn.Close(); <-dripped }()
		a, _ := response(t, conn)
		checkProblem(t, a, http.StatusRequestTimeout, "did not arrive in time")
		if d := time.Since(begin); d < DefaultReadTimeout || d > DefaultReadTimeout+time.Second {
			t.Errorf("answered after %v, want %v", d, DefaultReadTimeout)
		}
		if !a.closes {
			t.Error("the connection is kept")
		}
	})
	if n := len(in.take()); n != 0 {
		t.Errorf("the accepter saw %d readings", n)
	}
}

// The time to read the request is no time limit for the broker.
func TestReadTimeoutEndsWithTheBody(t *testing.T) {
	const wait = DefaultAcceptTimeout - time.Second
	in := newIntake()
	in.answer = func(ctx context.Context, r bridge.Reading) (bridge.Receipt, error) {
		select {
		case <-time.After(wait):
			return delivered(r), nil
		case <-ctx.Done():
			return bridge.Receipt{}, ctx.Err()
		}
	}
	withBubble(t, in, func(t *testing.T, p *pipes) {
		conn := p.dial()
		defer conn.Close()
		for range 2 { // and the next request on the connection has all its time again
			write(t, conn, request("POST", "/v1/devices/d1/uplink", "1"))
			if a, d := response(t, conn); a.status != http.StatusOK || d < wait {
				t.Errorf("status %d after %v: %s", a.status, d, a.body)
			}
		}
		write(t, conn, request("POST", "/v1/devices/d1/uplink", "", "Content-Length: 1"))
		a, d := response(t, conn)
		checkProblem(t, a, http.StatusRequestTimeout, "did not arrive in time")
		if d < DefaultReadTimeout || d > DefaultReadTimeout+time.Second {
			t.Errorf("answered after %v, want %v", d, DefaultReadTimeout)
		}
	})
}

func TestAcceptIsBounded(t *testing.T) {
	in := newIntake()
	in.answer = func(ctx context.Context, _ bridge.Reading) (bridge.Receipt, error) {
		<-ctx.Done()
		return bridge.Receipt{}, fmt.Errorf("accept: %w", ctx.Err())
	}
	withBubble(t, in, func(t *testing.T, p *pipes) {
		conn := p.dial()
		defer conn.Close()
		write(t, conn, request("POST", "/v1/devices/d1/uplink", "1"))
		a, d := response(t, conn)
		checkProblem(t, a, http.StatusServiceUnavailable, "neither broker nor disk has answered in time")
		if d < DefaultAcceptTimeout || d > DefaultAcceptTimeout+time.Second {
			t.Errorf("answered after %v, want %v", d, DefaultAcceptTimeout)
		}
	})
}

func TestIdleConnectionIsClosed(t *testing.T) {
	withBubble(t, newIntake(), func(t *testing.T, p *pipes) {
		conn := p.dial()
		defer conn.Close()
		write(t, conn, request("POST", "/v1/devices/d1/uplink", "1"))
		if a, _ := response(t, conn); a.status != http.StatusOK {
			t.Errorf("status %d", a.status)
		}
		begin := time.Now()
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("read: %v, want EOF", err)
		}
		if d := time.Since(begin); d < DefaultIdleTimeout || d > DefaultIdleTimeout+time.Second {
			t.Errorf("closed after %v, want %v", d, DefaultIdleTimeout)
		}
	})
}

// Whoever does not read the answer is not waited for.
func TestSlowReaderIsCut(t *testing.T) {
	withBubble(t, newIntake(), func(t *testing.T, p *pipes) {
		conn := p.dial()
		defer conn.Close()
		write(t, conn, request("POST", "/v1/devices/d1/uplink", "1"))
		time.Sleep(DefaultReadTimeout + DefaultAcceptTimeout + answerTime + time.Second)
		if b, err := io.ReadAll(conn); err != nil || len(b) > 0 {
			t.Errorf("%d bytes after the time to write was over, error %v", len(b), err)
		}
	})
}
