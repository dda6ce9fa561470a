package spool

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fieldbridge/bridge"
)

func TestLimits(t *testing.T) {
	one := sized("a", 0)
	size := sizeOf(&one)
	// Each row appends so many readings of a device at a time and says how many
	// are refused; then what is left of a and b, and how many were dropped.
	type step struct {
		device string
		n      int
		full   bool
	}
	for _, tt := range []struct {
		name    string
		opts    Options
		steps   []step
		a, b    int
		dropped int64
	}{
		{"no limit", Options{}, []step{{"a", 100, false}, {"b", 100, false}}, 100, 100, 0},
		{"all devices, exactly full", Options{MaxBytes: 10 * size}, []step{{"a", 6, false}, {"b", 4, false}}, 6, 4, 0},
		{"all devices, one too many", Options{MaxBytes: 10 * size}, []step{{"a", 6, false}, {"b", 4, false}, {"b", 1, true}}, 6, 4, 0},
		{"all or none", Options{MaxBytes: 10 * size}, []step{{"a", 8, false}, {"a", 3, true}, {"a", 2, false}}, 10, 0, 0},
		{"one byte short", Options{MaxBytes: 10*size - 1}, []step{{"a", 9, false}, {"a", 1, true}}, 9, 0, 0},
		{"a device", Options{MaxBytesPerDevice: 5 * size}, []step{{"a", 5, false}, {"a", 1, true}, {"b", 5, false}, {"b", 1, true}}, 5, 5, 0},
		{"drop of all", Options{MaxBytes: 10 * size, WhenFull: DropOldest}, []step{{"a", 6, false}, {"b", 4, false}, {"b", 3, false}}, 3, 7, 3},
		{"drop of a device", Options{MaxBytesPerDevice: 5 * size, WhenFull: DropOldest}, []step{{"a", 5, false}, {"b", 5, false}, {"a", 2, false}}, 5, 5, 2},
		{"drop of both", Options{MaxBytes: 10 * size, MaxBytesPerDevice: 6 * size, WhenFull: DropOldest},
			[]step{{"b", 5, false}, {"a", 5, false}, {"a", 3, false}}, 6, 4, 3},
		{"drop is no help", Options{MaxBytes: 10 * size, WhenFull: DropOldest}, []step{{"a", 5, false}, {"b", 11, true}}, 5, 0, 0},
		{"nor for a device", Options{MaxBytesPerDevice: 10 * size, WhenFull: DropOldest}, []step{{"a", 5, false}, {"a", 11, true}}, 5, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := open(t, tt.opts)
			n := 0
			for i, s := range tt.steps {
				rs := make([]bridge.Reading, s.n)
				for j := range rs {
					rs[j] = sized(s.device, n)
					n++
				}
				if _, err := tryAppend(t, d, rs, nil); errors.Is(err, bridge.ErrSpoolFull) != s.full || err != nil && !s.full {
					t.Errorf("step %d: %v", i, err)
				}
				checkInvariants(t, d)
			}
			a, b := loadAll(t, d, "a"), loadAll(t, d, "b")
			if dropped := d.Stats().DroppedFull; len(a) != tt.a || len(b) != tt.b || dropped != tt.dropped {
				t.Errorf("left %d of a and %d of b, %d dropped; want %d, %d, %d", len(a), len(b), dropped, tt.a, tt.b, tt.dropped)
			}
		})
	}
}

// Room that a delete makes is there for the append behind it.
func TestLimitsAfterDelete(t *testing.T) {
	one := sized("a", 0)
	d := open(t, Options{MaxBytes: 5 * sizeOf(&one)})
	first := mustAppend(t, d, sized("a", 1), sized("a", 2), sized("a", 3), sized("a", 4), sized("a", 5))
	d.Delete([]int64{first, first + 1})
	mustAppend(t, d, sized("a", 6), sized("a", 7))
	if _, err := tryAppend(t, d, numbered("a", 8, 1), nil); !errors.Is(err, bridge.ErrSpoolFull) {
		t.Errorf("%v", err)
	}
}

func TestMinFree(t *testing.T) {
	var free atomic.Int64
	free.Store(1 << 30)
	for _, whenFull := range []string{Reject, DropOldest} {
		t.Run(whenFull, func(t *testing.T) {
			d := open(t, Options{MinFree: 1 << 20, WhenFull: whenFull, freeSpace: func(string) (int64, error) { return free.Load(), nil }})
			free.Store(1 << 30)
			mustAppend(t, d, numbered("a", 0, 100)...)
			free.Store(1 << 20)
			_, err := tryAppend(t, d, numbered("a", 100, 5), nil)
			switch dropped := d.Stats().DroppedFull; {
			case whenFull == Reject && (!errors.Is(err, bridge.ErrSpoolFull) || !strings.Contains(err.Error(), "min_free") || dropped != 0):
				t.Errorf("%v, %d dropped", err, dropped)
			case whenFull == DropOldest && (err != nil || dropped == 0):
				t.Errorf("%v, %d dropped", err, dropped)
			}
			free.Store(1 << 30)
			mustAppend(t, d, numbered("a", 200, 5)...)
			checkInvariants(t, d)
		})
	}
}

// A clock that runs on when told.
type testClock struct {
	now     atomic.Int64
	trusted atomic.Bool
}

func newClock() *testClock {
	c := new(testClock)
	c.now.Store(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Unix())
	c.trusted.Store(true)
	return c
}

func (c *testClock) time() time.Time      { return time.Unix(c.now.Load(), 0).UTC() }
func (c *testClock) pass(d time.Duration) { c.now.Add(int64(d / time.Second)) }
func (c *testClock) options(o Options) Options {
	o.Now, o.Trusted = c.time, c.trusted.Load
	return o
}

func sweep(t testing.TB, d *DB) {
	t.Helper()
	if err := d.do((*tx).sweep); err != nil {
		t.Fatal(err)
	}
}

func TestMaxAge(t *testing.T) {
	c := newClock()
	d := open(t, c.options(Options{MaxAge: time.Hour}))
	mustAppend(t, d, numbered("a", 0, 3)...)
	c.pass(30 * time.Minute)
	mustAppend(t, d, numbered("a", 3, 3)...)
	bury(t, d, bridge.Stored{Reading: reading("a", 99)}, bridge.Epitaph{})
	sweep(t, d)
	if n := d.Stats().Readings; n != 6 {
		t.Errorf("%d readings before their time", n)
	}
	c.pass(31 * time.Minute)
	sweep(t, d)
	diff(t, "young ones", readings(loadAll(t, d, "a")), numbered("a", 3, 3))
	checkInvariants(t, d)
	c.pass(30 * time.Minute)
	sweep(t, d)
	if s := d.Stats(); s.Readings != 0 || s.DroppedAge != 6 || s.DeadReadings != 0 || s.DroppedDead != 1 {
		t.Errorf("%+v", s)
	}
	checkInvariants(t, d)
}

// While the clock is not trusted nothing has an age, and a jump of the clock
// makes nothing old.
func TestAgeUnderUntrustedClock(t *testing.T) {
	c := newClock()
	c.now.Store(0)
	c.trusted.Store(false)
	d := open(t, c.options(Options{MaxAge: time.Hour}))
	if _, err := tryAppend(t, d, numbered("a", 0, 3), []bridge.Key{{Value: "k"}}); err != nil {
		t.Fatal(err)
	}
	bury(t, d, bridge.Stored{Reading: reading("a", 9)}, bridge.Epitaph{})
	c.pass(50 * 365 * 24 * time.Hour)
	sweep(t, d)
	if s := d.Stats(); s.Readings != 3 || !s.Oldest.IsZero() {
		t.Errorf("untrusted: %+v", s)
	}
	c.trusted.Store(true)
	sweep(t, d)
	if s := d.Stats(); s.Readings != 3 || !s.Oldest.Equal(c.time()) || s.Keys != 1 {
		t.Errorf("just trusted: %+v", s)
	}
	diff(t, "readings", readings(loadAll(t, d, "a")), numbered("a", 0, 3))
	c.pass(61 * time.Minute)
	sweep(t, d)
	if n := d.Stats().DeadReadings; n != 1 {
		t.Errorf("%d dead letters of which nobody knows the age", n)
	}
	if s := d.Stats(); s.Readings != 0 || s.DroppedAge != 3 {
		t.Errorf("an hour later: %+v", s)
	}
	checkInvariants(t, d)
}

// The file does not stay as large as it once was.
func TestTidy(t *testing.T) {
	d := open(t, Options{Logger: quiet()})
	for i := range 600 {
		rs := numbered("a", i*20, 20)
		for j := range rs {
			rs[j].Payload = make([]byte, 1000)
		}
		mustAppend(t, d, rs...)
	}
	if n := drain(t, d, "a", nil); n != 12_000 {
		t.Errorf("%d readings", n)
	}
	flush(t, d)
	size := int64(0)
	for limit := time.Now().Add(deadline); ; {
		// The writer tidies whenever it has nothing to do.
		var free int64
		if err := d.do(func(t *tx) (err error) { free, err = t.c.integer("PRAGMA freelist_count"); return err }); err != nil {
			t.Fatal(err)
		}
		s, err := os.Stat(d.path)
		if err != nil {
			t.Fatal(err)
		}
		if size = s.Size(); free < tidyPages && size < (tidyPages+tidyStep)*pageSize {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("the file has %d bytes, %d pages are free", size, free)
		}
	}
	log, err := os.Stat(d.path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("after a drain: database %d bytes, log %d bytes", size, log.Size())
	if log.Size() > 4*logLimit {
		t.Errorf("the log has %d bytes", log.Size())
	}
	mustAppend(t, d, reading("a", 1))
	checkInvariants(t, d)
}

// mountSmall mounts a file system with so many bytes.
func mountSmall(t *testing.T, options string) string {
	dir := t.TempDir()
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, options)
	if errors.Is(err, unix.EPERM) && os.Getenv("CI") == "" && os.Getuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	if err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return filepath.Join(dir, "state")
}

// ballast fills a file system until there is no room for a byte.
func ballast(t *testing.T, dir string) (release func()) {
	path := filepath.Join(dir, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// On a disk that is really full: new readings are refused, what is there can be
// read and deleted, nothing is lost, and all is well again when there is room.
func TestDiskFull(t *testing.T) {
	dir := mountSmall(t, "size=24m")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d := open(t, Options{Dir: dir})
	var want []bridge.Reading
	for i := range 2000 {
		want = append(want, sized("a", i))
		mustAppend(t, d, want[i])
	}
	release := ballast(t, dir)
	refused := 0
	for i := 2000; i < 60_000; i++ {
		r := sized("a", i)
		_, err := tryAppend(t, d, []bridge.Reading{r}, nil)
		if err == nil {
			want = append(want, r)
			continue
		}
		if !errors.Is(err, bridge.ErrSpoolFull) {
			t.Fatalf("reading %d: %v", i, err)
		}
		if refused++; refused == 20 {
			break
		}
		if refused == 1 {
			release() // the log and the reserve had some room
			release = ballast(t, dir)
		}
	}
	if refused == 0 {
		t.Fatal("the disk did not become full")
	}
	t.Logf("%d readings before the disk was full", len(want))
	got := loadAll(t, d, "a")
	diff(t, "readings on a full disk", readings(got), want)

	// Draining is possible, and makes room.
	var seqs []int64
	for _, s := range got[:1000] {
		seqs = append(seqs, s.Seq)
	}
	d.Delete(seqs)
	if n := len(loadAll(t, d, "a")); n != len(want)-1000 {
		t.Errorf("%d readings after the delete, want %d", n, len(want)-1000)
	}
	release()
	for limit := time.Now().Add(deadline); ; {
		if _, err := tryAppend(t, d, []bridge.Reading{sized("a", 70_000)}, nil); err == nil {
			break
		} else if time.Now().After(limit) {
			t.Fatalf("still full: %v", err)
		}
	}
	want = append(want[1000:], sized("a", 70_000))
	shut(t, d)
	d = open(t, Options{Dir: dir})
	diff(t, "readings after all", readings(loadAll(t, d, "a")), want)
	checkInvariants(t, d)
	shut(t, d)
}

// A spool on a disk that is full already opens: it has a reserve for that.
func TestOpenOnFullDisk(t *testing.T) {
	dir := mountSmall(t, "size=24m")
	d := open(t, Options{Dir: dir})
	a := numbered("a", 0, 100)
	mustAppend(t, d, a...)
	shut(t, d)
	release := ballast(t, dir)
	defer release()
	d = open(t, Options{Dir: dir})
	got := loadAll(t, d, "a")
	diff(t, "readings", readings(got), a)
	d.Delete([]int64{got[0].Seq})
	flush(t, d)
	diff(t, "readings", readings(loadAll(t, d, "a")), a[1:])
	shut(t, d)
}
