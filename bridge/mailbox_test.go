package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

// mailroom is a router with a mailbox for a, of which it notes what leaves.
type mailroom struct {
	*router
	box *bridge.Mailbox

	mu   sync.Mutex // guards gone
	gone []string   // ids, with why behind them
}

func boxed(t *testing.T, o bridge.Options, test func(t *testing.T, m *mailroom)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &mailroom{}
		o.Fetched = func(d *bridge.Downlink, why error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.gone = append(m.gone, fmt.Sprint(d.ID, " ", why))
		}
		m.router = &router{t: t, rig: newRig(t, o)}
		m.route("a", "", "", nil)
		m.box = m.mailbox("a")
		test(t, m)
	})
}

func (m *mailroom) mailbox(id bridge.DeviceID) *bridge.Mailbox {
	m.t.Helper()
	box, err := m.Mailbox(id)
	if err != nil {
		m.t.Fatal(err)
	}
	return box
}

func (m *mailroom) fetch(after int64, limit, maxBytes int) (ids []string, last int64, more bool) {
	m.t.Helper()
	page, more, err := m.box.Fetch(m.t.Context(), after, limit, maxBytes)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, d := range page {
		ids, last = append(ids, d.ID), d.Seq
	}
	return ids, last, more
}

// holds checks what the mailbox gives out.
func (m *mailroom) holds(want ...string) {
	m.t.Helper()
	synctest.Wait()
	if got, _, more := m.fetch(0, 1000, 1<<20); !slices.Equal(got, want) || more {
		m.t.Errorf("the mailbox gives %q (more: %v), want %q", got, more, want)
	}
}

// leftAs checks what has left the mailbox since the last call.
func (m *mailroom) leftAs(want ...string) {
	m.t.Helper()
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !slices.Equal(m.gone, want) {
		m.t.Errorf("left: %q, want %q", m.gone, want)
	}
	m.gone = nil
}

func (m *mailroom) delete(id string, answer *bridge.Answer, want bool) {
	m.t.Helper()
	ok, err := m.box.Delete(m.t.Context(), id, answer)
	if err != nil || ok != want {
		m.t.Errorf("delete %s: %v, %v, want %v", id, ok, err, want)
	}
}

func (m *mailroom) reroute(id bridge.DeviceID, rs ...bridge.Route) {
	m.t.Helper()
	if err := m.Reroute(map[bridge.DeviceID][]bridge.Route{id: rs}); err != nil {
		m.t.Fatal(err)
	}
}

// stirred reports whether a channel of Changed is closed.
func stirred(changed <-chan struct{}) bool {
	synctest.Wait()
	select {
	case <-changed:
		return true
	default:
		return false
	}
}

func TestMailboxFetchLimits(t *testing.T) {
	boxed(t, bridge.Options{}, func(t *testing.T, m *mailroom) {
		// More than are read from the store at once.
		all := numbers(40)
		for _, n := range all {
			m.send("a", "x", n)
		}
		m.send("b", "x", "of another device, without a route")
		m.holds(all...)
		for _, c := range []struct {
			limit int
			want  []string
			more  bool
		}{
			{1, all[:1], true}, {16, all[:16], true}, {17, all[:17], true}, {39, all[:39], true}, {40, all, false}, {41, all, false},
		} {
			if got, _, more := m.fetch(0, c.limit, 1<<20); !slices.Equal(got, c.want) || more != c.more {
				t.Errorf("limit %d: %d, more %v", c.limit, len(got), more)
			}
		}
		var pages []string
		for after, more := int64(0), true; more; {
			var page []string
			page, after, more = m.fetch(after, 7, 1<<20)
			pages = append(pages, page...)
		}
		if !slices.Equal(pages, all) {
			t.Errorf("page by page: %q", pages)
		}
		if got, _, more := m.fetch(1<<40, 10, 1<<20); got != nil || more {
			t.Errorf("behind the last: %q, %v", got, more)
		}
		m.holds(all...) // fetching changes nothing
	})
}

func TestMailboxFetchBytes(t *testing.T) {
	boxed(t, bridge.Options{}, func(t *testing.T, m *mailroom) {
		for _, id := range []string{"large", "a", "b", "c"} {
			d := downlink("a", "", id)
			d.Payload = []byte(strings.Repeat("x", 60))
			if id == "large" {
				d.Payload = []byte(strings.Repeat("x", 1000))
			}
			d.CorrelationData = []byte(strings.Repeat("c", 40)) // counts
			m.Downlink(d, bridge.Origin{}, func() {})
		}
		synctest.Wait()
		_, large, _ := m.fetch(0, 1, 1)
		for _, c := range []struct {
			after    int64
			maxBytes int
			want     []string
			more     bool
		}{
			{0, 1, []string{"large"}, true}, {0, 1040, []string{"large"}, true}, {0, 1140, []string{"large", "a"}, true},
			{large, 99, []string{"a"}, true}, {large, 199, []string{"a"}, true}, {large, 200, []string{"a", "b"}, true},
			{large, 300, []string{"a", "b", "c"}, false},
		} {
			if got, _, more := m.fetch(c.after, 10, c.maxBytes); !slices.Equal(got, c.want) || more != c.more {
				t.Errorf("%d bytes behind %d: %q, more %v, want %q, %v", c.maxBytes, c.after, got, more, c.want, c.more)
			}
		}
	})
}

// What has expired is not given out any more, and is a dead letter a second later.
func TestMailboxExpiry(t *testing.T) {
	boxed(t, bridge.Options{Delivery: bridge.DeliveryPolicy{MaxAge: time.Hour}}, func(t *testing.T, m *mailroom) {
		m.run()
		defer m.stop()
		synctest.Wait() // the first look finds nothing
		m.send("a", "", "max age")
		d := downlink("a", "", "own expiry")
		d.Expires = time.Now().Add(time.Minute)
		m.Downlink(d, bridge.Origin{}, func() {})
		d.ID, d.Expires = "late", time.Now().Add(2*time.Hour)
		m.Downlink(d, bridge.Origin{}, func() {})
		m.holds("max age", "own expiry", "late")
		time.Sleep(time.Minute - time.Nanosecond)
		m.holds("max age", "own expiry", "late")
		time.Sleep(time.Nanosecond)
		m.holds("max age", "late")
		time.Sleep(time.Second)
		m.left("max age", "late")
		m.leftAs("own expiry expired")
		// An app that has it already is in time until then, not later.
		m.delete("own expiry", nil, false)
		// Less time for all.
		m.Tune(0, time.Minute+30*time.Second)
		time.Sleep(30 * time.Second)
		m.left("late")
		m.leftAs("max age expired")
		time.Sleep(2 * time.Hour)
		m.left()
		m.leftAs("late expired")
		var dead []string
		for _, d := range m.sp.Dead() {
			dead = append(dead, d.Downlink.ID+" "+d.Epitaph.Reason)
		}
		if want := []string{"own expiry expired", "max age expired", "late expired"}; !slices.Equal(dead, want) {
			t.Errorf("dead letters %q, want %q", dead, want)
		}
	})
}

// An app that deletes what has expired is in time as long as it is there.
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

// While no dead letter can be written, what has expired stays where it is, one
// line says so, and it is tried again.
func TestMailboxExpiryWithAFullDisk(t *testing.T) {
	boxed(t, bridge.Options{}, func(t *testing.T, m *mailroom) {
		m.run()
		defer m.stop()
		for _, n := range []string{"1", "2", "3"} {
			d := downlink("a", "", n)
			d.Expires = time.Now().Add(time.Minute)
			m.Downlink(d, bridge.Origin{}, func() {})
		}
		m.sp.KeepDownlinks(errDisk)
		time.Sleep(time.Minute + time.Second)
		m.left("1", "2", "3")
		m.leftAs()
		if n := strings.Count(m.log.String(), "cannot be made dead letters"); n != 1 {
			t.Errorf("%d lines, want 1:\n%s", n, m.log.String())
		}
		if strings.Contains(m.log.String(), "now a dead letter") {
			t.Error("the log says that they are dead letters")
		}
		m.sp.KeepDownlinks(nil)
		time.Sleep(bridge.StoreRetry + time.Second)
		m.left()
		m.leftAs("1 expired", "2 expired", "3 expired")
	})
}

// The answer is safe before its downlink goes, and a store that does not let the
// downlink go leaves everything as it was, but for the answer.
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

// Who gives up while there is no room for the answer leaves the downlink there.
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

// Of several who delete a downlink one has done it, and one who does not get his
// turn in time has done nothing.
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

// A mailbox that is taken away keeps what is in it, wakes those who wait, and
// goes on as it was when it is back; what has expired meanwhile is found then.
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

// A device that goes takes its mailbox along, and finds it again.
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
