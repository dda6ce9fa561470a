package clock_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"fieldbridge/bridge/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What the kernel answers, from include/uapi/linux/timex.h.
const (
	timeOK    = 0
	timeIns   = 1
	timeError = 5

	staPLL      = 0x0001
	staUnsync   = 0x0040
	staClockErr = 0x1000
	staNano     = 0x2000
)

// machine is a gateway in a bubble: its wall clock can be set, and it can sleep.
type machine struct {
	mu     sync.Mutex // guards what follows
	booted time.Time  // on the bubble's clock
	asleep time.Duration
	set    time.Duration // what the wall clock was set by
	state  int
	status int32
	err    error
	stall  []time.Duration // between the next readings of the wall clock and the other
}

const uptime = 7 * time.Second // at the start of a test

// boot starts a machine that shows wall and is not synchronised.
func boot(wall time.Time) *machine {
	return &machine{
		booted: time.Now().Add(-uptime), set: time.Until(wall),
		state: timeError, status: staUnsync,
	}
}

func (m *machine) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now().Add(m.asleep + m.set)
	if len(m.stall) > 0 {
		m.asleep += m.stall[0]
		m.stall = m.stall[1:]
	}
	return now
}

func (m *machine) Monotonic() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.booted) + m.asleep
}

func (m *machine) Adjtimex() (int, int32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, m.status, m.err
}

func (m *machine) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *machine) step(by time.Duration) { m.change(func() { m.set += by }) }

func (m *machine) sync(yes bool) {
	m.change(func() {
		if m.state, m.status = timeError, staUnsync; yes {
			m.state, m.status = timeOK, staPLL|staNano
		}
	})
}

func (m *machine) options() clock.Options {
	return clock.Options{
		Built:     built,
		Adjtimex:  m.Adjtimex,
		BootID:    func() (string, error) { return "boot-1", nil },
		Monotonic: m.Monotonic,
		Now:       m.Now,
	}
}

var (
	epoch = time.Date(1970, 1, 1, 0, 0, 7, 0, time.UTC)
	built = time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	last  = time.Date(2027, 5, 1, 12, 0, 0, 0, time.UTC)
	today = time.Date(2027, 6, 1, 12, 0, 0, 0, time.UTC)
)

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := strings.TrimSpace(l.b.String())
	l.b.Reset()
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// run runs c until the test is over. It belongs into a bubble.
func run(t *testing.T, c *clock.Clock) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	synctest.Wait()
}

// pass lets time pass and everything happen that is due.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func wantChange(t *testing.T, ch <-chan clock.Change, want clock.Change) {
	t.Helper()
	select {
	case got := <-ch:
		if got != want {
			t.Errorf("change %+v, want %+v", got, want)
		}
	default:
		t.Errorf("no change, want %+v", want)
	}
}

func wantNone(t *testing.T, ch <-chan clock.Change) {
	t.Helper()
	select {
	case got := <-ch:
		t.Errorf("change %+v, want none", got)
	default:
	}
}
