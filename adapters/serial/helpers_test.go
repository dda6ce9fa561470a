package serial

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"fieldbridge/bridge"
)

// patience bounds every wait of a test; it only passes when a test fails.
const patience = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// farEnd is the device's side of a pseudo-terminal.
type farEnd struct {
	*os.File        // the master, non-blocking, so that it has deadlines
	path     string // what the port under test opens: a link, as udev makes them
	slave    *os.File
	hangUp   func() // what pulling the plug does; more than once is fine
}

func openPTY(t *testing.T) *farEnd {
	t.Helper()
	return openPTYAt(t, filepath.Join(t.TempDir(), "port"))
}

// openPTYAt makes a pseudo-terminal with a link to it at path. Its slave is kept
// open, as a real device file does not hang up between two openings.
func openPTYAt(t *testing.T, path string) *farEnd {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	// Fd, which pty.Open calls, makes the master blocking for good: use a copy.
	fd, err := unix.Dup(int(master.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_ = master.Close()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	f := &farEnd{File: os.NewFile(uintptr(fd), "master"), path: path, slave: slave}
	f.hangUp = sync.OnceFunc(func() {
		// The link first: the terminal's name can be another's at once, which a
		// port that opens again must not find.
		_ = os.Remove(path)
		_ = slave.Close()
		_ = f.Close()
	})
	t.Cleanup(f.hangUp)
	if err := os.Symlink(slave.Name(), path); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *farEnd) send(t *testing.T, chunks ...string) {
	t.Helper()
	for _, c := range chunks {
		if _, err := f.WriteString(c); err != nil {
			t.Fatalf("device sends %q: %v", c, err)
		}
	}
}

// expect reads exactly want.
func (f *farEnd) expect(t *testing.T, want string) {
	t.Helper()
	_ = f.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, 0, len(want))
	buf := make([]byte, 4096)
	for len(got) < len(want) {
		n, err := f.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			t.Fatalf("device got %q, then %v; want %q", got, err, want)
		}
	}
	if string(got) != want {
		t.Fatalf("device got %q, want %q", got, want)
	}
}

// tray is an Accepter that keeps what it takes, refuses while it is told to, and
// fails the test if one port calls it twice at a time.
type tray struct {
	t        *testing.T
	readings chan bridge.Reading
	mu       sync.Mutex // held by Submit; guards refuse
	refuse   error
}

func newTray(t *testing.T) *tray {
	return &tray{t: t, readings: make(chan bridge.Reading, 10000)}
}

func (a *tray) Submit(_ context.Context, r bridge.Reading) error {
	if !a.mu.TryLock() {
		a.t.Error("Submit called twice at a time")
		return nil
	}
	defer a.mu.Unlock()
	if a.refuse != nil {
		return a.refuse
	}
	a.readings <- r
	return nil
}

func (a *tray) setRefuse(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = err
}

func (a *tray) next(t *testing.T) bridge.Reading {
	t.Helper()
	select {
	case r := <-a.readings:
		return r
	case <-time.After(patience):
		t.Fatal("no reading came")
		panic("unreachable")
	}
}

func (a *tray) expect(t *testing.T, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := string(a.next(t).Payload); got != w {
			t.Fatalf("got reading %q, want %q", got, w)
		}
	}
}

// logbook is a slog.Handler whose lines a test can wait for.
type logbook struct {
	mu    *sync.Mutex // guards lines and more
	lines *[]string
	more  *chan struct{} // closed and replaced at each line
	attrs string
}

func newLogbook() *logbook {
	c := make(chan struct{})
	return &logbook{mu: new(sync.Mutex), lines: new([]string), more: &c}
}

func (l *logbook) Enabled(context.Context, slog.Level) bool { return true }
func (l *logbook) WithGroup(string) slog.Handler            { return l }

func (l *logbook) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *l
	for _, a := range attrs {
		c.attrs += " " + a.String()
	}
	return &c
}

func (l *logbook) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message + l.attrs
	r.Attrs(func(a slog.Attr) bool { line += " " + a.String(); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	*l.lines = append(*l.lines, line)
	close(*l.more)
	*l.more = make(chan struct{})
	return nil
}

// find returns the lines with all the words.
func (l *logbook) find(words ...string) (found []string, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
line:
	for _, s := range *l.lines {
		for _, w := range words {
			if !strings.Contains(s, w) {
				continue line
			}
		}
		found = append(found, s)
	}
	return found, *l.more
}

// await waits for n lines with all the words and returns the last one.
func (l *logbook) await(t *testing.T, n int, words ...string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		found, more := l.find(words...)
		if len(found) >= n {
			return found[n-1]
		}
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("log has %d of %d lines with %q:\n%s", len(found), n, words, strings.Join(*l.lines, "\n"))
		}
	}
}

// rig is a port under test, running.
type rig struct {
	*Port
	tray *tray
	log  *logbook
	stop func() // ends Run and waits for it
}

func start(t *testing.T, o Options) *rig {
	t.Helper()
	r := &rig{tray: newTray(t), log: newLogbook()}
	if o.Name == "" {
		o.Name = "scale"
	}
	if o.Device == "" {
		o.Device = "dev-1"
	}
	o.Logger = slog.New(r.log)
	p, err := New(o, r.tray)
	if err != nil {
		t.Fatal(err)
	}
	r.Port = p
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *rig) awaitOpen(t *testing.T, n int) {
	t.Helper()
	r.log.await(t, n, "serial port open ")
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
