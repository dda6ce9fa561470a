package spool

import (
	"sync/atomic"
	"testing"
	"time"

	sqlite3 "modernc.org/sqlite/lib"
)

// Many deletes that the disk refuses, as full and as broken: they are gone for
// readers, and once the disk takes them again, in transactions that stay small,
// gone from it, too.
func TestStuckDeletes(t *testing.T) {
	for _, fault := range []struct {
		name string
		code int32
		each int // seqs of a Delete
		n    int
	}{
		{"no room, all at once", sqlite3.SQLITE_FULL, effort(nil, 200_000), effort(nil, 200_000)},
		{"no room, one at a time", sqlite3.SQLITE_FULL, 1, effort(nil, 20_000)},
		{"write error", sqlite3.SQLITE_IOERR | 3<<8, 1000, effort(nil, 20_000)},
	} {
		t.Run(fault.name, func(t *testing.T) {
			w := newDisk(t)
			w.silent = true
			var broken atomic.Bool
			w.fail = func(k diskKind, _ string) int32 {
				if k == diskWrite && broken.Load() {
					return fault.code
				}
				return 0
			}
			var most atomic.Int64 // rows that a transaction deleted
			var kept atomic.Int64 // rows of the transactions so far
			d := open(t, Options{vfs: w.name, noSync: true, Logger: quiet()})
			fill(t, d, "a", fault.n)
			first := d.use.devices["a"].seqs.first()
			seqs := make([]int64, fault.n)
			for i := range seqs {
				seqs[i] = first + int64(i)
			}
			flush(t, d)
			kept.Store(int64(fault.n))
			d.opts.onCommit = func(int) { // the writer is idle: nothing else reads it
				d.mu.Lock()
				left := d.use.readings.n
				d.mu.Unlock()
				most.Store(max(most.Load(), kept.Load()-left))
				kept.Store(left)
			}
			broken.Store(true)
			for i := 0; i < len(seqs); i += fault.each {
				d.Delete(seqs[i:min(i+fault.each, len(seqs))])
			}
			if _, err := tryAppend(t, d, numbered("b", 0, 1), nil); err == nil {
				t.Fatal("the disk took a reading")
			}
			if got := load(t, d, "a", 0, 1); len(got) != 0 {
				t.Errorf("a deleted reading came back: %d", got[0].Seq)
			}
			if n := d.Stats().Readings; n != int64(fault.n) {
				t.Errorf("%d readings on a disk that refuses deletes, want %d", n, fault.n)
			}
			broken.Store(false)
			for limit := time.Now().Add(deadline); d.Stats().Readings > 0; {
				if time.Now().After(limit) {
					t.Fatalf("%d readings are left", d.Stats().Readings)
				}
				flush(t, d)
			}
			t.Logf("at most %d rows in a transaction", most.Load())
			if most.Load() > maxBatchRows {
				t.Errorf("a transaction deleted %d rows, at most %d should be", most.Load(), maxBatchRows)
			}
			mustAppend(t, d, reading("b", 2))
			checkInvariants(t, d)
		})
	}
}
