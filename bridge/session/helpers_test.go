package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fieldbridge/bridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	dev    = "dev-1"
	upTo   = "/up/device/id/dev-1"
	secret = `s3cr3t"of\the-yard` // %q shows it differently
)

// patience is the deadline for what must happen.
const patience = 10 * time.Minute

// rig is a session with queues of readings in front of it.
type rig struct {
	*Session
	t      testing.TB
	srv    *server
	queues map[bridge.DeviceID]*queue
	log    *logs
	cancel context.CancelFunc
	ended  chan error

	mu     sync.Mutex // guards what follows
	creds  int        // how often credentials were asked for
	downs  []down
	events []string // what the session told, in order: "acked dev-1 7", "forgotten dev-1", "down"
}

type down struct {
	bridge.Downlink
	origin bridge.Origin
	done   func()
}

// newRig makes a session towards srv that is not running yet.
func newRig(t testing.TB, srv *server, change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, srv: srv, log: &logs{}, ended: make(chan error, 1)}
	ep, err := NewEndpoint(EndpointOptions{Address: "broker.example:1883", Dial: srv.dial})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Endpoint:    ep,
		ClientID:    dev,
		Credentials: r.credentials,
		Topics:      Topics{Uplink: "/up/device/id/{device}", Downlink: "/down/device/id/{device}/#"},
		Downlinks:   r.downlink,
		Acked:       func(session string, id uint16) { r.event("acked %s %d", session, id) },
		Forgotten:   func(session string) { r.event("forgotten %s", session) },
		Down:        r.down,
		Connector:   "plant",
		Logger:      slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&o)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log:\n%s", r.log)
		}
	})
	if r.Session, err = New(o); err != nil {
		t.Fatal(err)
	}
	r.queues = map[bridge.DeviceID]*queue{}
	for _, id := range []bridge.DeviceID{dev, "dev-2", "dev-3"} {
		r.queues[id] = &queue{t: t, uplink: r.Session}
	}
	return r
}

// start is newRig, running until the test ends.
func start(t testing.TB, srv *server, change func(*Options)) *rig {
	t.Helper()
	r := newRig(t, srv, change)
	r.run()
	return r
}

func (r *rig) run() {
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		r.ended <- r.Run(ctx)
		close(r.ended)
	}()
	r.t.Cleanup(func() { cancel(); <-r.ended })
}

// stop ends Run and returns how long that took.
func (r *rig) stop() time.Duration {
	r.t.Helper()
	began := time.Now()
	r.cancel()
	if err := <-r.ended; err != nil {
		r.t.Errorf("Run: %v", err)
	}
	return time.Since(began)
}

// credentials are good for ever and have a number.
func (r *rig) credentials() (Credentials, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.creds++
	return Credentials{Username: "unused", Password: bridge.NewSecret(fmt.Sprintf("token-%d", r.creds))}, nil
}

func (r *rig) minted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.creds
}

func (r *rig) downlink(d bridge.Downlink, o bridge.Origin, done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.downs = append(r.downs, down{d, o, done})
}

func (r *rig) event(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, fmt.Sprintf(format, args...))
}

func (r *rig) down(s *Session) {
	if s != r.Session || s.State().Up || s.Trouble() == "" {
		r.t.Errorf("told to be down in state %+v", s.State())
	}
	r.event("down")
}

// told checks what the session has told since the last call, of one kind.
func (r *rig) told(kind string, want ...string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var got, others []string
	for _, e := range r.events {
		if strings.HasPrefix(e, kind) {
			got = append(got, e)
		} else {
			others = append(others, e)
		}
	}
	r.events = others
	if !slices.Equal(got, want) {
		r.t.Errorf("told %q, want %q", got, want)
	}
}

// delivered are the downlinks that came out of the session.
func (r *rig) delivered(want ...string) []down {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var got []string
	for _, d := range r.downs {
		got = append(got, string(d.Payload))
	}
	if !slices.Equal(got, want) {
		r.t.Fatalf("downlinks %q, want %q", got, want)
	}
	return slices.Clone(r.downs)
}

func (r *rig) submit(id bridge.DeviceID, payloads ...string) {
	for _, p := range payloads {
		r.queues[id].submit(bridge.Reading{Device: id, ContentType: "text/plain", Payload: []byte(p)})
	}
}

// holds is how many readings the broker has not acknowledged or refused.
func (r *rig) holds() (n int) {
	for _, q := range r.queues {
		n += q.held()
	}
	return n
}

func (r *rig) held(n int) {
	r.t.Helper()
	if got := r.holds(); got != n {
		r.t.Errorf("%d readings are held, want %d", got, n)
	}
}

// logs keeps what is logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// lines are those with all of the words.
func (l *logs) lines(words ...string) (found []string) {
	for line := range strings.Lines(l.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			found = append(found, line)
		}
	}
	return found
}

var errAway = errors.New("dial tcp 192.0.2.1:1883: connect: connection refused")

func ptr[T any](v T) *T { return &v }

func numbered(n int) (s []string) {
	for i := range n {
		s = append(s, fmt.Sprint(i))
	}
	return s
}
