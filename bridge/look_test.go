package bridge_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

// took collects what Options.Published is told.
type took struct{ all []time.Duration }

func (k *took) published(d time.Duration) { k.all = append(k.all, d) }

func (k *took) want(t *testing.T, want ...time.Duration) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(k.all, want) {
		t.Errorf("published after %v, want %v", k.all, want)
	}
}

func TestPublishedTellsHowLongEachReadingTook(t *testing.T) {
	var k took
	bubble(t, bridge.Options{AckTimeout: time.Second, Published: k.published}, func(t *testing.T, r *rig) {
		// One whose sender waits, one whose sender does not.
		got := r.accept(t, reading("a", "1"))
		f := r.next(t, "1")
		time.Sleep(10 * time.Millisecond)
		f.Ack()
		wantState(t, got, bridge.Delivered)
		r.submit(t, "a", "2")
		f = r.next(t, "2")
		time.Sleep(20 * time.Millisecond)
		f.Ack()
		k.want(t, 10*time.Millisecond, 20*time.Millisecond)

		// A PUBACK so late that the reading is in the spool by then.
		got = r.accept(t, reading("a", "3"))
		f = r.next(t, "3")
		time.Sleep(3 * time.Second)
		wantState(t, got, bridge.Spooled)
		f.Ack()
		k.want(t, 10*time.Millisecond, 20*time.Millisecond, 3*time.Second)
		r.empty(t)

		// Spooled first, as with durability "always".
		r.submit(t, "s", "4")
		f = r.next(t, "4")
		time.Sleep(30 * time.Millisecond)
		f.Ack()
		k.want(t, 10*time.Millisecond, 20*time.Millisecond, 3*time.Second, 30*time.Millisecond)

		// What was refused was not published; what was put off counts from its coming.
		r.submit(t, "a", "5")
		r.next(t, "5").Refuse(0x99, "payload format invalid")
		r.submit(t, "a", "6")
		r.next(t, "6").Retry(0x97, 5)
		began := time.Now()
		r.next(t, "6").Ack()
		k.want(t, 10*time.Millisecond, 20*time.Millisecond, 3*time.Second, 30*time.Millisecond, time.Since(began))
	})
}

func TestPublishedKnowsNothingOfWhatOnlyTheSpoolHad(t *testing.T) {
	var k took
	o := bridge.Options{AckTimeout: time.Second, Published: k.published}
	bubble(t, o, func(t *testing.T, r *rig) {
		r.down()
		r.submit(t, "a", "1", "2")
		synctest.Wait()
		time.Sleep(time.Hour)
		r = r.restart(t, o)
		r.ack(t, "1", "2")
		k.want(t)
		r.submit(t, "a", "3")
		r.ack(t, "3")
		k.want(t, 0)
	})
}

func TestLook(t *testing.T) {
	bubble(t, bridge.Options{AckTimeout: time.Second}, func(t *testing.T, r *rig) {
		look := func(id bridge.DeviceID) bridge.Device {
			t.Helper()
			synctest.Wait()
			d, ok := r.Look(id)
			if !ok {
				t.Fatalf("%s is not known", id)
			}
			return d
		}
		if d := look("a"); d != (bridge.Device{}) {
			t.Errorf("at first: %+v", d)
		}
		if _, ok := r.Look("nobody"); ok {
			t.Error("a device is known that is not connected")
		}
		came := time.Now()
		r.submit(t, "a", "1", "2")
		if d := look("a"); d.Memory != 2 || !d.LastReading.Equal(came) || d.LastError != "" {
			t.Errorf("two in memory: %+v", d)
		}
		r.next(t, "1").Refuse(0x99, "payload format invalid")
		r.ack(t, "2")
		if d := look("a"); d.Memory != 0 || !d.LastErrorAt.Equal(came) ||
			d.LastError != "refused by the broker with reason code 0x99 (payload format invalid)" {
			t.Errorf("after a refusal: %+v", d)
		}
		if d := look("b"); d.LastError != "" || !d.LastReading.IsZero() {
			t.Errorf("another device: %+v", d)
		}
		time.Sleep(time.Minute)
		r.submit(t, "a", "3")
		f := r.next(t, "3")
		f.Retry(0x97, 5)
		if d := look("a"); !strings.HasPrefix(d.LastError, "put off by the broker with reason code 0x97") || !d.LastErrorAt.Equal(came.Add(time.Minute)) {
			t.Errorf("after one that was put off: %+v", d)
		}
		r.ack(t, "3")
		r.sp.Fail(errors.New("no disk"))
		r.submit(t, "s", "4")
		if d := look("s"); d.LastError != "dropped: no disk" {
			t.Errorf("without a disk: %+v", d)
		}
	})
}

func TestLookAtDevicesThatAreNotListed(t *testing.T) {
	bubble(t, bridge.Options{AckTimeout: time.Second}, func(t *testing.T, r *rig) {
		r.ConnectOthers(bridge.Connection{Uplink: r.up})
		if d, ok := r.Look("guest"); !ok || d != (bridge.Device{}) {
			t.Errorf("%v %+v", ok, d)
		}
		r.submit(t, "guest", "1")
		if d, _ := r.Look("guest"); d.Memory != 1 {
			t.Errorf("%+v", d)
		}
		r.ack(t, "1")
	})
}

// The observer is called for each reading.
func BenchmarkPublished(b *testing.B) {
	for name, f := range map[string]func(time.Duration){"off": nil, "on": func(time.Duration) {}} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, bridge.Options{Published: f})
			b.ReportAllocs()
			for b.Loop() {
				r.submit(b, "a", "1")
				r.up.Pull().Ack()
			}
		})
	}
}
