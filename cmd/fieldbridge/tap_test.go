package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// exchange is a request that has come to a tap.
type exchange struct {
	at                                     time.Time
	method, target, key, contentType, body string
	query                                  url.Values
	status                                 int    // of the answer; 0: the client has none, or not the gateway's
	answer                                 string // its body
}

// tap stands between clients and a gateway. It notes what passes, and makes
// faults. Of the waits that the gateway asks for those of a minute become a second.
type tap struct {
	addr    string // where it listens
	gateway string // whom it passes requests on to; set before the first one comes
	t       *testing.T
	client  *http.Client

	mu     sync.Mutex // guards what follows
	seen   []*exchange
	faults map[string][]fault // by method
}

// fault does something else than passing on a request and its answer.
type fault func(b *tap, w http.ResponseWriter, r *http.Request, e *exchange)

func newTap(t *testing.T) *tap {
	t.Helper()
	between := &tap{t: t, client: newClient(t), faults: map[string][]fault{}}
	srv := httptest.NewServer(between)
	t.Cleanup(srv.Close)
	between.addr = srv.Listener.Addr().String()
	return between
}

// swallow lets the gateway answer and closes the connection instead.
func swallow(b *tap, _ http.ResponseWriter, r *http.Request, e *exchange) {
	b.pass(r, e)
	panic(http.ErrAbortHandler)
}

// busy answers in place of the gateway.
func busy(_ *tap, w http.ResponseWriter, _ *http.Request, _ *exchange) {
	w.Header().Set("Retry-After", "1")
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = io.WriteString(w, `{"status":503,"detail":"busy"}`)
}

// spend uses up the rate of a token before the request is passed on, until it
// meets a 429.
func spend(token string) fault {
	return func(b *tap, w http.ResponseWriter, r *http.Request, e *exchange) {
		req, err := http.NewRequest(http.MethodGet, "http://"+b.gateway+"/v1/status", nil)
		if err != nil {
			panic(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if resp, err := b.client.Do(req); err == nil {
			_ = resp.Body.Close()
		}
		resp := b.pass(r, e)
		if resp.StatusCode != http.StatusTooManyRequests {
			// It took so long that there is one more. The client repeats it.
			b.faultOn(http.MethodPost, spend(token))
			panic(http.ErrAbortHandler)
		}
		b.answer(w, e, resp)
	}
}

// reset forgets the POSTs that have passed.
func (b *tap) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = slices.DeleteFunc(b.seen, func(e *exchange) bool { return e.method == http.MethodPost })
}

// faultOn has faults for the next requests of a method.
func (b *tap) faultOn(method string, faults ...fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults[method] = faults
}

// all are the requests so far.
func (b *tap) all() (seen []exchange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.seen {
		seen = append(seen, *e)
	}
	return seen
}

// of are those with a method.
func (b *tap) of(method string) []exchange {
	return slices.DeleteFunc(b.all(), func(e exchange) bool { return e.method != method })
}

// await waits until there is such a request.
func (b *tap) await(what string, ok func(exchange) bool) {
	b.t.Helper()
	eventually(b.t, what, func() bool { return slices.ContainsFunc(b.all(), ok) })
}

// ServeHTTP implements http.Handler.
func (b *tap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		b.t.Errorf("a request breaks off: %v", err)
	}
	e := &exchange{
		at: time.Now(), method: r.Method, target: r.RequestURI, query: r.URL.Query(), body: string(body),
		key: r.Header.Get("Idempotency-Key"), contentType: r.Header.Get("Content-Type"),
	}
	b.mu.Lock()
	b.seen = append(b.seen, e)
	var f fault
	if faults := b.faults[r.Method]; len(faults) > 0 {
		f, b.faults[r.Method] = faults[0], faults[1:]
	}
	b.mu.Unlock()
	if f == nil {
		b.answer(w, e, b.pass(r, e))
	} else {
		f(b, w, r, e)
	}
}

// pass has the gateway answer a request, and returns the answer.
func (b *tap) pass(r *http.Request, e *exchange) *http.Response {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, "http://"+b.gateway+r.RequestURI, strings.NewReader(e.body))
	if err != nil {
		b.t.Error(err)
		panic(http.ErrAbortHandler)
	}
	req.Header = r.Header.Clone()
	resp, err := b.client.Do(req)
	if err != nil {
		panic(http.ErrAbortHandler) // the client has gone
	}
	data, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	answer := strings.ReplaceAll(string(data), `"retryAfter":60`, `"retryAfter":1`)
	if resp.Header.Get("Retry-After") == "60" {
		resp.Header.Set("Retry-After", "1")
	}
	resp.Header.Del("Content-Length")
	resp.Body = io.NopCloser(strings.NewReader(answer))
	return resp
}

// answer passes the gateway's answer on.
func (b *tap) answer(w http.ResponseWriter, e *exchange, resp *http.Response) {
	for name, values := range resp.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(resp.StatusCode)
	data, _ := io.ReadAll(resp.Body) // a string
	_, _ = w.Write(data)
	b.mu.Lock()
	e.status, e.answer = resp.StatusCode, string(data)
	b.mu.Unlock()
}

// fillSpool posts readings of app until there is no room for another, not even a
// small one.
func (g *testGateway) fillSpool() {
	g.t.Helper()
	size := 64 << 10
	for range 1000 {
		if g.postAs(hallToken, "app", strings.Repeat("x", size)).Status != http.StatusInsufficientStorage {
			continue
		}
		if size /= 8; size == 0 {
			return
		}
	}
	g.t.Fatal("the spool never becomes full")
}

// postAs is post with a token.
func (g *testGateway) postAs(token, device, body string) answer {
	g.t.Helper()
	a, err := postWith(g.client, g.url(device, ""), http.Header{"Content-Type": {"text/plain"}, "Authorization": {"Bearer " + token}}, body)
	if err != nil {
		g.t.Fatal(err)
	}
	return a
}
