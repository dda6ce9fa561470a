package rest

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

// Small bodies on their way take no slot.
func TestSlowBodiesTakeNoSlot(t *testing.T) {
	in := newIntake()
	withBubbleStop(t, Options{MaxConcurrent: 1}, in, func(t *testing.T, p *pipes, _ func() time.Duration) {
		var slowOnes []net.Conn
		for range 20 {
			conn := p.dial()
			defer conn.Close()
			write(t, conn, longBody+"x")
			slowOnes = append(slowOnes, conn)
		}
		conn := p.dial()
		defer conn.Close()
		for range 3 {
			ask(t, conn)
		}
		for _, slow := range slowOnes { // and they come to their end, too
			write(t, slow, strings.Repeat("x", 999))
			if a, _ := response(t, slow); a.status != http.StatusOK {
				t.Errorf("status %d: %s", a.status, a.body)
			}
		}
	})
	if n := len(in.take()); n != 23 {
		t.Errorf("%d readings, want 23", n)
	}
}

// bigBody is the header of a reading that is received with a slot, and so much of
// its body that it has it.
var bigBody = request("POST", "/v1/devices/d1/uplink", "", "Content-Length: 100000", "Content-Type: text/plain") +
	strings.Repeat("x", freeBody+1)

func TestSlowBodyGivesSlotAway(t *testing.T) {
	in := newIntake()
	var y yields
	withBubbleStop(t, Options{MaxConcurrent: 2, GaveWay: y.add}, in, func(t *testing.T, p *pipes, _ func() time.Duration) {
		lazy, quick := p.dial(), p.dial()
		defer lazy.Close()
		defer quick.Close()
		write(t, lazy, bigBody)
		write(t, quick, bigBody)
		synctest.Wait()
		time.Sleep(slow / 2)
		write(t, quick, strings.Repeat("x", 10000))
		conn := p.dial()
		defer conn.Close()
		begin := time.Now()
		write(t, conn, request("POST", "/v1/devices/d1/uplink", "1"))
		a, _ := response(t, lazy)
		checkProblem(t, a, http.StatusServiceUnavailable, "comes slowly while others wait")
		if a, _ := response(t, conn); a.status != http.StatusOK {
			t.Errorf("status %d: %s", a.status, a.body)
		}
		if d := time.Since(begin); d < slow/2 || d > slow/2+look {
			t.Errorf("answered after %v, want %v", d, slow/2)
		}
		write(t, quick, strings.Repeat("x", 100000-freeBody-1-10000))
		if a, _ := response(t, quick); a.status != http.StatusOK {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
	y.check(t, YieldBody)
	if n := len(in.take()); n != 2 {
		t.Errorf("%d readings, want 2", n)
	}
}

// A batch that waits for lines gives way, and says from where to begin again.
func TestSlowBatchGivesSlotAway(t *testing.T) {
	in := newIntake()
	withBubbleStop(t, Options{MaxConcurrent: 1}, in, func(t *testing.T, p *pipes, _ func() time.Duration) {
		batch := p.dial()
		defer batch.Close()
		line := `{"device":"d1","payload":1}` + "\n"
		write(t, batch, request("POST", "/v1/uplinks", "", "Content-Length: 1000", "Content-Type: application/x-ndjson")+line)
		resp, err := http.ReadResponse(bufio.NewReader(batch), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		results := json.NewDecoder(resp.Body)
		result := func() (r struct {
			Line, Status int
			State        bridge.State
			Detail       string
		}) {
			if err := results.Decode(&r); err != nil {
				t.Fatal(err)
			}
			return r
		}
		if r := result(); r.Line != 1 || r.State != bridge.Delivered {
			t.Errorf("result %+v", r)
		}
		time.Sleep(slow)
		conn := p.dial()
		defer conn.Close()
		write(t, conn, request("POST", "/v1/devices/d1/uplink", "1"))
		if r := result(); r.Line != 2 || r.Status != http.StatusServiceUnavailable || !strings.Contains(r.Detail, "comes slowly") {
			t.Errorf("result %+v", r)
		}
		if _, err := io.Copy(io.Discard, io.MultiReader(results.Buffered(), resp.Body)); err != nil {
			t.Error(err)
		}
		if a, _ := response(t, conn); a.status != http.StatusOK {
			t.Errorf("status %d: %s", a.status, a.body)
		}
		expectCut(t, batch)
	})
	if n := len(in.take()); n != 2 {
		t.Errorf("%d readings, want 2", n)
	}
}

// Who accepts has a slot, however little its body is, and without one, too.
func TestEveryAcceptHasASlot(t *testing.T) {
	for name, raw := range map[string]string{
		"small":   request("POST", "/v1/devices/d1/uplink", "1"),
		"chunked": request("POST", "/v1/devices/d1/uplink", "1\r\n1\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
		"large":   request("POST", "/v1/devices/d1/uplink", strings.Repeat("x", 50000), "Content-Type: text/plain"),
		"batch":   request("POST", "/v1/uplinks", `{"device":"d1","payload":1}`+"\n", "Content-Type: application/x-ndjson"),
	} {
		t.Run(name, func(t *testing.T) {
			in, entered, let := held()
			s := start(t, Options{MaxConcurrent: 2}, in)
			conn := dial(t, s.Addr())
			write(t, conn, raw)
			within(t, entered)
			if n := len(s.slots); n != 1 {
				t.Errorf("%d slots are taken", n)
			}
			close(let)
			if a := exchange(t, conn, ""); a.status != http.StatusOK {
				t.Errorf("status %d: %s", a.status, a.body)
			}
		})
	}
}
