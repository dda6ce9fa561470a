package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"golang.org/x/sys/unix"

	"fieldbridge/bridge"
)

func TestNewRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	rows := []struct {
		name string
		o    Options
		a    Accepter
		want string
	}{
		{"all addresses", Options{Listen: ":0"}, newIntake(), "only with TLS, and with tokens or client certificates"},
		{"unspecified v4", Options{Listen: "0.0.0.0:0"}, newIntake(), "not a loopback address"},
		{"unspecified v6", Options{Listen: "[::]:0"}, newIntake(), "not a loopback address"},
		{"another address", Options{Listen: "192.0.2.1:8080"}, newIntake(), "not a loopback address"},
		{"a name", Options{Listen: "gateway.example:8080"}, newIntake(), "not a loopback address"},
		{"a name like localhost", Options{Listen: "localhost.example:8080"}, newIntake(), "not a loopback address"},
		{"no port", Options{Listen: "127.0.0.1"}, newIntake(), "not host:port"},
		{"nothing", Options{}, newIntake(), "not host:port"},
		{"unix socket in no directory", Options{Listen: "unix:/nowhere/x.sock"}, newIntake(), "no such file"},
		{"port taken", Options{Listen: taken.Addr().String()}, newIntake(), "address already in use"},
		{"no accepter", Options{Listen: "127.0.0.1:0"}, nil, "no accepter"},
		{"negative body", Options{Listen: "127.0.0.1:0", MaxBody: -1}, newIntake(), "must not be negative"},
		{"negative timeout", Options{Listen: "127.0.0.1:0", ReadTimeout: -1}, newIntake(), "must not be negative"},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			s, err := New(r.o, r.a)
			if err == nil {
				_ = s.Close()
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), r.want) {
				t.Errorf("error %q does not contain %q", err, r.want)
			}
		})
	}
}

func TestCloseWithoutRun(t *testing.T) {
	s, err := New(Options{Listen: "localhost:0"}, newIntake())
	if err != nil {
		t.Fatal(err)
	}
	if a, ok := s.Addr().(*net.TCPAddr); !ok || a.Port == 0 || !a.IP.IsLoopback() {
		t.Errorf("address %v", s.Addr())
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if conn, err := net.Dial("tcp", s.Addr().String()); err == nil {
		conn.Close()
		t.Error("the port still answers")
	}
}

// readyDetail is what a gateway says of its readiness.
const readyDetail = `{"sessions":1,"sessionsUp":0,"sessionsIdle":1,"serialPorts":0,"serialPortsUp":0,"readingsInMemory":9,` +
	`"clock":{"trusted":false,"source":"none","reason":"it was never set"},` +
	`"spool":{"readings":9,"bytes":900,"maxBytes":1000,"oldestSeconds":60,"full":true,"fullReason":"max_bytes","downlinks":0,"deadLetters":1}}`

func TestHealthAndReadiness(t *testing.T) {
	type state struct {
		ok     bool
		detail any
	}
	current := make(chan state, 1)
	s := start(t, Options{Ready: func() (bool, any) { st := <-current; return st.ok, st.detail }}, newIntake())
	c := newClient(t)
	get := func(method, path string) answer {
		t.Helper()
		req, err := http.NewRequest(method, s.url(path), nil)
		if err != nil {
			t.Fatal(err)
		}
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
	check := func(a answer, status int, body string) {
		t.Helper()
		if a.status != status || strings.TrimSpace(string(a.body)) != body {
			t.Errorf("answer %d %q, want %d %q", a.status, a.body, status, body)
		}
		if ct := a.header.Get("Content-Type"); ct != "application/json" {
			t.Errorf("%s: Content-Type %q", body, ct)
		}
	}
	check(get("GET", "/healthz"), 200, `{"status":"ok"}`)
	check(get("HEAD", "/healthz"), 200, "")
	current <- state{ok: true}
	check(get("GET", "/readyz"), 200, `{"status":"ready"}`)
	current <- state{detail: json.RawMessage(readyDetail)}
	check(get("GET", "/readyz"), 503, `{"status":"not ready","detail":`+readyDetail+`}`)
	current <- state{}
	check(get("HEAD", "/readyz"), 503, "")
	current <- state{ok: true, detail: func() {}}
	checkProblem(t, get("GET", "/readyz"), 500, "cannot be shown as JSON")
}

func TestReadyByDefault(t *testing.T) {
	s := start(t, Options{}, newIntake())
	if a := sendRaw(t, s.Addr(), request("GET", "/readyz", "")); a.status != http.StatusOK {
		t.Errorf("status %d", a.status)
	}
}

// brokenListener fails as a listener does whose descriptor went bad.
type brokenListener struct{ net.Listener }

func (brokenListener) Accept() (net.Conn, error) { return nil, errors.New("bad descriptor") }

func TestRunReportsBrokenListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o, err := Options{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, newServer(o, newIntake(), brokenListener{ln}))
	if err := within(t, s.done); err == nil || !strings.Contains(err.Error(), "bad descriptor") {
		t.Errorf("Run: %v", err)
	}
}

// shortOnce is a listener of a system that is short of memory for a moment.
type shortOnce struct {
	net.Listener
	times atomic.Int64
}

func (l *shortOnce) Accept() (net.Conn, error) {
	if l.times.Add(1) <= 2 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", unix.ENOMEM)}
	}
	return l.Listener.Accept()
}

func TestRunOutlivesShortness(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o, err := Options{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s := run(t, newServer(o, newIntake(), &shortOnce{Listener: ln}))
	if a := sendRaw(t, s.Addr(), request("GET", "/healthz", "")); a.status != http.StatusOK {
		t.Errorf("status %d", a.status)
	}
}

func TestTooManyAtOnce(t *testing.T) {
	in, entered, let := held()
	s := start(t, Options{MaxConcurrent: 1}, in)
	done := postAside(t, s.url("/v1/devices/d1/uplink"))
	within(t, entered)
	a := sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "1", "Content-Type: text/plain"))
	checkProblem(t, a, http.StatusServiceUnavailable, "1 readings are in progress already")
	if got := a.header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After %q", got)
	}
	if a := sendRaw(t, s.Addr(), request("GET", "/healthz", "")); a.status != http.StatusOK {
		t.Errorf("health under load: %d", a.status)
	}
	close(let)
	if p := within(t, done); p.err != nil || p.status != http.StatusOK {
		t.Errorf("answer %d, error %v", p.status, p.err)
	}
	// The place is given back just after the answer is out.
	for deadline := time.Now().Add(patience); ; {
		a := sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "1", "Content-Type: text/plain"))
		if a.status == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %d after the first reading was answered", a.status)
		}
	}
}

// heldRequest sends a reading that the accepter holds back. done is closed once
// net/http knows that the client is gone, or will send no more.
func heldRequest(t *testing.T) (s *running, conn *net.TCPConn, done <-chan struct{}, in *intake, let chan struct{}) {
	in, entered, let := held()
	server, err := New(Options{Listen: "127.0.0.1:0", MaxConcurrent: 1}, in)
	if err != nil {
		t.Fatal(err)
	}
	requests, routes := make(chan (<-chan struct{}), 100), server.http.Handler
	server.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r.Context().Done()
		routes.ServeHTTP(w, r)
	})
	s = run(t, server)
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := io.WriteString(c, request("POST", "/v1/devices/d1/uplink", "1")); err != nil {
		t.Fatal(err)
	}
	within(t, entered)
	return s, c.(*net.TCPConn), within(t, requests), in, let
}

// TestClientGone: what a client has sent before it hung up is still accepted, and
// holds its place until then.
func TestClientGone(t *testing.T) {
	s, conn, done, in, let := heldRequest(t)
	conn.Close()
	within(t, done)
	checkProblem(t, sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "2")), http.StatusServiceUnavailable, "in progress already")
	close(let)
	s.stop()
	within(t, s.done)
	if seen := in.take(); len(seen) != 1 || string(seen[0].Payload) != "1" {
		t.Errorf("accepted %v", seen)
	}
}

// A client that says it has no more to send still reads.
func TestHalfClosedClientIsAnswered(t *testing.T) {
	_, conn, done, _, let := heldRequest(t)
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	within(t, done)
	close(let)
	if a := exchange(t, conn, ""); a.status != http.StatusOK {
		t.Errorf("status %d: %s", a.status, a.body)
	}
}

// The memory for a body is not taken on the client's word.
func TestBodyCutShort(t *testing.T) {
	in := newIntake()
	s := start(t, Options{MaxBody: 1 << 60}, in)
	conn, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request("POST", "/v1/devices/d1/uplink", "12345", "Content-Length: 1000000000000000")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	checkProblem(t, exchange(t, conn, ""), http.StatusBadRequest, "breaks off after 5 bytes")
	if n := len(in.take()); n != 0 {
		t.Errorf("the accepter saw %d readings", n)
	}
}

func TestPanicIsAnsweredAndLogged(t *testing.T) {
	in := newIntake()
	in.answer = func(context.Context, bridge.Reading) (bridge.Receipt, error) { panic("a mistake") }
	var log logBuffer
	s := start(t, Options{Logger: log.logger(), MaxConcurrent: 1}, in)
	for range 2 { // the place of the first is free again
		a := sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "1"))
		checkProblem(t, a, http.StatusInternalServerError, "its log says more")
	}
	if l := log.String(); strings.Count(l, "level=ERROR") != 2 || !strings.Contains(l, "a mistake") || !strings.Contains(l, "server_test.go") {
		t.Errorf("log:\n%s", l)
	}
}

func TestPanicAfterAnswerBreaksConnection(t *testing.T) {
	s := &Server{opts: Options{Logger: slog.New(slog.DiscardHandler)}}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	broken := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic("a mistake")
	})
	srv := &http.Server{Handler: withRouteContext(s.observe(broken)), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	defer func() { _ = srv.Close(); within(t, served) }()

	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request("GET", "/", "")); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		_, err = readAnswer(resp)
	}
	if err == nil {
		t.Error("half an answer looks like a whole one")
	}
}

func TestLogTellsNoSecrets(t *testing.T) {
	in := newIntake()
	var log logBuffer
	s := start(t, Options{Logger: log.logger()}, in)
	for _, raw := range []string{
		request("POST", "/v1/devices/d1/uplink/valve?timestamp=2025-03-01T12:00:00Z", `"payload-s3cret"`),
		request("POST", "/v1/devices/d1/uplink?token=query-s3cret", `1`),
		request("POST", "/v1/devices/d1/uplink", `header-1`, "Authorization: Bearer header-s3cret", "Content-Type: application/json"),
		request("POST", "/v1/devices/d1/uplink", `{"a":payload-s3cret}`, "Content-Type: application/json"),
	} {
		sendRaw(t, s.Addr(), raw)
	}
	s.stop()
	within(t, s.done)
	l := log.String()
	for _, want := range []string{
		"method=POST", "route=/v1/devices/{device}/uplink/*", "route=/v1/devices/{device}/uplink ", "status=200", "status=400", "duration=",
	} {
		if !strings.Contains(l, want) {
			t.Errorf("log lacks %q", want)
		}
	}
	for _, secret := range []string{"s3cret", "timestamp", "2025-03"} {
		if strings.Contains(l, secret) {
			t.Errorf("log contains %q", secret)
		}
	}
	if t.Failed() {
		t.Logf("log:\n%s", l)
	}
}

// withRouteContext does what chi does around middlewares.
func withRouteContext(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), chi.RouteCtxKey, chi.NewRouteContext())))
	})
}
