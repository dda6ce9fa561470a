package spool

import (
	"os"
	"testing"
	"time"

	"fieldbridge/bridge"
)

// A long export beside a daemon that works: the log is emptied meanwhile, and
// the export has what was there when it began.
func TestExportKeepsLogShort(t *testing.T) {
	const n, checkpoint = 6000, 50
	d := open(t, Options{checkpointPages: checkpoint, noSync: true, Logger: quiet()})
	fill(t, d, "a", n)
	r, err := OpenReadOnly(d.opts.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s, err := os.Stat(d.path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	before := s.Size()
	seen, last := 0, int64(0)
	err = r.Readings("", func(s bridge.Stored, _ time.Time) error {
		if s.Device != "a" || s.Seq <= last {
			t.Errorf("%s %d after %d", s.Device, s.Seq, last)
		}
		seen, last = seen+1, s.Seq
		if seen%10 == 0 {
			d.Delete([]int64{s.Seq})
			mustAppend(t, d, sized("b", seen))
		}
		return nil
	})
	if err != nil || seen != n {
		t.Errorf("%d readings, want %d, %v", seen, n, err)
	}
	if s, err = os.Stat(d.path + "-wal"); err != nil {
		t.Fatal(err)
	}
	t.Logf("log: %d bytes before, %d at most; %d bytes written", before, s.Size(), d.Stats().WrittenBytes)
	if limit := max(before, 4*checkpoint*(pageSize+frameHeader)); s.Size() > limit {
		t.Errorf("the log has grown to %d bytes, at most %d should be", s.Size(), limit)
	}
	found := 0
	if err := r.Readings("b", func(bridge.Stored, time.Time) error { found++; return nil }); err != nil || found != n/10 {
		t.Errorf("%d readings of b, want %d, %v", found, n/10, err)
	}
}
