package main

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

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

// expectStored checks an answer that says that the spool has the reading.
func expectStored(t *testing.T, a answer) {
	t.Helper()
	if a.Status != http.StatusAccepted || a.State != "stored" || uuid.Validate(a.ID) != nil {
		t.Errorf("answer %+v, want 202, stored", a)
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
			files := maps.Clone(s.Files)
			files[c.file] = c.content
			if c.content == "" {
				files[c.file] = newKey(t, "ES256")
			}
			g := startGateway(t, s.config("", "", devicesText), files)
			for _, part := range []string{"session down", "0x86 (bad user name or password)", "check that the device's public key"} {
				eventually(t, part+" in the log", func() bool { return strings.Contains(g.Logs.String(), part) })
			}
			g.awaitSessions(2)
			expectStored(t, g.post(c.broken, "", "text/plain", "x"))
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
			expectReadings(t, s, want)

			// With the right one, what has waited goes out.
			g.stop()
			if err := os.WriteFile(filepath.Join(filepath.Dir(g.Path), c.file), []byte(s.Files[c.file]), 0o600); err != nil {
				t.Fatal(err)
			}
			g = g.restart()
			want[seen{c.broken, topicOf(c.broken, ""), "text/plain", "x", 1, 1, false}]++
			expectReadings(t, s, want)
			g.awaitEmpty()
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
	g.awaitUp()
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
	// Who was told keeps the reading; nobody was told about the line.
	eventually(t, "a dead letter", func() bool { return len(g.deadReadings()) > 0 })
	if diff := cmp.Diff(map[string]byte{"bad line": 0x99}, g.deadReadings()); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}
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
	g := startGateway(t, s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	g.awaitPorts()
	writeLines(n, port, 20)
	g.awaitSpooled(20)
	const posted = 10
	for range posted {
		for _, device := range []string{"pump-1", "pump-2", "app"} {
			// ack_timeout would make it 30 s.
			began := time.Now()
			expectStored(t, g.post(device, "", "text/plain", n.next(device)))
			if took := time.Since(began); took > patience/2 {
				t.Errorf("the answer took %s: the broker was waited for", took)
			}
		}
	}
	ready, err := g.client.Get("http://" + g.HTTP + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = ready.Body.Close()
	if ready.StatusCode != http.StatusOK {
		t.Errorf("not ready (%d) because the broker is away", ready.StatusCode)
	}
	if got := g.gw.spool.Stats().Readings; got != 20+3*posted {
		t.Errorf("%d readings in the spool, want %d", got, 20+3*posted)
	}
	if len(s.Broker.Messages()) > 0 {
		t.Fatal("the broker was there already")
	}

	s.serve(listen(), func(c net.Conn) net.Conn { return c })
	s.await("pump-1", 20+posted)
	g.awaitUp()
	g.awaitEmpty()
	for _, device := range []string{"pump-2", "app"} {
		if a := g.post(device, "", "text/plain", n.next(device)); a.Status != http.StatusOK {
			t.Errorf("%s: answer %+v", device, a)
		}
	}
	s.awaitPayload(writeLines(n, port, 20))
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
	began := time.Now()
	expectStored(t, g.post("app", "", "text/plain", n.next("app")))
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("the answer came after %s, before ack_timeout was over", took)
	}
	expectStored(t, g.post("pump-1", "", "text/plain", n.next("pump-1")))
	writeLines(n, port, 100) // more than the window of 32
	g.awaitSpooled(102)
	// Behind a backlog nobody waits for the broker.
	expectStored(t, g.post("pump-1", "", "text/plain", n.next("pump-1")))
	if got := len(s.messages("pump-1")); got != 5 {
		t.Fatalf("the broker got %d readings while it was frozen", got)
	}
	s.Broker.Thaw()
	g.awaitEmpty()
	s.awaitPayload(writeLines(n, port, 5))
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
	g.awaitEmpty()
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
	g.awaitEmpty()
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
	eventually(t, "new readings are refused", func() bool {
		resp, err := g.client.Get("http://" + g.HTTP + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable
	})
	if a := g.post("app", "", "text/plain", "late"); a.Status != http.StatusServiceUnavailable {
		t.Errorf("a reading after the end began got %+v", a)
	}
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
	if log := g.Logs.String(); strings.Contains(log, "is lost") || !strings.Contains(log, "stopped") {
		t.Errorf("the log says something else:\n%s", log)
	}
}

// TestShutdownWithoutBroker has readings in every place when SIGTERM comes: in
// flight, waiting, and with a sender who waits for the answer.
func TestShutdownWithoutBroker(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	port := openPTY(t)
	n := newNumbered()
	g := startGateway(t, "ack_timeout = \"2s\"\n"+s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	g.awaitUp()
	s.Broker.Freeze()
	writeLines(n, port, 50)
	var posted answer
	var slow sync.WaitGroup
	slow.Go(func() { posted = g.post("app", "", "text/plain", n.next("app")) })
	eventually(t, "all readings held", func() bool { return g.gw.bridge.Held() == 51 })
	g.cancel()
	slow.Wait()
	expectStored(t, posted)
	g.wait()
	if log := g.Logs.String(); strings.Contains(log, "is lost") {
		t.Errorf("the log tells of a loss:\n%s", log)
	}
	s.Broker.Thaw()
	g = g.restart()
	s.awaitPayload(writeLines(n, port, 10))
	g.awaitEmpty()
	g.stop()
	// The broker may have what was in flight without having said so.
	n.check(t, payloadsOf(s.Broker.Messages()), true)
}
