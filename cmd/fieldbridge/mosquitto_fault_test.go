package main

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
	addr := mosqFreeAddr(t)
	line := openPTY(t)
	g := startGateway(t, "ack_timeout = \"300ms\"\n"+fmt.Sprintf(mosqJWTConfig, addr)+fmt.Sprintf(mosqPort, line.Path),
		map[string]string{"pump-1.pem": mosqKey(t)})
	g.awaitPorts()
	n := newNumbered()
	for range 50 {
		line.write(n.next("pump-1") + "\n")
	}
	eventually(t, "the lines are held", func() bool { return g.gw.bridge.Held() == 50 })
	a := g.post("pump-1", "", "text/plain", "not accepted")
	if a.Status != http.StatusServiceUnavailable || a.RetryAfter == "" || !strings.Contains(a.Detail, "connection refused") {
		t.Fatalf("POST without a broker: %+v", a)
	}
	b := mosqStart(t, mosqOptions{addr: addr})
	// The first to come is lost to a witness that subscribes too late, so the
	// broker's log is the witness here, and afterwards HTTP.
	eventually(t, "nothing is held", func() bool { return g.gw.bridge.Held() == 0 })
	if got := b.log.count("Received PUBLISH from pump-1"); got != 50 {
		t.Errorf("the broker got %d readings, want 50", got)
	}
	w := b.witness()
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
	eventually(t, "the lines are held", func() bool { return g.gw.bridge.Held() == 200 })
	b.log = &mosqLog{}
	b.start()
	eventually(t, "nothing is held", func() bool { return g.gw.bridge.Held() == 0 })
	if got := b.log.count("Received PUBLISH from pump-1"); got < 200 {
		t.Errorf("the broker got %d readings, want 200", got)
	}
	g.awaitUp()
	b.publish("/down/device/id/pump-1/command", "TARE")
	line.want("TARE")
}

// TestMosquittoFrozen stops the broker's process without closing anything: a
// half-open link. Callers are told no, lines wait, and after the thaw each
// arrives once.
func TestMosquittoFrozen(t *testing.T) {
	b := mosqStart(t, mosqOptions{})
	w := b.witness()
	line := openPTY(t)
	text := "ack_timeout = \"400ms\"\n" + fmt.Sprintf(mosqJWTConfig, b.addr) + "[[device]]\nid = \"pump-2\"\n" + fmt.Sprintf(mosqPort, line.Path)
	g := startGateway(t, text, map[string]string{"pump-1.pem": mosqKey(t), "pump-2.pem": mosqKey(t)})
	g.awaitUp()
	n := newNumbered()
	b.freeze()
	for range 100 {
		line.write(n.next("pump-1") + "\n")
	}
	denied := n.next("pump-2")
	if a := g.post("pump-2", "", "text/plain", denied); a.Status != http.StatusServiceUnavailable {
		t.Errorf("POST to a frozen broker: %+v", a)
	}
	n.deny(denied)
	eventually(t, "the lines are held", func() bool { return g.gw.bridge.Held() >= 100 })
	b.thaw()
	eventually(t, "nothing is held", func() bool { return g.gw.bridge.Held() == 0 })
	accepted := n.next("pump-2")
	eventually(t, "a POST is accepted", func() bool {
		return g.post("pump-2", "", "text/plain", accepted).Status == http.StatusOK
	})
	// 100 lines, the denied reading, which was on its way, and the last one.
	n.check(t, w.payloads(102), true)
}
