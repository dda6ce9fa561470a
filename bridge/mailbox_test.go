package bridge_test

import (
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

// stirred reports whether a channel of Changed is closed.
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
// Who gives up while there is no room for the answer leaves the downlink there.
// Of several who delete a downlink one has done it, and one who does not get his
// turn in time has done nothing.
// A mailbox that is taken away keeps what is in it, wakes those who wait, and
// goes on as it was when it is back; what has expired meanwhile is found then.
// A device that goes takes its mailbox along, and finds it again.
