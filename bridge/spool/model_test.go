package spool

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fieldbridge/bridge"
)

// model is what a spool is to its caller.
type model struct {
	queues map[string][]bridge.Stored
	dead   []bridge.Reading
	keys   map[string]bridge.Key // by device and value
	used   int64
	next   int
	last   int64 // the highest seq that was given
}

// sequence makes the helpers report to the sequence that runs. A failure of the
// test as a whole would last: rapid, looking for a shorter sequence, would take
// every one for a failing one and write down one that is not.
type sequence struct {
	testing.TB
	rt *rapid.T
}

func (s sequence) Helper()                           { s.rt.Helper() }
func (s sequence) Log(args ...any)                   { s.rt.Log(args...) }
func (s sequence) Logf(format string, args ...any)   { s.rt.Logf(format, args...) }
func (s sequence) Error(args ...any)                 { s.rt.Error(args...) }
func (s sequence) Errorf(format string, args ...any) { s.rt.Errorf(format, args...) }
func (s sequence) Fatal(args ...any)                 { s.rt.Fatal(args...) }
func (s sequence) Fatalf(format string, args ...any) { s.rt.Fatalf(format, args...) }
func (s sequence) Fail()                             { s.rt.Fail() }
func (s sequence) FailNow()                          { s.rt.FailNow() }
func (s sequence) Failed() bool                      { return s.rt.Failed() }

// patience is short: a callback that never comes must end a sequence, and each
// shorter one that rapid tries, while somebody still waits for the verdict.
func (s sequence) patience() time.Duration { return 10 * time.Second }

// machine runs a spool beside its model.
type machine struct {
	t   testing.TB // of this sequence
	d   *DB
	dir string
	m   model
}

const modelMax = 8000

func (x *machine) device(t *rapid.T) string {
	return rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "device")
}

func (x *machine) appendSome(t *rapid.T) {
	device := x.device(t)
	rs := numbered(device, x.m.next, rapid.IntRange(1, 8).Draw(t, "n"))
	x.m.next += len(rs)
	var keys []bridge.Key
	if rapid.IntRange(0, 2).Draw(t, "keyed") == 0 {
		keys = []bridge.Key{{Value: rapid.SampledFrom([]string{"k", "l"}).Draw(t, "key"), Digest: [32]byte{rapid.Byte().Draw(t, "body") % 3}}}
	}
	var size int64
	for i := range rs {
		size += sizeOf(&rs[i])
	}
	first, err := tryAppend(x.t, x.d, rs, keys)
	if keys != nil {
		if known, ok := x.m.keys[device+keys[0].Value]; ok && known.Digest != keys[0].Digest {
			if !errors.Is(err, bridge.ErrKeyReused) {
				t.Fatalf("key with another body: %v", err)
			}
			return
		}
	}
	if x.m.used+size > modelMax {
		if !errors.Is(err, bridge.ErrSpoolFull) {
			t.Fatalf("append of %d bytes to %d: %v", size, x.m.used, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if first <= x.m.last {
		t.Fatalf("seq %d after %d", first, x.m.last)
	}
	for i, r := range rs {
		x.m.last = first + int64(i)
		x.m.queues[device] = append(x.m.queues[device], bridge.Stored{Seq: x.m.last, Reading: r})
	}
	x.m.used += size
	if keys != nil {
		x.m.keys[device+keys[0].Value] = keys[0]
	}
}

// take removes a reading from the model.
func (x *machine) take(t *rapid.T) (s bridge.Stored, ok bool) {
	device := x.device(t)
	q := x.m.queues[device]
	if len(q) == 0 {
		return s, false
	}
	i := 0
	if rapid.Bool().Draw(t, "out of order") {
		i = rapid.IntRange(0, len(q)-1).Draw(t, "place")
	}
	s = q[i]
	x.m.queues[device] = append(append([]bridge.Stored(nil), q[:i]...), q[i+1:]...)
	x.m.used -= sizeOf(&s.Reading)
	return s, true
}

func (x *machine) deleteSome(t *rapid.T) {
	var seqs []int64
	for range rapid.IntRange(1, 6).Draw(t, "n") {
		if s, ok := x.take(t); ok {
			seqs = append(seqs, s.Seq)
		}
	}
	x.d.Delete(seqs)
}

func (x *machine) buryOne(t *rapid.T) {
	if s, ok := x.take(t); ok {
		bury(x.t, x.d, s, bridge.Epitaph{Code: 0x80})
		x.m.dead = append(x.m.dead, s.Reading)
	}
}

func (x *machine) retryOne(t *rapid.T) {
	if len(x.m.dead) == 0 {
		return
	}
	i := rapid.IntRange(0, len(x.m.dead)-1).Draw(t, "which")
	list, err := x.d.DeadLetters(0, 1000)
	if err != nil || len(list) != len(x.m.dead) {
		t.Fatalf("%d dead letters, want %d, %v", len(list), len(x.m.dead), err)
	}
	if err := x.d.Retry([]int64{list[i].No}); err != nil {
		t.Fatal(err)
	}
	r := x.m.dead[i]
	x.m.dead = append(append([]bridge.Reading(nil), x.m.dead[:i]...), x.m.dead[i+1:]...)
	x.m.used += sizeOf(&r)
	q := loadAll(x.t, x.d, string(r.Device))
	x.m.last = q[len(q)-1].Seq
	x.m.queues[string(r.Device)] = append(x.m.queues[string(r.Device)], bridge.Stored{Seq: x.m.last, Reading: r})
}

func (x *machine) reopen(t *rapid.T) {
	shut(x.t, x.d)
	x.open(t)
}

// kill opens what a process that is killed leaves behind.
func (x *machine) kill(t *rapid.T) {
	flush(x.t, x.d)
	dir, err := os.MkdirTemp(x.dir, "killed-")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fileName, fileName + "-wal"} {
		b, err := os.ReadFile(filepath.Join(x.d.opts.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shut(x.t, x.d)
	x.d.opts.Dir = dir
	x.open(t)
}

func (x *machine) open(t *rapid.T) {
	d, err := Open(Options{Dir: x.d.opts.Dir, MaxBytes: modelMax, checkpointPages: 16, Logger: quiet(), noSync: true})
	if err != nil {
		t.Fatal(err)
	}
	x.d = d
}

func (x *machine) check(t *rapid.T) {
	for _, device := range []string{"a", "b", "c"} {
		got := loadAll(x.t, x.d, device)
		want := x.m.queues[device]
		if len(got) == 0 && len(want) == 0 || reflect.DeepEqual(got, want) {
			continue
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("queue of %s (-want +got):\n%s", device, d)
		}
	}
	checkInvariants(x.t, x.d)
	if s := x.d.Stats(); s.Bytes != x.m.used || s.DeadReadings != int64(len(x.m.dead)) {
		t.Fatalf("%+v, want %d bytes and %d dead letters", s, x.m.used, len(x.m.dead))
	}
	if t.Failed() {
		t.FailNow()
	}
}

// Any sequence of calls, with restarts and kills between them, does what it
// does to the model.
func TestModel(t *testing.T) {
	base := t.TempDir()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		if err := f.Value.Set(strconv.Itoa(effort(nil, 100))); err != nil {
			t.Fatal(err)
		}
		defer f.Value.Set(f.DefValue)
	}
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(base, "model-")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		x := &machine{t: sequence{t, rt}, dir: dir, d: &DB{opts: Options{Dir: dir}}}
		x.m.queues, x.m.keys = make(map[string][]bridge.Stored), make(map[string]bridge.Key)
		x.open(rt)
		defer func() { shut(x.t, x.d) }()
		rt.Repeat(map[string]func(*rapid.T){
			"append":  x.appendSome,
			"append2": x.appendSome,
			"delete":  x.deleteSome,
			"bury":    x.buryOne,
			"retry":   x.retryOne,
			"reopen":  x.reopen,
			"kill":    x.kill,
			"":        x.check,
		})
	})
}

// Many goroutines use a spool in all ways at once.
func TestConcurrentUse(t *testing.T) {
	d := open(t, Options{checkpointPages: 50})
	done := make(chan int, 8)
	for w := range 8 {
		go func() {
			device := fmt.Sprint("device-", w)
			n, after := 0, int64(0)
			for i := 0; i < 150; i += 3 {
				mustAppend(t, d, numbered(device, i, 3)...)
				page := load(t, d, device, after, 300)
				var seqs []int64
				for _, s := range page {
					diff(t, device, s.Reading, reading(device, n))
					n++
					seqs = append(seqs, s.Seq)
					after = s.Seq
				}
				d.Delete(seqs)
				if again := load(t, d, device, 0, 1); len(again) > 0 && again[0].Seq <= after {
					t.Errorf("%d came again after its delete", again[0].Seq)
				}
				if _, err := d.Backlogs(); err != nil {
					t.Error(err)
				}
				d.Stats()
			}
			n += drain(t, d, device, nil)
			done <- n
		}()
	}
	for range 8 {
		if n := wait(t, done); n != 150 {
			t.Errorf("%d readings came back, want 150", n)
		}
	}
	checkInvariants(t, d)
}
