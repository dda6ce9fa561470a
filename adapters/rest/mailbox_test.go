package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

// mailroom is a Bridge with a mailbox for d1, and a server before it.
type mailroom struct {
	*running
	t      *testing.T
	bridge *bridge.Bridge
	store  *bridgetest.Spool
	client *http.Client
}

func newMailroom(t *testing.T, o Options) *mailroom {
	t.Helper()
	store := &bridgetest.Spool{}
	b := bridge.New(bridge.Options{Spool: store, Downlinks: store})
	for _, id := range []bridge.DeviceID{"d1", "bare"} {
		if err := b.Connect(id, bridge.Connection{Uplink: &bridgetest.Uplink{}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Route("d1", bridge.Route{}); err != nil {
		t.Fatal(err)
	}
	o.Mailboxes = b
	m := &mailroom{t: t, bridge: b, store: store, running: start(t, o, newIntake()), client: &http.Client{Transport: &http.Transport{}, Timeout: patience}}
	t.Cleanup(m.client.CloseIdleConnections)
	return m
}

func (m *mailroom) put(d bridge.Downlink) {
	m.t.Helper()
	d.Device, d.Received = "d1", time.Now()
	done := make(chan struct{})
	m.bridge.Downlink(d, bridge.Origin{}, func() { close(done) })
	select {
	case <-done:
	case <-time.After(patience):
		m.t.Fatal("a downlink is not stored")
	}
}

func (m *mailroom) do(method, path string, header map[string]string) (int, http.Header, string) {
	m.t.Helper()
	req, err := http.NewRequest(method, "http://"+m.Addr().String()+path, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := m.client.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

const box = "/v1/devices/d1/downlinks"

func TestMailboxDocuments(t *testing.T) {
	m := newMailroom(t, Options{})
	for i, c := range []struct{ contentType, payload, want string }{
		{"application/json", `{"n": 12345678901234567890}`, `"payload":{"n":12345678901234567890}`},
		{"application/senml+json; charset=utf-8", "[]", `"payload":[]`},
		{"application/json", "{", `"payloadBase64":"ew=="`},
		{"application/json", "\"\xff\"", `"payloadBase64":"Iv8i"`},
		{"text/csv", "a<b\n", `"payload":"a`},
		{"text/plain", "\xff", `"payloadBase64":"/w=="`},
		{"", "", `"payload":""`},
		{"", "x", `"payload":"x"`},
		{"application/octet-stream", "", `"payloadBase64":""`},
		{"nonsense", "x", `"payloadBase64":"eA=="`},
	} {
		id := fmt.Sprint("id-", i)
		m.put(bridge.Downlink{ID: id, ContentType: c.contentType, Payload: []byte(c.payload)})
		status, _, body := m.do("GET", box, nil)
		if status != 200 || !strings.Contains(body, c.want) || !json.Valid([]byte(body)) {
			t.Errorf("%q as %q: %d %s", c.payload, c.contentType, status, body)
		}
		if status, _, body := m.do("DELETE", box+"/"+id, nil); status != 204 || body != "" {
			t.Errorf("delete: %d %s", status, body)
		}
	}
}

func TestMailboxRefusals(t *testing.T) {
	m := newMailroom(t, Options{})
	m.put(bridge.Downlink{ID: "a", Payload: []byte("x")})
	for _, c := range []struct {
		method, path string
		header       map[string]string
		status       int
		want         string
	}{
		{"GET", box + "?wait=1", nil, 200, `"id":"a"`},
		{"GET", box + "?wait=6m", nil, 400, "5m0s"},
		{"GET", box + "?wait=-1s", nil, 400, "wait"},
		{"GET", box + "?wait=", nil, 400, "wait"},
		{"GET", box + "?wait=soon", nil, 400, "soon"},
		{"GET", box + "?wait=99999999999", nil, 400, "wait"},
		{"GET", box + "?limit=0", nil, 400, "1 to 1000"},
		{"GET", box + "?limit=1001", nil, 400, "1 to 1000"},
		{"GET", box + "?limit=1&limit=2", nil, 400, "more than once"},
		{"GET", box + "?timeout=1s", nil, 400, "unknown"},
		{"GET", box + "?%zz", nil, 400, "query"},
		{"GET", "/v1/devices/bare/downlinks", nil, 404, "mailbox = true"},
		{"GET", "/v1/devices/nobody/downlinks", nil, 404, "[[device]]"},
		{"GET", "/v1/devices/a%2Fb/downlinks", nil, 400, "device id"},
		{"GET", box, map[string]string{"Origin": "http://evil.example"}, 403, "origin"},
		{"GET", box + "?wait=1s", map[string]string{"Accept": eventStream}, 400, "no query"},
		{"GET", box, map[string]string{"Accept": eventStream, "Last-Event-ID": strings.Repeat("x", 256)}, 400, "Last-Event-ID"},
		{"DELETE", box + "/b", nil, 404, "already"},
		{"DELETE", box + "/a?x=y", nil, 400, "no query"},
		{"DELETE", box + "/a", map[string]string{"Origin": "http://evil.example"}, 403, "origin"},
		{"DELETE", box, nil, 405, "GET"},
		{"POST", box, nil, 405, "GET"},
	} {
		status, _, body := m.do(c.method, c.path, c.header)
		if status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s: %d %s, want %d with %q", c.method, c.path, status, body, c.status, c.want)
		}
	}
	if _, _, body := m.do("GET", box, nil); !strings.Contains(body, `"id":"a"`) {
		t.Errorf("the downlink is gone: %s", body)
	}
}

// TestMailboxTokens: a mailbox is for tokens with its device and direction.
func TestMailboxTokens(t *testing.T) {
	token := func(name string, d Direction, devices ...string) Token {
		return Token{Name: name, Digests: []TokenDigest{DigestToken(name)}, Devices: devices, Directions: d}
	}
	m := newMailroom(t, Options{Tokens: []Token{
		token("app", Downlink, "d1"), token("other", Downlink, "d2*"), token("sensor", Uplink|Read, "*"),
	}})
	m.put(bridge.Downlink{ID: "a", Payload: []byte("x")})
	for _, c := range []struct {
		token, method, path string
		want                int
	}{
		{"", "GET", box, 401}, {"other", "GET", box, 403}, {"sensor", "GET", box, 403}, {"app", "GET", box, 200},
		{"", "DELETE", box + "/a", 401}, {"other", "DELETE", box + "/a", 403}, {"sensor", "DELETE", box + "/a", 403}, {"app", "DELETE", box + "/a", 204},
	} {
		header := map[string]string{}
		if c.token != "" {
			header["Authorization"] = "Bearer " + c.token
		}
		if status, _, body := m.do(c.method, c.path, header); status != c.want {
			t.Errorf("%s %s with %q: %d %s, want %d", c.method, c.path, c.token, status, body, c.want)
		}
	}
}

// TestMailboxBounds: above the number of those that may wait, and of streams,
// others are sent away; those that wait outlive the server's timeouts, and its end
// sends them home with an answer.
func TestMailboxBounds(t *testing.T) {
	m := newMailroom(t, Options{
		MaxPolls: 1, MaxStreams: 1, ReadTimeout: 300 * time.Millisecond, ReadHeaderTimeout: 300 * time.Millisecond, AcceptTimeout: 300 * time.Millisecond,
	})
	var polled string
	var waiting sync.WaitGroup
	waiting.Go(func() { _, _, polled = m.do("GET", box+"?wait=60s", nil) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://"+m.Addr().String()+box, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html, text/event-stream;q=0.9")
	resp, err := m.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for deadline := time.Now().Add(patience); len(m.polls) == 0 || len(m.Server.streams) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
	}
	for _, header := range []map[string]string{nil, {"Accept": eventStream}} {
		status, h, body := m.do("GET", box, header)
		if status != 503 || h.Get("Retry-After") != "5" || !strings.Contains(body, "already") {
			t.Errorf("one too many: %d %s", status, body)
		}
	}
	time.Sleep(600 * time.Millisecond) // above every timeout of the server
	m.put(bridge.Downlink{ID: "late", Payload: []byte("x")})
	waiting.Wait()
	if !strings.Contains(polled, `"id":"late"`) {
		t.Errorf("the one that waited got %s", polled)
	}
	in := bufio.NewScanner(resp.Body)
	for in.Scan() && in.Text() != "id: late" {
	}
	if status, _, _ := m.do("DELETE", box+"/late", nil); status != 204 {
		t.Fatalf("delete: %d", status)
	}
	waiting.Go(func() { _, _, polled = m.do("GET", box+"?wait=60s", nil) })
	for len(m.polls) == 0 {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	m.stop()
	waiting.Wait()
	if polled != "{\"downlinks\":[]}\n" || time.Since(began) > 8*time.Second {
		t.Errorf("at the end, after %s: %s", time.Since(began), polled)
	}
	last := ""
	for in.Scan() {
		if in.Text() != "" {
			last = in.Text()
		}
	}
	if in.Err() != nil || !strings.HasPrefix(last, ": fieldbridge stops") {
		t.Errorf("the stream ended with %q, %v", last, in.Err())
	}
}

// TestMailboxTakenAway: a reload that takes a mailbox away sends those home who
// wait for it, and what is in it is there again with the mailbox.
func TestMailboxTakenAway(t *testing.T) {
	m := newMailroom(t, Options{})
	reroute := func(rs ...bridge.Route) {
		t.Helper()
		if err := m.bridge.Reroute(map[bridge.DeviceID][]bridge.Route{"d1": rs}); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequest("GET", m.url(box), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", eventStream)
	stream, err := m.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	var status int
	var polled string
	var waiting sync.WaitGroup
	waiting.Go(func() { status, _, polled = m.do("GET", box+"?wait=60s", nil) })
	for deadline := time.Now().Add(patience); len(m.polls) == 0 || len(m.Server.streams) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
	}
	reroute()
	waiting.Wait()
	if status != 404 || !strings.Contains(polled, "add a [[device.downlink]] block with mailbox = true") {
		t.Errorf("who waits got %d %s", status, polled)
	}
	if text, err := io.ReadAll(stream.Body); err != nil || !strings.HasSuffix(string(text), ": the mailbox is gone\n\n") {
		t.Errorf("the stream ended with %q, %v", text, err)
	}
	reroute(bridge.Route{})
	m.put(bridge.Downlink{ID: "a", Payload: []byte("x")})
	reroute()
	if status, _, body := m.do("GET", box, nil); status != 404 {
		t.Errorf("without a mailbox: %d %s", status, body)
	}
	reroute(bridge.Route{})
	if _, _, body := m.do("GET", box, nil); !strings.Contains(body, `"id":"a"`) {
		t.Errorf("with a mailbox again: %s", body)
	}
}

// FuzzFetch: no query or header of a fetch leaves the bounds.
func FuzzFetch(f *testing.F) {
	for _, s := range []string{"", "wait=30s", "wait=30&limit=5", "wait=1h", "limit=-1", "wait=1s&wait=2s", "%zz", "wait=9223372036854775807", "wait=0x1p3s", "a;b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if wait, limit, err := parseFetch(s); err == nil && (wait < 0 || wait > maxWait || limit < 1 || limit > maxFetch) {
			t.Fatalf("%q: %s, %d", s, wait, limit)
		} else if err != nil && problemOf(err).status != http.StatusBadRequest {
			t.Fatalf("%q: %v", s, err)
		}
		if id, err := lastEventID([]string{s}); err == nil && id != s {
			t.Fatalf("%q became %q", s, id)
		}
		acceptsEvents([]string{s})
	})
}

// A body that nobody reads does not keep a request for downlinks for ever.
func TestFetchWithBodyEnds(t *testing.T) {
	m := newMailroom(t, Options{ReadTimeout: time.Second})
	for _, accept := range []string{"application/json", eventStream} {
		conn := dial(t, m.Addr())
		write(t, conn, request("GET", "/v1/devices/d1/downlinks", "", "Accept: "+accept, "Content-Length: 5"))
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %+v, %v", accept, resp, err)
		}
		conn.Close()
	}
}

// Who says that it sends no more gets what there is.
func TestFetchHalfClosed(t *testing.T) {
	m := newMailroom(t, Options{})
	for _, query := range []string{"", "?wait=1m"} {
		conn := dial(t, m.Addr())
		write(t, conn, request("GET", "/v1/devices/d1/downlinks"+query, ""))
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if a := exchange(t, conn, ""); a.status != http.StatusOK {
			t.Errorf("%q: status %d: %s", query, a.status, a.body)
		}
	}
}
