package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"go.uber.org/goleak"

	"fieldbridge/adapters/rest/openapitest"
	"fieldbridge/adapters/rest/resttest"
	"fieldbridge/bridge"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(serverVariable); name != "" {
		beServer(servers[name])
		return
	}
	goleak.VerifyTestMain(m)
}

var _ Accepter = (*bridge.Bridge)(nil)

// patience bounds every wait for something that will happen.
const patience = 20 * time.Second

// intake is an Accepter that keeps what it accepts. A nil answer accepts
// everything as delivered.
type intake struct {
	devices []bridge.DeviceID
	answer  func(context.Context, bridge.Reading) (bridge.Receipt, error)

	mu   sync.Mutex // guards seen and how
	seen []bridge.Reading
	how  []bridge.Handling // one for each of seen
}

func newIntake() *intake {
	return &intake{devices: []bridge.DeviceID{"d1", "0004A30B001C1B03", "a b", "a%b", "é-1", "uplink"}}
}

func (in *intake) Known(d bridge.DeviceID) bool { return slices.Contains(in.devices, d) }

func (in *intake) Accept(ctx context.Context, r bridge.Reading, how bridge.Handling) (bridge.Receipt, error) {
	in.mu.Lock()
	in.seen = append(in.seen, r)
	in.how = append(in.how, how)
	in.mu.Unlock()
	if in.answer != nil {
		return in.answer(ctx, r)
	}
	return delivered(r), nil
}

func (in *intake) AcceptAll(ctx context.Context, rs []bridge.Reading, keys []bridge.Key, async bool) (all []bridge.Accepted) {
	for i, r := range rs {
		receipt, err := in.Accept(ctx, r, bridge.Handling{Async: async, Key: keys[i]})
		all = append(all, bridge.Accepted{Receipt: receipt, Err: err})
	}
	return all
}

func delivered(r bridge.Reading) bridge.Receipt {
	return bridge.Receipt{ID: uuid.MustParse("0199c2b5-0000-7000-8000-000000000001"), Time: r.Time, State: bridge.Delivered}
}

// take returns what was seen since the last call.
func (in *intake) take() []bridge.Reading {
	seen, _ := in.takeBoth()
	return seen
}

// takeBoth also returns how each was to be taken.
func (in *intake) takeBoth() ([]bridge.Reading, []bridge.Handling) {
	in.mu.Lock()
	defer in.mu.Unlock()
	seen, how := in.seen, in.how
	in.seen, in.how = nil, nil
	return seen, how
}

// running is a server on a port of its own.
type running struct {
	*Server
	stop     func()     // begins the end
	done     chan error // what Run returned
	recorder *openapitest.Recorder
}

// start runs a server that ends with the test.
func start(t testing.TB, o Options, a Accepter) *running {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	s, err := New(o, a)
	if err != nil {
		t.Fatal(err)
	}
	return run(t, s)
}

func run(t testing.TB, s *Server) *running {
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Server: s, stop: cancel, done: make(chan error, 1)}
	var check func()
	r.recorder, check = record(t, s)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		r.done <- s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-finished:
		case <-time.After(patience):
			t.Error("Run did not end")
		}
		check()
	})
	return r
}

// record has everything that a server answers held against openapi.yaml. check is
// called when it has ended.
func record(t testing.TB, s *Server) (r *openapitest.Recorder, check func()) {
	if _, ok := t.(*testing.B); ok {
		return nil, func() {} // it would measure the recorder
	}
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	r = doc.Record(s.http.Handler, s.routes().(chi.Routes))
	s.http.Handler = r
	return r, func() {
		t.Helper()
		_, faults := r.Result()
		for _, err := range faults {
			t.Error(err)
		}
	}
}

var document = sync.OnceValues(func() (*openapitest.Document, error) { return openapitest.Parse([]byte(OpenAPI)) })

func (r *running) url(path string) string { return "http://" + r.Addr().String() + path }

// newClient gives a client that leaves no goroutines behind.
func newClient(t testing.TB) *http.Client {
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport: tr, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("redirected") },
	}
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
	closes bool
}

func readAnswer(resp *http.Response) (answer, error) {
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b, resp.Close}, err
}

// post sends a body with a net/http client.
func post(t testing.TB, c *http.Client, url, contentType, body string) answer {
	t.Helper()
	a, err := tryPost(c, url, contentType, body)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func tryPost(c *http.Client, url, contentType, body string) (answer, error) {
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	return readAnswer(resp)
}

// sendRaw writes bytes to the server as they are and reads one response.
func sendRaw(t testing.TB, addr net.Addr, raw string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return exchange(t, conn, raw)
}

func exchange(t testing.TB, conn net.Conn, raw string) answer {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if raw != "" {
		if _, err := io.WriteString(conn, raw); err != nil {
			t.Fatal(err)
		}
	}
	method, _, _ := strings.Cut(raw, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("read response: %v", err)
	}
	a, err := readAnswer(resp)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// request writes down a request.
var request = resttest.Request

// checkProblem asserts a problem document and returns it.
func checkProblem(t testing.TB, a answer, status int, detail string) problemDocument {
	t.Helper()
	var p problemDocument
	if a.status != status {
		t.Errorf("status %d, want %d; body %s", a.status, status, a.body)
	}
	if ct := a.header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("Content-Type %q, want application/problem+json", ct)
	}
	dec := json.NewDecoder(bytes.NewReader(a.body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		t.Fatalf("problem document %q: %v", a.body, err)
	}
	if p.Type != "about:blank" || p.Title != http.StatusText(status) || p.Status != status {
		t.Errorf("problem %+v, want type about:blank, title %q, status %d", p, http.StatusText(status), status)
	}
	if !strings.Contains(p.Detail, detail) {
		t.Errorf("detail %q does not contain %q", p.Detail, detail)
	}
	return p
}

// logBuffer is a log that tests can read.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// within waits for a value that will come.
func within[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("waited in vain")
		panic("unreachable")
	}
}

// postChunked sends a text without its length.
func postChunked(t testing.TB, c *http.Client, url, body string) answer {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, struct{ io.Reader }{strings.NewReader(body)})
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "text/plain")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	a, err := readAnswer(resp)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
