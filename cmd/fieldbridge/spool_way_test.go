package main

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// oneDevice is a single device at the yard, with the keys that it takes.
const oneDevice = "[[device]]\nid = \"app\"\nconnector = \"yard\"\n"

// newLateSite makes a site whose broker cannot be reached until listen is
// called.
func newLateSite(t *testing.T) (s *site, listen func()) {
	t.Helper()
	s = newDarkSite(t)
	addr, open := reservedAddr(t)
	s.Addr = addr
	return s, func() { s.serve(open(), func(c net.Conn) net.Conn { return c }) }
}

// yardConfig is a configuration with the yard alone.
func (s *site) yardConfig(rest string) string {
	_, yard, _ := strings.Cut(s.config("", "user_properties = true", rest), "[[connector]]\nname = \"yard\"")
	return "[[connector]]\nname = \"yard\"" + yard
}

func TestBacklogOutlivesRestarts(t *testing.T) {
	t.Parallel()
	s, listen := newLateSite(t)
	port := openPTY(t)
	n := newNumbered()
	g := startGateway(t, s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	const rounds, perRound = 3, 40
	for round := range rounds {
		if round > 0 {
			g = g.restart()
		}
		g.awaitPorts()
		writeLines(n, port, perRound)
		g.awaitSpooled(2*perRound*round + perRound)
		for range perRound {
			expectStored(t, g.post("app", "", "text/plain", n.next("app")))
		}
		g.awaitSpooled(2 * perRound * (round + 1))
	}
	g.stop()
	listen()
	g = g.restart()
	// New ones come in while the old ones go out.
	g.awaitPorts()
	writeLines(n, port, perRound)
	for range perRound {
		if a := g.post("app", "", "text/plain", n.next("app")); a.Status/100 != 2 {
			t.Fatalf("answer %+v", a)
		}
	}
	s.await("pump-1", (rounds+1)*perRound)
	s.await("app", (rounds+1)*perRound)
	g.awaitEmpty()
	g.stop()
	n.check(t, payloadsOf(s.Broker.Messages()), false)
}

// TestDurabilityAlways kills nothing: that the readings are in the spool before
// the broker has acknowledged them shows while it holds its PUBACKs back.
func TestDurabilityAlways(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		durability string
		stored     int
	}{{"auto", 0}, {"always", 21}} {
		t.Run(c.durability, func(t *testing.T) {
			s := newSite(t)
			port := openPTY(t)
			n := newNumbered()
			text := fmt.Sprintf("durability = %q\n", c.durability) + s.config("", "", fmt.Sprintf(scaleText, port.Path))
			g := startGateway(t, text, s.Files)
			g.awaitUp()
			s.Broker.HoldAcks(true)
			writeLines(n, port, 20)
			posted := make(chan answer, 1)
			go func() { posted <- g.post("app", "", "text/plain", n.next("app")) }()
			s.await("pump-1", 20)
			s.await("app", 1)
			if got := int(g.gw.spool.Stats().Readings); got != c.stored {
				t.Errorf("%d readings in the spool, want %d", got, c.stored)
			}
			s.Broker.HoldAcks(false)
			// The broker was there in time: it has the reading.
			if a := <-posted; a.Status != http.StatusOK || a.State != "delivered" {
				t.Errorf("answer %+v", a)
			}
			g.awaitEmpty()
			g.stop()
			n.check(t, payloadsOf(s.Broker.Messages()), false)
		})
	}
}

// TestNothingIsWrittenWhileTheBrokerIsThere: the flash of a gateway lasts.
func TestNothingIsWrittenWhileTheBrokerIsThere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	port := openPTY(t)
	g := startGateway(t, s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	g.awaitUp()
	// The time is written down once, at the start.
	eventually(t, "the trusted time to be stored", func() bool { return !g.gw.spool.LastTrusted().IsZero() })
	before := g.gw.spool.Stats().WrittenBytes
	n := newNumbered()
	for range 500 {
		for _, device := range []string{"pump-2", "app"} {
			if a := g.post(device, "", "text/plain", n.next(device)); a.Status != http.StatusOK {
				t.Fatalf("answer %+v", a)
			}
		}
		writeLines(n, port, 1)
	}
	s.await("pump-1", 500)
	g.awaitEmpty()
	if after := g.gw.spool.Stats().WrittenBytes; after != before {
		t.Errorf("%d bytes were written for 1,500 readings that the broker had at once", after-before)
	}
	if after := g.gw.bridge.Counts().Spooled; after != 0 {
		t.Errorf("%d readings were spooled", after)
	}
	g.stop()
	n.check(t, payloadsOf(s.Broker.Messages()), false)
}

// keyed posts a reading of the device app with an Idempotency-Key.
func (g *testGateway) keyed(key, body string) answer {
	g.t.Helper()
	return g.with(http.Header{"Content-Type": {"text/plain"}, "Idempotency-Key": {key}}, body)
}

// with posts a reading of the device app with headers.
func (g *testGateway) with(header http.Header, body string) answer {
	g.t.Helper()
	a, err := postWith(g.client, g.url("app", ""), header, body)
	if err != nil {
		g.t.Errorf("POST: %v", err)
	}
	return a
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	s, listen := newLateSite(t)
	g := startGateway(t, s.yardConfig(oneDevice), s.Files)
	first := g.keyed("k-1", "one")
	expectStored(t, first)
	check := func(g *testGateway, when string, status int) {
		t.Helper()
		again := g.keyed("k-1", "one")
		if again.Status != status || again.ID != first.ID {
			t.Errorf("%s: answer %+v, want %d and the id %s", when, again, status, first.ID)
		}
		other := g.keyed("k-1", "two")
		if other.Status != http.StatusUnprocessableEntity || !strings.Contains(other.Detail, "idempotency key used before for another reading") {
			t.Errorf("%s, another body: answer %+v", when, other)
		}
	}
	check(g, "at once", http.StatusAccepted)
	g = g.restart()
	check(g, "after a restart", http.StatusAccepted)
	g.stop()
	listen()
	g = g.restart()
	s.awaitPayload("one")
	g.awaitUp()
	g.awaitEmpty()
	check(g, "when the broker has it", http.StatusOK)
	g = g.restart()
	g.awaitUp()
	check(g, "after another restart", http.StatusOK)
	if a := g.keyed("k-2", "one"); a.Status != http.StatusOK || a.ID == first.ID {
		t.Errorf("another key: answer %+v", a)
	}
	g.stop()
	if diff := cmp.Diff([]string{"one", "one"}, payloadsOf(s.Broker.Messages())); diff != "" {
		t.Errorf("readings at the broker (-want +got):\n%s", diff)
	}
	if got := s.Broker.Messages()[0].User("id"); got != first.ID {
		t.Errorf("the broker got the id %s, the sender %s", got, first.ID)
	}
}

// TestIdempotencyKeyAtTheSameTime sends one reading many times at once.
func TestIdempotencyKeyAtTheSameTime(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := startGateway(t, s.yardConfig(oneDevice), s.Files)
	g.awaitUp()
	const senders = 20
	answers := make(chan answer, senders)
	for range senders {
		go func() { answers <- g.keyed("k", "one") }()
	}
	ids := map[string]bool{}
	for range senders {
		a := <-answers
		if a.Status/100 != 2 {
			t.Errorf("answer %+v", a)
		}
		ids[a.ID] = true
	}
	g.awaitEmpty()
	if got := payloadsOf(s.Broker.Messages()); len(ids) != 1 || !slices.Equal(got, []string{"one"}) {
		t.Errorf("%d ids, readings at the broker %q", len(ids), got)
	}
}

func TestPreferRespondAsync(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := startGateway(t, s.yardConfig(oneDevice), s.Files)
	g.awaitUp()
	s.Broker.HoldAcks(true)
	// With the broker's PUBACK withheld, nobody else is answered before 30 s.
	a := g.with(http.Header{"Content-Type": {"text/plain"}, "Prefer": {"respond-async"}}, "x")
	expectStored(t, a)
	if a.Applied != "respond-async" {
		t.Errorf("Preference-Applied is %q", a.Applied)
	}
	if got := g.gw.spool.Stats().Readings; got != 1 {
		t.Errorf("%d readings in the spool, want 1", got)
	}
	s.awaitPayload("x")
	s.Broker.HoldAcks(false)
	g.awaitEmpty()
	if got := s.Broker.Messages(); len(got) != 1 || got[0].User("id") != a.ID {
		t.Errorf("readings at the broker: %v, want one with the id %s", got, a.ID)
	}
}
