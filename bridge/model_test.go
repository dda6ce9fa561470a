package bridge_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

// model is what the lanes should hold, next to a bridge that does.
type model struct {
	b       *bridge.Bridge
	up      *bridgetest.Uplink
	entries []*entry // in the order of their coming, without the gone ones
	count   int
	rests   map[bridge.DeviceID]rest
}

type entry struct {
	r         bridge.Reading
	flight    *bridgetest.Flight // nil while it waits
	pending   *bridge.Pending    // nil if nobody waits for it
	abandoned bool
	tries     int
}

// rest tells whether a lane rests after a Retry.
type rest int

const (
	works rest = iota
	rests
	perhaps // it rested, but is not listed and may have been forgotten meanwhile
)

const modelWindow, modelTries = 5, 3

var modelDevices = []bridge.DeviceID{"a", "b", "visitor 1", "visitor 2"}

func newModel() *model {
	m := &model{
		b:     bridge.New(bridge.Options{MemoryBudget: 12 * 400}),
		up:    &bridgetest.Uplink{Window: modelWindow},
		rests: map[bridge.DeviceID]rest{},
	}
	_ = m.b.Connect("a", bridge.Connection{Uplink: m.up})
	_ = m.b.Connect("b", bridge.Connection{Uplink: m.up})
	m.b.ConnectOthers(bridge.Connection{Uplink: m.up})
	return m
}

func (m *model) used() (n int64) {
	for _, e := range m.entries {
		n += bridge.Size(e.r)
	}
	return n
}

func (m *model) add(t *rapid.T, waiter bool) {
	m.count++
	size := rapid.IntRange(0, 300).Draw(t, "size")
	r := reading(rapid.SampledFrom(modelDevices).Draw(t, "device"), fmt.Sprintf("%d %*s", m.count, size, ""))
	room := m.used()+bridge.Size(r) <= 12*400
	e := &entry{r: r}
	var err error
	if waiter {
		e.pending, err = m.b.Begin(r)
	} else {
		err = m.b.Submit(t.Context(), r)
	}
	if (err == nil) != room {
		t.Fatalf("error %v, want room: %t", err, room)
	}
	if err == nil {
		m.entries = append(m.entries, e)
	}
}

// pull sends the next reading and checks that none older of its device waits.
func (m *model) pull(t *rapid.T) {
	flying := len(m.up.InFlight())
	f := m.up.Pull()
	if f == nil {
		for _, e := range m.entries {
			if e.flight == nil && m.rests[e.r.Device] == works && flying < modelWindow {
				t.Fatalf("nothing is sent, but %.5q of %s waits", e.r.Payload, e.r.Device)
			}
		}
		return
	}
	if flying >= modelWindow {
		t.Fatalf("sent beyond the window")
	}
	for _, e := range m.entries {
		if e.r.Device != f.Reading.Device || e.flight != nil {
			continue
		}
		if string(e.r.Payload) != string(f.Reading.Payload) {
			t.Fatalf("%.5q overtakes %.5q", f.Reading.Payload, e.r.Payload)
		}
		if m.rests[e.r.Device] == rests {
			t.Fatalf("%.5q is sent while its lane rests", e.r.Payload)
		}
		e.flight = f
		e.tries++
		return
	}
	t.Fatalf("%.5q is sent, which does not wait", f.Reading.Payload)
}

// flight picks one that is in flight.
func (m *model) flight(t *rapid.T) *entry {
	var es []*entry
	for _, e := range m.entries {
		if e.flight != nil {
			es = append(es, e)
		}
	}
	if len(es) == 0 {
		t.Skip("nothing is in flight")
	}
	return rapid.SampledFrom(es).Draw(t, "flight")
}

func (m *model) remove(e *entry) {
	m.entries = slices.DeleteFunc(m.entries, func(x *entry) bool { return x == e })
	d := e.r.Device
	if d != "a" && d != "b" && m.rests[d] == rests &&
		!slices.ContainsFunc(m.entries, func(x *entry) bool { return x.r.Device == d }) {
		m.rests[d] = perhaps
	}
}

// resolved checks that whoever waits for e is told o, now and once.
func (m *model) resolved(t *rapid.T, e *entry, o bridge.OutcomeKind) {
	m.remove(e)
	if e.pending == nil {
		return
	}
	select {
	case got := <-e.pending.Done:
		if e.abandoned || got.Kind != o {
			t.Fatalf("%.5q: outcome %d, want %d; abandoned: %t", e.r.Payload, got.Kind, o, e.abandoned)
		}
	default:
		if !e.abandoned {
			t.Fatalf("%.5q: nobody was told", e.r.Payload)
		}
	}
	if !e.abandoned && e.pending.Withdraw() {
		t.Fatalf("%.5q: withdrawn after its outcome", e.r.Payload)
	}
}

func (m *model) retry(t *rapid.T) {
	e := m.flight(t)
	bounded := rapid.Bool().Draw(t, "bounded")
	tries := 0
	if bounded {
		tries = modelTries
	}
	f := e.flight
	f.Retry(0x80, tries)
	switch {
	case bounded && e.tries >= modelTries:
		m.resolved(t, e, bridge.Refused)
	case e.abandoned:
		m.remove(e)
	default:
		e.flight = nil
		if m.rests[e.r.Device] == works || m.rests[e.r.Device] == perhaps {
			m.rests[e.r.Device] = rests
		}
	}
}

func (m *model) lose(t *rapid.T) {
	m.up.Lose()
	for _, e := range slices.Clone(m.entries) {
		switch {
		case e.flight == nil:
		case e.abandoned:
			m.remove(e)
		default:
			e.flight = nil
		}
	}
}

func (m *model) withdraw(t *rapid.T) {
	var es []*entry
	for _, e := range m.entries {
		if e.pending != nil && !e.abandoned {
			es = append(es, e)
		}
	}
	if len(es) == 0 {
		t.Skip("nobody waits")
	}
	e := rapid.SampledFrom(es).Draw(t, "pending")
	if !e.pending.Withdraw() {
		t.Fatalf("%.5q: no outcome, but it cannot be withdrawn", e.r.Payload)
	}
	e.abandoned = true
	if e.flight == nil {
		m.remove(e)
	}
}

// patient lets every lane's rest pass.
func (m *model) patient() {
	time.Sleep(31 * time.Second)
	synctest.Wait()
	clear(m.rests)
}

func (m *model) check(t *rapid.T) {
	if got, want := m.b.Held(), len(m.entries); got != want {
		t.Fatalf("%d readings are held, want %d", got, want)
	}
	if got, want := m.b.Used(), m.used(); got != want {
		t.Fatalf("the budget has %d bytes, want %d", got, want)
	}
	for _, e := range m.entries {
		if e.pending != nil && len(e.pending.Done) > 0 {
			t.Fatalf("%.5q: an outcome for what is held", e.r.Payload)
		}
	}
	if s := m.up.Misuse(); len(s) > 0 {
		t.Fatal(s)
	}
}

// bubble hides what must not be called inside a synctest bubble.
type bubble struct{ testing.TB }

func TestLanesAgainstModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(bubble{t}, func(t *rapid.T) {
			m := newModel()
			t.Repeat(map[string]func(*rapid.T){
				"":         m.check,
				"submit":   func(t *rapid.T) { m.add(t, false) },
				"accept":   func(t *rapid.T) { m.add(t, true) },
				"send":     m.pull,
				"send too": m.pull,
				"ack": func(t *rapid.T) {
					e := m.flight(t)
					e.flight.Ack()
					m.resolved(t, e, bridge.Acked)
				},
				"refuse": func(t *rapid.T) {
					e := m.flight(t)
					e.flight.Refuse(0x90, "")
					m.resolved(t, e, bridge.Refused)
				},
				"retry":    m.retry,
				"lose":     m.lose,
				"withdraw": m.withdraw,
				"patient":  func(*rapid.T) { m.patient() },
			})
			// Everything can still go out.
			m.patient()
			for len(m.entries) > 0 {
				before := len(m.entries)
				m.pull(t)
				for _, e := range slices.Clone(m.entries) {
					if e.flight != nil {
						e.flight.Ack()
						m.resolved(t, e, bridge.Acked)
					}
				}
				if len(m.entries) == before {
					t.Fatalf("%d readings never go out", before)
				}
				m.check(t)
			}
			if f := m.up.Pull(); f != nil {
				t.Fatalf("%.5q is sent, which is gone", f.Reading.Payload)
			}
			if n := m.b.Visitors(); n != 0 {
				t.Fatalf("%d lanes of unlisted devices are left", n)
			}
		})
	})
}
