package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge"
)

// result is a line of an answer.
type result struct {
	Line                 int
	ID, State, Timestamp string
	Status               int
	Title, Detail        string
	ReasonCode           int
	RetryAfter           int
}

func resultsOf(t testing.TB, body string) (all []result) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	for {
		var r struct {
			result
			Message string
		}
		if err := d.Decode(&r); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatalf("%v in %q", err, body)
		}
		all = append(all, r.result)
	}
}

// openBatch is a batch whose client sends lines and reads results by turns.
type openBatch struct {
	t       *testing.T
	to      *io.PipeWriter
	results *bufio.Scanner
}

// beginBatch sends a first line and reads its result.
func beginBatch(t *testing.T, s *running) *openBatch {
	t.Helper()
	from, to := io.Pipe()
	req, err := http.NewRequest(http.MethodPost, s.url("/v1/uplinks"), from)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson; charset=utf-8")
	req.Header.Set("Prefer", "respond-async")
	b := &openBatch{t: t, to: to}
	go b.send(1)
	resp, err := newClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close(); to.Close() })
	b.results = bufio.NewScanner(resp.Body)
	b.want(1, 200)
	return b
}

func (b *openBatch) send(n int) { fmt.Fprintf(b.to, "{\"device\":\"d1\",\"payload\":%d}\n", n) }

// want reads the next result.
func (b *openBatch) want(line, status int) {
	b.t.Helper()
	if !b.results.Scan() {
		b.t.Fatalf("no result of line %d: %v", line, b.results.Err())
	}
	r := resultsOf(b.t, b.results.Text())[0]
	if r.Line != line || r.Status != status || (status == http.StatusServiceUnavailable) != (r.RetryAfter > 0) {
		b.t.Errorf("%+v, want line %d, status %d", r, line, status)
	}
}

// end fails if there is another result.
func (b *openBatch) end() {
	b.t.Helper()
	if b.results.Scan() || b.results.Err() != nil {
		b.t.Errorf("%q behind the last result, %v", b.results.Text(), b.results.Err())
	}
}

// Results come while lines are still to be sent, also when a part of the next line
// has come already.
func TestBatchStreams(t *testing.T) {
	in := newIntake()
	b := beginBatch(t, start(t, Options{}, in))
	b.send(2)
	b.want(2, 200)
	_, _ = io.WriteString(b.to, "{\"device\":\"d1\",\"payload\":3}\n{\"device\":")
	b.want(3, 200)
	_, _ = io.WriteString(b.to, "\"d1\",\"payload\":4}")
	_ = b.to.Close()
	b.want(4, 200)
	b.end()
	if _, how := in.takeBoth(); len(how) != 4 || !how[0].Async {
		t.Errorf("%+v", how)
	}
}

// A server that stops does not wait for the next line: it has a result that says
// so, also if a part of it is there.
func TestBatchEndsWithServer(t *testing.T) {
	for name, part := range map[string]string{"silent": "", "in a line": "{\"device\":\"d1\",\"pay"} {
		t.Run(name, func(t *testing.T) {
			in := newIntake()
			s := start(t, Options{}, in)
			b := beginBatch(t, s)
			_, _ = io.WriteString(b.to, part)
			s.stop()
			b.want(2, 503)
			b.end()
			if err := within(t, s.done); err != nil {
				t.Error(err)
			}
			if seen := in.take(); len(seen) != 1 {
				t.Errorf("%d readings", len(seen))
			}
		})
	}
}

// A body that breaks off: what came whole is kept and told, the rest is not.
func TestBatchBreaksOff(t *testing.T) {
	in := newIntake()
	s := start(t, Options{ReadTimeout: 200 * time.Millisecond}, in)
	for name, end := range map[string]func(c *net.TCPConn) error{
		"cut":     func(c *net.TCPConn) error { return c.CloseWrite() },
		"silence": func(*net.TCPConn) error { return nil },
	} {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST /v1/uplinks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: 1000\r\n\r\n%s\n%s",
			`{"device":"d1","payload":1}`, `{"device":"d1","payl`)
		if err := end(c.(*net.TCPConn)); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		a, _ := readAnswer(resp)
		got := resultsOf(t, string(a.body))
		if len(got) != 2 || got[0].State != "delivered" || got[1].Line != 2 || got[1].Status != 400 && got[1].Status != 408 {
			t.Errorf("%s: %+v", name, got)
		}
		if seen := in.take(); len(seen) != 1 || string(seen[0].Payload) != "1" {
			t.Errorf("%s: %d readings", name, len(seen))
		}
	}
}

// Each line's device must be the token's, and the outcome of each reading is its
// own.
func TestBatchOutcomes(t *testing.T) {
	in := newIntake()
	in.answer = func(_ context.Context, r bridge.Reading) (bridge.Receipt, error) {
		switch string(r.Payload) {
		case "1":
			return bridge.Receipt{ID: delivered(r).ID, Time: r.Time, State: bridge.Spooled}, nil
		case "2":
			return bridge.Receipt{}, &bridge.RejectedError{Code: 0x99, Reason: "no"}
		case "3":
			return bridge.Receipt{}, &bridge.UnavailableError{Reason: "busy", RetryAfter: 5 * time.Second}
		case "4":
			return bridge.Receipt{}, errors.New("unheard of")
		}
		return delivered(r), nil
	}
	s := start(t, Options{Tokens: someTokens()}, in)
	var body bytes.Buffer
	for i, device := range []string{"d1", "d1", "d1", "d1", "a b", "é-1", "nobody"} {
		fmt.Fprintf(&body, "{\"device\":%q,\"payload\":%d}\n", device, i+1)
	}
	req, _ := http.NewRequest(http.MethodPost, s.url("/v1/uplinks"), &body)
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("Authorization", "Bearer "+hallToken)
	resp, err := newClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	a, err := readAnswer(resp)
	if err != nil {
		t.Fatal(err)
	}
	got := resultsOf(t, string(a.body))
	for i, want := range []result{
		{Line: 1, Status: 202, State: "stored"}, {Line: 2, Status: 422, ReasonCode: 0x99}, {Line: 3, Status: 503, RetryAfter: 5},
		{Line: 4, Status: 500}, {Line: 5, Status: 200, State: "delivered"}, {Line: 6, Status: 403}, {Line: 7, Status: 403},
	} {
		if i >= len(got) {
			t.Fatalf("%d results", len(got))
		}
		g := got[i]
		if g.Line != want.Line || g.State != want.State || g.Status != want.Status || g.ReasonCode != want.ReasonCode || g.RetryAfter != want.RetryAfter {
			t.Errorf("%+v, want %+v", g, want)
		}
	}
}

// TestBatchesAtOnce: batches leave most places to single readings.
func TestBatchesAtOnce(t *testing.T) {
	s := start(t, Options{MaxConcurrent: batchShare}, newIntake())
	b := beginBatch(t, s)
	a := post(t, newClient(t), s.url("/v1/uplinks"), "application/x-ndjson", `{"device":"d1","payload":1}`)
	checkProblem(t, a, http.StatusServiceUnavailable, "1 batches are under way already")
	if a := post(t, newClient(t), s.url("/v1/devices/d1/uplink"), "text/plain", "1"); a.status != http.StatusOK {
		t.Errorf("a reading: %d %s", a.status, a.body)
	}
	_ = b.to.Close()
	b.end()
	if a := post(t, newClient(t), s.url("/v1/uplinks"), "application/x-ndjson", `{"device":"d1","payload":1}`); a.status != http.StatusOK {
		t.Errorf("after it: %d %s", a.status, a.body)
	}
}

// TestBatchKeys: a line's key is that of its reading, and as good as the header of
// a single one.
func TestBatchKeys(t *testing.T) {
	in := newIntake()
	s := start(t, Options{}, in)
	c := newClient(t)
	body := `{"device":"d1","subtopic":"x","payload":{"t":1},"idempotencyKey":"k1"}
{"device":"d1","payload":2}
{"device":"d1","payload":3,"timestamp":"2026-01-02T03:04:05Z","idempotencyKey":"\"k2\""}
`
	if a := post(t, c, s.url("/v1/uplinks"), "application/x-ndjson", body); a.status != http.StatusOK || len(resultsOf(t, string(a.body))) != 3 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	seen, how := in.takeBoth()
	req, err := http.NewRequest(http.MethodPost, s.url("/v1/devices/d1/uplink/x"), strings.NewReader(`{"t":1}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", "k1")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := readAnswer(resp); err != nil || a.status != http.StatusOK {
		t.Fatalf("%v: %d %s", err, a.status, a.body)
	}
	_, single := in.takeBoth()
	if len(how) != 3 || len(single) != 1 || how[0].Key != single[0].Key {
		t.Errorf("keys %+v, by itself %+v", how, single)
	}
	if how[1].Key != (bridge.Key{}) || how[2].Key != (bridge.Key{Value: `"k2"`, Digest: digest(&seen[2])}) {
		t.Errorf("keys %+v", how)
	}
}

// TestBatchNeverRead: a client that sends and never takes a result is cut off, its
// place is free again, and what was accepted until then is all that was.
func TestBatchNeverRead(t *testing.T) {
	in := newIntake()
	withBubbleStop(t, Options{MaxConcurrent: 1}, in, func(t *testing.T, p *pipes, _ func() time.Duration) {
		conn := p.dial()
		defer conn.Close()
		begin := time.Now()
		write(t, conn, request("POST", "/v1/uplinks", "", "Content-Type: application/x-ndjson", "Transfer-Encoding: chunked"))
		sent := 0
		for ; sent < 100_000; sent++ {
			line := fmt.Sprintf("{\"device\":\"d1\",\"payload\":%d}\n", sent)
			if _, err := fmt.Fprintf(conn, "%x\r\n%s\r\n", len(line), line); err != nil {
				break
			}
		}
		if d := time.Since(begin); sent == 100_000 || d < answerTime || d > 2*answerTime {
			t.Errorf("cut after %d lines and %v, want %v", sent, d, answerTime)
		}
		seen := in.take()
		for i, r := range seen {
			if string(r.Payload) != strconv.Itoa(i) {
				t.Fatalf("reading %d is %s", i, r.Payload)
			}
		}
		if len(seen) == 0 || len(seen) > sent {
			t.Errorf("%d readings of %d lines", len(seen), sent)
		}
		other := p.dial()
		defer other.Close()
		write(t, other, request("POST", "/v1/devices/d1/uplink", "1"))
		if a, _ := response(t, other); a.status != http.StatusOK {
			t.Errorf("afterwards: %d %s", a.status, a.body)
		}
	})
}
