package main

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"fieldbridge/bridge/devbroker"
)

// scaleText is pump-1 with a serial port, whose path it takes, and downlinks to
// it.
const scaleText = `
[[device]]
id = "pump-1"
connector = "plant"
[[device.downlink]]
serial = "scale"
[[device]]
id = "pump-2"
connector = "plant"
[[device]]
id = "app"
connector = "yard"
[[serial]]
name = "scale"
port = %q
device = "pump-1"
`

// writeLines sends count numbered readings of pump-1 and returns the last one.
func writeLines(n *numbered, port *testPTY, count int) (last string) {
	port.t.Helper()
	for range count {
		last = n.next("pump-1")
		port.write(last + "\n")
	}
	return last
}

// expect503 checks a "not now".
func expect503(t *testing.T, a answer, detail string) {
	t.Helper()
	if a.Status != http.StatusServiceUnavailable || a.Type != "application/problem+json" {
		t.Errorf("answer %+v, want 503 as a problem", a)
	}
	if a.RetryAfter == "" || a.RetryAfter == "0" {
		t.Errorf("answer %+v has no Retry-After", a)
	}
	if !strings.Contains(a.Detail, detail) {
		t.Errorf("detail %q does not contain %q", a.Detail, detail)
	}
	for _, secret := range []string{yardSecret, "eyJ"} {
		if strings.Contains(a.Detail, secret) {
			t.Errorf("detail %q shows a secret", a.Detail)
		}
	}
}

func TestWrongCredentialsHarmNobodyElse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, file, content, broken string
	}{
		{name: "wrong key", file: "pump-1.pem", broken: "pump-1"},
		{name: "wrong secret", file: "yard.secret", content: "wr0ng-s3cr3t", broken: "app"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			files := map[string]string{}
			for name, content := range s.Files {
				files[name] = content
			}
			files[c.file] = c.content
			if c.content == "" {
				files[c.file] = newKey(t, "ES256")
			}
			g := startGateway(t, "ack_timeout = \"3s\"\n"+s.config("", "", devicesText), files)
			eventually(t, "the refusal", func() bool { return strings.Contains(g.Logs.String(), "session down") })
			var broken answer
			var slow sync.WaitGroup
			slow.Go(func() { broken = g.post(c.broken, "", "text/plain", "x") })
			want := map[seen]int{}
			for range 3 {
				for device := range deviceTopics {
					if device == c.broken {
						continue
					}
					if a := g.post(device, "", "text/plain", "x"); a.Status != http.StatusOK {
						t.Fatalf("%s: answer %+v", device, a)
					}
					want[seen{device, topicOf(device, ""), "text/plain", "x", 1, 1, false}]++
				}
			}
			slow.Wait()
			expect503(t, broken, "0x86 (bad user name or password)")
			if !strings.Contains(broken.Detail, "check that the device's public key") {
				t.Errorf("detail %q does not say what to do", broken.Detail)
			}
			expectReadings(t, s, want)
		})
	}
}

func TestRefusedReading(t *testing.T) {
	s := newSite(t)
	port := openPTY(t)
	s.Broker.RefusePublishes(func(m devbroker.Message) byte {
		if strings.HasPrefix(string(m.Payload), "bad") {
			return 0x99
		}
		return 0
	})
	g := startGateway(t, s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	for _, device := range []string{"pump-1", "app"} {
		a := g.post(device, "alerts", "text/plain", "bad")
		if a.Status != http.StatusUnprocessableEntity || a.ReasonCode != 0x99 || a.RetryAfter != "" ||
			!strings.Contains(a.Detail, "refused by the broker with reason code 0x99 (payload format invalid") {
			t.Errorf("%s: answer %+v", device, a)
		}
		if a := g.post(device, "alerts", "text/plain", "good"); a.Status != http.StatusOK {
			t.Errorf("%s: answer %+v after a refused one", device, a)
		}
	}
	port.write("bad line\ngood line\n")
	eventually(t, "the reading behind the refused one", func() bool { return len(s.messages("pump-1")) == 2 })
	eventually(t, "a line in the log", func() bool {
		return strings.Contains(g.Logs.String(), "reading refused by the broker, dropped")
	})
	if n := len(s.Broker.Connects()); n != 3 {
		t.Errorf("%d CONNECTs: a refused reading is no reason to reconnect", n)
	}
}

func TestBrokerComesLater(t *testing.T) {
	t.Parallel()
	s := newDarkSite(t)
	var listen func() net.Listener
	s.Addr, listen = reservedAddr(t)
	port := openPTY(t)
	n := newNumbered()
	g := startGateway(t, "ack_timeout = \"500ms\"\n"+s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	g.awaitPorts()
	writeLines(n, port, 20)
	for _, device := range []string{"pump-2", "app"} {
		payload := n.next(device)
		expect503(t, g.post(device, "", "text/plain", payload), "connect to "+s.Addr)
		n.deny(payload)
	}
	ready, err := g.client.Get("http://" + g.HTTP + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = ready.Body.Close()
	if ready.StatusCode != http.StatusOK {
		t.Errorf("not ready (%d) because the broker is away", ready.StatusCode)
	}
	if len(s.Broker.Messages()) > 0 {
		t.Fatal("the broker was there already")
	}

	s.serve(listen(), func(c net.Conn) net.Conn { return c })
	s.await("pump-1", 20)
	for _, device := range []string{"pump-2", "app"} {
		eventually(t, "a 200 for "+device, func() bool {
			payload := n.next(device)
			a := g.post(device, "", "text/plain", payload)
			if a.Status != http.StatusOK {
				n.deny(payload)
			}
			return a.Status == http.StatusOK
		})
	}
	writeLines(n, port, 20)
	s.await("pump-1", 40)
	g.stop()
	n.check(t, payloadsOf(s.Broker.Messages()), false)
}

func TestFrozenBroker(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	port := openPTY(t)
	n := newNumbered()
	g := startGateway(t, "ack_timeout = \"500ms\"\n"+s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	g.awaitUp()
	writeLines(n, port, 5)
	s.await("pump-1", 5)

	s.Broker.Freeze()
	// On the scale's own device too: what was denied may arrive, but in its place.
	for _, device := range []string{"pump-1", "app"} {
		payload := n.next(device)
		expect503(t, g.post(device, "", "text/plain", payload), "the broker did not acknowledge the reading within 500ms")
		n.deny(payload)
	}
	writeLines(n, port, 100) // more than the window of 32
	eventually(t, "readings to wait", func() bool { return g.gw.bridge.Held() >= 100 })
	if got := len(s.messages("pump-1")); got != 5 {
		t.Fatalf("the broker got %d readings while it was frozen", got)
	}
	s.Broker.Thaw()
	eventually(t, "no reading to wait", func() bool { return g.gw.bridge.Held() == 0 })
	last := writeLines(n, port, 5)
	s.awaitPayload(last)
	g.stop()
	n.check(t, payloadsOf(s.Broker.Messages()), false)
}

func TestForgottenSessions(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	port := openPTY(t)
	n := newNumbered()
	g := startGateway(t, s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	g.awaitUp()
	for round := 1; round <= 3; round++ {
		// The first are lost without their PUBACK, the rest while nobody is there.
		s.Broker.HoldAcks(true)
		writeLines(n, port, 50)
		eventually(t, "readings in flight", func() bool { return arrived("pump-1", payloadsOf(s.messages("pump-1"))) >= 50*(round-1)+32 })
		s.Broker.ForgetSessions()
		s.Broker.HoldAcks(false)
		s.await("pump-1", 50*round)
		s.down(devbroker.Message{Device: "pump-1", ContentType: "text/plain", Payload: fmt.Appendf(nil, "TARE %d", round)})
		port.want(fmt.Sprintf("TARE %d", round))
	}
	eventually(t, "no reading to wait", func() bool { return g.gw.bridge.Held() == 0 })
	g.stop()
	n.check(t, payloadsOf(s.Broker.Messages()), true)
	for _, c := range s.connectsOf("pump-1") {
		if c.SessionPresent {
			t.Error("the broker has not forgotten the session: this test shows nothing")
		}
	}
}

// TestLostConnections has the sessions kept: what was in flight is repeated.
func TestLostConnections(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	port := openPTY(t)
	n := newNumbered()
	g := startGateway(t, s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	g.awaitUp()
	for round := 1; round <= 3; round++ {
		writeLines(n, port, 50)
		s.Broker.DropAll()
		s.await("pump-1", 50*round)
	}
	eventually(t, "no reading to wait", func() bool { return g.gw.bridge.Held() == 0 })
	g.stop()
	n.check(t, payloadsOf(s.Broker.Messages()), true)
	for i, c := range s.connectsOf("pump-1") {
		if c.SessionPresent != (i > 0) {
			t.Errorf("CONNECT %d: session present %v", i, c.SessionPresent)
		}
	}
}

func TestShutdownWaitsForTheBroker(t *testing.T) {
	s := newSite(t)
	port := openPTY(t)
	n := newNumbered()
	g := startGateway(t, s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	g.awaitUp()
	s.Broker.HoldAcks(true)
	writeLines(n, port, 50)
	var posted answer
	var slow sync.WaitGroup
	slow.Go(func() { posted = g.post("app", "", "text/plain", n.next("app")) })
	s.await("app", 1)
	s.await("pump-1", 32)
	eventually(t, "all lines read", func() bool { return g.gw.bridge.Held() == 51 })

	g.cancel()
	eventually(t, "no new connections", func() bool {
		c, err := net.Dial("tcp", g.HTTP)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	select {
	case <-g.done:
		t.Fatal("the gateway stopped with readings in flight")
	default:
	}
	s.Broker.HoldAcks(false)
	slow.Wait()
	if posted.Status != http.StatusOK || posted.State != "delivered" {
		t.Errorf("the waiting POST got %+v", posted)
	}
	g.wait()
	n.check(t, payloadsOf(s.Broker.Messages()), false)
	if log := g.Logs.String(); strings.Contains(log, "readings are lost") || !strings.Contains(log, "stopped") {
		t.Errorf("the log says something else:\n%s", log)
	}
}

func TestShutdownWithoutBrokerTellsWhatIsLost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	port := openPTY(t)
	g := startGateway(t, "ack_timeout = \"500ms\"\n"+s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	g.awaitUp()
	s.Broker.Freeze()
	port.write("1 kg\n2 kg\n3 kg\n")
	var posted answer
	var slow sync.WaitGroup
	slow.Go(func() { posted = g.post("app", "", "text/plain", "x") })
	eventually(t, "readings to wait", func() bool { return g.gw.bridge.Held() == 4 })
	g.cancel()
	slow.Wait()
	expect503(t, posted, "the broker did not acknowledge the reading within 500ms")
	g.wait()
	if log := g.Logs.String(); !strings.Contains(log, "level=ERROR msg=\"readings are lost") {
		t.Errorf("the log does not tell of the loss:\n%s", log)
	}
	s.Broker.Thaw()
}
