package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"testing"

	"fieldbridge/bridge"
)

// commitsIn counts the transactions in the write-ahead log: the frames that end
// one and are of this log.
func commitsIn(t *testing.T, d *DB) (n int) {
	t.Helper()
	log, err := os.ReadFile(d.path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	for at := 32; at+frameBytes <= len(log); at += frameBytes {
		if bytes.Equal(log[at+8:at+16], log[16:24]) && binary.BigEndian.Uint32(log[at+4:]) != 0 {
			n++
		}
	}
	return n
}

// TestAppendAll: several appends are one transaction, also when the writer has
// nothing else to do, and one that is refused is no matter for the others.
func TestAppendAll(t *testing.T) {
	d := open(t, Options{})
	taken := bridge.Key{Value: "k", Digest: [32]byte{1}}
	if _, err := tryAppend(t, d, []bridge.Reading{reading("a", 1)}, []bridge.Key{taken}); err != nil {
		t.Fatal(err)
	}
	const rounds, many = 20, 100
	type ended struct {
		i     int
		first int64
		err   error
	}
	last, before := int64(0), commitsIn(t, d)
	for range rounds {
		ends := make(chan ended, many)
		var as []bridge.Append
		for i := range many {
			a := bridge.Append{Readings: []bridge.Reading{reading(fmt.Sprint("d", i), 1), reading(fmt.Sprint("d", i), 2)}}
			if i == many/2 {
				a = bridge.Append{Readings: []bridge.Reading{reading("a", 2)}, Keys: []bridge.Key{{Value: "k", Digest: [32]byte{2}}}}
			}
			a.Done = func(first int64, err error) { ends <- ended{i, first, err} }
			as = append(as, a)
		}
		d.AppendAll(as)
		for i := range many {
			e := <-ends
			switch {
			case e.i != i:
				t.Fatalf("%d ends before %d", e.i, i)
			case i == many/2:
				if !errors.Is(e.err, bridge.ErrKeyReused) {
					t.Errorf("a key that is taken: %v", e.err)
				}
			case e.err != nil || e.first <= last:
				t.Fatalf("%+v behind %d", e, last)
			default:
				last = e.first + 1
			}
		}
	}
	if n := commitsIn(t, d) - before; n != rounds {
		t.Errorf("%d commits for %d calls", n, rounds)
	}
	checkInvariants(t, d)
	for _, device := range []string{"d0", "d99"} {
		if n := len(load(t, d, device, 0, 1<<20)); n != 2*rounds {
			t.Errorf("%d readings of %s", n, device)
		}
	}
	shut(t, d)
	failed := make(chan error, 2)
	done := func(_ int64, err error) { failed <- err }
	d.AppendAll([]bridge.Append{{Readings: []bridge.Reading{reading("a", 1)}, Done: done}, {Readings: []bridge.Reading{reading("b", 1)}, Done: done}})
	for range 2 {
		if err := <-failed; !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// TestAppendAllIsNotCutUp: the writer never finds a part of a call.
func TestAppendAllIsNotCutUp(t *testing.T) {
	d := open(t, Options{})
	busy, free := make(chan struct{}), make(chan struct{})
	d.enqueue(&op{end: func(error) {}, run: func(*tx) error {
		close(busy)
		<-free
		return nil
	}})
	<-busy
	const rounds, many = 100, 50
	ends := make(chan error, rounds*many)
	var as []bridge.Append
	for i := range many {
		as = append(as, bridge.Append{
			Readings: []bridge.Reading{reading(fmt.Sprint("d", i), 1)},
			Done:     func(_ int64, err error) { ends <- err },
		})
	}
	called, cut := make(chan struct{}), make(chan int, 1)
	go func() {
		defer close(cut)
		for {
			d.mu.Lock()
			n := len(d.queue)
			d.mu.Unlock()
			if n%many != 0 {
				cut <- n
				return
			}
			select {
			case <-called:
				return
			default:
			}
		}
	}()
	for range rounds {
		d.AppendAll(as)
	}
	close(called)
	if n, ok := <-cut; ok {
		t.Errorf("%d operations wait, and calls have %d", n, many)
	}
	close(free)
	for range rounds * many {
		if err := <-ends; err != nil {
			t.Fatal(err)
		}
	}
}
