package bridge_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

func openBubble(t *testing.T, test func(t *testing.T, r *rig)) {
	t.Helper()
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.ConnectOthers(bridge.Connection{Uplink: r.up, MaxPayload: 8})
		test(t, r)
		r.empty(t)
		if n := r.Visitors(); n != 0 {
			t.Errorf("%d lanes are left", n)
		}
	})
}

func visitor(i int) bridge.DeviceID { return bridge.DeviceID(fmt.Sprint("v", i)) }

// ackAll acknowledges in the order of sending until nothing is left.
func (r *rig) ackAll() (sent []string) {
	for {
		synctest.Wait()
		f := r.up.Pull()
		if f == nil {
			synctest.Wait()
			if f = r.up.Pull(); f == nil {
				return sent
			}
		}
		sent = append(sent, string(f.Reading.Payload))
		f.Ack()
	}
}

func TestOthersLeaveNothingBehind(t *testing.T) {
	openBubble(t, func(t *testing.T, r *rig) {
		if !r.Known("anything") {
			t.Error("an unlisted device is not known")
		}
		for i := range 100 {
			r.submit(t, visitor(i), "1", "2")
			if err := r.Submit(t.Context(), reading(visitor(i), "too large")); !errors.Is(err, bridge.ErrTooLarge) {
				t.Errorf("error %v", err)
			}
		}
		if n := r.Visitors(); n != 100 {
			t.Errorf("%d lanes, want 100", n)
		}
		for r.up.Pull() != nil {
		}
		r.up.Lose()
		r.ackAll()
		r.appends(t, 0)
	})
}

// Lanes with a backlog are kept until it is drained, over all that can happen.
func TestOthersWithBacklog(t *testing.T) {
	openBubble(t, func(t *testing.T, r *rig) {
		for i := range 20 {
			r.submit(t, visitor(i), "1")
		}
		for range 10 {
			r.up.Pull()
		}
		r.down()
		for i := range 20 {
			r.submit(t, visitor(i), "2")
			wantState(t, r.accept(t, reading(visitor(i), "3")), bridge.Spooled)
		}
		r.up.Lose()
		r.held(t, 10) // those that were in flight
		if n := r.Visitors(); n != 20 {
			t.Errorf("%d lanes, want 20", n)
		}
		r.up.SetTrouble("")
		seen := map[bridge.DeviceID]string{}
		for range 60 {
			f := r.any(t)
			seen[f.Reading.Device] += string(f.Reading.Payload)
			f.Ack()
		}
		for id, s := range seen {
			if s != "123" {
				t.Errorf("%s: sent %q", id, s)
			}
		}
	})
}

func TestOthersAfterRestart(t *testing.T) {
	openBubble(t, func(t *testing.T, r *rig) {
		for i := range 30 {
			r.sp.Insert(reading(visitor(i%3), fmt.Sprint(i)))
		}
		r.sp.Insert(reading("v99", "gone"))
		if n, err := r.Recover(); n != 0 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		if n := r.Visitors(); n != 4 {
			t.Errorf("%d lanes, want 4", n)
		}
		if err := r.CheckLanes(); err != nil {
			t.Error(err)
		}
		if sent := r.ackAll(); len(sent) != 31 {
			t.Errorf("%d sent, want 31", len(sent))
		}
	})
}

// What the spool dropped meanwhile, or could not be read at once, leaves no lane
// behind.
func TestOthersWhoseBacklogVanishes(t *testing.T) {
	openBubble(t, func(t *testing.T, r *rig) {
		for i := range 10 {
			r.sp.Insert(reading(visitor(i), "1"))
		}
		if _, err := r.Recover(); err != nil {
			t.Fatal(err)
		}
		r.sp.DropOldest(9)
		r.sp.FailReads(errDisk)
		r.nothing(t)
		r.sp.FailReads(nil)
		time.Sleep(bridge.LoadRetry)
		r.ack(t, "1")
	})
}

func TestOthersAreBounded(t *testing.T) {
	openBubble(t, func(t *testing.T, r *rig) {
		for i := range bridge.MaxVisitors {
			r.submit(t, visitor(i), "1")
		}
		var ue *bridge.UnavailableError
		if err := r.Submit(t.Context(), reading("one more", "1")); !errors.As(err, &ue) {
			t.Errorf("error %v, want an *UnavailableError", err)
		}
		r.submit(t, "v0", "2")
		r.submit(t, "a", "3")
		// What is stored already is always let in.
		r.sp.Insert(reading("stored", "4"))
		if n, err := r.Recover(); n != 0 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		if n := len(r.ackAll()); n != bridge.MaxVisitors+3 {
			t.Errorf("%d sent", n)
		}
		r.submit(t, "one more", "5")
		r.ack(t, "5")
	})
}
