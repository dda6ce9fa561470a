package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var frozenFor = flag.Duration("frozen", 3*time.Second, "how long TestMosquittoFrozen freezes the broker")

// payloads reads lines of the witness until it has n different ones, and returns
// their payloads in the order of arrival.
func (w *mosqWitness) payloads(n int) []string {
	w.t.Helper()
	seen := map[string]bool{}
	var out []string
	for len(seen) < n {
		_, rest, _ := strings.Cut(w.next(), " ")
		_, payload, _ := strings.Cut(rest, " ")
		out = append(out, payload)
		seen[payload] = true
	}
	return out
}

// quiet fails if anything more arrives in a short while.
func (w *mosqWitness) quiet() {
	w.t.Helper()
	select {
	case l := <-w.lines:
		w.t.Errorf("the witness saw %q, too", l)
	case <-time.After(300 * time.Millisecond):
	}
}

const mosqPort = `
[[serial]]
name = "scale"
port = %q
device = "pump-1"
`

// TestMosquittoRenewal lets tokens run out every few seconds while readings come
// in by both ways: each arrives once and in order, over one and the same session.
func TestMosquittoRenewal(t *testing.T) {
	b := mosqStart(t, mosqOptions{})
	w := b.witness()
	line := openPTY(t)
	text := strings.Replace(fmt.Sprintf(mosqJWTConfig, b.addr), "[[device]]", "[connector.token]\nlifetime = \"4s\"\n[[device]]", 1)
	text += "[[device]]\nid = \"pump-2\"\n" + fmt.Sprintf(mosqPort, line.Path)
	g := startGateway(t, text, map[string]string{"pump-1.pem": mosqKey(t), "pump-2.pem": mosqKey(t)})
	g.awaitUp()

	n := newNumbered()
	sent := 0
	renewals := func() int { return strings.Count(g.Logs.String(), "session_present=true") }
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for over := time.After(2 * patience); renewals() < 4; {
		select {
		case <-tick.C:
		case <-over:
			t.Fatalf("%d renewals", renewals())
		}
		line.write(n.next("pump-1") + "\n")
		p := n.next("pump-2")
		if a := g.post("pump-2", "", "text/plain", p); a.Status != http.StatusOK {
			t.Fatalf("POST %s: %+v", p, a)
		}
		sent += 2
	}
	n.check(t, w.payloads(sent), false)
	w.quiet()
	t.Logf("%d readings over %d renewals", sent, renewals())
	if strings.Contains(b.log.String(), "session taken over") {
		t.Error("a renewal was no orderly reconnect")
	}
}

// TestMosquittoComesLater starts the gateway before the broker.
func TestMosquittoComesLater(t *testing.T) {
	mosqNeed(t)
	addr := freeAddr(t)
	line := openPTY(t)
	g := startGateway(t, fmt.Sprintf(mosqJWTConfig, addr)+fmt.Sprintf(mosqPort, line.Path),
		map[string]string{"pump-1.pem": mosqKey(t)})
	g.awaitPorts()
	n := newNumbered()
	for range 50 {
		line.write(n.next("pump-1") + "\n")
	}
	g.awaitSpooled(50)
	expectStored(t, g.post("pump-1", "", "text/plain", n.next("pump-1")))
	if !strings.Contains(g.Logs.String(), "connection refused") {
		t.Error("the log does not say why")
	}
	b := mosqStart(t, mosqOptions{addr: addr})
	// The first to come is lost to a witness that subscribes too late, so the
	// broker's log is the witness here, and afterwards HTTP.
	g.awaitEmpty()
	if got := b.log.count("Received PUBLISH from pump-1"); got != 51 {
		t.Errorf("the broker got %d readings, want 51", got)
	}
	w := b.witness()
	g.awaitUp()
	if a := g.post("pump-1", "", "text/plain", "accepted"); a.Status != http.StatusOK {
		t.Fatalf("POST with a broker: %+v", a)
	}
	w.want("/up/device/id/pump-1 text/plain accepted")
}

// TestMosquittoRestart kills a broker that keeps nothing, with readings coming
// in all the time: what was accepted arrives, and downlinks work again.
func TestMosquittoRestart(t *testing.T) {
	b := mosqStart(t, mosqOptions{})
	line := openPTY(t)
	text := fmt.Sprintf(mosqJWTConfig, b.addr) + "[[device.downlink]]\nserial = \"scale\"\n" + fmt.Sprintf(mosqPort, line.Path)
	g := startGateway(t, text, map[string]string{"pump-1.pem": mosqKey(t)})
	g.awaitUp()
	b.stop(syscall.SIGKILL)
	n := newNumbered()
	for range 200 {
		line.write(n.next("pump-1") + "\n")
	}
	g.awaitSpooled(200)
	b.log = &mosqLog{}
	b.start()
	g.awaitEmpty()
	if got := b.log.count("Received PUBLISH from pump-1"); got < 200 {
		t.Errorf("the broker got %d readings, want 200", got)
	}
	g.awaitUp()
	b.publish("/down/device/id/pump-1/command", "TARE")
	line.want("TARE")
}

const (
	// frozenAckTimeout is the configured ack_timeout.
	frozenAckTimeout = 400 * time.Millisecond
	// frozenWindow is what a session has in flight at most (receive_maximum).
	frozenWindow = 32
	// frozenPuback is after how long without a PUBACK a session connects anew.
	frozenPuback = 30 * time.Second
)

// TestMosquittoFrozen stops the broker's process without closing anything: a
// half-open link. Callers hear after ack_timeout that their readings are stored,
// nobody waits longer, and after the thaw all arrive in order. Each arrives once,
// unless the link was given up meanwhile: what was in flight then comes twice,
// because nobody knows whether the broker had got it.
//
//	go test ./cmd/fieldbridge -run TestMosquittoFrozen -frozen 60s -v
func TestMosquittoFrozen(t *testing.T) {
	b := mosqStart(t, mosqOptions{})
	w := b.witness()
	line := openPTY(t)
	text := fmt.Sprintf("ack_timeout = %q\n", frozenAckTimeout) + fmt.Sprintf(mosqJWTConfig, b.addr) +
		"[[device]]\nid = \"pump-2\"\n[[device]]\nid = \"pump-3\"\n" + fmt.Sprintf(mosqPort, line.Path)
	g := startGateway(t, text, map[string]string{"pump-1.pem": mosqKey(t), "pump-2.pem": mosqKey(t), "pump-3.pem": mosqKey(t)})
	g.awaitUp()
	n := newNumbered()
	b.freeze()
	over := time.After(*frozenFor)
	for _, device := range []string{"pump-2", "pump-3"} {
		began := time.Now()
		expectStored(t, g.post(device, "", "text/plain", n.next(device)))
		took := time.Since(began)
		if took < frozenAckTimeout {
			t.Errorf("%s: stored after %v, before ack_timeout", device, took)
		}
		t.Logf("%s: 202 after %v", device, took.Round(time.Millisecond))
	}
	sent, slowest := 2, time.Duration(0)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for frozen := true; frozen; {
		select {
		case <-tick.C:
		case <-over:
			frozen = false
		}
		line.write(n.next("pump-1") + "\n")
		began := time.Now()
		expectStored(t, g.post("pump-2", "", "text/plain", n.next("pump-2")))
		slowest = max(slowest, time.Since(began))
		sent += 2
	}
	g.awaitSpooled(sent)
	b.thaw()
	// With new readings behind the old ones.
	for range 100 {
		for _, device := range []string{"pump-2", "pump-3"} {
			if a := g.post(device, "", "text/plain", n.next(device)); a.Status/100 != 2 {
				t.Fatalf("POST after the thaw: %+v", a)
			}
			sent++
		}
	}
	got := w.payloads(sent)
	g.awaitEmpty()
	reconnects := b.log.count("Sending CONNACK to pump-") - 3
	n.check(t, got, reconnects > 0)
	if twice := len(got) - sent; twice > 3*frozenWindow {
		t.Errorf("%d readings came twice, more than can have been in flight", twice)
	}
	if *frozenFor < frozenPuback && reconnects > 0 {
		t.Errorf("%d reconnects within %v", reconnects, *frozenFor)
	}
	eventually(t, "nothing is stored any more", func() bool {
		return g.post("pump-2", "", "text/plain", n.next("pump-2")).Status == http.StatusOK
	})
	t.Logf("frozen for %v: %d readings accepted, lost 0, %d came twice, %d reconnects; slowest answer behind a backlog %v",
		*frozenFor, sent, len(got)-sent, reconnects, slowest.Round(time.Millisecond))
}

// TestMosquittoForgetsReadingsInFlight kills a broker that keeps nothing while
// it has readings whose PUBACKs have not got through: they go out again, to a
// broker that knows nothing of the session.
func TestMosquittoForgetsReadingsInFlight(t *testing.T) {
	t.Parallel()
	b := mosqStart(t, mosqOptions{extra: fmt.Sprintf("max_inflight_messages %d\n", frozenWindow)})
	r := newRelay(t, b.addr)
	line := openPTY(t)
	g := startGateway(t, fmt.Sprintf(mosqJWTConfig, r.addr)+fmt.Sprintf(mosqPort, line.Path), map[string]string{"pump-1.pem": mosqKey(t)})
	g.awaitUp()
	n := newNumbered()
	r.mute(true)
	writeLines(n, line, 100)
	inFlight := func() int { return b.log.count("Received PUBLISH from pump-1") }
	eventually(t, "a full window at the broker", func() bool { return inFlight() == frozenWindow })
	eventually(t, "all lines held", func() bool { return g.gw.bridge.Held() == 100 })
	r.refuse(true)
	b.stop(syscall.SIGKILL)
	g.awaitSpooled(100)
	b.start()
	w := b.witness()
	r.mute(false)
	r.refuse(false)
	g.awaitUp()
	if !strings.Contains(g.Logs.String(), "session_present=false") {
		t.Error("the broker has kept the session")
	}
	n.check(t, w.payloads(100), false) // each came once to this broker
	g.awaitEmpty()
	w.quiet()
	if got := inFlight(); got != frozenWindow+100 {
		t.Errorf("the brokers got %d readings, want %d in flight before and 100 after", got, frozenWindow)
	}
}

// relay stands between a gateway and a broker.
type relay struct {
	addr string

	t       *testing.T
	to      string
	wait    sync.WaitGroup
	mu      sync.Mutex // guards what follows
	refuses bool
	muted   chan struct{} // closed when it speaks again; nil: it does
	conns   map[net.Conn]bool
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{addr: l.Addr().String(), t: t, to: to, conns: map[net.Conn]bool{}}
	r.wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.wait.Go(func() { r.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.mute(false)
		r.refuse(true)
		r.wait.Wait()
	})
	return r
}

func (r *relay) serve(c net.Conn) {
	defer c.Close()
	broker, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	defer broker.Close()
	r.mu.Lock()
	refused := r.refuses
	r.conns[c], r.conns[broker] = true, true
	r.mu.Unlock()
	if refused {
		return
	}
	r.wait.Go(func() {
		_, _ = io.Copy(broker, c)
		_ = broker.Close()
	})
	buf := make([]byte, 4096)
	for {
		n, err := broker.Read(buf)
		r.mu.Lock()
		muted := r.muted
		r.mu.Unlock()
		if muted != nil {
			<-muted
		}
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

// mute withholds what the broker says.
func (r *relay) mute(muted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case muted && r.muted == nil:
		r.muted = make(chan struct{})
	case !muted && r.muted != nil:
		close(r.muted)
		r.muted = nil
	}
}

// refuse ends all connections and lets none come about until it is called with
// false.
func (r *relay) refuse(refuses bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refuses = refuses
	if refuses {
		for c := range r.conns {
			_ = c.Close()
		}
		clear(r.conns)
	}
}
