package spool

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"fieldbridge/bridge"
)

func remembered(t testing.TB, d *DB, device, key string) (bridge.Remembered, bool) {
	t.Helper()
	r, ok, err := d.Remembered(bridge.DeviceID(device), key)
	if err != nil {
		t.Fatal(err)
	}
	return r, ok
}

func TestKeys(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Dir: dir})
	r := reading("a", 1)
	k := bridge.Key{Value: "k", Digest: [32]byte{1, 2, 3}}
	first, err := tryAppend(t, d, []bridge.Reading{r, reading("a", 2)}, []bridge.Key{k, {}})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := remembered(t, d, "b", "k"); ok {
		t.Error("the key of another device")
	}
	if _, ok := remembered(t, d, "a", ""); ok {
		t.Error("no key is a key")
	}
	shut(t, d)
	d = open(t, Options{Dir: dir})
	want := bridge.Remembered{ID: r.ID, Time: r.Time, Digest: k.Digest, Waiting: true}
	got, _ := remembered(t, d, "a", "k")
	diff(t, "waiting", got, want)

	// Another body under the key is refused, with all that comes with it.
	_, err = tryAppend(t, d, numbered("a", 3, 2), []bridge.Key{{Value: "new"}, {Value: "k", Digest: [32]byte{9}}})
	if !errors.Is(err, bridge.ErrKeyReused) {
		t.Errorf("another body: %v", err)
	}
	if _, ok := remembered(t, d, "a", "new"); ok || d.Stats().Readings != 2 {
		t.Error("something of the refused ones is there")
	}
	checkInvariants(t, d)

	// Waiting ends with Delete, at once.
	d.Delete([]int64{first})
	want.Waiting = false
	got, _ = remembered(t, d, "a", "k")
	diff(t, "delivered", got, want)
	flush(t, d)
	got, _ = remembered(t, d, "a", "k")
	diff(t, "delivered and gone", got, want)
	checkInvariants(t, d)
}

// The key of a reading that became a dead letter says so, follows it back into
// the queue, and is forgotten with it.
func TestKeyOfDeadLetter(t *testing.T) {
	d := open(t, Options{})
	r := reading("a", 1)
	first, err := tryAppend(t, d, []bridge.Reading{r}, []bridge.Key{{Value: "k"}})
	if err != nil {
		t.Fatal(err)
	}
	e := bridge.Epitaph{Code: 0x99, Reason: "payload format invalid"}
	bury(t, d, bridge.Stored{Seq: first, Reading: r}, e)
	got, _ := remembered(t, d, "a", "k")
	diff(t, "dead", got, bridge.Remembered{ID: r.ID, Time: r.Time, Dead: &e})
	list, err := d.DeadLetters(0, 10)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if err := d.Retry([]int64{list[0].No}); err != nil {
		t.Fatal(err)
	}
	got, _ = remembered(t, d, "a", "k")
	diff(t, "back", got, bridge.Remembered{ID: r.ID, Time: r.Time, Waiting: true})
	bury(t, d, load(t, d, "a", 0, 1)[0], e)
	if list, err = d.DeadLetters(0, 10); err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if err := d.Drop([]int64{list[0].No}); err != nil {
		t.Fatal(err)
	}
	if _, ok := remembered(t, d, "a", "k"); ok {
		t.Error("the key of a dropped reading is there")
	}
	checkInvariants(t, d)
}

func TestKeysExpire(t *testing.T) {
	c := newClock()
	d := open(t, c.options(Options{}))
	put := func(key string, digest byte) error {
		_, err := tryAppend(t, d, numbered("a", 1, 1), []bridge.Key{{Value: key, Digest: [32]byte{digest}}})
		return err
	}
	if err := put("k", 1); err != nil {
		t.Fatal(err)
	}
	c.pass(24 * time.Hour)
	sweep(t, d)
	if _, ok := remembered(t, d, "a", "k"); !ok {
		t.Error("forgotten too early")
	}
	c.pass(time.Second)
	if _, ok := remembered(t, d, "a", "k"); ok {
		t.Error("remembered too long")
	}
	if err := put("k", 2); err != nil {
		t.Errorf("used again after its time: %v", err)
	}
	if err := put("other", 2); err != nil {
		t.Fatal(err)
	}
	c.pass(25 * time.Hour)
	sweep(t, d)
	if n := d.Stats().Keys; n != 0 {
		t.Errorf("%d keys are left", n)
	}
	checkInvariants(t, d)
}

// Keys do not take more room than they may; a reading that is dropped for a
// limit's sake takes its key with it.
func TestKeysAreBounded(t *testing.T) {
	d := open(t, Options{MaxBytes: 300_000, WhenFull: DropOldest})
	for i := range 1500 {
		if _, err := tryAppend(t, d, numbered("a", i, 1), []bridge.Key{{Value: fmt.Sprint("key ", i)}}); err != nil {
			t.Fatal(err)
		}
	}
	s := d.Stats()
	if s.DroppedFull == 0 || s.Keys == 0 || d.use.keys.bytes > d.quarter() {
		t.Errorf("%+v, %d bytes of keys", s, d.use.keys.bytes)
	}
	if _, ok := remembered(t, d, "a", "key 0"); ok {
		t.Error("the key of a dropped reading is there")
	}
	if r, ok := remembered(t, d, "a", "key 1499"); !ok || !r.Waiting {
		t.Errorf("the newest key: %+v %v", r, ok)
	}
	checkInvariants(t, d)
}
