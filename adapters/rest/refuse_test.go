package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge"
)

func TestUplinkRefuses(t *testing.T) {
	in := newIntake()
	s := start(t, Options{MaxBody: 1024}, in)
	const (
		up        = "/v1/devices/d1/uplink"
		asJSON    = "Content-Type: application/json"
		asText    = "Content-Type: text/plain"
		types     = "application/json, text/plain, application/octet-stream, application/xml, text/csv"
		goodTime  = "timestamp=2025-03-01T12:00:00Z"
		plainTime = "is not ISO 8601"
	)
	rows := []struct {
		name   string
		raw    string
		status int
		detail string
		header string // "Name: value" that the answer must have
	}{
		// paths
		{"unknown path", request("POST", "/v1/device/d1/uplink", "1", asJSON), 404, "POST /v1/devices/{device}/uplink", ""},
		{"root", request("GET", "/", ""), 404, "nothing is at this path", ""},
		{"device alone", request("POST", "/v1/devices/d1", "1", asJSON), 404, "nothing is at this path", ""},
		{"doubled slash before", request("POST", "//v1/devices/d1/uplink", "1", asJSON), 404, "nothing is at this path", ""},
		{"doubled slash within", request("POST", "/v1//devices/d1/uplink", "1", asJSON), 404, "nothing is at this path", ""},
		{"dots within the route", request("POST", "/v1/devices/d1/../d1/uplink", "1", asJSON), 404, "nothing is at this path", ""},
		{"escaped route", request("POST", "/v1/devices/d1/up%6Cink", "1", asJSON), 404, "nothing is at this path", ""},
		{"unknown device", request("POST", "/v1/devices/d9/uplink", "1", asJSON), 404, `add a [[device]] block`, ""},
		{"device in another case", request("POST", "/v1/devices/D1/uplink", "1", asJSON), 404, `unknown device: "D1"`, ""},
		{"empty device", request("POST", "/v1/devices//uplink", "1", asJSON), 400, "device id is empty", ""},
		{"device with wildcard", request("POST", "/v1/devices/+/uplink", "1", asJSON), 400, "an MQTT wildcard", ""},
		{"device with encoded slash", request("POST", "/v1/devices/d1%2Fx/uplink", "1", asJSON), 400, `device id "d1/x" contains "/"`, ""},
		{"device dot dot", request("POST", "/v1/devices/../uplink", "1", asJSON), 400, "taken for a directory", ""},
		{"device encoded dot dot", request("POST", "/v1/devices/%2e%2E/uplink", "1", asJSON), 400, "taken for a directory", ""},
		{"device reserved", request("POST", "/v1/devices/$SYS/uplink", "1", asJSON), 400, "which MQTT reserves", ""},
		{"device too long", request("POST", "/v1/devices/"+strings.Repeat("x", 257)+"/uplink", "1", asJSON), 400, "at most 256", ""},
		{"trailing slash", request("POST", up+"/", "1", asJSON), 400, "the path ends with", ""},
		{"trailing slash after a level", request("POST", up+"/a/", "1", asJSON), 400, "level 2 is empty", ""},
		{"empty level", request("POST", up+"/a//b", "1", asJSON), 400, "level 2 is empty", ""},
		{"leading empty level", request("POST", up+"//a", "1", asJSON), 400, "level 1 is empty", ""},
		{"level dot", request("POST", up+"/a/./b", "1", asJSON), 400, "taken for a directory", ""},
		{"level dot dot", request("POST", up+"/..", "1", asJSON), 400, "taken for a directory", ""},
		{"level plus", request("POST", up+"/a/+/b", "1", asJSON), 400, "an MQTT wildcard", ""},
		{"level encoded plus", request("POST", up+"/a%2Bb", "1", asJSON), 400, "an MQTT wildcard", ""},
		{"level hash", request("POST", up+"/#", "1", asJSON), 400, "an MQTT wildcard", ""},
		{"level encoded hash", request("POST", up+"/a/%23", "1", asJSON), 400, "an MQTT wildcard", ""},
		{"level encoded slash", request("POST", up+"/a%2Fb", "1", asJSON), 400, "level 1 contains an encoded", ""},
		{"level encoded slash, lower case", request("POST", up+"/x/a%2fb", "1", asJSON), 400, "level 2 contains an encoded", ""},
		{"level encoded slash beside a character to be escaped", request("POST", up+`/"%2Fb`, "1", asJSON), 400, "level 1 contains an encoded", ""},
		{"level NUL", request("POST", up+"/a%00", "1", asJSON), 400, "control character", ""},
		{"level newline", request("POST", up+"/a%0Ab", "1", asJSON), 400, "control character", ""},
		{"level invalid UTF-8", request("POST", up+"/%FF", "1", asJSON), 400, "not valid UTF-8", ""},
		{"level surrogate", request("POST", up+"/%ED%A0%80", "1", asJSON), 400, "not valid UTF-8", ""},
		{"level not a character", request("POST", up+"/%EF%BF%BF", "1", asJSON), 400, "not a character", ""},
		{"sub topic too long", request("POST", up+strings.Repeat("/x", 513), "1", asJSON), 400, "at most 1024", ""},
		// methods
		{"GET", request("GET", up, ""), 405, "use POST", "Allow: POST"},
		{"PUT with sub topic", request("PUT", up+"/a", "1", asJSON), 405, "use POST", "Allow: POST"},
		{"OPTIONS", request("OPTIONS", up, ""), 405, "use POST", "Allow: POST"},
		{"unheard-of method", request("BREW", up, ""), 405, "use POST", "Allow: POST"},
		{"unheard-of method and path", request("BREW", "/coffee", ""), 404, "nothing is at this path", ""},
		{"OPTIONS for the server", request("OPTIONS", "*", ""), 404, "nothing is at this path", ""},
		{"POST to health", request("POST", "/healthz", "1"), 405, "use GET, HEAD", "Allow: GET, HEAD"},
		// queries
		{"misspelt parameter", request("POST", up+"?timestmp=2025-03-01T12:00:00Z", "1", asJSON), 400, `query parameter "timestmp" is unknown`, ""},
		{"parameter in another case", request("POST", up+"?Timestamp=2025-03-01T12:00:00Z", "1", asJSON), 400, `"Timestamp" is unknown`, ""},
		{"one more parameter", request("POST", up+"?"+goodTime+"&x=1", "1", asJSON), 400, `"x" is unknown`, ""},
		{"timestamp twice", request("POST", up+"?"+goodTime+"&"+goodTime, "1", asJSON), 400, "more than once", ""},
		{"timestamp empty", request("POST", up+"?timestamp=", "1", asJSON), 400, plainTime, ""},
		{"timestamp without zone", request("POST", up+"?timestamp=2025-03-01T12:00:00", "1", asJSON), 400, plainTime, ""},
		{"timestamp in seconds", request("POST", up+"?timestamp=1740830400", "1", asJSON), 400, plainTime, ""},
		{"timestamp with space", request("POST", up+"?timestamp=2025-03-01%2012:00:00Z", "1", asJSON), 400, plainTime, ""},
		{"timestamp on no day", request("POST", up+"?timestamp=2025-02-30T12:00:00Z", "1", asJSON), 400, plainTime, ""},
		{"timestamp with comma", request("POST", up+"?timestamp=2025-03-01T12:00:00,5Z", "1", asJSON), 400, plainTime, ""},
		{"timestamp with short hour", request("POST", up+"?timestamp=2025-03-01T1:00:00Z", "1", asJSON), 400, plainTime, ""},
		{"timestamp with long offset", request("POST", up+"?timestamp=2025-03-01T12:00:00%2B24:00", "1", asJSON), 400, plainTime, ""},
		{"timestamp with odd offset", request("POST", up+"?timestamp=2025-03-01T12:00:00-01:60", "1", asJSON), 400, plainTime, ""},
		{"timestamp before 1970", request("POST", up+"?timestamp=1969-12-31T23:59:59Z", "1", asJSON), 400, "between the years", ""},
		{"timestamp zero", request("POST", up+"?timestamp=0001-01-01T00:00:00Z", "1", asJSON), 400, "between the years", ""},
		{"timestamp beyond 9999 in UTC", request("POST", up+"?timestamp=9999-12-31T23:59:59-01:00", "1", asJSON), 400, "between the years", ""},
		{"broken escape in query", request("POST", up+"?timestamp=%zz", "1", asJSON), 400, "invalid URL escape", ""},
		{"broken escape in parameter name", request("POST", up+"?%=1", "1", asJSON), 400, "invalid URL escape", ""},
		// content types
		{"form", request("POST", up, `{"a":1}`, "Content-Type: application/x-www-form-urlencoded"), 415, "curl -d sends a form type: add -H 'Content-Type: application/json'", "Accept-Post: " + types},
		{"html", request("POST", up, "<p>", "Content-Type: text/html"), 415, `"text/html" is not one of application/json`, "Accept-Post: " + types},
		{"json of another kind", request("POST", up, "{}", "Content-Type: application/ld+json"), 415, "is not one of", "Accept-Post: " + types},
		{"two types in one header", request("POST", up, "1", "Content-Type: application/json, text/plain"), 415, "malformed", "Accept-Post: " + types},
		{"malformed type", request("POST", up, "1", "Content-Type: text/plain; charset"), 415, "malformed", "Accept-Post: " + types},
		{"two type headers", request("POST", up, "1", asJSON, asText), 400, "2 Content-Type headers", ""},
		{"no type and no json", request("POST", up, "21.5 C"), 415, "no Content-Type and the body is not JSON", "Accept-Post: " + types},
		{"gzip", request("POST", up, "1", asJSON, "Content-Encoding: gzip"), 415, "without Content-Encoding", "Accept-Encoding: identity"},
		{"identity and gzip", request("POST", up, "1", asJSON, "Content-Encoding: identity", "Content-Encoding: gzip"), 415, "without Content-Encoding", ""},
		// bodies
		{"json cut short", request("POST", up, `{"a":1`, asJSON), 400, "it ends too early, at byte 6", ""},
		{"json with a mistake", request("POST", up, `{"a":x}`, asJSON), 400, "at byte 5", ""},
		{"two json values", request("POST", up, "{}\n{}", asJSON), 400, "after top-level value at byte 3", ""},
		{"json invalid UTF-8", request("POST", up, "\"a\xff\"", asJSON), 400, "invalid UTF-8 at byte 2", ""},
		{"json with byte order mark", request("POST", up, "\ufeff{}", asJSON), 400, "byte order mark", ""},
		{"json of blanks", request("POST", up, "  ", asJSON), 400, "ends too early", ""},
		{"json never closed", request("POST", up, strings.Repeat("[", 1000), asJSON), 400, "ends too early", ""},
		{"empty json", request("POST", up, "", asJSON), 400, "the body is empty", ""},
		{"empty text", request("POST", up, "", asText), 400, "the body is empty", ""},
		{"empty without type", request("POST", up, ""), 400, "the body is empty", ""},
		{"empty chunked", request("POST", up, "0\r\n\r\n", asText, "Transfer-Encoding: chunked"), 400, "the body is empty", ""},
		{"too large", request("POST", up, strings.Repeat("1", 1025), asText), 413, "larger than 1024 bytes", "Connection: close"},
		{"too large as announced", request("POST", up, "1", asText, "Content-Length: 999999999999"), 413, "larger than 1024 bytes", "Connection: close"},
		{"too large as announced, asking first", request("POST", up, "", asText, "Content-Length: 1025", "Expect: 100-continue"), 413, "larger than 1024 bytes", ""},
		{"too large in chunks", request("POST", up, "401\r\n"+strings.Repeat("1", 1025)+"\r\n0\r\n\r\n", asText, "Transfer-Encoding: chunked"), 413, "larger than 1024 bytes", "Connection: close"},
		{"broken chunk", request("POST", up, "2\r\n11\r\nzz\r\n", asText, "Transfer-Encoding: chunked"), 400, "breaks off after 2 bytes", "Connection: close"},
		// keys
		{"key empty", request("POST", up, "1", asText, "Idempotency-Key: "), 400, "the Idempotency-Key header is empty", ""},
		{"key of quotes", request("POST", up, "1", asText, `Idempotency-Key: ""`), 400, "the Idempotency-Key header is empty", ""},
		{"key too long", request("POST", up, "1", asText, "Idempotency-Key: "+strings.Repeat("k", 256)), 400, "has 256 characters, at most 255", ""},
		{"key with space", request("POST", up, "1", asText, "Idempotency-Key: a b"), 400, "not visible ASCII at place 2", ""},
		{"key not ASCII", request("POST", up, "1", asText, "Idempotency-Key: é"), 400, "not visible ASCII at place 1", ""},
		{"key cut short", request("POST", up, "1", asText, `Idempotency-Key: "a`), 400, "not one whole string in quotes", ""},
		{"two keys", request("POST", up, "1", asText, "Idempotency-Key: a", "Idempotency-Key: a"), 400, "2 Idempotency-Key headers", ""},
		{"key wrong and body too large", request("POST", up, strings.Repeat("1", 1025), asText, "Idempotency-Key: a b"), 400, "not visible ASCII", ""},
		// browsers
		{"page of another origin", request("POST", up, "1", asText, "Origin: http://evil.example"), 403, "web page of another origin", ""},
		{"page of another port", request("POST", up, "1", asText, "Host: 127.0.0.1:8080", "Origin: http://127.0.0.1:3000"), 403, "web page of another origin", ""},
		{"page of a file", request("POST", up, "1", asText, "Origin: null"), 403, "web page of another origin", ""},
		{"page that hides its origin", request("POST", up, "1", asText, "Sec-Fetch-Site: cross-site"), 403, "web page of another origin", ""},
		{"two origins", request("POST", up, "1", asText, "Origin: http://127.0.0.1", "Origin: http://127.0.0.1"), 403, "web page of another origin", ""},
		{"rebound name", request("POST", up, "1", asText, "Host: evil.example:8080"), 403, "not this machine", ""},
		{"rebound name, same origin", request("POST", up, "1", asText, "Host: evil.example", "Origin: http://evil.example"), 403, "not this machine", ""},
		{"name that begins like an address", request("POST", up, "1", asText, "Host: 127.0.0.1.evil.example"), 403, "not this machine", ""},
		{"name that begins like localhost", request("POST", up, "1", asText, "Host: localhost.evil.example"), 403, "not this machine", ""},
		{"absolute form for another host", request("POST", "http://evil.example"+up, "1", asText), 403, "not this machine", ""},
		{"unspecified address", request("GET", "/readyz", "", "Host: 0.0.0.0:8080"), 403, "not this machine", ""},
		{"proxy", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", 403, "not this machine", ""},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			a := sendRaw(t, s.Addr(), r.raw)
			checkProblem(t, a, r.status, r.detail)
			if name, value, ok := strings.Cut(r.header, ": "); ok {
				got := a.header.Get(name)
				if name == "Connection" && a.closes { // ReadResponse takes it out of the headers
					got = "close"
				}
				if got != value {
					t.Errorf("%s: %q, want %q", name, got, value)
				}
			}
			if seen := in.take(); len(seen) != 0 {
				t.Errorf("the accepter saw %d readings", len(seen))
			}
		})
	}
}

// What net/http refuses itself never reaches a handler, and so is no problem
// document; it must be refused all the same.
func TestMalformedRequests(t *testing.T) {
	in := newIntake()
	s := start(t, Options{}, in)
	const up = "/v1/devices/d1/uplink"
	rows := []struct {
		name, raw string
		status    int
	}{
		{"no HTTP", "hello\r\n\r\n", 400},
		{"no host", "POST " + up + " HTTP/1.1\r\nContent-Length: 1\r\n\r\n1", 400},
		{"two hosts", request("POST", up, "1", "Host: 127.0.0.1", "Host: evil.example"), 400},
		{"broken escape in path", request("POST", up+"/%zz", "1"), 400},
		{"space in path", request("POST", up+"/a b", "1"), 400},
		{"two lengths", request("POST", up, "1", "Content-Length: 1", "Content-Length: 2"), 400},
		{"negative length", request("POST", up, "1", "Content-Length: -1"), 400},
		{"headers too large", request("POST", up, "1", "X: "+strings.Repeat("x", 64<<10)), 431},
		{"unknown expectation", request("POST", up, "1", "Expect: miracles"), 417},
		{"unknown transfer coding", request("POST", up, "1", "Transfer-Encoding: gzip"), 501},
		{"NUL in a header", request("POST", up, "1", "Content-Type: text/\x00plain"), 400},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			if a := sendRaw(t, s.Addr(), r.raw); a.status != r.status {
				t.Errorf("status %d, want %d", a.status, r.status)
			}
			if seen := in.take(); len(seen) != 0 {
				t.Errorf("the accepter saw %d readings", len(seen))
			}
		})
	}
}

func TestAccepterErrors(t *testing.T) {
	in := newIntake()
	var log logBuffer
	s := start(t, Options{Logger: log.logger()}, in)
	c := newClient(t)
	rows := []struct {
		name       string
		err        error
		status     int
		detail     string
		retryAfter string
		reasonCode int
	}{
		{"unavailable", &bridge.UnavailableError{Reason: "the broker does not answer", RetryAfter: 5 * time.Second}, 503, "not accepted: the broker does not answer; send it again", "5", 0},
		{"unavailable, fractions", &bridge.UnavailableError{Reason: "x", RetryAfter: 1200 * time.Millisecond}, 503, "send it again", "2", 0},
		{"unavailable, no time", &bridge.UnavailableError{Reason: "x"}, 503, "send it again", "1", 0},
		{"unavailable, wrapped", fmt.Errorf("accept: %w", &bridge.UnavailableError{Reason: "x", RetryAfter: time.Minute}), 503, "x", "60", 0},
		{"spool full", fmt.Errorf("%w: max_bytes of 256MiB is reached", bridge.ErrSpoolFull), 507, "not accepted: spool full: max_bytes of 256MiB is reached; send it again", "60", 0},
		{"spool full and broker away", fmt.Errorf("%w: no space: %w", bridge.ErrSpoolFull, &bridge.UnavailableError{Reason: "x", RetryAfter: time.Second}), 507, "spool full", "60", 0},
		{"key reused", fmt.Errorf("accept: %w", bridge.ErrKeyReused), 422, "used before with another body; to repeat a request send the same", "", 0},
		{"rejected payload format", &bridge.RejectedError{Code: 0x99, Reason: "payload format invalid"}, 422, "0x99 (payload format invalid); the payload does not fit", "", 0x99},
		{"rejected topic", &bridge.RejectedError{Code: 0x90, Reason: "topic name invalid"}, 422, "uplink_topic", "", 0x90},
		{"rejected rights", &bridge.RejectedError{Code: 0x87, Reason: "not authorized"}, 422, "the right to publish", "", 0x87},
		{"rejected quota", &bridge.RejectedError{Code: 0x97, Reason: "quota exceeded"}, 422, "quota", "", 0x97},
		{"rejected otherwise", &bridge.RejectedError{Code: 0x80, Reason: "unspecified error"}, 422, "do not send it again", "", 0x80},
		{"too large for the connector", fmt.Errorf("%w: 9 bytes, the connector takes at most 8", bridge.ErrTooLarge), 413, "at most 8", "", 0},
		{"device gone meanwhile", fmt.Errorf("%w: %q", bridge.ErrUnknownDevice, "d1"), 404, "[[device]]", "", 0},
		{"invalid", fmt.Errorf("%w: sub topic", bridge.ErrInvalid), 400, "sub topic", "", 0},
		{"time is up", fmt.Errorf("accept: %w", context.DeadlineExceeded), 503, "send it again", "5", 0},
		{"cancelled", context.Canceled, 503, "send it again", "5", 0},
		{"anything else", errors.New("disk on fire"), 500, "its log says more", "", 0},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			in.answer = func(context.Context, bridge.Reading) (bridge.Receipt, error) { return bridge.Receipt{}, r.err }
			a := post(t, c, s.url("/v1/devices/d1/uplink"), "application/json", "1")
			p := checkProblem(t, a, r.status, r.detail)
			if got := a.header.Get("Retry-After"); got != r.retryAfter {
				t.Errorf("Retry-After %q, want %q", got, r.retryAfter)
			}
			if p.ReasonCode != r.reasonCode {
				t.Errorf("reasonCode %d, want %d", p.ReasonCode, r.reasonCode)
			}
			if strings.Contains(string(a.body), "fire") {
				t.Error("the client is told an internal error")
			}
		})
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), "disk on fire") {
		t.Errorf("%d errors logged, want one; log:\n%s", n, log.String())
	}
}

func TestStoredIs202(t *testing.T) {
	in := newIntake()
	in.answer = func(_ context.Context, r bridge.Reading) (bridge.Receipt, error) {
		receipt := delivered(r)
		receipt.State = bridge.Spooled
		return receipt, nil
	}
	s := start(t, Options{}, in)
	a := post(t, newClient(t), s.url("/v1/devices/d1/uplink"), "text/plain", "x")
	if a.status != http.StatusAccepted || !strings.Contains(string(a.body), `"state":"stored"`) {
		t.Errorf("status %d, body %s", a.status, a.body)
	}
	if got, ok := a.header["Preference-Applied"]; ok {
		t.Errorf("Preference-Applied %q, but nothing was preferred", got)
	}
}
