package spool

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"fieldbridge/bridge"
)

func TestDeadLetters(t *testing.T) {
	c := newClock()
	d := open(t, c.options(Options{}))
	a := numbered("a", 0, 4)
	first := mustAppend(t, d, a...)
	bury(t, d, bridge.Stored{Seq: first + 1, Reading: a[1]}, bridge.Epitaph{Code: 0x99, Reason: "payload format invalid"})
	never := reading("b", 7)
	bury(t, d, bridge.Stored{Reading: never}, bridge.Epitaph{Code: 0x95, Reason: "packet too large"})
	list, err := d.DeadLetters(0, 10)
	if err != nil {
		t.Fatal(err)
	}
	want := []DeadLetter{
		{No: 1, Kind: KindReading, Died: c.time(), Epitaph: bridge.Epitaph{Code: 0x99, Reason: "payload format invalid"}, Reading: bridge.Stored{Seq: first + 1, Reading: a[1]}},
		{No: 2, Kind: KindReading, Died: c.time(), Epitaph: bridge.Epitaph{Code: 0x95, Reason: "packet too large"}, Reading: bridge.Stored{Reading: never}},
	}
	if len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	for i := range want {
		list[i].boot, list[i].mono = nil, nil
		if list[i].No != want[i].No || list[i].Epitaph != want[i].Epitaph || !list[i].Died.Equal(want[i].Died) {
			t.Errorf("%+v, want %+v", list[i], want[i])
		}
		diff(t, "reading", list[i].Reading, want[i].Reading)
	}
	if page, err := d.DeadLetters(1, 1); err != nil || len(page) != 1 || page[0].No != 2 {
		t.Errorf("a page: %+v %v", page, err)
	}
	diff(t, "left", readings(loadAll(t, d, "a")), []bridge.Reading{a[0], a[2], a[3]})
	checkInvariants(t, d)

	if err := d.Retry([]int64{1, 99}); !errors.Is(err, ErrNotThere) {
		t.Errorf("retry of what is not there: %v", err)
	}
	if err := d.Drop([]int64{99}); !errors.Is(err, ErrNotThere) {
		t.Errorf("drop of what is not there: %v", err)
	}
	if n := d.Stats().DeadReadings; n != 2 {
		t.Errorf("%d dead letters after nothing was done", n)
	}
	if err := d.Retry([]int64{1, 1}); err != nil {
		t.Fatal(err)
	}
	diff(t, "the retried one is the newest", readings(loadAll(t, d, "a")), []bridge.Reading{a[0], a[2], a[3], a[1]})
	if err := d.Drop([]int64{2}); err != nil {
		t.Fatal(err)
	}
	if s := d.Stats(); s.DeadReadings != 0 || s.Readings != 4 {
		t.Errorf("%+v", s)
	}
	checkInvariants(t, d)
}

func TestDeadLettersAreBounded(t *testing.T) {
	d := open(t, Options{MaxBytes: 400_000})
	for i := range 60 {
		r := reading("a", i)
		r.Payload = make([]byte, 5000)
		bury(t, d, bridge.Stored{Reading: r}, bridge.Epitaph{Code: 0x80})
	}
	s := d.Stats()
	if s.DeadReadings+s.DroppedDead != 60 || s.DeadReadings < 15 || s.DroppedDead == 0 {
		t.Errorf("%+v", s)
	}
	list, err := d.DeadLetters(0, 100)
	if err != nil || list[len(list)-1].No != 60 {
		t.Errorf("the newest one is missing: %v", err)
	}
	checkInvariants(t, d)
}

// What the spool command does, beside a daemon that runs.
func TestInspectBesideDaemon(t *testing.T) {
	c := newClock()
	d := open(t, c.options(Options{}))
	a := numbered("a", 0, 4)
	first := mustAppend(t, d, a...)
	mustAppend(t, d, numbered("b", 0, 1)...)
	bury(t, d, bridge.Stored{Seq: first, Reading: a[0]}, bridge.Epitaph{Code: 0x80})
	bury(t, d, bridge.Stored{Reading: reading("b", 9)}, bridge.Epitaph{Code: 0x81})
	if err := appendDownlinks(t, d, bridge.Origin{}, downlink("scale", 1)); err != nil {
		t.Fatal(err)
	}
	look(t, d.opts.Dir, a, first, c.time())

	if changed, err := d.Changed(); changed || err != nil {
		t.Errorf("changed before anything was: %v %v", changed, err)
	}
	e, err := OpenEditor(d.opts.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.Retry([]int64{77}); !errors.Is(err, ErrNotThere) {
		t.Errorf("%v", err)
	}
	if err := e.Retry([]int64{1}); err != nil {
		t.Fatal(err)
	}
	if err := e.Drop([]int64{2}); err != nil {
		t.Fatal(err)
	}
	if changed, err := d.Changed(); !changed || err != nil {
		t.Errorf("not noticed: %v %v", changed, err)
	}
	if changed, err := d.Changed(); changed || err != nil {
		t.Errorf("noticed twice: %v %v", changed, err)
	}
	checkInvariants(t, d)
	// The next reading is behind the retried one.
	mustAppend(t, d, reading("a", 50))
	diff(t, "queue", readings(loadAll(t, d, "a")), []bridge.Reading{a[1], a[2], a[3], a[0], reading("a", 50)})
	if s := d.Stats(); s.DeadReadings != 0 || s.Readings != 6 {
		t.Errorf("%+v", s)
	}
	checkInvariants(t, d)
}

func look(t *testing.T, dir string, a []bridge.Reading, first int64, at time.Time) {
	t.Helper()
	r, err := OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	list, err := r.Backlogs()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 || list[0].Device != "a" || list[0].Readings != 3 || list[0].Oldest != first+1 || !list[0].Accepted.Equal(at) || list[1].Device != "b" {
		t.Errorf("backlogs: %+v", list)
	}
	var got []bridge.Reading
	collect := func(s bridge.Stored, accepted time.Time) error {
		got = append(got, s.Reading)
		return nil
	}
	if err := r.Readings("a", collect); err != nil {
		t.Fatal(err)
	}
	diff(t, "readings of a", got, a[1:])
	if err := r.Readings("", collect); err != nil || len(got) != 3+4 {
		t.Errorf("all readings: %d, %v", len(got)-3, err)
	}
	dead, downs := 0, 0
	if err := r.DeadLetters(0, func(DeadLetter) error { dead++; return nil }); err != nil || dead != 2 {
		t.Errorf("%d dead letters, %v", dead, err)
	}
	if err := r.Downlinks(func(bridge.StoredDownlink) error { downs++; return nil }); err != nil || downs != 1 {
		t.Errorf("%d downlinks, %v", downs, err)
	}
	stop := errors.New("enough")
	if err := r.DeadLetters(0, func(DeadLetter) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("stopped: %v", err)
	}
}

// The same while no daemon runs, and after one was killed.
func TestInspectWithoutDaemon(t *testing.T) {
	d := open(t, Options{})
	mustAppend(t, d, numbered("a", 0, 3)...)
	bury(t, d, bridge.Stored{Reading: reading("a", 9)}, bridge.Epitaph{})
	killed := t.TempDir()
	for _, name := range []string{fileName, fileName + "-wal"} {
		b, err := os.ReadFile(filepath.Join(d.opts.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(killed, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shut(t, d)
	for _, dir := range []string{d.opts.Dir, killed} {
		r, err := OpenReadOnly(dir)
		if err != nil {
			t.Fatal(err)
		}
		list, err := r.Backlogs()
		if err != nil || len(list) != 1 || list[0].Readings != 3 {
			t.Errorf("%+v %v", list, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		e, err := OpenEditor(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Retry([]int64{1}); err != nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		d := open(t, Options{Dir: dir})
		diff(t, "queue", readings(loadAll(t, d, "a")), append(numbered("a", 0, 3), reading("a", 9)))
		shut(t, d)
	}
}

func TestInspectNothing(t *testing.T) {
	if _, err := OpenReadOnly(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := OpenEditor(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName), []byte("something else altogether, for sure"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := OpenReadOnly(dir); err == nil {
		r.Close()
		t.Error("opened what is no database")
	}
}

// Readings get their time once it is known.
func TestRepair(t *testing.T) {
	c := newClock()
	c.trusted.Store(false)
	d := open(t, c.options(Options{}))
	r := reading("a", 0)
	r.Time = time.Time{}
	err := d.do(func(t *tx) error {
		for i := range 1200 {
			row := storedReading{Stored: bridge.Stored{Seq: t.seq(), Reading: r}, boot: "this boot", mono: int64(time.Duration(i) * time.Second)}
			if i%2 == 1 {
				row.boot = "another boot"
			}
			if err := row.insert(t.c); err != nil {
				return err
			}
			t.use.addReading("a", row.Seq, sizeOf(&r))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	if err := d.Repair("this boot", at); err != nil {
		t.Fatal(err)
	}
	for i, s := range loadAll(t, d, "a") {
		want := at.Add(time.Duration(i) * time.Second)
		if i%2 == 1 {
			want = time.Time{}
		}
		if !s.Time.Equal(want) {
			t.Fatalf("reading %d has the time %v, want %v", i, s.Time, want)
		}
	}
	if s := d.Stats(); s.Damaged != 0 || !s.Oldest.Equal(at) {
		t.Errorf("%+v", s)
	}
	checkInvariants(t, d)
}

// Somebody who deletes readings with the sqlite3 tool is noticed too.
func TestVanished(t *testing.T) {
	d := open(t, Options{})
	a := numbered("a", 0, 10)
	first := mustAppend(t, d, a...)
	other, err := openConn(d.path, connOptions{pragmas: []string{"busy_timeout(2000)"}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	if err := other.exec("DELETE FROM readings WHERE seq BETWEEN ? AND ?", first+2, first+4); err != nil {
		t.Fatal(err)
	}
	diff(t, "left", readings(loadAll(t, d, "a")), append(append([]bridge.Reading(nil), a[:2]...), a[5:]...))
	flush(t, d)
	if n := d.Stats().Readings; n != 7 {
		t.Errorf("%d readings counted", n)
	}
	checkInvariants(t, d)
}
