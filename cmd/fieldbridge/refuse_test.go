package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"fieldbridge/adapters/rest/resttest"
)

// TestNothingBadReachesTheBroker sends what the endpoint must refuse: at the
// broker arrives the reading that comes after it all, and nothing else.
func TestNothingBadReachesTheBroker(t *testing.T) {
	t.Parallel()
	b := mosqStart(t, mosqOptions{})
	w := b.subscribe("%t %p")
	g := startGateway(t, `
[http]
listen = "127.0.0.1:0"
max_body = "1KiB"
[[connector]]
name = "yard"
broker = "mqtt://`+b.addr+`"
auth = "uplink-secret"
id = "connector-7"
secret_file = "secret"
`+listed("d1", "yard")+listed("a b", "yard"), map[string]string{"secret": mosqSecret})
	g.awaitUp()
	for _, r := range resttest.Refusals {
		refused(t, g.HTTP, r, false)
	}
	for _, r := range resttest.CutShort {
		refused(t, g.HTTP, r, true)
	}
	if count := len(resttest.Refusals) + len(resttest.CutShort); count < 60 {
		t.Errorf("%d bad requests are too few to show anything", count)
	}
	if a := g.post("d1", "", "text/plain", "good"); a.Status != http.StatusOK {
		t.Errorf("after them: %+v", a)
	}
	if got := w.next(); !strings.HasSuffix(got, "/d1 good") {
		t.Errorf("the broker got %q first", got)
	}
	w.quiet()
	if n, ok := g.scrape()["spool_readings"]; !ok || n != 0 {
		t.Errorf("%v readings are in the spool (%v)", n, ok)
	}
}

// refused sends a request and checks how it is refused.
func refused(t *testing.T, addr string, r resttest.Refusal, cut bool) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(conn, r.Raw)
	if err == nil && cut {
		err = conn.(*net.TCPConn).CloseWrite()
	}
	if err != nil {
		t.Errorf("%s: %v", r.Name, err)
		return
	}
	method, _, _ := strings.Cut(r.Raw, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Errorf("%s: %v", r.Name, err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != r.Status {
		t.Errorf("%s: status %d, %v, want %d", r.Name, resp.StatusCode, err, r.Status)
	}
	if r.Detail == "" {
		return
	}
	var p struct {
		Type, Title, Detail string
		Status              int
	}
	if err := json.Unmarshal(body, &p); err != nil || p.Status != r.Status || p.Type != "about:blank" ||
		p.Title != http.StatusText(r.Status) || !strings.Contains(p.Detail, r.Detail) ||
		resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: %s, %v, want a problem about %q", r.Name, body, err, r.Detail)
	}
}
