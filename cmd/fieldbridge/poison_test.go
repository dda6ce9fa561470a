package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge/devbroker"
	"fieldbridge/bridge/session"
)

const (
	// poisonGood is how many readings the broker has nothing against.
	poisonGood = 1000
	// poisonLimit is the broker's Maximum Packet Size in bytes.
	poisonLimit = 8 << 10
)

// refusals are the reason codes that a PUBACK may have (MQTT v5 section 3.4.2.1)
// and a broker's patience: how often it refuses the reading, 0 for ever.
var refusals = []struct {
	code  byte
	times int
}{
	{code: 0x80}, {code: 0x83}, {code: 0x87}, {code: 0x90}, {code: 0x91}, {code: 0x99},
	// Too much for now: the reading is kept and its device slowed down.
	{code: 0x97, times: 3},
}

// poisoned is a run with bad readings among many good ones, all of one device:
// they come over its serial port, where nobody waits for an answer.
type poisoned struct {
	t    *testing.T
	site *site
	n    *numbered
	port *testPTY
	g    *testGateway
	bad  []string // evenly spread
	// connects is how many there were when the session was last found down.
	connects int
}

func newPoisoned(t *testing.T, s *site, bad int) *poisoned {
	t.Helper()
	p := &poisoned{t: t, site: s, n: newNumbered(), port: openPTY(t)}
	for i := range bad {
		p.bad = append(p.bad, fmt.Sprintf("pump-1#%d", (i+1)*(poisonGood+bad)/(bad+1)))
	}
	// A broker that is asked to slow down and reconnects leads to 202s; here
	// nothing waits for one. Lines longer than the usual maximum are sent.
	text := s.config("", "", strings.Replace(fmt.Sprintf(scaleText, p.port.Path), "device = \"pump-1\"\n", "device = \"pump-1\"\nmax_frame = \"64KiB\"\n", 1))
	p.g = startGateway(t, text, s.Files)
	p.g.awaitUp()
	return p
}

// write writes the good readings and the bad ones; body makes a payload of a
// bad one.
func (p *poisoned) write(body func(string) string) {
	for range poisonGood + len(p.bad) {
		line := p.n.next("pump-1")
		if slices.Contains(p.bad, line) {
			line = body(line)
		}
		p.port.write(line + "\n")
	}
}

// awaitEmpty is testGateway.awaitEmpty with time for pauses that double, once all
// lines have been read.
func (p *poisoned) awaitEmpty(nudge func()) {
	p.t.Helper()
	eventually(p.t, "all lines read", func() bool {
		nudge()
		return p.g.gw.now().ports["scale"].Stats().FramesGood == uint64(poisonGood+len(p.bad))
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for over := time.After(3 * patience); p.g.gw.bridge.Held() > 0 || p.g.gw.spool.Stats().Readings > 0; {
		select {
		case <-tick.C:
			nudge()
		case <-over:
			p.t.Fatalf("%d readings in memory and %d in the spool after %s", p.g.gw.bridge.Held(), p.g.gw.spool.Stats().Readings, 3*patience)
		}
	}
}

// session is the device's.
func (p *poisoned) session() *session.Session { return p.g.gw.now().sessions[0] }

// down reports, once for each time, that the session is down with this trouble.
// Session.Renew ends the pause before it connects again, which grows to minutes.
func (p *poisoned) down(trouble string) bool {
	st, n := p.session().State(), len(p.site.connectsOf("pump-1"))
	if st.Up || n == p.connects || !strings.Contains(st.Trouble, trouble) {
		return false
	}
	p.connects = n
	return true
}

// awaitDead waits until so many dead letters are in the spool.
func (g *testGateway) awaitDead(readings int) {
	g.t.Helper()
	eventually(g.t, fmt.Sprintf("%d dead letters", readings), func() bool { return len(g.deadReadings()) >= readings })
}

// deadTrimmed is deadReadings without padding.
func (g *testGateway) deadTrimmed() map[string]byte {
	g.t.Helper()
	dead := map[string]byte{}
	for payload, code := range g.deadReadings() {
		dead[strings.TrimSpace(payload)] = code
	}
	return dead
}

// check looks at what arrived and what died. late are bad readings that the
// broker took in the end; duplicates says that readings may come again.
func (p *poisoned) check(want map[string]byte, late []string, duplicates bool) {
	p.t.Helper()
	p.g.awaitDead(len(want))
	if diff := cmp.Diff(want, p.g.deadTrimmed()); diff != "" {
		p.t.Errorf("dead letters (-want +got):\n%s", diff)
	}
	p.g.stop()
	for _, bad := range p.bad {
		p.n.deny(bad)
	}
	var good, took []string
	for _, a := range unpadded(p.site.Broker.Messages()) {
		if slices.Contains(p.bad, a) {
			took = append(took, a)
		} else {
			good = append(good, a)
		}
	}
	p.n.check(p.t, good, duplicates)
	if diff := cmp.Diff(late, took); diff != "" {
		p.t.Errorf("bad readings at the broker (-want +got):\n%s", diff)
	}
	p.t.Logf("%d good readings arrived, %d of them twice; %d dead letters; %d connects",
		arrived("pump-1", good), len(good)-arrived("pump-1", good), len(want), len(p.site.connectsOf("pump-1")))
}

// TestPoisonRefused has the broker refuse one reading with each code that a
// PUBACK can have, and one is larger than the broker takes: the good ones arrive
// in order, and the bad ones are dead letters with their code.
func TestPoisonRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *devbroker.Options) { o.MaximumPacketSize = poisonLimit })
	p := newPoisoned(t, s, len(refusals)+1)
	var mu sync.Mutex // guards tries
	tries := map[string]int{}
	s.Broker.RefusePublishes(func(m devbroker.Message) byte {
		i := slices.Index(p.bad, string(m.Payload))
		if i < 0 {
			return 0
		}
		mu.Lock()
		defer mu.Unlock()
		tries[p.bad[i]]++
		if r := refusals[i]; r.times == 0 || tries[p.bad[i]] <= r.times {
			return r.code
		}
		return 0
	})
	large := p.bad[len(refusals)]
	p.write(func(bad string) string {
		if bad == large {
			return padded(bad)[:2*poisonLimit]
		}
		return bad
	})
	p.awaitEmpty(func() {
		if p.down("reconnecting") {
			p.session().Renew()
		}
	})
	// The size is checked before the broker could answer with a DISCONNECT.
	want, wantTries, reconnects := map[string]byte{large: 0x95}, map[string]int{}, 0
	var late []string
	for i, r := range refusals {
		bad := p.bad[i]
		switch {
		case r.times > 0:
			late = append(late, bad)
			wantTries[bad] = r.times + 1
			continue
		case r.code == 0x80, r.code == 0x83:
			wantTries[bad] = 5
		case r.code == 0x91:
			wantTries[bad] = 5
			reconnects += 5
		case r.code == 0x87:
			wantTries[bad] = 2
			reconnects += 2
		default:
			wantTries[bad] = 1
		}
		want[bad] = r.code
	}
	// A reconnect, which 0x87 and 0x91 ask for, may repeat what was in flight.
	p.check(want, late, true)
	mu.Lock()
	defer mu.Unlock()
	for bad, n := range wantTries {
		// What was in flight when another one asked for a connection goes out again.
		if got := tries[bad]; got < n || got > n+reconnects {
			t.Errorf("%s: %d attempts, want %d to %d", bad, got, n, n+reconnects)
		}
	}
	// What was in flight when one asked for a connection may ask for the next.
	if got := len(s.connectsOf("pump-1")); got > 2*(1+reconnects) {
		t.Errorf("%d connects, want at most %d", got, 2*(1+reconnects))
	}
}

// TestPoisonDisconnects has a broker that says nothing about its limits and
// disconnects whenever it gets a certain reading.
func TestPoisonDisconnects(t *testing.T) {
	t.Parallel()
	for _, code := range []byte{0x95, 0x81, 0x82} {
		for _, forgets := range []bool{false, true} {
			t.Run(fmt.Sprintf("0x%02X, session forgotten %t", code, forgets), func(t *testing.T) {
				t.Parallel()
				s := newSite(t)
				p := newPoisoned(t, s, 1)
				s.Broker.DisconnectPublishes(func(m devbroker.Message) byte {
					if string(m.Payload) == p.bad[0] {
						return code
					}
					return 0
				})
				p.write(func(bad string) string { return bad })
				p.awaitEmpty(func() {
					if p.down(fmt.Sprintf("DISCONNECT 0x%02X", code)) {
						if forgets {
							s.Broker.ForgetSessions()
						}
						p.session().Renew()
					}
				})
				p.check(map[string]byte{p.bad[0]: code}, nil, true)
				// After one of them there are suspects, after two more the culprit
				// is known: four connects. One less if it was alone from the
				// beginning, some more if a DISCONNECT got lost.
				// What was in flight when one asked for a connection may ask for the next.
				if got := len(s.connectsOf("pump-1")); got > 12 {
					t.Errorf("%d connects", got)
				}
			})
		}
	}
}

// TestMosquittoTooLarge has Mosquitto refuse a reading for its size in its two
// ways: it says so in the CONNACK, or it answers the PUBLISH.
func TestMosquittoTooLarge(t *testing.T) {
	t.Parallel()
	for _, option := range []string{"max_packet_size", "message_size_limit"} {
		t.Run(option, func(t *testing.T) {
			t.Parallel()
			b := mosqStart(t, mosqOptions{extra: fmt.Sprintf("%s %d\n", option, poisonLimit)})
			w := b.witness()
			line := openPTY(t)
			port := strings.Replace(fmt.Sprintf(mosqPort, line.Path), "device =", "max_frame = \"64KiB\"\ndevice =", 1)
			g := startGateway(t, fmt.Sprintf(mosqJWTConfig, b.addr)+port, map[string]string{"pump-1.pem": mosqKey(t)})
			g.awaitUp()
			n := newNumbered()
			writeLines(n, line, 50)
			large := n.next("pump-1")
			n.deny(large)
			line.write(padded(large)[:2*poisonLimit] + "\n")
			writeLines(n, line, 50)
			n.check(t, w.payloads(100), false)
			a := g.post("pump-1", "", "text/plain", strings.Repeat("x", 2*poisonLimit))
			if a.Status != http.StatusUnprocessableEntity || a.ReasonCode != 0x95 {
				t.Errorf("answer %+v, want 422 with 0x95", a)
			}
			g.awaitEmpty()
			g.awaitDead(1)
			if diff := cmp.Diff(map[string]byte{large: 0x95}, g.deadTrimmed()); diff != "" {
				t.Errorf("dead letters (-want +got):\n%s", diff)
			}
			if got := b.log.count("Sending CONNACK to pump-1"); got != 1 {
				t.Errorf("%d connects", got)
			}
		})
	}
}
