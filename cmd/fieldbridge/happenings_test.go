package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldbridge/adapters/rest"
	"fieldbridge/bridge/devbroker"
)

// watching collects what a stream of events shows.
type watching struct {
	g      *testGateway
	mu     sync.Mutex // guards what follows
	events []rest.Event
	text   strings.Builder
	over   bool
}

// watchEvents opens a stream that ends with the test; token may be "".
func (g *testGateway) watchEvents(token string) *watching {
	g.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequest(http.MethodGet, "http://"+g.HTTP+"/v1/events", nil)
	if err != nil {
		g.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	w, done := &watching{g: g}, make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			w.line(lines.Text())
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.over = true
	}()
	g.t.Cleanup(func() { resp.Body.Close(); <-done })
	return w
}

func (w *watching) isOver() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over
}

func (w *watching) line(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fmt.Fprintln(&w.text, line)
	if data, ok := strings.CutPrefix(line, "data: "); ok {
		var e rest.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			w.g.t.Errorf("event %s: %v", data, err)
		}
		w.events = append(w.events, e)
	}
}

// await waits for an event that is as want says: all but times, ids and reasons,
// which must be there or not as in want.
func (w *watching) await(want rest.Event) {
	w.g.t.Helper()
	eventually(w.g.t, fmt.Sprintf("event %+v", want), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, e := range w.events {
			if e.Time == "" || (e.ID != "") != (want.ID != "") || (e.Bytes == nil) != (want.Bytes == nil) ||
				e.Bytes != nil && *e.Bytes != *want.Bytes || !strings.Contains(e.Reason, want.Reason) {
				continue
			}
			e.Time, e.ID, e.Bytes, e.Reason = "", want.ID, want.Bytes, want.Reason
			if e == want {
				return true
			}
		}
		return false
	})
}

func TestEventsOfAGateway(t *testing.T) {
	s := newSite(t)
	hook := newWebhook(t, func() func(hookCall) int {
		var mu sync.Mutex
		tried := false
		return func(c hookCall) int {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case c.Body == "gone-payload":
				return http.StatusGone
			case !tried:
				tried = true
				return http.StatusServiceUnavailable
			}
			return http.StatusNoContent
		}
	}())
	display, other := openPTY(t), openPTY(t)
	s.Broker.RefusePublishes(func(m devbroker.Message) byte {
		if strings.HasPrefix(string(m.Payload), "bad") {
			return 0x99
		}
		return 0
	})
	routes := strings.ReplaceAll(fmt.Sprintf(routesText, hook.URL, display.Path, other.Path), `/app"`, `/app?key=hook-secret"`)
	g := startGateway(t, s.config("", "", routes), s.Files)
	g.awaitUp()
	g.awaitPorts()
	w := g.watchEvents("")

	g.post("app", "hall", "text/plain", "good-payload")
	for _, e := range []rest.Event{{Kind: rest.ReadingAccepted, Adapter: adapterHTTP}, {Kind: rest.ReadingDelivered}} {
		e.Device, e.ID, e.Subtopic, e.ContentType, e.Bytes = "app", "some", "hall", "text/plain", new(12)
		w.await(e)
	}
	g.post("app", "", "text/plain", "bad-payload")
	w.await(rest.Event{Kind: rest.ReadingRefused, Device: "app", ContentType: "text/plain", Bytes: new(11),
		Adapter: adapterHTTP, ReasonCode: 0x99, Reason: "refused by the broker"})

	s.down(devbroker.Message{Connector: yardID, Device: "app", Subtopic: "x", ContentType: "text/plain", Payload: []byte("down-payload")})
	for _, e := range []rest.Event{{Kind: rest.DownlinkReceived}, {Kind: rest.DownlinkRetry, Target: targetWebhook, Reason: "503"},
		{Kind: rest.DownlinkDelivered, Target: targetWebhook}} {
		e.Device, e.ID, e.Subtopic, e.ContentType, e.Bytes = "app", "some", "x", "text/plain", new(12)
		w.await(e)
	}
	s.down(devbroker.Message{Connector: yardID, Device: "app", Subtopic: "x", ContentType: "text/plain", Payload: []byte("gone-payload")})
	w.await(rest.Event{Kind: rest.DownlinkDead, Device: "app", ID: "some", Subtopic: "x", ContentType: "text/plain",
		Bytes: new(12), Reason: "410"})

	s.Broker.HoldAcks(true)
	g.with(http.Header{"Content-Type": {"text/plain"}, "Prefer": {"respond-async"}}, "kept-payload") // no wait for ack_timeout
	w.await(rest.Event{Kind: rest.ReadingStored, Device: "app", ID: "some", ContentType: "text/plain", Bytes: new(12)})
	s.Broker.RefuseConnects(0x88)
	s.Broker.DropAll()
	w.await(rest.Event{Kind: rest.SessionDown, Connector: "plant", Device: "pump-1"})
	w.await(rest.Event{Kind: rest.SessionDown, Connector: "yard"})
	s.Broker.HoldAcks(false)
	s.Broker.RefuseConnects(0)

	w.mu.Lock()
	defer w.mu.Unlock()
	for _, private := range []string{yardSecret, "hook-secret", "/up/", "/down/", "-payload"} {
		if strings.Contains(w.text.String(), private) {
			t.Errorf("the events show %q:\n%s", private, w.text.String())
		}
	}
	checkNoSecrets(t, w.text.String(), s.Files)
}

// TestEventsOfAMailbox: a downlink leaves it when an app deletes it, or when it
// expires.
func TestEventsOfAMailbox(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := startGateway(t, s.config("", "", listed("pump-1", "plant", "[[device.downlink]]\nmailbox = true")), s.Files)
	g.awaitUp()
	w := g.watchEvents("")
	send := func(payload string, expiry time.Duration) rest.Event {
		s.down(devbroker.Message{Device: "pump-1", Subtopic: "x", ContentType: "text/plain", Payload: []byte(payload), MessageExpiry: expiry})
		e := rest.Event{Device: "pump-1", ID: "some", Subtopic: "x", ContentType: "text/plain", Bytes: new(len(payload))}
		e.Kind = rest.DownlinkReceived
		w.await(e)
		return e
	}
	e := send("kept", 0)
	mail := newMailApp(t, g.HTTP)
	id := mail.await(1)[0].ID
	if code := mail.delete(id, "", ""); code != http.StatusNoContent {
		t.Fatalf("delete: %d", code)
	}
	e.Kind, e.Target = rest.DownlinkDelivered, targetMailbox
	w.await(e)
	e = send("too-late", time.Second)
	e.Kind, e.Reason = rest.DownlinkDead, "expired"
	w.await(e)
	if code := mail.delete(id, "", ""); code != http.StatusNotFound {
		t.Fatalf("delete again: %d", code)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for kind, want := range map[string]int{rest.DownlinkDelivered: 1, rest.DownlinkDead: 1} {
		if n := strings.Count(w.text.String(), "event: "+kind+"\n"); n != want {
			t.Errorf("%d events %s, want %d", n, kind, want)
		}
	}
}
