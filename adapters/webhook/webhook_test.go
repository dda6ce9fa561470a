package webhook

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fieldbridge/bridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test; it only passes when a test fails.
const patience = 30 * time.Second

func newTarget(t *testing.T, o Options) *Target {
	t.Helper()
	target, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(target.Close)
	return target
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// outcome takes a *bridge.DeliveryError apart.
func outcome(t *testing.T, err error) (permanent bool, retryAfter time.Duration) {
	t.Helper()
	var de *bridge.DeliveryError
	if !errors.As(err, &de) {
		t.Fatalf("got %v (%T), want a *bridge.DeliveryError", err, err)
	}
	return de.Permanent, de.RetryAfter
}

func TestRequest(t *testing.T) {
	var got *http.Request
	var body string
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		w.WriteHeader(http.StatusNoContent)
	})
	target := newTarget(t, Options{URL: strings.Replace(s.URL, "//", "//joe:pa%20ss@", 1) + "/valve/1?key=k1", UserAgent: "test/1"})
	before := time.Now().Unix()
	_, err := target.Deliver(t.Context(), bridge.Downlink{
		ID: "dl-1", Device: "dev 1", Subtopic: "a/ü\n%", ContentType: "text/csv; charset=utf-8", Payload: []byte("a,b\x00\xff"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Method != "POST" || got.URL.String() != "/valve/1?key=k1" || body != "a,b\x00\xff" || got.ContentLength != 5 {
		t.Errorf("%s %s, body %q, length %d", got.Method, got.URL, body, got.ContentLength)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/csv; charset=utf-8", "webhook-id": "dl-1", "fieldbridge-device": "dev%201",
		"fieldbridge-subtopic": "a/%C3%BC%0A%25", "User-Agent": "test/1", "Accept-Encoding": "",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	if user, password, ok := got.BasicAuth(); !ok || user != "joe" || password != "pa ss" {
		t.Errorf("basic authentication %q, %q, %v", user, password, ok)
	}
	ts, err := strconv.ParseInt(got.Header.Get("webhook-timestamp"), 10, 64)
	if err != nil || ts < before || ts > time.Now().Unix() {
		t.Errorf("timestamp %q", got.Header.Get("webhook-timestamp"))
	}

	if _, err := target.Deliver(t.Context(), bridge.Downlink{ID: "dl-2", Device: "d", ContentType: "x\r\ny: z"}); err != nil {
		t.Fatal(err)
	}
	if _, there := got.Header["Fieldbridge-Subtopic"]; there || body != "" || got.ContentLength != 0 {
		t.Errorf("without sub topic and payload: %v, body %q, length %d", got.Header, body, got.ContentLength)
	}
	if ct := got.Header.Get("Content-Type"); ct != "application/octet-stream" {
		t.Errorf("content type %q", ct)
	}
}

func TestStatus(t *testing.T) {
	const now = "Sun, 06 Nov 1994 08:49:37 GMT"
	tests := []struct {
		code       int
		retryAfter string
		delivered  bool
		permanent  bool
		wait       time.Duration
	}{
		{code: 200, delivered: true},
		{code: 202, delivered: true},
		{code: 204, delivered: true},
		{code: 299, delivered: true},
		{code: 300, permanent: true},
		{code: 301, permanent: true},
		{code: 304, permanent: true},
		{code: 307, permanent: true},
		{code: 308, permanent: true},
		{code: 400, permanent: true, retryAfter: "5"},
		{code: 401, permanent: true},
		{code: 404, permanent: true},
		{code: 408},
		{code: 410, permanent: true},
		{code: 413, permanent: true},
		{code: 422, permanent: true},
		{code: 425},
		{code: 429, retryAfter: "7", wait: 7 * time.Second},
		{code: 499, permanent: true},
		{code: 500},
		{code: 502},
		{code: 503, retryAfter: "Sun, 06 Nov 1994 08:51:07 GMT", wait: 90 * time.Second},
		{code: 503, retryAfter: "86400", wait: time.Hour},
		{code: 504, retryAfter: "soon"},
		{code: 599},
		{code: 600},
		{code: 999},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.code, tt.retryAfter), func(t *testing.T) {
			elsewhere := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") })
			s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", now)
				w.Header().Set("Location", elsewhere.URL)
				if tt.retryAfter != "" {
					w.Header().Set("Retry-After", tt.retryAfter)
				}
				w.WriteHeader(tt.code)
			})
			_, err := newTarget(t, Options{URL: s.URL}).Deliver(t.Context(), bridge.Downlink{Payload: []byte("x")})
			if tt.delivered {
				if err != nil {
					t.Error(err)
				}
				return
			}
			permanent, wait := outcome(t, err)
			if permanent != tt.permanent || wait != tt.wait {
				t.Errorf("permanent %v, retry after %v; want %v, %v", permanent, wait, tt.permanent, tt.wait)
			}
			if !strings.Contains(err.Error(), strconv.Itoa(tt.code)) {
				t.Errorf("error %q does not name the code", err)
			}
			if redirect := tt.code/100 == 3; redirect != strings.Contains(err.Error(), "configure the final URL") {
				t.Errorf("error %q", err)
			}
		})
	}
}

func TestConnectionIsReused(t *testing.T) {
	for _, body := range []string{"", "ok", strings.Repeat("x", maxDrain-1)} {
		var mu sync.Mutex
		conns := map[string]bool{}
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			conns[r.RemoteAddr] = true
			mu.Unlock()
			if r.Header.Get("webhook-id") == "2" {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_, _ = io.WriteString(w, body)
		})
		target := newTarget(t, Options{URL: s.URL})
		for i := range 5 {
			_, err := target.Deliver(t.Context(), bridge.Downlink{ID: strconv.Itoa(i), Payload: []byte("x")})
			if (err != nil) != (i == 2) {
				t.Errorf("attempt %d: %v", i, err)
			}
		}
		if len(conns) != 1 {
			t.Errorf("%d connections for five attempts with answers of %d bytes", len(conns), len(body))
		}
	}
}

func TestURL(t *testing.T) {
	bad := map[string]string{
		"":                        "http://",
		"localhost:9000/x":        "http://",
		"ftp://h/x":               "http://",
		"http:///x":               "host is missing",
		"http://:80/x":            "host is missing",
		"http:opaque":             "host is missing",
		"http://h/x#top":          "fragment",
		"http://u:hunter2/x@h/":   "not a valid URL",
		"http://u:hunt er2@h/":    "not a valid URL",
		"http://h/%zz?k=hunter2":  "not a valid URL",
		"http://u:hunter2@/?k=x":  "host is missing",
		"http://u:hunter2@h/x#hu": "fragment",
	}
	for u, want := range bad {
		_, err := New(Options{URL: u})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", u, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunt") {
			t.Errorf("%q: error %q contains a secret", u, err)
		}
	}
	if _, err := New(Options{URL: "http://h/", Timeout: -1}); err == nil {
		t.Error("a negative timeout was accepted")
	}
	target := newTarget(t, Options{URL: "https://[::1]:9000/a%2Fb?k=v"})
	if target.name != "https://[::1]:9000/a%2Fb" {
		t.Errorf("name %q", target.name)
	}
}
