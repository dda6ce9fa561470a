package rest

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldbridge/bridge"
)

func tokenOf(name string, d Direction, text string, devices ...string) Token {
	return Token{Name: name, Digests: []TokenDigest{DigestToken(text)}, Devices: devices, Directions: d}
}

// TestSetTokens: on one connection a token gives way to the next, and what is left
// of a rate is not made up by it.
func TestSetTokens(t *testing.T) {
	slow := tokenOf("slow", Uplink, slowToken, "*")
	slow.Rate = 0.001
	s := start(t, Options{Tokens: []Token{tokenOf("app", Uplink, goodToken, "d1"), slow}}, newIntake())
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	status := func(token string) int {
		t.Helper()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		var header []string
		if token != "" {
			header = []string{authorization("Bearer " + token)}
		}
		raw := request("POST", upD1, "1", append(header, "Content-Type: text/plain", "Connection: keep-alive")...)
		if _, err := io.WriteString(conn, raw); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	want := func(when, token string, code int) {
		t.Helper()
		if got := status(token); got != code {
			t.Errorf("%s: status %d with %q, want %d", when, got, token, code)
		}
	}
	set := func(tokens ...Token) {
		t.Helper()
		if err := s.SetTokens(tokens); err != nil {
			t.Fatal(err)
		}
	}
	want("at first", goodToken, 200)
	want("at first", slowToken, 200)
	want("at first", slowToken, 429)
	both := tokenOf("app", Uplink, goodToken, "d1")
	both.Digests = append(both.Digests, DigestToken(nextToken))
	set(both, slow)
	want("with two", goodToken, 200)
	want("with two", nextToken, 200)
	want("with two", slowToken, 429)
	slow.Digests = []TokenDigest{DigestToken(hallToken)}
	set(tokenOf("app", Uplink, nextToken, "d1"), slow)
	want("with the next", goodToken, 401)
	want("with the next", nextToken, 200)
	want("with the next", hallToken, 429)
	set(tokenOf("app", Uplink, nextToken, "d2"))
	want("of another device", nextToken, 403)
	if err := s.SetTokens([]Token{{Name: "nothing"}}); err == nil {
		t.Error("tokens without anything are taken")
	}
	want("after a mistake", nextToken, 403)
	set()
	want("without tokens", "", 200)
	set(tokenOf("app", Uplink, nextToken, "d1"))
	want("with tokens again", "", 401)
}

// TestSetTokensInTheOpen: where others reach the endpoint there is no way to leave
// it without tokens.
func TestSetTokensInTheOpen(t *testing.T) {
	ca := newAuthority(t, "ca")
	app := tokenOf("app", Uplink, goodToken, "d1")
	s := start(t, Options{Listen: "0.0.0.0:0", TLS: &TLS{Certificate: ca.server()}, Tokens: []Token{app}}, newIntake())
	if err := s.SetTokens(nil); err == nil || !strings.Contains(err.Error(), "only with TLS, and with tokens") {
		t.Errorf("error %v", err)
	}
	if n := len(s.roster.Load().clients); n != 1 {
		t.Errorf("%d clients", n)
	}
}

// TestSetTokensEndsStreams: what goes on for long ends when its token does, and
// only then.
func TestSetTokensEndsStreams(t *testing.T) {
	const app, other = "app-0123456789abcdef", "other-0123456789abcdef"
	h := &Events{}
	tokens := []Token{tokenOf("app", Downlink|Read, app, "d1"), tokenOf("other", Downlink|Read, other, "d1")}
	m := newMailroom(t, Options{Events: h, Tokens: tokens})
	stays := watchEvents(t, m.running, "", "", "Authorization", "Bearer "+other)
	goes := watchEvents(t, m.running, "", "", "Authorization", "Bearer "+app)
	req, err := http.NewRequest("GET", m.url(box), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", eventStream)
	req.Header.Set("Authorization", "Bearer "+app)
	stream, err := m.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	type polled struct {
		status int
		body   string
	}
	var gone, kept polled
	var waiting sync.WaitGroup
	poll := func(p *polled, token string) {
		waiting.Go(func() {
			p.status, _, p.body = m.do("GET", box+"?wait=60s", map[string]string{"Authorization": "Bearer " + token})
		})
	}
	poll(&gone, app)
	poll(&kept, other)
	for deadline := time.Now().Add(patience); len(m.polls) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
	}
	tokens[0] = tokenOf("app", Downlink|Read, goodToken, "d1")
	if err := m.SetTokens(tokens); err != nil {
		t.Fatal(err)
	}
	for what, body := range map[string]io.Reader{"events": goes.r, "downlinks": stream.Body} {
		if text, err := io.ReadAll(body); err != nil || !strings.HasSuffix(string(text), ": the token is not valid any more\n\n") {
			t.Errorf("the stream of %s ended with %q, %v", what, text, err)
		}
	}
	tell(h, ReadingAccepted, "d1")
	if e := stays.next(); e.event != ReadingAccepted {
		t.Errorf("the stream that stays shows %+v", e)
	}
	m.put(bridge.Downlink{ID: "a", Payload: []byte("x")})
	waiting.Wait()
	if gone.status != 401 || !strings.Contains(gone.body, "not valid any more") {
		t.Errorf("who waits with the old token: %+v", gone)
	}
	if kept.status != 200 || !strings.Contains(kept.body, `"id":"a"`) {
		t.Errorf("who waits with a token that stays: %+v", kept)
	}
	// Fewer devices: the events of the others are not shown any more.
	tokens[1].Devices = []string{"d2"}
	if err := m.SetTokens(tokens); err != nil {
		t.Fatal(err)
	}
	tell(h, ReadingAccepted, "d1")
	tell(h, ReadingDelivered, "d2")
	if e := stays.next(); e.event != ReadingDelivered {
		t.Errorf("with other devices the stream shows %+v", e)
	}
	// Without the direction it ends.
	tokens[1].Directions = Downlink
	if err := m.SetTokens(tokens); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(stays.r); err != nil || !strings.HasPrefix(string(text), ": the token is not valid") {
		t.Errorf("the stream ended with %q, %v", text, err)
	}
}

// TestSetTokensDuringABatch: lines behind the change are refused, those before
// are not.
func TestSetTokensDuringABatch(t *testing.T) {
	s := start(t, Options{Tokens: []Token{tokenOf("app", Uplink, goodToken, "d1")}}, newIntake())
	body, lines := io.Pipe()
	req, err := http.NewRequest("POST", s.url("/v1/uplinks"), body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", batchType)
	req.Header.Set("Authorization", "Bearer "+goodToken)
	go func() { _, _ = io.WriteString(lines, `{"device":"d1","payload":1}`+"\n") }()
	resp, err := newClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	results := bufio.NewReader(resp.Body)
	if line, err := results.ReadString('\n'); err != nil || !strings.Contains(line, `"state"`) {
		t.Fatalf("the first line: %s %v", line, err)
	}
	if err := s.SetTokens([]Token{tokenOf("app", Uplink, nextToken, "d1")}); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(lines, `{"device":"d1","payload":2}`+"\n")
		_ = lines.Close()
	}()
	if line, err := results.ReadString('\n'); err != nil || !strings.Contains(line, `"status":401`) {
		t.Errorf("the second line: %s %v", line, err)
	}
}

// TestSuccessorKeepsRates: another server on the socket gives no client a new
// start.
func TestSuccessorKeepsRates(t *testing.T) {
	slow := tokenOf("slow", Uplink, slowToken, "*")
	slow.Rate = 0.001
	s := start(t, Options{Tokens: []Token{slow}}, newIntake())
	raw := request("POST", upD1, "1", authorization("Bearer "+slowToken), "Content-Type: text/plain")
	if a := sendRaw(t, s.Addr(), raw); a.status != 200 {
		t.Fatalf("answer %+v", a)
	}
	next, err := s.Successor(Options{Tokens: []Token{slow}})
	if err != nil {
		t.Fatal(err)
	}
	after := run(t, next)
	s.stop()
	<-s.Shut()
	if a := sendRaw(t, after.Addr(), raw); a.status != 429 {
		t.Errorf("answer %+v", a)
	}
}
