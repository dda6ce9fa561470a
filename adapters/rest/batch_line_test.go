package rest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge"
)

// batchLines are lines, each with what comes of it: the status of its problem,
// and a word of it; or 200, and the payload with its content type.
var batchLines = []struct {
	line, want string
	status     int
}{
	{`{"device":"d1","payload":{"b":1,"a":2.50}}`, `application/json {"b":1,"a":2.50}`, 200},
	{`{"device":"a b","subtopic":"x/y","contentType":"text/plain","payload":"21.5 °C"}`, "text/plain 21.5 °C", 200},
	{`{"device":"d1","timestamp":"2026-01-02T03:04:05.678+01:00","payload":null}`, "application/json null", 200},
	{`{"device":"d1","contentType":"application/octet-stream","payloadBase64":"AAEC/w=="}`, "application/octet-stream \x00\x01\x02\xff", 200},
	{`{"device":"d1","payloadBase64":"eyJ4IjoxfQ=="}`, `application/json {"x":1}`, 200},
	{` {"payload": [1, 2] , "device":"d1"} `, "application/json [1, 2]", 200},
	{`{"device":"nobody","payload":1}`, "[[device]]", 404},
	{`{"payload":1}`, "device", 400},
	{`{"device":"d1"}`, "payload or payloadBase64", 400},
	{`{"device":"d1","payload":1,"payloadBase64":"AA=="}`, "one of them", 400},
	{`{"device":"d1","payload":1`, "ends too early", 400},
	{`{"device":"d1","payload":1} {}`, "not one JSON object", 400},
	{`[1]`, "it is array and no object", 400},
	{`{"device":7,"payload":1}`, "device must not be a number", 400},
	{`{"device":"d1","payload":1}{"device":"d1","payload":2}`, "--data-binary keeps the line breaks", 400},
	{`"x"`, "does not fit", 400},
	{`nul`, "not one JSON object", 400},
	{"{\"device\":\"d1\",\"payload\":\"\xff\"}", "UTF-8", 400},
	{`{"device":"d1","payload":1,"time":"x"}`, `"time"`, 400},
	{`{"device":"d1","payload":1,"timestamp":"yesterday"}`, "ISO 8601", 400},
	{`{"device":"d1","payload":1,"timestamp":"1969-12-31T23:59:59Z"}`, "1970", 400},
	{`{"device":"d1","payload":1,"timestamp":5}`, "does not fit", 400},
	{`{"device":"d1","subtopic":"a/+","payload":1}`, "sub topic", 400},
	{`{"device":"d1","subtopic":"a/#","payload":1}`, "sub topic", 400},
	{`{"device":"d1","subtopic":"a//b","payload":1}`, "sub topic", 400},
	{`{"device":"d1","subtopic":"a\u0000b","payload":1}`, "sub topic", 400},
	{`{"device":"d/1","payload":1}`, "device", 400},
	{`{"device":"+","payload":1}`, "device", 400},
	{`{"device":"` + strings.Repeat("x", 1000) + `","payload":1}`, "device", 400},
	{`{"device":"d1","contentType":"text/html","payload":"x"}`, "text/html", 415},
	{`{"device":"d1","contentType":"text/plain","payload":21.5}`, "must be a string", 400},
	{`{"device":"d1","contentType":"text/plain","payload":""}`, "empty", 400},
	{`{"device":"d1","payloadBase64":""}`, "empty", 400},
	{`{"device":"d1","payloadBase64":"!"}`, "does not fit", 400},
	{`{"device":"d1","payloadBase64":"e30="}`, "application/json {}", 200},
	{`{"device":"d1","payloadBase64":"ew=="}`, "ends too early", 400},
	{`{"device":"d1","payload":"` + strings.Repeat("x", 1100) + `"}`, "larger than 1024 bytes", 413},
	{`{"device":"d1","payload":"` + strings.Repeat("x", 20_000) + `"}`, "line is longer", 413},
	{`{"device":"d1","payload":1,"idempotencyKey":""}`, "idempotencyKey is empty", 400},
	{`{"device":"d1","payload":1,"idempotencyKey":"a b"}`, "not visible ASCII at place 2", 400},
	{`{"device":"d1","payload":1,"idempotencyKey":"` + strings.Repeat("k", 256) + `"}`, "at most 255", 400},
	{`{"device":"d1","payload":1,"idempotencyKey":7}`, "does not fit", 400},
	{`{"device":"d1","payload":"last"}`, `application/json "last"`, 200},
}

// One result a line, in order; what is refused holds up nothing.
func TestBatch(t *testing.T) {
	in := newIntake()
	s := start(t, Options{MaxBody: 1024}, in)
	var body strings.Builder
	for _, l := range batchLines {
		body.WriteString(l.line + "\r\n\n") // with blank ones
	}
	for _, text := range []string{body.String(), strings.TrimRight(body.String(), "\r\n")} {
		a := post(t, newClient(t), s.url("/v1/uplinks"), "application/x-ndjson", text)
		if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/x-ndjson" {
			t.Fatalf("answer %d, %v", a.status, a.header)
		}
		got, seen := resultsOf(t, string(a.body)), in.take()
		if len(got) != len(batchLines) {
			t.Fatalf("%d results for %d lines", len(got), len(batchLines))
		}
		for i, l := range batchLines {
			r := got[i]
			if r.Line != 2*i+1 || r.Status != l.status {
				t.Errorf("%.80s: %+v, want status %d", l.line, r, l.status)
				continue
			}
			if l.status != http.StatusOK {
				if !strings.Contains(r.Detail, l.want) || r.Title != http.StatusText(l.status) || r.ID != "" {
					t.Errorf("%.80s: %+v, want %q", l.line, r, l.want)
				}
				continue
			}
			if len(seen) == 0 || r.State != "delivered" || r.ID == "" {
				t.Fatalf("%.80s: %+v, %d readings left", l.line, r, len(seen))
			}
			if have := seen[0].ContentType + " " + string(seen[0].Payload); have != l.want {
				t.Errorf("%.80s: %q, want %q", l.line, have, l.want)
			}
			if i == 2 && !seen[0].Time.Equal(time.Date(2026, 1, 2, 2, 4, 5, 678e6, time.UTC)) {
				t.Errorf("time %s", seen[0].Time)
			}
			if i == 1 && (seen[0].Device != "a b" || seen[0].Subtopic != "x/y") {
				t.Errorf("%q %q", seen[0].Device, seen[0].Subtopic)
			}
			seen = seen[1:]
		}
		if len(seen) != 0 {
			t.Errorf("%d readings more than lines", len(seen))
		}
	}
}

// FuzzBatchLine: what a line makes is fit to be sent, and what it has as JSON is
// not changed.
func FuzzBatchLine(f *testing.F) {
	for _, l := range batchLines {
		if len(l.line) < 200 {
			f.Add([]byte(l.line))
		}
	}
	in := newIntake()
	s, err := New(Options{Listen: "127.0.0.1:0"}, in)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	f.Fuzz(func(t *testing.T, line []byte) {
		r, _, err := s.parseLine(&http.Request{}, line)
		if err != nil {
			if problemOf(err) == nil {
				t.Errorf("%q is our fault: %v", line, err)
			}
			return
		}
		if _, err := bridge.ParseContentType(r.ContentType); err != nil || len(r.Payload) == 0 || !in.Known(r.Device) || r.Time.IsZero() {
			t.Errorf("%q: %+v, %v", line, r, err)
		}
		if _, err := bridge.ParseSubtopic(string(r.Subtopic)); err != nil && r.Subtopic != "" {
			t.Errorf("%q: %v", line, err)
		}
		if bridge.MediaType(r.ContentType) == "application/json" {
			if !json.Valid(r.Payload) {
				t.Errorf("%q: payload %q", line, r.Payload)
			}
			encoded := bytes.Contains(bytes.ToLower(line), []byte("base64")) || bytes.Contains(line, []byte(`\`))
			if !encoded && !bytes.Contains(line, r.Payload) {
				t.Errorf("%q: payload %q is not as it was", line, r.Payload)
			}
		}
	})
}
