package spool

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"fieldbridge/bridge"
)

func downlink(target string, n int) bridge.StoredDownlink {
	at := time.Date(2026, 5, 6, 7, 8, 9, n, time.UTC)
	return bridge.StoredDownlink{Target: target, Downlink: bridge.Downlink{
		ID: fmt.Sprint("id-", n), Device: "a", Subtopic: "/valve//1", ContentType: "text/plain", Payload: fmt.Append(nil, "open ", n),
		ResponseTopic: "answer", CorrelationData: []byte{0, byte(n)}, Expires: at.Add(time.Hour), Received: at}}
}

func TestDownlinks(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Dir: dir})
	for n := range 5 {
		if err := appendDownlinks(t, d, bridge.Origin{Session: "s", PacketID: uint16(n)}, downlink("scale", n), downlink("hook", n)); err != nil {
			t.Fatal(err)
		}
	}
	checkInvariants(t, d)
	shut(t, d)
	d = open(t, Options{Dir: dir})
	checkInvariants(t, d)
	for _, target := range []string{"scale", "hook"} {
		list := loadDownlinks(t, d, target, 0, 100)
		for n, got := range list {
			want := downlink(target, n)
			want.Seq = got.Seq
			diff(t, target, got, want)
			if n > 0 && got.Seq <= list[n-1].Seq {
				t.Errorf("seq %d after %d", got.Seq, list[n-1].Seq)
			}
		}
		if len(list) != 5 {
			t.Fatalf("%d downlinks of %s", len(list), target)
		}
		if page := loadDownlinks(t, d, target, list[1].Seq, 2); len(page) != 2 || page[0].Seq != list[2].Seq || page[1].Seq != list[3].Seq {
			t.Errorf("a page: %v", page)
		}
	}
	if list := loadDownlinks(t, d, "nobody", 0, 10); len(list) != 0 {
		t.Errorf("of an unknown target: %v", list)
	}

	list := loadDownlinks(t, d, "scale", 0, 100)
	d.DeleteDownlink(list[0].Seq, nil)
	d.TriedDownlink(list[1].Seq, 7)
	d.TriedDownlink(list[0].Seq, 7) // gone: ignored
	c := make(chan error, 1)
	d.BuryDownlink(list[2].Seq, bridge.Epitaph{Reason: "expired"}, func(err error) { c <- err })
	if err := wait(t, c); err != nil {
		t.Fatal(err)
	}
	d.BuryDownlink(1<<40, bridge.Epitaph{}, func(err error) { c <- err })
	if err := wait(t, c); err != nil {
		t.Errorf("bury what is not there: %v", err)
	}
	list[1].Tries = 7
	diff(t, "left", loadDownlinks(t, d, "scale", 0, 100), []bridge.StoredDownlink{list[1], list[3], list[4]})
	dead, err := d.DeadLetters(0, 10)
	if err != nil || len(dead) != 1 {
		t.Fatal(dead, err)
	}
	diff(t, "dead letter", dead[0].Downlink, list[2])
	if dead[0].Kind != KindDownlink || dead[0].Reason != "expired" {
		t.Errorf("%+v", dead[0])
	}
	checkInvariants(t, d)

	// Back into the queue, as the newest one.
	if err := d.Retry([]int64{dead[0].No}); err != nil {
		t.Fatal(err)
	}
	back := loadDownlinks(t, d, "scale", list[4].Seq, 10)
	if len(back) != 1 || back[0].ID != list[2].ID {
		t.Errorf("retried: %v", back)
	}
	if s := d.Stats(); s.Downlinks != 9 || s.DeadDownlinks != 0 {
		t.Errorf("%+v", s)
	}
	checkInvariants(t, d)
}

func TestOrigins(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Dir: dir})
	seen := func(o bridge.Origin) bool {
		t.Helper()
		ok, err := d.SeenDownlink(o)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	o := bridge.Origin{Session: "s", PacketID: 7, Digest: [32]byte{1}}
	if seen(o) {
		t.Error("seen before it came")
	}
	if err := appendDownlinks(t, d, o, downlink("scale", 1)); err != nil {
		t.Fatal(err)
	}
	shut(t, d)
	d = open(t, Options{Dir: dir})
	if !seen(o) {
		t.Error("not seen after a restart")
	}
	for _, other := range []bridge.Origin{{Session: "s", PacketID: 8, Digest: o.Digest}, {Session: "t", PacketID: 7, Digest: o.Digest}, {Session: "s", PacketID: 7, Digest: [32]byte{2}}} {
		if seen(other) {
			t.Errorf("%v was seen", other)
		}
	}
	// Its packet id with another message takes its place.
	next := bridge.Origin{Session: "s", PacketID: 7, Digest: [32]byte{2}}
	if err := appendDownlinks(t, d, next); err != nil {
		t.Fatal(err)
	}
	if seen(o) || !seen(next) {
		t.Error("the packet id still has the old message")
	}
	d.DownlinkAcked("s", 7)
	flush(t, d)
	if seen(next) {
		t.Error("seen after it was acknowledged")
	}
	for id := range uint16(5) {
		if err := appendDownlinks(t, d, bridge.Origin{Session: "s", PacketID: id}); err != nil {
			t.Fatal(err)
		}
	}
	d.SessionLost("s")
	flush(t, d)
	if seen(bridge.Origin{Session: "s", PacketID: 3}) {
		t.Error("seen after the session was lost")
	}
}

func TestDownlinksAreBounded(t *testing.T) {
	d := open(t, Options{MaxBytes: 400_000})
	big := downlink("scale", 1)
	big.Payload = make([]byte, 10_000)
	for n := range 20 {
		err := appendDownlinks(t, d, bridge.Origin{Session: "s", PacketID: uint16(n)}, big)
		if n < 9 && err != nil || n > 9 && !errors.Is(err, bridge.ErrSpoolFull) {
			t.Errorf("downlink %d: %v", n, err)
		}
	}
	checkInvariants(t, d)
}

func TestDamagedDownlink(t *testing.T) {
	d := open(t, Options{})
	for n := range 3 {
		if err := appendDownlinks(t, d, bridge.Origin{}, downlink("scale", n)); err != nil {
			t.Fatal(err)
		}
	}
	list := loadDownlinks(t, d, "scale", 0, 10)
	err := d.do(func(t *tx) error {
		return t.c.exec("UPDATE downlinks SET payload = 'shut' WHERE seq = ?", list[1].Seq)
	})
	if err != nil {
		t.Fatal(err)
	}
	diff(t, "left", loadDownlinks(t, d, "scale", 0, 10), []bridge.StoredDownlink{list[0], list[2]})
	flush(t, d)
	if s := d.Stats(); s.Damaged != 1 || s.Downlinks != 2 {
		t.Errorf("%+v", s)
	}
}

// TestDownlinksOf counts by the names of targets and knows the oldest of each.
func TestDownlinksOf(t *testing.T) {
	dir := t.TempDir()
	d := open(t, Options{Dir: dir})
	of := func(prefix string) map[string]Waiting {
		t.Helper()
		got, err := d.DownlinksOf(prefix)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	diff(t, "nothing", of("box "), map[string]Waiting{})
	for n, target := range []string{"box b", "box a", "box", "box!", "boxes", "Box a", "box a", "box \U0010FFFFz", "box a", "box "} {
		if err := appendDownlinks(t, d, bridge.Origin{Session: "s", PacketID: uint16(n)}, downlink(target, n)); err != nil {
			t.Fatal(err)
		}
	}
	at := func(n int) time.Time { return downlink("", n).Received }
	want := map[string]Waiting{"box a": {3, at(1)}, "box b": {1, at(0)}, "box \U0010FFFFz": {1, at(7)}, "box ": {1, at(9)}}
	diff(t, "of boxes", of("box "), want)
	shut(t, d)
	d = open(t, Options{Dir: dir})
	diff(t, "after a restart", of("box "), want)
	c := make(chan error, 1)
	for _, target := range []string{"box a", "box b"} {
		d.DeleteDownlink(loadDownlinks(t, d, target, 0, 1)[0].Seq, func(err error) { c <- err })
		if err := wait(t, c); err != nil {
			t.Fatal(err)
		}
	}
	want["box a"] = Waiting{2, at(6)}
	delete(want, "box b")
	diff(t, "after a delete of each", of("box "), want)
}
