package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/golang-jwt/jwt/v5"
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
// Connections that have sent nothing are left out.
func (w *wiretap) connects(t *testing.T) []*packets.Connect {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []*packets.Connect
	for _, head := range w.heads {
		cp, err := packets.ReadPacket(bytes.NewReader(head.Bytes()))
		if err != nil {
			continue
		}
		c, ok := cp.Content.(*packets.Connect)
		if !ok {
			t.Fatalf("a connection begins with packet type %d", cp.Type)
		}
		out = append(out, c)
	}
	return out
}

// renewals counts a device's CONNECTs after the first one: those before the last
// token's end, and those after it, when the broker has cut the connection, as
// can happen on a machine that is too busy for tokens of seconds.
func renewals(t *testing.T, s *site, tap *wiretap, device string) (inTime, late int) {
	t.Helper()
	var expires time.Time
	i, answered := 0, s.connectsOf(device)
	for _, c := range tap.connects(t) {
		if c.ClientID != device || i == len(answered) {
			continue
		}
		switch {
		case i == 0:
		case answered[i].At.Before(expires):
			inTime++
		default:
			late++
		}
		i++
		var claims jwt.RegisteredClaims
		if _, _, err := jwt.NewParser().ParseUnverified(string(c.Password), &claims); err != nil || claims.ExpiresAt == nil {
			t.Fatalf("the password of %s is no token with an end: %v", device, err)
		}
		expires = claims.ExpiresAt.Time
	}
	return inTime, late
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

	renewed := make(chan struct{}) // closed after two renewals in time of each device
	var stored atomic.Int32        // answers of 202
	var senders sync.WaitGroup
	stop := sync.OnceFunc(func() {
		close(renewed)
		senders.Wait()
	})
	t.Cleanup(stop) // before the gateway's
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
				if a := g.post(device, "", "text/plain", n.next(device)); a.Status == http.StatusAccepted {
					stored.Add(1)
				} else if a.Status != http.StatusOK {
					t.Errorf("%s: answer %+v", device, a)
				}
			}
		})
	}
	eventually(t, "two renewals", func() bool {
		one, _ := renewals(t, s, tap, "pump-1")
		two, _ := renewals(t, s, tap, "pump-2")
		return t.Failed() || one >= 2 && two >= 2
	})
	stop()
	s.awaitPayload(writeLines(n, port, 1))
	g.stop()

	late := 0
	for _, device := range []string{"pump-1", "pump-2"} {
		_, l := renewals(t, s, tap, device)
		late += l
		for i, c := range s.connectsOf(device) {
			if c.Code != 0 || c.SessionPresent != (i > 0) || c.CleanStart {
				t.Errorf("CONNECT %d of %s: %+v", i, device, c)
			}
		}
	}
	t.Logf("%d readings, %d renewals came too late", len(s.Broker.Messages()), late)
	if late == 0 && (stored.Load() > 0 || strings.Contains(g.Logs.String(), "session down")) {
		t.Errorf("a renewal was no orderly one: %d readings were answered 202; see \"session down\" in the log", stored.Load())
	}
	n.check(t, payloadsOf(s.Broker.Messages()), late > 0) // each once, unless the broker cut us off
	checkPasswords(t, tap.connects(t), g.Logs.String())
}

// checkPasswords looks for tokens in the CONNECTs and for none in the log.
func checkPasswords(t *testing.T, connects []*packets.Connect, log string) {
	t.Helper()
	tokens := map[string]bool{}
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
		tokens[password] = true
		if slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(log, part) }) {
			t.Errorf("a part of the token of %s is in the log", c.ClientID)
		}
	}
	if len(tokens) < 6 {
		t.Errorf("%d tokens were used, want at least 6", len(tokens))
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
