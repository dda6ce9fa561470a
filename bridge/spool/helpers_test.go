package spool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"fieldbridge/bridge"
)

// deadline is how long a test waits for what must happen.
const deadline = 60 * time.Second

func logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, nil))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(p)))
	return len(p), nil
}

// effort is how often a test repeats itself: what a flag says, if it was given,
// or so many times, or less often if the race detector makes it slow.
func effort(flag *int, usual int) int {
	switch {
	case flag != nil && *flag > 0:
		return *flag
	case raceDetector || testing.Short():
		return max(1, usual/8)
	}
	return usual
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func open(t testing.TB, o Options) *DB {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	if o.Logger == nil {
		o.Logger = logger(t)
	}
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, d) })
	return d
}

func shut(t testing.TB, d *DB) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// reading makes a reading that says in its payload what it must be.
func reading(device string, n int) bridge.Reading {
	r := bridge.Reading{
		Device:      bridge.DeviceID(device),
		Subtopic:    bridge.Subtopic(fmt.Sprintf("part/%d", n%3)),
		ContentType: "application/json",
		Payload:     fmt.Appendf(nil, `{"device":%q,"n":%d,"fill":%q}`, device, n, bytes.Repeat([]byte("x"), n%150)),
		Time:        time.Date(2026, 3, 4, 5, 6, 7, n, time.UTC),
	}
	if n%17 == 16 { // an answer
		r.ResponseTopic, r.CorrelationData = fmt.Sprint("/answers/of/", device), []byte{byte(n), 0, 0xff}
	}
	binary.BigEndian.PutUint64(r.ID[8:], uint64(n))
	copy(r.ID[:8], device)
	return r
}

func numbered(device string, from, n int) []bridge.Reading {
	rs := make([]bridge.Reading, n)
	for i := range rs {
		rs[i] = reading(device, from+i)
	}
	return rs
}

// wait returns what comes through c, or fails.
func wait[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	limit := deadline
	if p, ok := t.(interface{ patience() time.Duration }); ok {
		limit = p.patience()
	}
	select {
	case v := <-c:
		return v
	case <-time.After(limit):
		t.Fatal("nothing came in time")
		panic("unreachable")
	}
}

type appended struct {
	first int64
	err   error
}

func tryAppend(t testing.TB, d *DB, rs []bridge.Reading, keys []bridge.Key) (int64, error) {
	t.Helper()
	c := make(chan appended, 1)
	d.Append(rs, keys, func(first int64, err error) { c <- appended{first, err} })
	a := wait(t, c)
	return a.first, a.err
}

func mustAppend(t testing.TB, d *DB, rs ...bridge.Reading) int64 {
	t.Helper()
	first, err := tryAppend(t, d, rs, nil)
	if err != nil {
		t.Fatal(err)
	}
	return first
}

type loaded struct {
	list []bridge.Stored
	err  error
}

func load(t testing.TB, d *DB, device string, after int64, maxBytes int) []bridge.Stored {
	t.Helper()
	c := make(chan loaded, 1)
	d.Load(bridge.DeviceID(device), after, maxBytes, func(l []bridge.Stored, err error) { c <- loaded{l, err} })
	l := wait(t, c)
	if l.err != nil {
		t.Fatal(l.err)
	}
	return l.list
}

// loadAll pages through a device's readings.
func loadAll(t testing.TB, d *DB, device string) (all []bridge.Stored) {
	t.Helper()
	after := int64(0)
	for {
		page := load(t, d, device, after, 4096)
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		after = page[len(page)-1].Seq
	}
}

func bury(t testing.TB, d *DB, s bridge.Stored, e bridge.Epitaph) {
	t.Helper()
	c := make(chan error, 1)
	d.Bury(s, e, func(err error) { c <- err })
	if err := wait(t, c); err != nil {
		t.Fatal(err)
	}
}

// flush waits until all that was asked for is committed.
func flush(t testing.TB, d *DB) {
	t.Helper()
	if err := d.do(func(*tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

func readings(list []bridge.Stored) []bridge.Reading {
	var rs []bridge.Reading
	for _, s := range list {
		rs = append(rs, s.Reading)
	}
	return rs
}

func diff(t testing.TB, what string, got, want any) {
	t.Helper()
	if reflect.DeepEqual(got, want) {
		return // cmp is slow
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// checkInvariants compares what the database holds with what is counted.
func checkInvariants(t testing.TB, d *DB) {
	t.Helper()
	flush(t, d)
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.pool.with(func(c *conn) error {
		use, next, err := survey(c)
		if err != nil {
			return err
		}
		for device, b := range use.devices {
			got := d.use.devices[device]
			if got == nil || got.amount != b.amount || !slices.Equal(got.seqs.after(0, 1<<30), b.seqs.after(0, 1<<30)) {
				t.Errorf("counted wrongly of %s: %+v, in the database %+v", device, got, b)
			}
		}
		if len(use.devices) != len(d.use.devices) {
			t.Errorf("%d devices counted, %d in the database", len(d.use.devices), len(use.devices))
		}
		amounts := func(u *usage) []amount {
			return []amount{u.readings, u.downlinks, u.keys, u.deadUp, u.deadDown}
		}
		if got, want := amounts(&d.use), amounts(&use); !slices.Equal(got, want) {
			t.Errorf("counted wrongly: %v, in the database %v", got, want)
		}
		if next < d.w.next {
			t.Errorf("the database begins at seq %d, the writer is at %d", next, d.w.next)
		}
		return compare(c, &use)
	})
	if err != nil {
		t.Error(err)
	}
}

// gather collects values that callbacks bring from any goroutine.
type gather[T any] struct {
	mu   sync.Mutex
	list []T
}

func (g *gather[T]) add(v T) {
	g.mu.Lock()
	g.list = append(g.list, v)
	g.mu.Unlock()
}

func (g *gather[T]) all() []T {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]T(nil), g.list...)
}

func newID(n byte) uuid.UUID { return uuid.UUID{15: n} }
