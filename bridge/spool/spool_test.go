package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldbridge/bridge"
)

func TestAppendLoadDelete(t *testing.T) {
	d := open(t, Options{})
	a, b := numbered("a", 0, 5), numbered("b", 0, 3)
	first := mustAppend(t, d, a...)
	if next := mustAppend(t, d, b...); next != first+5 {
		t.Errorf("seq %d after %d and 5 readings", next, first)
	}
	got := loadAll(t, d, "a")
	diff(t, "readings", readings(got), a)
	for i, s := range got {
		if s.Seq != first+int64(i) {
			t.Errorf("seq of reading %d: %d, want %d", i, s.Seq, first+int64(i))
		}
	}
	diff(t, "after the third", readings(load(t, d, "a", first+2, 1<<20)), a[3:])
	diff(t, "of 1 byte", readings(load(t, d, "a", 0, 1)), a[:1])
	if got := load(t, d, "nobody", 0, 1<<20); len(got) != 0 {
		t.Errorf("of an unknown device: %v", got)
	}
	checkInvariants(t, d)

	d.Delete([]int64{first + 1, first + 3, 1 << 40})
	diff(t, "without the deleted ones", readings(loadAll(t, d, "a")), []bridge.Reading{a[0], a[2], a[4]})
	checkInvariants(t, d)
	d.Delete([]int64{first, first + 2, first + 4})
	if got := loadAll(t, d, "a"); len(got) != 0 {
		t.Errorf("after all were deleted: %v", got)
	}
	diff(t, "other device", readings(loadAll(t, d, "b")), b)
	checkInvariants(t, d)
}

func TestBacklogs(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	d := open(t, Options{Now: func() time.Time { return now }})
	a, b := numbered("a", 0, 4), numbered("b", 0, 1)
	first := mustAppend(t, d, append(a, b...)...)
	d.Delete([]int64{first})
	flush(t, d)
	list, err := d.Backlogs()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[bridge.DeviceID]bridge.Backlog)
	for _, b := range list {
		got[b.Device] = b
	}
	diff(t, "backlogs", got, map[bridge.DeviceID]bridge.Backlog{
		"a": {Device: "a", Readings: 3, Bytes: sizeOf(&a[1]) + sizeOf(&a[2]) + sizeOf(&a[3]), Oldest: first + 1, Newest: first + 3, Accepted: now},
		"b": {Device: "b", Readings: 1, Bytes: sizeOf(&b[0]), Oldest: first + 4, Newest: first + 4, Accepted: now},
	})
	s := d.Stats()
	if s.Readings != 4 || !s.Oldest.Equal(now) || s.WrittenBytes == 0 {
		t.Errorf("stats: %+v", s)
	}
}

// Every field comes back as it was, whatever it is.
func TestFields(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Dir: dir})
	zone := time.FixedZone("somewhere", -3*3600)
	want := []bridge.Reading{
		{ID: newID(1), Device: "d", ContentType: "text/plain; charset=utf-8", Payload: []byte("x"), Time: time.Unix(0, 0).UTC()},
		{ID: newID(2), Device: "d", Subtopic: "a/b/ü", ContentType: "application/octet-stream", Payload: []byte{0, 1, 0xff}, Time: time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC)},
		{ID: newID(3), Device: "d", ContentType: "text/csv", Payload: nil, Time: time.Date(1, 1, 2, 0, 0, 0, 1, time.UTC)},
		{ID: newID(4), Device: "d", ContentType: "text/csv", Payload: make([]byte, 300_000), Time: time.Date(1969, 1, 1, 0, 0, 0, 5, time.UTC)},
		{ID: newID(5), Device: "d", ContentType: "text/csv", Payload: []byte("local"), Time: time.Date(2026, 1, 1, 0, 0, 0, 5, zone)},
		{ID: newID(6), Device: "d", ContentType: "text/csv", Payload: []byte("no time")},
	}
	mustAppend(t, d, want...)
	shut(t, d)
	d = open(t, Options{Dir: dir})
	got := loadAll(t, d, "d")
	if len(got) != len(want) {
		t.Fatalf("%d readings, want %d", len(got), len(want))
	}
	for i, s := range got {
		g, w := s.Reading, want[i]
		if g.ID != w.ID || g.Device != w.Device || g.Subtopic != w.Subtopic || g.ContentType != w.ContentType ||
			string(g.Payload) != string(w.Payload) || !g.Time.Equal(w.Time) {
			t.Errorf("reading %d: %v, want %v", i, g, w)
		}
	}
}

// After each operation and a new Open everything is as it was.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Dir: dir})
	again := func() {
		t.Helper()
		checkInvariants(t, d)
		shut(t, d)
		d = open(t, Options{Dir: dir})
		checkInvariants(t, d)
	}
	a := numbered("a", 0, 3)
	first := mustAppend(t, d, a...)
	again()
	diff(t, "appended", readings(loadAll(t, d, "a")), a)
	d.Delete([]int64{first})
	again()
	diff(t, "deleted", readings(loadAll(t, d, "a")), a[1:])
	bury(t, d, bridge.Stored{Seq: first + 1, Reading: a[1]}, bridge.Epitaph{Code: 0x99, Reason: "payload format invalid"})
	again()
	diff(t, "buried", readings(loadAll(t, d, "a")), a[2:])
	d.Delete([]int64{first + 2})
	again()
	if next := mustAppend(t, d, a[0]); next <= first+2 {
		t.Errorf("seq %d came again after %d", next, first+2)
	}
	d.SetLastTrusted(time.Unix(1_800_000_000, 7))
	again()
	if got := d.LastTrusted(); !got.Equal(time.Unix(1_800_000_000, 0)) {
		t.Errorf("last trusted time: %v", got)
	}
}

// Callbacks come in the order of the calls, whatever is between them, and may
// call back.
func TestOrderOfCallbacks(t *testing.T) {
	d := open(t, Options{MaxBytes: 4000})
	var got gather[int]
	var all sync.WaitGroup
	for i := range 300 {
		all.Add(1)
		switch {
		case i%10 == 3:
			big := reading("a", i)
			big.Payload = make([]byte, 8000)
			d.Append([]bridge.Reading{big}, nil, func(_ int64, err error) {
				if !errors.Is(err, bridge.ErrSpoolFull) {
					t.Errorf("too big: %v", err)
				}
				got.add(i)
				all.Done()
			})
		case i%10 == 7:
			d.Bury(bridge.Stored{Reading: reading("a", i)}, bridge.Epitaph{}, func(error) { got.add(i); all.Done() })
		default:
			d.Append([]bridge.Reading{reading("a", i)}, nil, func(first int64, err error) {
				got.add(i)
				if err == nil {
					d.Delete([]int64{first})
				}
				all.Done()
			})
		}
	}
	all.Wait()
	for i, n := range got.all() {
		if i != n {
			t.Fatalf("callback %d was that of call %d", i, n)
		}
	}
	flush(t, d)
	checkInvariants(t, d)
}

// Concurrent appends share commits.
func TestGroupCommit(t *testing.T) {
	var commits gather[int]
	d := open(t, Options{onCommit: func(n int) { commits.add(n) }})
	const writers, each = 64, 50
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				mustAppend(t, d, reading(fmt.Sprint("device-", w), i))
			}
		})
	}
	all.Wait()
	n := len(commits.all())
	t.Logf("%d appends in %d commits", writers*each, n)
	if n > writers*each/2 {
		t.Errorf("%d commits for %d appends of %d writers", n, writers*each, writers)
	}
	for w := range writers {
		device := fmt.Sprint("device-", w)
		diff(t, device, readings(loadAll(t, d, device)), numbered(device, 0, each))
	}
	checkInvariants(t, d)
}

func TestSecondDaemon(t *testing.T) {
	d := open(t, Options{})
	_, err := Open(Options{Dir: d.opts.Dir, Logger: quiet()})
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("second open: %v", err)
	}
	shut(t, d)
	open(t, Options{Dir: d.opts.Dir})
}

func TestClosed(t *testing.T) {
	d := open(t, Options{})
	mustAppend(t, d, reading("a", 1))
	shut(t, d)
	if _, err := tryAppend(t, d, numbered("a", 2, 1), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("append: %v", err)
	}
	c := make(chan error, 1)
	d.Load("a", 0, 1, func(_ []bridge.Stored, err error) { c <- err })
	if err := wait(t, c); !errors.Is(err, ErrClosed) {
		t.Errorf("load: %v", err)
	}
	if _, err := d.Backlogs(); !errors.Is(err, ErrClosed) {
		t.Errorf("backlogs: %v", err)
	}
	if _, err := d.Changed(); !errors.Is(err, ErrClosed) {
		t.Errorf("changed: %v", err)
	}
	d.Delete([]int64{1})
}

// Nobody but the owner can read what is kept.
func TestPermissions(t *testing.T) {
	d := open(t, Options{Dir: filepath.Join(t.TempDir(), "state")})
	mustAppend(t, d, reading("a", 1))
	files, err := os.ReadDir(d.opts.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 4 {
		t.Errorf("files: %v", files)
	}
	for _, f := range files {
		i, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if i.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has the permissions %v", f.Name(), i.Mode().Perm())
		}
	}
}

func TestWrongOptions(t *testing.T) {
	_, err := Open(Options{Dir: t.TempDir(), WhenFull: "explode", Logger: quiet()})
	if err == nil || !strings.Contains(err.Error(), "when_full") {
		t.Errorf("%v", err)
	}
}
