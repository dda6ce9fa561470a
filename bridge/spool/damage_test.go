package spool

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge"
)

var damages = flag.Int("spool.damages", 0, "how many times TestDamage damages a database")

// sample is a spool with something in every table, in the database as well as
// in the log, as a process leaves it that is killed.
type sample struct {
	files   map[string][]byte
	stored  map[bridge.DeviceID]map[string]bridge.Reading // ever stored, by payload
	waiting int
	highest int64
}

func newSample(t testing.TB) *sample {
	s := &sample{files: make(map[string][]byte), stored: make(map[bridge.DeviceID]map[string]bridge.Reading)}
	d := open(t, Options{checkpointPages: 40, Logger: quiet(), Now: func() time.Time { return time.Unix(1_800_000_000, 0) }})
	put := func(rs []bridge.Reading, keys []bridge.Key) int64 {
		for _, r := range rs {
			if s.stored[r.Device] == nil {
				s.stored[r.Device] = make(map[string]bridge.Reading)
			}
			s.stored[r.Device][string(r.Payload)] = r
		}
		first, err := tryAppend(t, d, rs, keys)
		if err != nil {
			t.Fatal(err)
		}
		s.highest = first + int64(len(rs)) - 1
		return first
	}
	for i := range 60 {
		rs := numbered(string(rune('a'+i%3)), i*10, 1+i%7)
		if i%10 == 0 {
			rs[0].Payload = append(rs[0].Payload, strings.Repeat("long ", 2000)...)
		}
		first := put(rs, []bridge.Key{{Value: fmt.Sprint("key", i)}})
		switch i % 4 {
		case 0:
			d.Delete([]int64{first})
		case 1:
			bury(t, d, bridge.Stored{Seq: first, Reading: rs[0]}, bridge.Epitaph{Code: 0x99, Reason: "no"})
		}
		if i%5 == 0 {
			err := appendDownlinks(t, d, bridge.Origin{Session: "s", PacketID: uint16(i)},
				bridge.StoredDownlink{Target: "t", Downlink: bridge.Downlink{ID: fmt.Sprint(i), Payload: []byte("on")}})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	flush(t, d)
	s.waiting = int(d.Stats().Readings)
	for _, name := range []string{fileName, fileName + "-wal"} {
		b, err := os.ReadFile(filepath.Join(d.opts.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		s.files[name] = b
	}
	return s
}

func appendDownlinks(t testing.TB, d *DB, o bridge.Origin, ds ...bridge.StoredDownlink) error {
	t.Helper()
	c := make(chan error, 1)
	d.AppendDownlinks(ds, o, func(err error) { c <- err })
	return wait(t, c)
}

func (s *sample) write(t testing.TB, dir string) {
	for name, b := range s.files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// check opens a directory with a damaged sample and returns how many readings
// it has.
func (s *sample) check(t testing.TB, dir string) (found int, stats Stats) {
	t.Helper()
	d, err := Open(Options{Dir: dir, Logger: quiet(), noSync: true}) // it is not about that
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer shut(t, d)
	for device, stored := range s.stored {
		last := int64(0)
		for _, got := range load(t, d, string(device), 0, 1<<30) {
			if want, ok := stored[string(got.Payload)]; !ok || !reflect.DeepEqual(got.Reading, want) {
				t.Errorf("invented: %+v", got)
			}
			if got.Seq <= last {
				t.Errorf("seq %d after %d", got.Seq, last)
			}
			last = got.Seq
			found++
		}
	}
	// It works.
	if seq := mustAppend(t, d, reading("new", 1)); seq <= s.highest {
		// Nothing says so if the end of the log is cut off.
		t.Logf("seq %d was given again", seq)
	}
	stats = d.Stats()
	flush(t, d)
	checkInvariants(t, d)
	return found, stats
}

// Damage of any kind, anywhere: the spool opens, works, and has nothing that
// was not given to it.
func TestDamage(t *testing.T) {
	s := newSample(t)
	n := effort(damages, 1000)
	seed := rand.Uint64()
	t.Logf("seed %d; %d and %d bytes, %d readings wait", seed, len(s.files[fileName]), len(s.files[fileName+"-wal"]), s.waiting)
	r := rand.New(rand.NewPCG(seed, 0))
	var aside, least, all int64
	least = 1 << 30
	for i := range n {
		dir := t.TempDir()
		s.write(t, dir)
		what, small := harm(t, r, dir)
		found, stats := s.check(t, dir)
		aside += stats.Databases
		all += int64(found)
		if small {
			least = min(least, int64(found))
			if found < s.waiting*8/10 {
				t.Errorf("%s: %d of %d readings are left", what, found, s.waiting)
			}
		}
		if t.Failed() {
			t.Fatalf("damage %d: %s", i, what)
		}
	}
	t.Logf("%d times damaged, %d times set aside; readings left: %d of %d on average, %d at least after a few bytes",
		n, aside, all/int64(n), s.waiting, least)
	if aside == 0 {
		t.Error("no database was set aside")
	}
}

// harm damages one of the files. small: up to 64 bytes of it.
func harm(t testing.TB, r *rand.Rand, dir string) (what string, small bool) {
	name := filepath.Join(dir, []string{fileName, fileName + "-wal"}[r.IntN(2)])
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	at := r.IntN(len(b))
	if r.IntN(8) == 0 {
		at = r.IntN(min(200, len(b))) // headers
	}
	n := 1
	switch r.IntN(5) {
	case 0:
		b = b[:at]
		what = "cut off"
	case 1:
		b[at] ^= 1 << r.IntN(8)
		what, small = "a bit", true
	case 2:
		n = min(1+r.IntN(64), len(b)-at)
		for i := range n {
			b[at+i] = byte(r.Uint32())
		}
		what, small = "random", true
	case 3:
		n = min(1+r.IntN(3*pageSize), len(b)-at)
		clear(b[at : at+n])
		what = "zeros"
	case 4:
		n = min(1+r.IntN(3*pageSize), len(b)-at)
		copy(b[at:at+n], b[r.IntN(len(b)):])
		what = "other parts of the file"
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s: %s at %d, %d bytes", filepath.Base(name), what, at, n), small
}

// Damage that comes while the spool is in use is found and repaired in the same
// way.
func TestDamageInUse(t *testing.T) {
	d := open(t, Options{checkpointPages: 8})
	a := numbered("a", 0, 400)
	mustAppend(t, d, a...)
	flush(t, d)
	d.gate.Lock()
	_ = d.pool.close() // and what it has in memory
	f, err := os.OpenFile(d.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	pages := s.Size() / pageSize
	// A page in the middle becomes one of another kind.
	if _, err := f.WriteAt([]byte{leafIndex, 1, 1, 1, 1, 1, 1}, pages/2*pageSize); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	d.gate.Unlock()
	got := loadAll(t, d, "a")
	if len(got) < 350 {
		t.Errorf("%d of 400 readings are left", len(got))
	}
	mustAppend(t, d, reading("a", 1000))
	if s := d.Stats(); s.Databases != 1 || s.Salvaged < 350 {
		t.Errorf("%+v", s)
	}
	checkInvariants(t, d)
}

// A row whose content is wrong, in a database that is sound otherwise.
func TestDamagedRow(t *testing.T) {
	d := open(t, Options{})
	a := numbered("a", 0, 5)
	first := mustAppend(t, d, a...)
	err := d.do(func(t *tx) error {
		return t.c.exec("UPDATE readings SET payload = 'else' WHERE seq = ?", first+2)
	})
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "left", readings(loadAll(t, d, "a")), append(append([]bridge.Reading(nil), a[:2]...), a[3:]...))
	flush(t, d)
	if s := d.Stats(); s.Damaged != 1 || s.Readings != 4 {
		t.Errorf("%+v", s)
	}
	checkInvariants(t, d)
}

// A salvage that was interrupted at any point is made again or finished.
func TestSalvageInterrupted(t *testing.T) {
	s := newSample(t)
	aside := func(dir, name string) {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, fileName+".damaged-20260101T000000Z"+strings.TrimPrefix(name, fileName))); err != nil {
			t.Fatal(err)
		}
	}
	salvaged := func(dir string) {
		d := &DB{opts: Options{Dir: dir, Logger: quiet()}, path: filepath.Join(dir, fileName)}
		if err := d.opts.complete(); err != nil {
			t.Fatal(err)
		}
		if _, err := d.salvage(filepath.Join(dir, salvageName)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name  string
		until func(dir string)
	}{
		{"before the salvage is complete", func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, salvageName), []byte("SQLite format 3\x00 not yet"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"before the first rename", salvaged},
		{"after the first rename", func(dir string) { salvaged(dir); aside(dir, fileName) }},
		{"after the second rename", func(dir string) { salvaged(dir); aside(dir, fileName); aside(dir, fileName+"-wal") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s.write(t, dir)
			tt.until(dir)
			if found, stats := s.check(t, dir); found != s.waiting || stats.Databases != 0 {
				t.Errorf("%d readings, want %d; %+v", found, s.waiting, stats)
			}
			if _, err := os.Stat(filepath.Join(dir, salvageName)); err == nil {
				t.Error("the salvage is still there")
			}
		})
	}
}

// What is taken over from a damaged database: everything, if the damage is only
// in its header.
func TestSalvageTakesAll(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Dir: dir})
	now := time.Now()
	key := bridge.Key{Value: "k", Digest: [32]byte{1}}
	a := numbered("a", 0, 50)
	first, err := tryAppend(t, d, a, []bridge.Key{key})
	if err != nil {
		t.Fatal(err)
	}
	bury(t, d, bridge.Stored{Seq: first + 7, Reading: a[7]}, bridge.Epitaph{Code: 0x97, Reason: "quota"})
	origin := bridge.Origin{Session: "s", PacketID: 7, Digest: [32]byte{2}}
	down := bridge.StoredDownlink{Target: "t", Downlink: bridge.Downlink{ID: "x", Device: "a", Subtopic: "//", Payload: []byte("on"),
		ResponseTopic: "r", CorrelationData: []byte{1}, Expires: now.UTC(), Received: now.UTC()}}
	if err := appendDownlinks(t, d, origin, down); err != nil {
		t.Fatal(err)
	}
	d.SetLastTrusted(now)
	flush(t, d)
	highest := d.w.next
	shut(t, d)
	f, err := os.OpenFile(filepath.Join(dir, fileName), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("not a database any more"), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	d = open(t, Options{Dir: dir})
	diff(t, "readings", readings(loadAll(t, d, "a")), append(append([]bridge.Reading(nil), a[:7]...), a[8:]...))
	if r, ok, err := d.Remembered("a", "k"); !ok || err != nil || !r.Waiting || r.ID != a[0].ID || r.Digest != key.Digest {
		t.Errorf("key: %+v %v %v", r, ok, err)
	}
	dead, err := d.DeadLetters(0, 10)
	if err != nil || len(dead) != 1 || dead[0].Code != 0x97 || dead[0].Reading.Seq != first+7 || !reflect.DeepEqual(dead[0].Reading.Reading, a[7]) {
		t.Errorf("dead letters: %+v %v", dead, err)
	}
	if seen, err := d.SeenDownlink(origin); !seen || err != nil {
		t.Errorf("origin: %v %v", seen, err)
	}
	list := loadDownlinks(t, d, "t", 0, 10)
	if len(list) == 1 {
		list[0].Seq = 0
	}
	diff(t, "downlinks", list, []bridge.StoredDownlink{down})
	if got := d.LastTrusted(); got.Unix() != now.Unix() {
		t.Errorf("last trusted time: %v", got)
	}
	if seq := mustAppend(t, d, reading("a", 99)); seq < highest {
		t.Errorf("seq %d, was at %d", seq, highest)
	}
	files, err := filepath.Glob(filepath.Join(dir, fileName+".damaged-*Z"))
	if err != nil || len(files) != 1 {
		t.Errorf("set aside: %v %v", files, err)
	}
}

func loadDownlinks(t testing.TB, d *DB, target string, after int64, limit int) []bridge.StoredDownlink {
	t.Helper()
	type answer struct {
		list []bridge.StoredDownlink
		err  error
	}
	c := make(chan answer, 1)
	d.LoadDownlinks(target, after, limit, func(l []bridge.StoredDownlink, err error) { c <- answer{l, err} })
	a := wait(t, c)
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.list
}

// What was deleted long ago does not come back with a salvage, though it is
// still in the file, on pages that are free.
func TestSalvageLeavesDeletedAlone(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Dir: dir})
	a := numbered("a", 0, 600)
	first := mustAppend(t, d, a...)
	var seqs []int64
	for i := range int64(500) {
		seqs = append(seqs, first+i)
	}
	d.Delete(seqs)
	shut(t, d)
	b, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), `"n":100,`) {
		t.Fatal("the file does not hold what was deleted")
	}
	copy(b, "no database")
	if err := os.WriteFile(filepath.Join(dir, fileName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	d = open(t, Options{Dir: dir})
	diff(t, "readings", readings(loadAll(t, d, "a")), a[500:])
}

// An index that lacks downlinks is damage, which SQLite's quick check does not
// find.
func TestCompare(t *testing.T) {
	d := open(t, Options{})
	if err := appendDownlinks(t, d, bridge.Origin{}, downlink("scale", 1)); err != nil {
		t.Fatal(err)
	}
	var damage *damageError
	err := d.read(func(c *conn) error {
		u, _, err := survey(c)
		if err != nil {
			return err
		}
		if err := compare(c, &u); err != nil {
			t.Error(err)
		}
		u.downlinks.n++
		return compare(c, &u)
	})
	if !errors.As(err, &damage) {
		t.Errorf("%v", err)
	}
}

// A database of a later version is not damaged.
func TestLaterVersion(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Dir: dir})
	mustAppend(t, d, reading("a", 1))
	err := d.do(func(t *tx) error { return setMeta(t.c, metaSchema, schemaVersion+1) })
	if err == nil {
		err = d.do(func(t *tx) error { return t.c.script(fmt.Sprintf("PRAGMA user_version = %d", schemaVersion+1)) })
	}
	if err != nil {
		t.Fatal(err)
	}
	shut(t, d)
	if d, err := Open(Options{Dir: dir, Logger: quiet()}); err == nil || !strings.Contains(err.Error(), "later version") {
		t.Errorf("%v", err)
		if err == nil {
			shut(t, d)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*damaged*")); len(files) > 0 {
		t.Errorf("set aside: %v", files)
	}
}

// Only so many damaged databases are kept.
func TestPruneAside(t *testing.T) {
	dir := t.TempDir()
	for i := range 6 {
		if err := os.WriteFile(filepath.Join(dir, fileName), []byte("rubbish, long enough to be taken for something"), 0o600); err != nil {
			t.Fatal(err)
		}
		d := open(t, Options{Dir: dir, Logger: quiet(), Now: func() time.Time { return time.Unix(int64(i), 0) }})
		shut(t, d)
		if err := os.Remove(filepath.Join(dir, fileName)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, fileName+".damaged-*"))
	if err != nil || len(files) != maxAside || !strings.Contains(files[0], "19700101T000003Z") {
		t.Errorf("%v %v", files, err)
	}
}
