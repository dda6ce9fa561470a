package bridge_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

func (m *mailroom) reroute(id bridge.DeviceID, rs ...bridge.Route) {
	m.t.Helper()
	if err := m.Reroute(map[bridge.DeviceID][]bridge.Route{id: rs}); err != nil {
		m.t.Fatal(err)
	}
}

func stirred(changed <-chan struct{}) bool {
	synctest.Wait()
	select {
	case <-changed:
		return true
	default:
		return false
	}
}

func TestMailboxDeleteOfExpired(t *testing.T) {
	boxed(t, bridge.Options{}, func(t *testing.T, m *mailroom) { // nothing expires: Run does not run
		d := downlink("a", "", "1")
		d.Expires = time.Now().Add(time.Second)
		m.Downlink(d, bridge.Origin{}, func() {})
		time.Sleep(time.Minute)
		m.holds()
		m.delete("1", nil, true)
		m.leftAs("1 <nil>")
		m.left()
	})
}

func TestMailboxDeleteWithAnswer(t *testing.T) {
	boxed(t, bridge.Options{}, func(t *testing.T, m *mailroom) {
		m.down() // so that answers stay where they can be counted
		for _, id := range []string{"asks", "asks too", "does not ask"} {
			d := downlink("a", "", id)
			if id != "does not ask" {
				d.ResponseTopic, d.CorrelationData = "answers", []byte(id)
			}
			m.Downlink(d, bridge.Origin{}, func() {})
		}
		synctest.Wait()
		answer := &bridge.Answer{Payload: []byte("done"), ContentType: "text/plain"}
		answers := func(want ...string) {
			t.Helper()
			var got []string
			for _, s := range m.sp.Rows() {
				if s.ResponseTopic != "answers" || string(s.Payload) != "done" || s.ContentType != "text/plain" {
					t.Errorf("stored %+v", s)
				}
				got = append(got, string(s.CorrelationData))
			}
			if !slices.Equal(got, want) {
				t.Errorf("answers to %q, want %q", got, want)
			}
		}
		m.sp.KeepDownlinks(errDisk)
		if ok, err := m.box.Delete(t.Context(), "asks", answer); ok || !errors.Is(err, errDisk) {
			t.Errorf("with a store that fails: %v, %v", ok, err)
		}
		m.holds("asks", "asks too", "does not ask")
		m.leftAs()
		m.sp.KeepDownlinks(nil)
		answers("asks")
		m.delete("asks", answer, true)
		answers("asks", "asks") // better twice than never
		m.delete("asks", answer, false)
		m.delete("asks too", nil, true)
		m.delete("does not ask", answer, true)
		m.delete("nobody", answer, false)
		answers("asks", "asks")
		m.holds()
		m.leftAs("asks <nil>", "asks too <nil>", "does not ask <nil>")
		if c := m.Counts(); c.Answers != 2 {
			t.Errorf("%d answers are counted", c.Answers)
		}
	})
}

func TestMailboxDeleteWithoutRoom(t *testing.T) {
	boxed(t, bridge.Options{}, func(t *testing.T, m *mailroom) {
		m.down()
		d := downlink("a", "", "1")
		d.ResponseTopic = "answers"
		m.Downlink(d, bridge.Origin{}, func() {})
		synctest.Wait()
		m.sp.Fail(bridge.ErrSpoolFull)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if ok, err := m.box.Delete(ctx, "1", &bridge.Answer{Payload: []byte("x")}); ok || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without room: %v, %v", ok, err)
		}
		m.sp.Fail(nil)
		m.holds("1")
		m.leftAs()
		m.delete("1", &bridge.Answer{Payload: []byte("x")}, true)
		if n := len(m.sp.Rows()); n != 1 {
			t.Errorf("%d answers are stored", n)
		}
	})
}

func TestMailboxDeletesAtOnce(t *testing.T) {
	boxed(t, bridge.Options{}, func(t *testing.T, m *mailroom) {
		m.down()
		d := downlink("a", "", "1")
		d.ResponseTopic = "answers"
		m.Downlink(d, bridge.Origin{}, func() {})
		synctest.Wait()
		m.sp.Manual = true
		type result struct {
			ok  bool
			err error
		}
		results := make(chan result, 5)
		for range 5 {
			go func() {
				ok, err := m.box.Delete(t.Context(), "1", &bridge.Answer{Payload: []byte("x")})
				results <- result{ok, err}
			}()
		}
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if ok, err := m.box.Delete(short, "1", nil); ok || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("out of turn: %v, %v", ok, err)
		}
		m.commit()
		done := 0
		for range 5 {
			r := <-results
			if r.err != nil {
				t.Error(r.err)
			}
			if r.ok {
				done++
			}
		}
		if n := len(m.sp.Rows()); done != 1 || n != 1 {
			t.Errorf("%d have deleted it, with %d answers", done, n)
		}
		m.leftAs("1 <nil>")
	})
}

func TestMailboxReadErrors(t *testing.T) {
	boxed(t, bridge.Options{}, func(t *testing.T, m *mailroom) {
		m.send("a", "", "1")
		synctest.Wait()
		m.sp.FailReads(errDisk)
		if _, _, err := m.box.Fetch(t.Context(), 0, 1, 1); !errors.Is(err, errDisk) {
			t.Errorf("fetch: %v", err)
		}
		if _, _, err := m.box.Find(t.Context(), "1"); !errors.Is(err, errDisk) {
			t.Errorf("find: %v", err)
		}
		if ok, err := m.box.Delete(t.Context(), "1", nil); ok || !errors.Is(err, errDisk) {
			t.Errorf("delete: %v, %v", ok, err)
		}
		m.sp.FailReads(nil)
		m.delete("1", nil, true) // the turn was given back
		m.sp.ManualLoads = true
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := m.box.Fetch(ctx, 0, 1, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("fetch from a store that hangs: %v", err)
		}
		m.sp.Release()
	})
}

func TestMailboxTakenAway(t *testing.T) {
	boxed(t, bridge.Options{}, func(t *testing.T, m *mailroom) {
		m.run()
		defer m.stop()
		waits := m.box.Changed()
		m.send("a", "", "1")
		if !stirred(waits) {
			t.Error("a downlink wakes nobody")
		}
		waits = m.box.Changed()
		m.reroute("b", bridge.Route{})
		m.reroute("a", bridge.Route{Filter: "x/#"}, bridge.Route{Filter: "y"})
		if stirred(waits) || m.mailbox("a") != m.box {
			t.Error("another mailbox for other routes to it")
		}
		m.reroute("a")
		if !stirred(waits) {
			t.Error("who waits does not learn that the mailbox is gone")
		}
		if _, err := m.Mailbox("a"); !errors.Is(err, bridge.ErrNoMailbox) {
			t.Errorf("error %v", err)
		}
		m.left("1")
		d := downlink("a", "", "dropped") // without a route
		m.Downlink(d, bridge.Origin{}, func() {})
		m.left("1")

		before := m.box
		m.reroute("a", bridge.Route{})
		if m.box = m.mailbox("a"); m.box == before {
			t.Error("the same mailbox, which nobody wakes")
		}
		m.holds("1")
		d.ID, d.Expires = "2", time.Now().Add(time.Minute)
		m.Downlink(d, bridge.Origin{}, func() {})
		m.holds("1", "2")
		m.reroute("a")
		time.Sleep(time.Hour)
		m.left("1", "2") // nobody looks after them
		m.leftAs()
		// An app that has a downlink may delete it all the same.
		m.delete("1", nil, true)
		m.leftAs("1 <nil>")
		m.reroute("a", bridge.Route{})
		m.box = m.mailbox("a")
		m.holds()
		time.Sleep(time.Second)
		m.left()
		m.leftAs("2 expired")
	})
}

func TestMailboxOfADeviceThatGoes(t *testing.T) {
	boxed(t, bridge.Options{}, func(t *testing.T, m *mailroom) {
		m.send("a", "", "1")
		synctest.Wait()
		waits := m.box.Changed()
		m.change(t, bridge.Changes{Disconnect: []bridge.DeviceID{"a"}})
		m.reroute("a")
		if !stirred(waits) {
			t.Error("who waits does not learn that the device is gone")
		}
		if _, err := m.Mailbox("a"); !errors.Is(err, bridge.ErrUnknownDevice) {
			t.Errorf("error %v", err)
		}
		m.change(t, bridge.Changes{Connect: map[bridge.DeviceID]bridge.Connection{"a": {Uplink: m.up}}})
		m.reroute("a", bridge.Route{})
		m.box = m.mailbox("a")
		m.holds("1")
	})
}
