package spool

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	sqlite3 "modernc.org/sqlite/lib"

	"fieldbridge/bridge"
)

// Each change that SQLite makes to the disk fails once, as full and as broken:
// what was answered is there, what was refused is not, and it goes on.
func TestFaults(t *testing.T) {
	for _, fault := range []struct {
		name string
		kind diskKind
		code int32
	}{
		{"no room for a write", diskWrite, sqlite3.SQLITE_FULL},
		{"write error", diskWrite, sqlite3.SQLITE_IOERR | 3<<8},
		{"sync error", diskSync, sqlite3.SQLITE_IOERR | 4<<8},
		{"truncate error", diskTruncate, sqlite3.SQLITE_IOERR | 6<<8},
	} {
		t.Run(fault.name, func(t *testing.T) {
			hit := 0
			places := effort(nil, 64)
			for at := range places {
				if failAt(t, fault.kind, fault.code, int64(at*64/places)) {
					hit++
				}
			}
			if hit == 0 {
				t.Error("it was never reached")
			}
			t.Logf("%d places", hit)
		})
	}
}

func failAt(t *testing.T, kind diskKind, code int32, at int64) (hit bool) {
	t.Helper()
	w := newDisk(t)
	w.silent = true
	var armed, count atomic.Int64
	w.fail = func(k diskKind, file string) int32 {
		if armed.Load() != 0 && k == kind && count.Add(1) == at+1 {
			hit = true
			return code
		}
		return 0
	}
	dir := t.TempDir()
	d := open(t, Options{Dir: dir, vfs: w.name, checkpointPages: 6, Logger: quiet()})
	armed.Store(1)
	var want []bridge.Reading
	var held []int64
	refused := 0
	for i := range 40 {
		r := reading("a", i)
		first, err := tryAppend(t, d, []bridge.Reading{r}, nil)
		switch {
		case err != nil:
			refused++
			if code == sqlite3.SQLITE_FULL && !errors.Is(err, bridge.ErrSpoolFull) {
				t.Errorf("%v", err)
			}
		default:
			want = append(want, r)
			held = append(held, first)
		}
		if i%7 == 3 && len(held) > 0 {
			d.Delete(held[:1])
			held, want = held[1:], want[1:]
		}
	}
	if refused > 1 {
		t.Errorf("one fault, %d refused", refused)
	}
	what := fmt.Sprint("fault ", at)
	diff(t, what, readings(loadAll(t, d, "a")), want)
	checkInvariants(t, d)
	shut(t, d)
	armed.Store(0)
	d = open(t, Options{Dir: dir, Logger: quiet()})
	diff(t, what+", opened again", readings(loadAll(t, d, "a")), want)
	if s := d.Stats(); s.Databases != 0 {
		t.Errorf("set aside: %+v", s)
	}
	shut(t, d)
	return hit
}
