package rest

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"fieldbridge/bridge"
)

// everyDevice is an Accepter that knows every device and keeps the last reading.
type everyDevice struct {
	intake
}

func (*everyDevice) Known(bridge.DeviceID) bool { return true }

// handler gives the routes without a network.
func handler(t testing.TB, a Accepter, maxBody int64) http.Handler {
	o, err := Options{MaxBody: maxBody}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(o, a, newPipes())
	t.Cleanup(func() { _ = s.Close() })
	return s.http.Handler
}

// serve answers a request for a target, which is what stands in a request line;
// nil means that net/http does not let it through.
func serve(h http.Handler, target, contentType string, body []byte) *httptest.ResponseRecorder {
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil
	}
	header := http.Header{}
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	return serveWith(h, u, header, body)
}

// serveWith is serve for any headers.
func serveWith(h http.Handler, u *url.URL, header http.Header, body []byte) *httptest.ResponseRecorder {
	r := &http.Request{
		Method: http.MethodPost, URL: u, RequestURI: u.RequestURI(), Host: "127.0.0.1",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
		Body: http.NoBody, ContentLength: int64(len(body)), RemoteAddr: (&net.TCPAddr{}).String(),
	}
	if len(body) > 0 {
		r.Body = readCloser{bytes.NewReader(body)}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

// checkAnswer holds for every request: a 200 means one reading, anything else a
// problem document and none. It returns the reading.
func checkAnswer(t *testing.T, in *everyDevice, w *httptest.ResponseRecorder) *bridge.Reading {
	t.Helper()
	seen := in.take()
	if w.Code == http.StatusOK {
		if len(seen) != 1 {
			t.Fatalf("200 and %d readings", len(seen))
		}
		return &seen[0]
	}
	if len(seen) != 0 {
		t.Fatalf("%d and %d readings", w.Code, len(seen))
	}
	if w.Code < 400 || w.Code >= 500 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	var p problemDocument
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code || p.Detail == "" {
		t.Fatalf("problem document %q: %v", w.Body, err)
	}
	return nil
}

// FuzzUplinkPath: whatever the path, device and sub topic are what MQTT allows,
// and written back into a path they are the same again.
func FuzzUplinkPath(f *testing.F) {
	for _, s := range []string{
		"d1/uplink", "d1/uplink/a/b", "d1/uplink/a%2Fb", "d1/uplink/%23", "+/uplink", "%2e%2e/uplink/x", "a%25b/uplink/%2561",
		"d1/uplink//", "d1/uplink/%C3%BC", "\"%2F/uplink/'\"%2f", "d1/uplink/uplink/", "d1/uplink/%00", "http://x/d1/uplink", "a/b/uplink/c",
	} {
		f.Add(s)
	}
	in := &everyDevice{}
	h := handler(f, in, 1024)
	f.Fuzz(func(t *testing.T, path string) {
		if strings.Contains(path, "?") {
			return // FuzzTimestamp has queries
		}
		w := serve(h, "/v1/devices/"+path, "text/plain", []byte("x"))
		if w == nil {
			return
		}
		got := checkAnswer(t, in, w)
		if got == nil {
			return
		}
		if _, err := bridge.ParseDeviceID(string(got.Device)); err != nil {
			t.Errorf("device: %v", err)
		}
		if _, err := bridge.ParseSubtopic(string(got.Subtopic)); err != nil {
			t.Errorf("sub topic: %v", err)
		}
		if strings.ContainsAny(string(got.Device), "/+#\x00") || strings.ContainsAny(string(got.Subtopic), "+#\x00") {
			t.Errorf("reading for %q %q", got.Device, got.Subtopic)
		}
		// A level must not come from inside of a segment.
		wrote := strings.Count(path, "/") - 1 // one stands before "uplink"
		levels := 0
		if got.Subtopic != "" {
			levels = strings.Count(string(got.Subtopic), "/") + 1
		}
		if wrote != levels {
			t.Errorf("path %q became %d levels: %q", path, levels, got.Subtopic)
		}
		again := url.PathEscape(string(got.Device)) + "/uplink"
		if got.Subtopic != "" {
			for level := range strings.SplitSeq(string(got.Subtopic), "/") {
				again += "/" + url.PathEscape(level)
			}
		}
		w = serve(h, "/v1/devices/"+again, "text/plain", []byte("x"))
		if w == nil {
			t.Fatalf("%q from %q is no target", again, path)
		}
		twice := checkAnswer(t, in, w)
		if twice == nil || twice.Device != got.Device || twice.Subtopic != got.Subtopic {
			t.Errorf("%q read as %+v, %q as %+v", path, got, again, twice)
		}
	})
}

// FuzzTimestamp: a query either is refused or gives a time that can be written
// as RFC 3339 and is the same when read again.
func FuzzTimestamp(f *testing.F) {
	for _, s := range []string{
		"", "timestamp=2025-03-01T12:00:00Z", "timestamp=2025-03-01T12:00:00.123456789+01:00", "timestamp=2025-03-01T12%3A00%3A00%2B01%3A00",
		"timestamp=", "timestamp", "timestmp=1", "timestamp=1740830400", "timestamp=9999-12-31T23:59:59-01:00", "timestamp=2025-03-01T1:00:00Z",
		"timestamp=2025-03-01T12:00:00,5Z", "&&", "=", "%", "timestamp=%zz", "timestamp=2025-03-01T23:59:60Z",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		got, err := parseQuery(query)
		if err != nil {
			if p := problemOf(err); p == nil || p.status != http.StatusBadRequest {
				t.Fatalf("error %v", err)
			}
			return
		}
		if got.IsZero() {
			if strings.Trim(query, "&") != "" {
				t.Fatalf("query %q passed unread", query)
			}
			return
		}
		written := got.UTC().Format(time.RFC3339Nano)
		again, err := parseQuery("timestamp=" + written)
		if err != nil || !again.Equal(got) {
			t.Errorf("%q read as %v, %q as %v (%v)", query, got, written, again, err)
		}
		if _, err := got.MarshalJSON(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzBody: whatever content type and body, what is accepted is passed on
// unchanged, under one of the five types, and is JSON if it says so.
func FuzzBody(f *testing.F) {
	f.Add("application/json", []byte(`{"a":[1,2.5e3,"é"]}`))
	f.Add("application/json; charset=utf-8", []byte(`"x" `))
	f.Add("application/json", []byte("\"\xff\""))
	f.Add("application/json", []byte("{} {}"))
	f.Add("", []byte("true"))
	f.Add("", []byte("21.5 C"))
	f.Add("text/plain; charset=\"x;y\"", []byte("a"))
	f.Add("text/plain; charset*=utf-8''%00", []byte("a"))
	f.Add("TEXT/CSV;a=b;a=b", []byte("a"))
	f.Add("application/octet-stream", []byte{0, 255})
	f.Add("application/xml", bytes.Repeat([]byte("<"), 1025))
	f.Add("application/x-www-form-urlencoded", []byte("a=b"))
	f.Add("text/plain", []byte{})
	in := &everyDevice{}
	h := handler(f, in, 1024)
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		got := checkAnswer(t, in, serve(h, "/v1/devices/d1/uplink", contentType, body))
		if got == nil {
			return
		}
		if !bytes.Equal(got.Payload, body) || len(body) == 0 || len(body) > 1024 {
			t.Errorf("payload %q of body %q", got.Payload, body)
		}
		canonical, err := bridge.ParseContentType(got.ContentType)
		if err != nil || canonical != got.ContentType {
			t.Errorf("content type %q of %q: %q, %v", got.ContentType, contentType, canonical, err)
		}
		if bridge.MediaType(got.ContentType) == "application/json" && !(json.Valid(body) && utf8.Valid(body)) {
			t.Errorf("JSON %q", body)
		}
	})
}

// quoteKey writes a key as an sf-string (RFC 8941, section 4.1.6).
func quoteKey(key string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
}

// FuzzIdempotencyKey: a header is refused or gives a key of 1 to maxKey visible
// characters, which is the same again when it is written in quotes.
func FuzzIdempotencyKey(f *testing.F) {
	for _, s := range []string{
		"", "k", ` "k" `, `"a\"b\\c"`, `"a`, `"a\`, `"a\n"`, `"a" "b"`, `"";x`, "a b", "é", "a\x00", "8e03978e-40d5-43e8-bc93-6894a57f9324",
		strings.Repeat("k", maxKey), strings.Repeat("k", maxKey+1),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		key, err := parseIdempotencyKey([]string{header})
		if err != nil {
			if p := problemOf(err); p == nil || p.status != http.StatusBadRequest || key != "" {
				t.Fatalf("key %q, error %v", key, err)
			}
			return
		}
		if len(key) < 1 || len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' }) {
			t.Fatalf("%q read as the key %q", header, key)
		}
		if !strings.HasPrefix(strings.Trim(header, " \t"), `"`) && key != strings.Trim(header, " \t") {
			t.Errorf("%q without quotes read as %q", header, key)
		}
		again, err := parseIdempotencyKey([]string{quoteKey(key)})
		if err != nil || again != key {
			t.Errorf("%q read as %q, %s as %q (%v)", header, key, quoteKey(key), again, err)
		}
	})
}

// FuzzPrefer: whatever stands beside it, respond-async is found where it is an
// element of its own, and its name is in whatever asks for it.
func FuzzPrefer(f *testing.F) {
	for _, s := range [][2]string{
		{"", ""}, {"respond-async", ""}, {"wait=10, RESPOND-ASYNC", ""}, {`a="x, respond-async"`, "respond-async"}, {`a="`, `"`},
		{"respond-async=no", "respond-async"}, {`respond-async=""`, ""}, {`a;b="\";", respond-async ; c`, ","}, {`"\`, "respond-async"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		named := strings.Contains(strings.ToLower(one+"\x00"+two), respondAsync)
		got := prefersAsync([]string{one, two})
		if got && !named {
			t.Fatalf("%q, %q ask for %s", one, two, respondAsync)
		}
		if named {
			return
		}
		// A header of its own, or the first element of one, is always read.
		for _, values := range [][]string{
			{one, two, respondAsync}, {one, respondAsync + " , " + two}, {respondAsync + ";" + one}, {respondAsync + "=," + one, two},
		} {
			if !prefersAsync(values) {
				t.Errorf("%q do not ask for %s", values, respondAsync)
			}
		}
		if prefersAsync([]string{respondAsync + "=no," + one, respondAsync}) {
			t.Errorf("the second preference counts beside %q", one)
		}
	})
}
