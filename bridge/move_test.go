package bridge_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

// movers is a rig with a second uplink, other.
func movers(t *testing.T, test func(t *testing.T, r *rig, other *bridgetest.Uplink)) {
	t.Helper()
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		other := &bridgetest.Uplink{}
		test(t, r, other)
		for _, m := range other.Misuse() {
			t.Error(m)
		}
	})
}

func (r *rig) change(t testing.TB, c bridge.Changes) {
	t.Helper()
	if err := r.Change(c); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) moveTo(t testing.TB, up *bridgetest.Uplink, ids ...bridge.DeviceID) {
	t.Helper()
	c := bridge.Changes{Connect: map[bridge.DeviceID]bridge.Connection{}}
	for _, id := range ids {
		c.Connect[id] = bridge.Connection{Uplink: up}
	}
	r.change(t, c)
}

// on pulls from an uplink what must be these readings.
func on(t testing.TB, up *bridgetest.Uplink, payloads ...string) (fs []*bridgetest.Flight) {
	t.Helper()
	synctest.Wait()
	for _, p := range payloads {
		f := up.Pull()
		if f == nil { // it is being read
			synctest.Wait()
			f = up.Pull()
		}
		if f == nil {
			t.Fatalf("nothing is sent, want %q", p)
		}
		if string(f.Reading.Payload) != p {
			t.Fatalf("%q is sent, want %q", f.Reading.Payload, p)
		}
		fs = append(fs, f)
		synctest.Wait()
	}
	return fs
}

func silent(t testing.TB, up *bridgetest.Uplink) {
	t.Helper()
	for range 2 {
		synctest.Wait()
		if f := up.Pull(); f != nil {
			t.Fatalf("%q is sent, want nothing", f.Reading.Payload)
		}
	}
}

// A link that fails concerns the devices that are there now, listed or not, and no
// others.
func TestLinkDownAfterMoves(t *testing.T) {
	movers(t, func(t *testing.T, r *rig, other *bridgetest.Uplink) {
		there := bridge.Connection{Uplink: other}
		r.change(t, bridge.Changes{Connect: map[bridge.DeviceID]bridge.Connection{"a": there, "new": there}, Others: &there})
		for _, id := range []bridge.DeviceID{"a", "b", "new", "guest"} {
			r.submit(t, id, "of "+string(id))
		}
		other.SetTrouble("the broker is away")
		r.LinkDown(other)
		synctest.Wait()
		found := map[string]bool{} // in any order: they are of different devices
		for _, s := range r.sp.Rows() {
			found[string(s.Payload)] = true
		}
		if len(found) != 3 || !found["of a"] || !found["of new"] || !found["of guest"] {
			t.Errorf("stored: %v", found)
		}
		r.down()
		synctest.Wait()
		if rows := r.sp.Rows(); len(rows) != 4 || string(rows[3].Payload) != "of b" {
			t.Errorf("%d are stored in the end", len(rows))
		}
	})
}

// What waits goes by the new uplink, behind what the old one has in flight.
func TestMoveWaitsForTheOldUplink(t *testing.T) {
	movers(t, func(t *testing.T, r *rig, other *bridgetest.Uplink) {
		r.submit(t, "a", "1", "2", "3")
		first := r.next(t, "1")
		second := r.next(t, "2")
		r.moveTo(t, other, "a")
		r.submit(t, "a", "4")
		silent(t, r.up)
		silent(t, other)
		second.Ack()
		silent(t, other)
		first.Ack()
		for _, f := range on(t, other, "3", "4") {
			f.Ack()
		}
		r.appends(t, 0)
		r.empty(t)
	})
}

// What the old uplink does not resolve in time, or loses, is sent again.
func TestMoveTakesBack(t *testing.T) {
	for name, end := range map[string]func(*rig){
		"lost":    func(r *rig) { r.up.Lose() },
		"in time": func(*rig) { time.Sleep(bridge.DefaultAckTimeout) },
	} {
		t.Run(name, func(t *testing.T) {
			movers(t, func(t *testing.T, r *rig, other *bridgetest.Uplink) {
				c := r.accept(t, reading("a", "1"))
				late := r.next(t, "1")
				r.moveTo(t, other, "a")
				silent(t, other)
				end(r)
				fs := on(t, other, "1")
				late.Refuse(0x99, "comes too late")
				fs[0].Ack()
				if a := answer(t, c); a.err != nil {
					t.Error(a.err)
				}
				r.empty(t)
			})
		})
	}
}

// An uplink in trouble is not waited for.
func TestMoveFromTrouble(t *testing.T) {
	movers(t, func(t *testing.T, r *rig, other *bridgetest.Uplink) {
		r.submit(t, "a", "1", "2")
		r.next(t, "1")
		r.down()
		r.submit(t, "a", "3")
		r.moveTo(t, other, "a")
		for _, f := range on(t, other, "1", "2", "3") {
			f.Ack()
		}
		r.up.Lose()
		r.empty(t)
	})
}

// A device that goes leaves nothing in memory and loses nothing, and its backlog
// comes before what is new when it is back.
func TestDeviceGoesAndComesBack(t *testing.T) {
	movers(t, func(t *testing.T, r *rig, other *bridgetest.Uplink) {
		c := r.accept(t, reading("a", "1"))
		synctest.Wait()
		r.submit(t, "a", "2")
		flying := r.next(t, "1")
		r.change(t, bridge.Changes{Disconnect: []bridge.DeviceID{"a"}})
		wantState(t, c, bridge.Spooled)
		r.held(t, 0)
		r.stored(t, "1", "2")
		if n := r.Visitors(); n != 0 {
			t.Errorf("%d lanes are left", n)
		}
		if r.Known("a") {
			t.Error("the device is known")
		}
		if err := r.Submit(t.Context(), reading("a", "x")); !errors.Is(err, bridge.ErrUnknownDevice) {
			t.Errorf("error %v", err)
		}
		if n, err := r.Recover(); n != 2 || err != nil {
			t.Errorf("%d strangers, %v; want 2", n, err)
		}
		flying.Ack() // is not believed any more: it is sent twice
		r.stored(t, "1", "2")
		r.moveTo(t, other, "a")
		r.submit(t, "a", "3")
		for _, p := range []string{"1", "2", "3"} {
			on(t, other, p)[0].Ack()
		}
		r.empty(t)
	})
}

// While the spool takes nothing, what nobody can be told about stays in memory,
// and is there when the device comes back.
func TestDeviceGoesWhileTheSpoolIsFull(t *testing.T) {
	movers(t, func(t *testing.T, r *rig, other *bridgetest.Uplink) {
		r.submit(t, "a", "1", "2")
		r.next(t, "1")
		r.sp.Fail(bridge.ErrSpoolFull)
		gone := bridge.Changes{Disconnect: []bridge.DeviceID{"a"}}
		r.change(t, gone)
		r.held(t, 2)
		r.moveTo(t, other, "a")
		on(t, other, "1")[0].Ack()
		r.change(t, gone)
		r.sp.Fail(nil)
		time.Sleep(bridge.DefaultAckTimeout)
		r.held(t, 0)
		r.stored(t, "2")
		r.up.Lose()
		r.moveTo(t, other, "a")
		on(t, other, "2")[0].Ack()
		r.empty(t)
	})
}

// Devices that are not listed come with "any", go with it, and keep their order
// when one of them is listed.
func TestOthersComeAndGo(t *testing.T) {
	movers(t, func(t *testing.T, r *rig, other *bridgetest.Uplink) {
		r.sp.Insert(reading("v", "1"))
		r.change(t, bridge.Changes{Others: &bridge.Connection{Uplink: other}})
		r.submit(t, "v", "2")
		f := on(t, other, "1")[0]
		r.change(t, bridge.Changes{
			Connect: map[bridge.DeviceID]bridge.Connection{"v": {Uplink: r.up}},
			Others:  &bridge.Connection{Uplink: other},
		})
		r.submit(t, "v", "3")
		silent(t, r.up)
		f.Ack()
		r.ack(t, "2", "3")
		// Unlisted again, it is one of the others.
		r.submit(t, "v", "4")
		g := r.next(t, "4")
		r.change(t, bridge.Changes{Disconnect: []bridge.DeviceID{"v"}, Others: &bridge.Connection{Uplink: other}})
		r.submit(t, "v", "5")
		silent(t, other)
		g.Ack()
		on(t, other, "5")
		r.change(t, bridge.Changes{})
		r.stored(t, "5")
		r.held(t, 0)
		if r.Known("v") || r.Visitors() != 0 {
			t.Error("something of the device is left")
		}
	})
}

func TestChangeWithoutSpool(t *testing.T) {
	movers(t, func(t *testing.T, r *rig, other *bridgetest.Uplink) {
		r.sp.FailReads(errDisk)
		err := r.Change(bridge.Changes{Disconnect: []bridge.DeviceID{"a"}, Others: &bridge.Connection{Uplink: other}})
		if !errors.Is(err, errDisk) {
			t.Errorf("error %v", err)
		}
		r.sp.FailReads(nil)
		if r.submit(t, "a", "1"); r.Known("v") {
			t.Error("something has changed")
		}
		r.ack(t, "1")
	})
}

// The limits of a connector count from the change on.
func TestChangeOfLimits(t *testing.T) {
	movers(t, func(t *testing.T, r *rig, _ *bridgetest.Uplink) {
		r.submit(t, "a", "123")
		f := r.next(t, "123")
		r.change(t, bridge.Changes{Connect: map[bridge.DeviceID]bridge.Connection{"a": {Uplink: r.up, MaxPayload: 2, SpoolFirst: true}}})
		if err := r.Submit(t.Context(), reading("a", "123")); !errors.Is(err, bridge.ErrTooLarge) {
			t.Errorf("error %v", err)
		}
		r.appends(t, 0)
		r.submit(t, "a", "4")
		r.appends(t, 1)
		f.Ack()
		r.ack(t, "4")
		r.empty(t)
	})
}

// Targets come, go and stay while downlinks are delivered.
func TestReroute(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		var one, two, three bridgetest.Deliverer
		first := bridge.Route{Target: "one", To: &one}
		second := bridge.Route{Filter: "x", Target: "two", To: &two}
		reroute := func(id bridge.DeviceID, rs ...bridge.Route) {
			t.Helper()
			if err := r.Reroute(map[bridge.DeviceID][]bridge.Route{id: rs}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		r.run()
		reroute("a", first)
		r.send("a", "x", "1")
		wantAttempts(t, &one, "1")
		reroute("a", first, second)
		r.send("a", "x", "2")
		wantAttempts(t, &one, "1", "2")
		wantAttempts(t, &two, "2")
		reroute("b", second)
		reroute("a", first)
		r.send("a", "x", "3")
		r.send("b", "x", "4")
		wantAttempts(t, &two, "2", "4")
		// Without a route the target is gone; what is stored for it waits.
		reroute("a")
		r.sp.AppendDownlinks([]bridge.StoredDownlink{{Target: "one", Downlink: downlink("a", "x", "5")}}, bridge.Origin{}, func(error) {})
		synctest.Wait()
		wantAttempts(t, &one, "1", "2", "3")
		reroute("a", first)
		wantAttempts(t, &one, "1", "2", "3", "5")
		// A mistake changes nothing.
		for _, bad := range []bridge.Route{{Filter: "#/x", Target: "three", To: &three}, {Target: "one", To: &three}} {
			if err := r.Reroute(map[bridge.DeviceID][]bridge.Route{"c": {bad}}); err == nil {
				t.Error("a mistake was taken")
			}
		}
		r.send("a", "x", "6")
		wantAttempts(t, &one, "1", "2", "3", "5", "6")
		r.stop()
	})
}

// A target that goes in the middle of an attempt lets go of it.
func TestRerouteDuringAnAttempt(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		stuck := stuckTarget{began: make(chan struct{}, 2), ended: make(chan struct{}, 2)}
		to := bridge.Route{Target: "stuck", To: stuck}
		if err := r.Reroute(map[bridge.DeviceID][]bridge.Route{"a": {to}}); err != nil {
			t.Fatal(err)
		}
		r.run()
		r.send("a", "x", "1")
		<-stuck.began
		if err := r.Reroute(map[bridge.DeviceID][]bridge.Route{"a": nil}); err != nil {
			t.Fatal(err)
		}
		<-stuck.ended
		if n := len(r.sp.StoredDownlinks()); n != 1 {
			t.Errorf("%d downlinks are stored, want 1", n)
		}
		if err := r.Reroute(map[bridge.DeviceID][]bridge.Route{"a": {to}}); err != nil {
			t.Fatal(err)
		}
		<-stuck.began
		r.stop()
	})
}

// stuckTarget takes no end before its context does.
type stuckTarget struct{ began, ended chan struct{} }

func (s stuckTarget) Deliver(ctx context.Context, _ bridge.Downlink) (*bridge.Answer, error) {
	s.began <- struct{}{}
	<-ctx.Done()
	s.ended <- struct{}{}
	return nil, ctx.Err()
}
