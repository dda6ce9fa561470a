package spool

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge"
)

var powerCuts = flag.Int("spool.powercuts", 0, "how many power cuts TestPowerCut simulates")

const sector = 512

// cutFile is a file as a disk has it: what is certainly there and what may be.
type cutFile struct {
	synced  []byte
	there   bool     // its name is certainly in the directory
	deleted bool     // its name was removed, perhaps not on disk yet
	pending []diskOp // since the last sync
	last    []int    // the place in the log of each of pending
}

// cutDisk follows the log of changes and makes, at any place of it, a directory
// as a power cut could leave it there. A sync makes lasting what was written
// before it began. Of everything else nothing, all, a beginning, or any choice
// of sectors is on the disk.
type cutDisk map[string]*cutFile

func (c cutDisk) step(i int, op diskOp) {
	if op.kind == diskNote {
		return
	}
	f := c[op.file]
	if f == nil {
		f = new(cutFile)
		c[op.file] = f
	}
	switch op.kind {
	case diskCreate:
		if f.deleted {
			*f = cutFile{}
		}
	case diskWrite, diskTruncate:
		f.pending = append(f.pending, op)
		f.last = append(f.last, i)
	case diskSync:
		n := 0
		for n < len(f.pending) && f.last[n] < int(op.at) {
			f.synced = apply(f.synced, f.pending[n])
			n++
		}
		f.pending, f.last = f.pending[n:], f.last[n:]
		f.there = true // SQLite syncs the directory with the first sync of a log
	case diskDelete:
		f.deleted = true
	}
}

func apply(b []byte, op diskOp) []byte {
	if op.kind == diskTruncate {
		if int64(len(b)) > op.at {
			return b[:op.at]
		}
		return append(b, make([]byte, op.at-int64(len(b)))...)
	}
	if end := op.at + int64(len(op.data)); int64(len(b)) < end {
		b = append(b, make([]byte, end-int64(len(b)))...)
	}
	copy(b[op.at:], op.data)
	return b
}

// after returns what a file may hold after a power cut.
func (f *cutFile) after(r *rand.Rand) []byte {
	b := slices.Clone(f.synced)
	switch r.IntN(5) {
	case 0: // nothing that was not synced
	case 1: // all of it
		for _, op := range f.pending {
			b = apply(b, op)
		}
	case 2: // a beginning, the last write torn
		n := r.IntN(len(f.pending) + 1)
		for _, op := range f.pending[:n] {
			b = apply(b, op)
		}
		if n < len(f.pending) {
			for _, s := range sectors(f.pending[n]) {
				if r.IntN(2) == 0 {
					break
				}
				b = apply(b, s)
			}
		}
	default: // any choice of sectors
		share := r.IntN(100)
		for _, op := range f.pending {
			for _, s := range sectors(op) {
				if r.IntN(100) < share {
					b = apply(b, s)
				}
			}
		}
	}
	return b
}

// sectors cuts a write at the borders of sectors.
func sectors(op diskOp) (parts []diskOp) {
	if op.kind != diskWrite {
		return []diskOp{op}
	}
	for len(op.data) > 0 {
		n := min(len(op.data), int(sector-op.at%sector))
		part := op
		part.data = op.data[:n]
		parts = append(parts, part)
		op.data, op.at = op.data[n:], op.at+int64(n)
	}
	return parts
}

// write makes a directory of what is left.
func (c cutDisk) write(t testing.TB, r *rand.Rand, dir string) {
	for name, f := range c {
		if f.deleted && r.IntN(2) == 0 {
			continue
		}
		if !f.there && name != fileName && r.IntN(2) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), f.after(r), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// What the test notes in the log.
type (
	noteAppend struct { // Append was called
		n      int
		device string
		from   int
		count  int
	}
	noteStored struct { // and answered
		n     int
		first int64
	}
	noteDelete struct{ seqs []int64 }
	noteBury   struct{ s bridge.Stored }
	noteBuried struct{ s bridge.Stored }
	noteDown   struct{ n int }
	noteDowned struct{ n int }
)

// ledger is what the notes up to a power cut say must and may be there.
type ledger struct {
	appends map[int]noteAppend
	stored  map[int]int64  // the first seq of those answered
	gone    map[int64]bool // delete or bury was called
	buried  map[int64]bool // answered
	burying map[int64]bool // called
	down    map[int]bool   // false: called, true: answered
}

func newLedger() *ledger {
	return &ledger{make(map[int]noteAppend), make(map[int]int64), make(map[int64]bool), make(map[int64]bool), make(map[int64]bool), make(map[int]bool)}
}

func (l *ledger) note(v any) {
	switch v := v.(type) {
	case noteAppend:
		l.appends[v.n] = v
	case noteStored:
		l.stored[v.n] = v.first
	case noteDelete:
		for _, s := range v.seqs {
			l.gone[s] = true
		}
	case noteBury:
		l.gone[v.s.Seq], l.burying[v.s.Seq] = true, true
	case noteBuried:
		l.buried[v.s.Seq] = true
	case noteDown:
		l.down[v.n] = false
	case noteDowned:
		l.down[v.n] = true
	}
}

// verdict is what a check finds.
type verdict struct {
	lost  int      // rows that were answered and are not there
	wrong []string // what must never be, and cannot be by losing something
}

func (v *verdict) wrongf(format string, args ...any) {
	v.wrong = append(v.wrong, fmt.Sprintf(format, args...))
}

// check looks at a spool that was opened after the power cut.
func (l *ledger) check(t testing.TB, d *DB) (v verdict) {
	type identity struct {
		device string
		n      int
	}
	may := make(map[identity]bool) // was given to the spool
	must := make(map[identity]bool)
	for n, a := range l.appends {
		first, stored := l.stored[n]
		for i := range a.count {
			id := identity{a.device, a.from + i}
			may[id] = true
			if stored && !l.gone[first+int64(i)] {
				must[id] = true
			}
		}
	}
	dead, err := d.DeadLetters(0, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	inDead := make(map[int64]bool)
	for _, x := range dead {
		if inDead[x.Reading.Seq] || !l.burying[x.Reading.Seq] {
			v.wrongf("dead letter %d was not buried, or twice", x.Reading.Seq)
		}
		inDead[x.Reading.Seq] = true
	}
	for seq := range l.buried {
		if !inDead[seq] {
			v.lost++
		}
	}
	highest := int64(0)
	for _, device := range []string{"a", "b", "c"} {
		last := -1
		for _, s := range loadAll(t, d, device) {
			var n int
			if _, err := fmt.Sscanf(string(s.Payload), `{"device":"`+device+`","n":%d`, &n); err != nil {
				v.wrongf("payload %q: %v", s.Payload, err)
				continue
			}
			if want := reading(device, n); !reflect.DeepEqual(want, s.Reading) {
				v.wrongf("reading %s %d was changed: %s", device, n, cmp.Diff(want, s.Reading))
			}
			if !may[identity{device, n}] || inDead[s.Seq] {
				v.wrongf("reading %s %d was invented", device, n)
			}
			if n <= last {
				v.wrongf("reading %s %d came after %d", device, n, last)
			}
			last = n
			highest = max(highest, s.Seq)
			delete(must, identity{device, n})
		}
	}
	v.lost += len(must)
	l.checkDownlinks(t, d, &v)
	for _, first := range l.stored {
		highest = max(highest, first)
	}
	if seq := mustAppend(t, d, reading("after", 1)); seq <= highest {
		v.wrongf("seq %d was given after %d", seq, highest)
	}
	return v
}

func (l *ledger) checkDownlinks(t testing.TB, d *DB, v *verdict) {
	c := make(chan []bridge.StoredDownlink, 1)
	d.LoadDownlinks("target", 0, 1<<30, func(list []bridge.StoredDownlink, err error) {
		if err != nil {
			t.Error(err)
		}
		c <- list
	})
	found := make(map[string]bool)
	for _, x := range wait(t, c) {
		found[x.ID] = true
	}
	for n, answered := range l.down {
		if answered && !found[fmt.Sprint(n)] {
			v.lost++
		}
		delete(found, fmt.Sprint(n))
	}
	if len(found) > 0 {
		v.wrongf("downlinks were invented: %v", found)
	}
}

// workload uses a spool in all ways and notes what it was told.
func workload(t testing.TB, d *DB, w *disk, r *rand.Rand, from int) {
	devices := []string{"a", "b", "c"}
	next := map[string]int{"a": from, "b": from, "c": from}
	var mu sync.Mutex
	var held []bridge.Stored
	var all sync.WaitGroup
	for i := from; i < from+120; i++ {
		device := devices[r.IntN(3)]
		count := 1 + r.IntN(6)
		w.note(noteAppend{i, device, next[device], count})
		rs := numbered(device, next[device], count)
		next[device] += count
		all.Add(1)
		answered := make(chan struct{})
		d.Append(rs, nil, func(first int64, err error) {
			if err != nil {
				t.Error(err)
			}
			w.note(noteStored{i, first})
			mu.Lock()
			for j, r := range rs {
				held = append(held, bridge.Stored{Seq: first + int64(j), Reading: r})
			}
			mu.Unlock()
			close(answered)
			all.Done()
		})
		if r.IntN(3) == 0 {
			wait(t, answered)
		}
		mu.Lock()
		var some []bridge.Stored
		if len(held) > 0 && r.IntN(2) == 0 {
			n := 1 + r.IntN(len(held))
			some, held = held[:n], held[n:]
		}
		mu.Unlock()
		switch {
		case len(some) > 0 && r.IntN(4) == 0:
			for _, s := range some {
				w.note(noteBury{s})
				all.Add(1)
				d.Bury(s, bridge.Epitaph{Code: 0x80}, func(err error) {
					if err == nil {
						w.note(noteBuried{s})
					}
					all.Done()
				})
			}
		case len(some) > 0:
			var seqs []int64
			for _, s := range some {
				seqs = append(seqs, s.Seq)
			}
			w.note(noteDelete{seqs})
			d.Delete(seqs)
		case r.IntN(4) == 0:
			w.note(noteDown{i})
			all.Add(1)
			d.AppendDownlinks([]bridge.StoredDownlink{{Target: "target", Downlink: bridge.Downlink{ID: fmt.Sprint(i), Device: "a"}}},
				bridge.Origin{Session: "s", PacketID: uint16(i)}, func(err error) {
					if err == nil {
						w.note(noteDowned{i})
					}
					all.Done()
				})
		}
	}
	all.Wait()
}

// powerCut runs the workload and returns how many power cuts there were, how
// many of them lost something, and how many readings.
func powerCut(t *testing.T, noSync bool, cuts int) (tried, losing, lost int) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	w := newDisk(t)
	dir := t.TempDir()
	for run := range 3 {
		d := open(t, Options{Dir: dir, vfs: w.name, noSync: noSync, checkpointPages: 24, Logger: quiet()})
		workload(t, d, w, r, run*1000)
		shut(t, d)
	}
	ops := w.ops()
	at := make(map[int]bool)
	for range cuts {
		at[r.IntN(len(ops)+1)] = true
	}
	disk, book := make(cutDisk), newLedger()
	for i := 0; i <= len(ops); i++ {
		if at[i] {
			left := t.TempDir()
			disk.write(t, r, left)
			d := open(t, Options{Dir: left, Logger: quiet()})
			v := book.check(t, d)
			if s := d.Stats(); !noSync && (s.Databases > 0 || s.Damaged > 0) {
				t.Errorf("taken for damage: %+v", s)
			}
			if !noSync && len(v.wrong) > 0 {
				t.Error(v.wrong)
			}
			checkInvariants(t, d)
			shut(t, d)
			if v.lost > 0 {
				losing++
				lost += v.lost
			}
			tried++
		}
		if i < len(ops) {
			disk.step(i, ops[i])
			book.note(ops[i].note)
		}
		if t.Failed() {
			t.Fatalf("after %d of %d changes", i, len(ops))
		}
	}
	return tried, losing, lost
}

// Whatever a power cut does to what was not synced: everything that was
// answered is there, nothing is that was not given, and the order is kept.
func TestPowerCut(t *testing.T) {
	tried, losing, lost := powerCut(t, false, effort(powerCuts, 400))
	t.Logf("%d power cuts, %d of them lost something, %d rows", tried, losing, lost)
	if lost > 0 {
		t.Errorf("%d rows that were answered are lost after %d of %d power cuts", lost, losing, tried)
	}
}

// The test above can fail: without syncs it finds losses.
func TestPowerCutNoticesMissingSync(t *testing.T) {
	tried, losing, lost := powerCut(t, true, effort(nil, 80))
	t.Logf("without syncs: %d power cuts, %d of them lost something, %d rows", tried, losing, lost)
	if lost == 0 {
		t.Error("nothing was lost without syncs")
	}
}
