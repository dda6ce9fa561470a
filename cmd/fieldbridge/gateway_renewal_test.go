package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// wiretap records the beginning of each connection to a broker.
type wiretap struct {
	mu    sync.Mutex // guards heads and what they point to
	heads []*bytes.Buffer
}

// tapSize has room for a CONNECT.
const tapSize = 4 << 10

type tapped struct {
	net.Conn
	tap  *wiretap
	head *bytes.Buffer
}

func (w *wiretap) tap(c net.Conn) net.Conn {
	head := &bytes.Buffer{}
	w.mu.Lock()
	w.heads = append(w.heads, head)
	w.mu.Unlock()
	return tapped{c, w, head}
}

func (c tapped) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.tap.mu.Lock()
	c.head.Write(p[:min(n, tapSize-c.head.Len())])
	c.tap.mu.Unlock()
	return n, err
}

// connects are the CONNECT packets as they were sent, with their passwords.
func (w *wiretap) connects(t *testing.T) []*packets.Connect {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*packets.Connect
	for _, head := range w.heads {
		cp, err := packets.ReadPacket(bytes.NewReader(head.Bytes()))
		if err != nil {
			t.Fatalf("a connection does not begin with a packet: %v", err)
		}
		c, ok := cp.Content.(*packets.Connect)
		if !ok {
			t.Fatalf("a connection begins with packet type %d", cp.Type)
		}
		out = append(out, c)
	}
	return out
}

// TestTokenRenewal has readings on their way all the time, on both ways in and
// with both algorithms, while tokens are replaced.
func TestTokenRenewal(t *testing.T) {
	t.Parallel()
	s := newDarkSite(t)
	addr, listen := reservedAddr(t)
	s.Addr = addr
	tap := &wiretap{}
	s.serve(listen(), tap.tap)
	port := openPTY(t)
	n := newNumbered()
	g := startGateway(t, s.config("[connector.token]\nlifetime = \"4s\"", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	g.awaitUp()

	renewed := make(chan struct{}) // closed after two renewals of each device
	var senders sync.WaitGroup
	senders.Go(func() {
		for tick := time.NewTicker(2 * time.Millisecond); ; <-tick.C {
			select {
			case <-renewed:
				tick.Stop()
				return
			default:
				writeLines(n, port, 1)
			}
		}
	})
	senders.Go(func() {
		// The broker answers late, so that there is nearly always something in
		// flight.
		tick := time.NewTicker(15 * time.Millisecond)
		defer tick.Stop()
		defer s.Broker.HoldAcks(false)
		for phase := 0; ; phase++ {
			s.Broker.HoldAcks(phase%4 != 0)
			select {
			case <-tick.C:
			case <-renewed:
				return
			}
		}
	})
	for _, device := range []string{"pump-2", "app"} {
		senders.Go(func() {
			for {
				select {
				case <-renewed:
					return
				default:
				}
				if a := g.post(device, "", "text/plain", n.next(device)); a.Status != http.StatusOK {
					t.Errorf("%s: answer %+v", device, a)
				}
			}
		})
	}
	eventually(t, "two renewals", func() bool {
		return t.Failed() || len(s.connectsOf("pump-1")) > 2 && len(s.connectsOf("pump-2")) > 2
	})
	close(renewed)
	senders.Wait()
	s.awaitPayload(writeLines(n, port, 1))
	g.stop()

	n.check(t, payloadsOf(s.Broker.Messages()), false)
	t.Logf("%d readings", len(s.Broker.Messages()))
	for _, device := range []string{"pump-1", "pump-2"} {
		for i, c := range s.connectsOf(device) {
			if c.Code != 0 || c.SessionPresent != (i > 0) || c.CleanStart {
				t.Errorf("CONNECT %d of %s: %+v", i, device, c)
			}
		}
	}
	if strings.Contains(g.Logs.String(), "session down") {
		t.Error("a renewal was no orderly one: see \"session down\" in the log")
	}
	checkPasswords(t, tap.connects(t), g.Logs.String())
}

// checkPasswords looks for new tokens at each CONNECT and for none in the log.
func checkPasswords(t *testing.T, connects []*packets.Connect, log string) {
	t.Helper()
	seen := map[string]bool{}
	tokens := 0
	for _, c := range connects {
		password := string(c.Password)
		if c.Username == yardID {
			if password != yardSecret {
				t.Error("the connector's password is not its secret")
			}
			continue
		}
		parts := strings.Split(password, ".")
		if len(parts) != 3 {
			t.Fatalf("the password of %s is no token", c.ClientID)
		}
		if seen[password] {
			t.Errorf("a token of %s was used twice", c.ClientID)
		}
		seen[password] = true
		tokens++
		if slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(log, part) }) {
			t.Errorf("a part of the token of %s is in the log", c.ClientID)
		}
	}
	if tokens < 6 {
		t.Errorf("%d tokens were used, want at least 6", tokens)
	}
}

// TestConnectOnTheWire reads the CONNECTs without any of the broker's code.
func TestConnectOnTheWire(t *testing.T) {
	s := newDarkSite(t)
	addr, listen := reservedAddr(t)
	s.Addr = addr
	tap := &wiretap{}
	s.serve(listen(), tap.tap)
	startGateway(t, s.config("", "", devicesText), s.Files).awaitUp()
	connects := tap.connects(t)
	if len(connects) != 3 {
		t.Fatalf("%d connections, want 3", len(connects))
	}
	for _, c := range connects {
		if c.ProtocolName != "MQTT" || c.ProtocolVersion != 5 || c.CleanStart || c.WillFlag || !c.UsernameFlag || !c.PasswordFlag {
			t.Errorf("CONNECT of %s: %s %d, clean start %v, will %v, user name %v, password %v", c.ClientID,
				c.ProtocolName, c.ProtocolVersion, c.CleanStart, c.WillFlag, c.UsernameFlag, c.PasswordFlag)
		}
		p := c.Properties
		if p.SessionExpiryInterval == nil || *p.SessionExpiryInterval != 86400 || p.ReceiveMaximum == nil || *p.ReceiveMaximum != 32 {
			t.Errorf("CONNECT of %s: session expiry %v, receive maximum %v", c.ClientID, p.SessionExpiryInterval, p.ReceiveMaximum)
		}
	}
}
