package spool

import (
	"sync/atomic"
	"testing"
	"time"

	"fieldbridge/bridge"
)

// TestLoadWaitsForDeletes has a disk that is slower than the broker: what is
// deleted and not committed must not pile up in memory without end.
func TestLoadWaitsForDeletes(t *testing.T) {
	var slow atomic.Bool
	stuck, disk := make(chan struct{}, 1), make(chan struct{})
	d := open(t, Options{MinFree: 1 << 20, onCommit: func(int) {
		if slow.Load() {
			stuck <- struct{}{}
			<-disk
		}
	}})
	const more = 100
	var seqs []int64
	for n := 0; n < maxHidden+1+more; n += 500 {
		first := mustAppend(t, d, numbered("a", n, 500)...)
		for i := range int64(500) {
			seqs = append(seqs, first+i)
		}
	}
	loading := func() <-chan loaded {
		c := make(chan loaded, 1)
		d.Load("a", 0, 1, func(l []bridge.Stored, err error) { c <- loaded{l, err} })
		return c
	}
	slow.Store(true)
	d.Delete(seqs[:1])
	wait(t, stuck) // the writer has written that, and goes no further
	d.Delete(seqs[1:maxHidden])
	if l := wait(t, loading()); l.err != nil || len(l.list) != 1 || l.list[0].Seq != seqs[maxHidden] {
		t.Fatalf("%+v, with no more than maxHidden to be deleted", l)
	}
	d.Delete(seqs[maxHidden : maxHidden+2])
	c := loading()
	select {
	case l := <-c:
		t.Errorf("%+v, with more than maxHidden to be deleted", l)
	case <-time.After(loadPatience / 5):
	}
	slow.Store(false)
	close(disk)
	if l := wait(t, c); l.err != nil || len(l.list) != 1 || l.list[0].Seq != seqs[maxHidden+2] {
		t.Errorf("%+v, when the disk has caught up", l)
	}
}

// TestLoadWaitsNotForEver: a disk that takes no deletes at all.
func TestLoadWaitsNotForEver(t *testing.T) {
	stuck, disk := make(chan struct{}, 1), make(chan struct{})
	var slow atomic.Bool
	d := open(t, Options{MinFree: 1 << 20, onCommit: func(int) {
		if slow.Load() {
			stuck <- struct{}{}
			<-disk
		}
	}})
	mustAppend(t, d, reading("a", 1))
	slow.Store(true)
	seqs := make([]int64, maxHidden+1)
	for i := range seqs {
		seqs[i] = int64(1_000_000 + i)
	}
	d.Delete(seqs)
	wait(t, stuck)
	if got := load(t, d, "a", 0, 1); len(got) != 1 {
		t.Errorf("%d readings, want 1", len(got))
	}
	slow.Store(false)
	close(disk)
}
