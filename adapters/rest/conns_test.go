package rest

import (
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// dial connects to a server until the test ends.
func dial(t testing.TB, addr net.Addr) net.Conn {
	t.Helper()
	conn, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// yields is who has given way.
type yields struct {
	mu   sync.Mutex // guards seen
	seen []Yield
}

func (y *yields) add(why Yield) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.seen = append(y.seen, why)
}

func (y *yields) take() []Yield {
	y.mu.Lock()
	defer y.mu.Unlock()
	seen := y.seen
	y.seen = nil
	return seen
}

func (y *yields) check(t *testing.T, want ...Yield) {
	t.Helper()
	if got := y.take(); !slices.Equal(got, want) {
		t.Errorf("%q gave way, want %q", got, want)
	}
}

// expectCut reads what a server has closed.
func expectCut(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(patience)) // an error says that it is closed
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
		t.Errorf("%d bytes, error %v; want it closed", n, err)
	}
	conn.Close()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// ask has a request answered with 200.
func ask(t *testing.T, conn net.Conn) {
	t.Helper()
	write(t, conn, request("POST", "/v1/devices/d1/uplink", "1"))
	if a, _ := response(t, conn); a.status != http.StatusOK {
		t.Errorf("status %d: %s", a.status, a.body)
	}
}

const (
	halfHeader = "POST /v1/devices/d1/uplink HTTP/1.1\r\nHost: localhost\r\n"
	restHeader = "Content-Length: 1\r\n\r\n1"
)

// longBody is the header of a reading whose body can be dripped.
var longBody = request("POST", "/v1/devices/d1/uplink", "", "Content-Length: 1000", "Content-Type: text/plain")

func TestWhoGivesWayFirst(t *testing.T) {
	var y yields
	withBubbleStop(t, Options{MaxConnections: 5, GaveWay: y.add}, newIntake(), func(t *testing.T, p *pipes, _ func() time.Duration) {
		body := p.dial()
		write(t, body, longBody)
		first, second := p.dial(), p.dial()
		ask(t, second)
		time.Sleep(time.Millisecond)
		ask(t, first)
		time.Sleep(time.Millisecond)
		silent, half := p.dial(), p.dial()
		ask(t, half)
		time.Sleep(time.Millisecond)
		write(t, half, halfHeader) // of its second request
		time.Sleep(slow)
		y.check(t)
		var others []net.Conn
		for _, want := range []struct {
			conn net.Conn
			why  Yield
		}{{silent, YieldHeader}, {half, YieldHeader}, {second, YieldIdle}, {first, YieldIdle}} {
			conn := p.dial()
			defer conn.Close()
			write(t, conn, longBody)
			expectCut(t, want.conn)
			y.check(t, want.why)
			others = append(others, conn)
		}
		// Only bodies are left, and the oldest is slow.
		last := p.dial()
		defer last.Close()
		go func() { _, _ = io.WriteString(last, request("POST", "/v1/devices/d1/uplink", "1")) }()
		a, _ := response(t, body)
		checkProblem(t, a, http.StatusServiceUnavailable, "comes slowly while others wait")
		if !a.closes || a.header.Get("Retry-After") != "1" {
			t.Errorf("answer %+v", a)
		}
		if a, _ := response(t, last); a.status != http.StatusOK {
			t.Errorf("status %d", a.status)
		}
		y.check(t, YieldBody)
		for _, conn := range others {
			write(t, conn, strings.Repeat("x", 1000))
			if a, _ := response(t, conn); a.status != http.StatusOK {
				t.Errorf("status %d: %s", a.status, a.body)
			}
		}
	})
}

// Nobody is cut whose request is being accepted, or has only just begun to come:
// the new connection waits.
func TestNewConnectionWaits(t *testing.T) {
	in := newIntake()
	var y yields
	withBubbleStop(t, Options{MaxConnections: 2, MaxConcurrent: 2, GaveWay: y.add}, in, func(t *testing.T, p *pipes, _ func() time.Duration) {
		entered, let := in.hold()
		one := p.dial()
		defer one.Close()
		write(t, one, request("POST", "/v1/devices/d1/uplink", "1"))
		<-entered
		time.Sleep(time.Minute / 2) // however long it takes
		two := p.dial()
		defer two.Close()
		write(t, two, halfHeader)
		time.Sleep(slow / 2)
		three := p.dial()
		defer three.Close()
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			_, _ = io.WriteString(three, request("POST", "/v1/devices/d1/uplink", "1"))
		}()
		synctest.Wait()
		y.check(t)
		write(t, two, restHeader)
		<-entered
		time.Sleep(2 * slow)
		synctest.Wait()
		select {
		case <-wrote:
			t.Error("a connection above the limit was served")
		default:
		}
		let <- struct{}{}
		let <- struct{}{}
		for _, conn := range []net.Conn{one, two} {
			if a, _ := response(t, conn); a.status != http.StatusOK {
				t.Errorf("status %d: %s", a.status, a.body)
			}
		}
		<-entered
		y.check(t, YieldIdle)
		let <- struct{}{}
		if a, _ := response(t, three); a.status != http.StatusOK {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
}

func TestYoungHeaderIsWaitedFor(t *testing.T) {
	withBubbleStop(t, Options{MaxConnections: 1}, newIntake(), func(t *testing.T, p *pipes, _ func() time.Duration) {
		half := p.dial()
		defer half.Close()
		write(t, half, halfHeader)
		conn := p.dial()
		defer conn.Close()
		begin := time.Now()
		write(t, conn, request("POST", "/v1/devices/d1/uplink", "1"))
		if a, _ := response(t, conn); a.status != http.StatusOK {
			t.Errorf("status %d", a.status)
		}
		if d := time.Since(begin); d < slow || d > slow+look {
			t.Errorf("answered after %v, want %v", d, slow)
		}
		expectCut(t, half)
	})
}

// The slower body goes.
func TestSlowestBodyGivesWay(t *testing.T) {
	var y yields
	withBubbleStop(t, Options{MaxConnections: 2, GaveWay: y.add}, newIntake(), func(t *testing.T, p *pipes, _ func() time.Duration) {
		quick, lazy := p.dial(), p.dial()
		defer quick.Close()
		defer lazy.Close()
		write(t, quick, longBody+strings.Repeat("x", 500))
		time.Sleep(slow)
		write(t, lazy, longBody+"x")
		time.Sleep(slow)
		conn := p.dial()
		defer conn.Close()
		go func() { _, _ = io.WriteString(conn, request("POST", "/v1/devices/d1/uplink", "1")) }()
		a, _ := response(t, lazy)
		checkProblem(t, a, http.StatusServiceUnavailable, "comes slowly while others wait")
		if a, _ := response(t, conn); a.status != http.StatusOK {
			t.Errorf("status %d", a.status)
		}
		write(t, quick, strings.Repeat("x", 500))
		if a, _ := response(t, quick); a.status != http.StatusOK {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
	y.check(t, YieldBody)
}

// Those who do not take their refusal are not waited for, and not without bound.
func TestRefusedBodiesAreBounded(t *testing.T) {
	var y yields
	withBubbleStop(t, Options{MaxConnections: 1, GaveWay: y.add}, newIntake(), func(t *testing.T, p *pipes, _ func() time.Duration) {
		told, cut := p.dial(), (net.Conn)(nil)
		defer told.Close()
		write(t, told, longBody)
		time.Sleep(slow)
		cut = p.dial()
		write(t, cut, longBody) // in the place of told, which does not read its answer
		y.check(t, YieldBody)
		time.Sleep(slow)
		conn := p.dial()
		defer conn.Close()
		ask(t, conn)
		y.check(t, YieldBody)
		expectCut(t, cut)
		a, _ := response(t, told)
		checkProblem(t, a, http.StatusServiceUnavailable, "comes slowly while others wait")
	})
}

// socketPair is a connection and its server's end, which nobody reads.
func socketPair(t *testing.T, table *conns) (client net.Conn, c *conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client = dial(t, ln.Addr())
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	c = &conn{Conn: nc, conns: table, server: &Server{}}
	table.admit(c, nil)
	c.begins()
	c.rests()
	c.since = time.Now().Add(-slow)
	return client, c
}

// A request that is there, but not seen yet, is not thrown away.
func TestPendingIsNotIdle(t *testing.T) {
	table := newConns()
	table.limit(2)
	client, c := socketPair(t, table)
	_, other := socketPair(t, table)
	write(t, client, "P")
	for deadline := time.Now().Add(patience); !c.pending(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the byte did not come")
		}
	}
	if !table.yield() || table.yield() || other.phase.Load() != departed || c.phase.Load() != opening {
		t.Errorf("phases %d and %d", c.phase.Load(), other.phase.Load())
	}
	if n := table.count(); n != 1 {
		t.Errorf("%d connections are open", n)
	}
}

// What comes while the connection is being closed is not looked at: its sender
// can send it again.
func TestDepartedReadsNothing(t *testing.T) {
	table := newConns()
	table.limit(1)
	client, c := socketPair(t, table)
	write(t, client, "POST")
	table.mu.Lock()
	table.move(c, departed)
	table.mu.Unlock()
	if n, err := c.Read(make([]byte, 10)); n != 0 || !errors.Is(err, net.ErrClosed) {
		t.Errorf("%d bytes, error %v", n, err)
	}
}

// A client that sends often keeps its connection: others wait.
func TestRestlessIsNotCut(t *testing.T) {
	var y yields
	withBubbleStop(t, Options{MaxConnections: 1, GaveWay: y.add}, newIntake(), func(t *testing.T, p *pipes, _ func() time.Duration) {
		conn := p.dial()
		defer conn.Close()
		ask(t, conn)
		other := p.dial()
		defer other.Close()
		for range 10 {
			time.Sleep(slow - look)
			ask(t, conn)
		}
		y.check(t)
		begin := time.Now()
		ask(t, other)
		if d := time.Since(begin); d < slow || d > slow+look {
			t.Errorf("answered after %v, want %v", d, slow)
		}
		expectCut(t, conn)
	})
	y.check(t, YieldIdle)
}
