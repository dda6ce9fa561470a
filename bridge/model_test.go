package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

const (
	modelWindow = 5
	modelTries  = 3
	modelBudget = 40 * 400
)

// away: the device is not configured.
const away = -1

// The device s spools first; visitors are not listed.
var modelDevices = []bridge.DeviceID{"a", "s", "visitor"}

// model is what should become of each reading, next to a bridge that does it.
type model struct {
	ctx    context.Context
	cancel context.CancelFunc
	b      *bridge.Bridge
	ups    [2]*bridgetest.Uplink
	turn   int                     // the uplink that is asked first
	at     map[bridge.DeviceID]int // the uplink of a device, or away; of the visitor: of all that are not listed
	guest  bool                    // s was not listed for a time, so that it did not spool first
	sp     *bridgetest.Spool
	old    []*bridgetest.Spool
	all    map[string]*record // by payload
	order  []*record          // in the order of their coming
	keys   map[string]*record
	asking []*asked
	// faults: dead letters may not have been stored.
	faults bool
}

// record is a reading.
type record struct {
	name    string
	r       bridge.Reading
	foreign bool // stored by another process, so it has no place in the order
	asked   bool // somebody waited for the answer
	digest  byte // with its key

	flight  *bridgetest.Flight
	on      int  // the uplink of flight
	back    bool // its device has left and come back meanwhile
	retries int
	acked   bool
	refused bool
	failed  bool // its sender was told no, or it was dropped and counted
	dropped bool // the spool made room; what is in memory as well may be sent
	lost    bool // a crash took it before it was promised
	stored  bool // its sender was told that it is stored
	again   bool // a crash undid its end: it may be sent again
}

// over: nothing more has to be done for it.
func (r *record) over() bool { return r.acked || r.refused || r.failed || r.lost || r.dropped }

// asked is an Accept that has not answered.
type asked struct {
	rec    *record
	reused bool // the key is that of another body
	answer <-chan accepted
}

func newModel() *model {
	m := &model{all: map[string]*record{}, keys: map[string]*record{}, at: map[bridge.DeviceID]int{}, sp: &bridgetest.Spool{Manual: true, ManualLoads: true}}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.start()
	return m
}

func (m *model) start() {
	for i := range m.ups {
		m.ups[i] = &bridgetest.Uplink{Window: modelWindow}
	}
	m.b = bridge.New(bridge.Options{
		MemoryBudget: modelBudget, Spool: m.sp, AckTimeout: time.Second,
		Logger: slog.New(slog.NewTextHandler(drops{m}, nil)),
	})
	for id, c := range m.connections() {
		_ = m.b.Connect(id, c)
	}
	if c := m.others(); c != nil {
		m.b.ConnectOthers(*c)
	}
}

// connections are those of the listed devices.
func (m *model) connections() map[bridge.DeviceID]bridge.Connection {
	all := map[bridge.DeviceID]bridge.Connection{}
	for _, id := range []bridge.DeviceID{"a", "s"} {
		if at := m.at[id]; at != away {
			all[id] = bridge.Connection{Uplink: m.ups[at], SpoolFirst: id == "s"}
		}
	}
	return all
}

func (m *model) others() *bridge.Connection {
	if at := m.at["visitor"]; at != away {
		return &bridge.Connection{Uplink: m.ups[at]}
	}
	return nil
}

// uplink is where the readings of a device leave, or away.
func (m *model) uplink(id bridge.DeviceID) int {
	if at := m.at[id]; at != away {
		return at
	}
	return m.at["visitor"]
}

// move makes a device, or those that are not listed, come, go or change its
// uplink.
func (m *model) move(t *rapid.T) {
	id := rapid.SampledFrom(modelDevices).Draw(t, "device")
	m.put(t, id, rapid.SampledFrom([]int{away, 0, 1}).Draw(t, "to"))
}

func (m *model) put(t *rapid.T, id bridge.DeviceID, to int) {
	before := map[bridge.DeviceID]int{}
	for _, d := range modelDevices {
		before[d] = m.uplink(d)
	}
	m.at[id] = to
	for _, r := range m.order {
		now := m.uplink(r.r.Device)
		r.back = r.back || r.flight != nil && before[r.r.Device] != now && r.on == now
	}
	m.guest = m.guest || m.at["s"] == away
	c := bridge.Changes{Connect: m.connections(), Others: m.others()}
	if to == away && id != "visitor" {
		c.Disconnect = []bridge.DeviceID{id}
	}
	if err := m.b.Change(c); err != nil {
		t.Fatal(err)
	}
}

// stale: it is in flight where its device has left.
func (m *model) stale(r *record) bool { return r.flight != nil && r.on != m.uplink(r.r.Device) }

// ackStale is an acknowledgement that may come too late.
func (m *model) ackStale(t *rapid.T) {
	for _, r := range m.order {
		if m.stale(r) || r.flight != nil && r.back {
			m.ack(r)
			r.again = true
			return
		}
	}
	t.Skip("nothing is in flight elsewhere")
}

// drops learns from the log which readings were dropped.
type drops struct{ m *model }

func (d drops) Write(p []byte) (int, error) {
	if s := string(p); strings.Contains(s, "reading dropped") {
		for _, r := range d.m.order {
			if strings.Contains(s, "id="+r.r.ID.String()) {
				r.failed = true
			}
		}
	}
	return len(p), nil
}

// close ends what the model has started.
func (m *model) close() {
	m.cancel()
	for _, s := range append(m.old, m.sp) {
		s.Release()
	}
	time.Sleep(time.Minute) // a sender with a key waits for its answer
	synctest.Wait()
}

func (m *model) make(t *rapid.T) *record {
	size := rapid.SampledFrom([]int{0, 0, 50, 1500}).Draw(t, "size")
	name := fmt.Sprintf("%d.", len(m.order)+1)
	rec := &record{name: name, r: reading(rapid.SampledFrom(modelDevices).Draw(t, "device"), name+strings.Repeat("x", size))}
	rec.r.ID = newID()
	if rapid.IntRange(0, 3).Draw(t, "answer") == 0 {
		rec.r.ResponseTopic, rec.r.CorrelationData = "answers/"+name, []byte(name)
	}
	return rec
}

func (m *model) take(rec *record) {
	m.all[rec.r.ID.String()] = rec
	m.order = append(m.order, rec)
}

func (m *model) submit(t *rapid.T) {
	rec := m.make(t)
	m.take(rec) // before, because it may be dropped before Submit returns
	if err := m.b.Submit(m.ctx, rec.r); err != nil {
		m.checkRefusal(t, err)
		rec.failed = true
		if errors.Is(err, bridge.ErrUnknownDevice) && m.uplink(rec.r.Device) != away {
			t.Fatal(err)
		}
	}
}

func (m *model) accept(t *rapid.T, how bridge.Handling) {
	rec := m.make(t)
	rec.asked = true
	m.take(rec)
	m.ask(rec, rec.r, how)
}

// ask sends r, which is rec or a repetition of it.
func (m *model) ask(rec *record, r bridge.Reading, how bridge.Handling) {
	c := make(chan accepted, 1)
	b, ctx := m.b, m.ctx
	go func() {
		got, err := b.Accept(ctx, r, how)
		c <- accepted{got, err}
	}()
	m.asking = append(m.asking, &asked{
		rec: rec, reused: how.Key.Value != "" && rec.digest != how.Key.Digest[0], answer: c,
	})
	synctest.Wait()
}

// page sends several together.
func (m *model) page(t *rapid.T) {
	var rs []bridge.Reading
	for range rapid.IntRange(1, 6).Draw(t, "lines") {
		rec := m.make(t)
		rec.asked = true
		m.take(rec)
		rs = append(rs, rec.r)
		m.asking = append(m.asking, &asked{rec: rec})
	}
	ends := make([]chan accepted, len(rs))
	for i, a := range m.asking[len(m.asking)-len(rs):] {
		ends[i] = make(chan accepted, 1)
		a.answer = ends[i]
	}
	m.b.AcceptPage(m.ctx, rs, rapid.Bool().Draw(t, "async"), func(i int, got bridge.Receipt, err error) { ends[i] <- accepted{got, err} })
	synctest.Wait()
}

// keyed sends a reading under one of few keys: anew, once more, or another one.
func (m *model) keyed(t *rapid.T) {
	rec := m.make(t)
	how := key(string(rec.r.Device)+rapid.SampledFrom([]string{"1", "2"}).Draw(t, "key"), byte(rapid.IntRange(1, 2).Draw(t, "digest")))
	if old := m.keys[how.Key.Value]; old != nil && (!old.failed && !old.lost && !old.dropped || m.waits(old)) {
		m.ask(old, rec.r, how)
		return
	}
	rec.asked, rec.digest = true, how.Key.Digest[0]
	m.keys[how.Key.Value] = rec
	m.take(rec)
	m.ask(rec, rec.r, how)
}

// waits: somebody waits for the answer.
func (m *model) waits(rec *record) bool {
	return slices.ContainsFunc(m.asking, func(a *asked) bool { return a.rec == rec && !a.reused })
}

// checkRefusal: an error needs a reason.
func (m *model) checkRefusal(t *rapid.T, err error) {
	var ue *bridge.UnavailableError
	if !errors.As(err, &ue) && !errors.Is(err, bridge.ErrSpoolFull) && !errors.Is(err, bridge.ErrUnknownDevice) {
		t.Fatalf("error %v", err)
	}
}

// answers looks at what senders were told.
func (m *model) answers(t *rapid.T) {
	m.asking = slices.DeleteFunc(m.asking, func(a *asked) bool {
		select {
		case got := <-a.answer:
			m.answered(t, a, got)
			return true
		default:
			return false
		}
	})
}

func (m *model) answered(t *rapid.T, a *asked, got accepted) {
	rec := a.rec
	if a.reused {
		if !errors.Is(got.err, bridge.ErrKeyReused) {
			t.Fatalf("key of another body: %+v, %v", got.receipt, got.err)
		}
		return
	}
	var re *bridge.RejectedError
	switch {
	case errors.As(got.err, &re):
		if !rec.refused {
			t.Fatalf("%s: %v, but it was not refused", rec.name, got.err)
		}
	case got.err != nil:
		m.checkRefusal(t, got.err)
		rec.failed = true
		if m.durable(rec) {
			t.Fatalf("%s: %v, but it is stored", rec.name, got.err)
		}
	case got.receipt.ID != rec.r.ID:
		t.Fatalf("%s: the receipt is of %s", rec.name, m.all[got.receipt.ID.String()].name)
	case got.receipt.State == bridge.Delivered && !rec.acked:
		t.Fatalf("%s: delivered, but not acknowledged", rec.name)
	case got.receipt.State == bridge.Spooled:
		if !rec.acked && !m.durable(rec) && !rec.dropped {
			t.Fatalf("%s: stored, but it is not in the spool", rec.name)
		}
		rec.stored = true
	}
}

func (m *model) durable(rec *record) bool {
	return slices.ContainsFunc(m.sp.Rows(), func(s bridge.Stored) bool { return s.ID == rec.r.ID })
}

// pull sends the next reading and checks that it may be sent now.
func (m *model) pull(t *rapid.T) bool {
	m.turn = 1 - m.turn
	on := m.turn
	f := m.ups[on].Pull()
	if f == nil {
		on = 1 - on
		f = m.ups[on].Pull()
	}
	if f == nil {
		return false
	}
	rec := m.all[f.Reading.ID.String()]
	switch {
	case rec == nil:
		t.Fatalf("%.10q is sent, which nobody gave", f.Reading.Payload)
	case string(rec.r.Payload) != string(f.Reading.Payload):
		t.Fatalf("%s is sent as %.10q", rec.name, f.Reading.Payload)
	case rec.r.ResponseTopic != f.Reading.ResponseTopic || string(rec.r.CorrelationData) != string(f.Reading.CorrelationData):
		t.Fatalf("%s is sent to %q with %q", rec.name, f.Reading.ResponseTopic, f.Reading.CorrelationData)
	case on != m.uplink(rec.r.Device):
		t.Fatalf("%s is sent where its device has left", rec.name)
	case rec.flight != nil && rec.on == on && !rec.back:
		t.Fatalf("%s is sent while it is in flight", rec.name)
	case rec.over() && !rec.again && (!rec.dropped || rec.acked || rec.refused):
		t.Fatalf("%s is sent, which is over: %+v", rec.name, *rec)
	case rec.r.Device == "s" && !m.guest && !m.durable(rec) && !rec.dropped:
		t.Fatalf("%s is sent and not stored", rec.name)
	}
	for _, older := range m.order {
		if older == rec {
			break
		}
		if older.r.Device == rec.r.Device && !older.over() && (older.flight == nil || older.on != on || older.back) && !older.foreign && !rec.foreign && !rec.over() {
			t.Fatalf("%s overtakes %s: %+v", rec.name, older.name, *older)
		}
	}
	rec.flight, rec.on, rec.back = f, on, false
	return true
}

func (m *model) flight(t *rapid.T) *record {
	var rs []*record
	for _, r := range m.order {
		if r.flight != nil && !m.stale(r) && !r.back {
			rs = append(rs, r)
		}
	}
	if len(rs) == 0 {
		t.Skip("nothing is in flight")
	}
	return rapid.SampledFrom(rs).Draw(t, "flight")
}

func (m *model) ack(rec *record) {
	f := rec.flight
	rec.flight, rec.acked, rec.again = nil, true, false
	f.Ack()
}

func (m *model) refuse(rec *record) {
	f := rec.flight
	rec.flight, rec.refused, rec.again = nil, true, false
	f.Refuse(0x90, "no")
}

func (m *model) retry(t *rapid.T) {
	rec := m.flight(t)
	tries := 0
	if rapid.Bool().Draw(t, "bounded") {
		tries = modelTries
	}
	f := rec.flight
	rec.flight = nil
	if rec.retries++; tries > 0 && rec.retries >= tries {
		rec.refused = true
	}
	f.Retry(0x80, tries)
}

func (m *model) lose() {
	for _, r := range m.order {
		r.flight = nil
	}
	for _, up := range m.ups {
		up.Lose()
	}
}

func (m *model) foreign(t *rapid.T) {
	rec := m.make(t)
	rec.foreign = true
	before := len(m.sp.Rows())
	m.sp.Insert(rec.r)
	if len(m.sp.Rows()) == before {
		t.Skip("the spool fails")
	}
	m.take(rec)
	if _, err := m.b.Recover(); err != nil {
		t.Fatal(err)
	}
}

func (m *model) dropOldest() {
	for _, s := range m.sp.DropOldest(1) {
		m.all[s.ID.String()].dropped = true
	}
}

// crash ends the process and starts it with what was durable.
func (m *model) crash(t *rapid.T) {
	m.faults = true
	old := m.sp
	m.sp = old.Crash()
	m.old = append(m.old, old)
	m.asking = nil
	for _, r := range m.order {
		r.flight, r.retries = nil, 0
		durable := m.durable(r)
		switch {
		case durable && r.over():
			r.again = true
			if r.failed && !r.acked && !r.refused { // it was told no and stored after all: cannot be
				t.Fatalf("%s has failed and is stored", r.name)
			}
		case !durable && !r.over():
			if r.stored {
				t.Fatalf("%s was answered as stored and is lost", r.name)
			}
			r.lost = true
		}
	}
	m.start()
	if _, err := m.b.Recover(); err != nil {
		t.Fatal(err)
	}
}

// check is what holds at any time.
func (m *model) check(t *rapid.T) {
	synctest.Wait()
	m.answers(t)
	if err := m.b.CheckLanes(); err != nil {
		t.Fatal(err)
	}
	for _, s := range slices.Concat(m.ups[0].Misuse(), m.ups[1].Misuse(), m.sp.Misuse()) {
		t.Fatal(s)
	}
	buried := map[string]bool{}
	for _, d := range m.sp.Dead() {
		buried[d.Reading.ID.String()] = true
		if rec := m.all[d.Reading.ID.String()]; !rec.refused && !rec.again {
			t.Fatalf("%s is a dead letter and was not refused", rec.name)
		}
	}
	held := m.b.Held()
	alive := 0
	for _, r := range m.order {
		if !r.over() {
			alive++
		}
		if r.stored && !r.over() && !m.durable(r) {
			t.Fatalf("%s was answered as stored and is not", r.name)
		}
	}
	if rows := len(m.sp.Rows()); alive > held+rows {
		t.Fatalf("%d readings are to be delivered, %d are in memory and %d in the spool", alive, held, rows)
	}
}

// settle lets everything go its way, without faults, and checks that all that
// was taken has got somewhere.
func (m *model) settle(t *rapid.T) {
	m.sp.Fail(nil)
	m.sp.SetLimit(0)
	m.sp.FailReads(nil)
	for id, at := range m.at {
		m.put(t, id, max(at, 0))
	}
	m.lose()
	m.ups[0].SetTrouble("")
	m.ups[1].SetTrouble("")
	for range 2000 {
		synctest.Wait()
		moved := m.sp.Commit(100)+m.sp.Answer(100) > 0
		synctest.Wait()
		m.answers(t) // some were told no
		for m.pull(t) {
			moved = true
		}
		for _, r := range m.order {
			if r.flight != nil {
				m.ack(r)
				moved = true
			}
		}
		m.check(t)
		if !moved {
			if m.quiet() {
				break
			}
			time.Sleep(bridge.RetryPauseMax)
		}
	}
	dead := map[string]bool{}
	for _, d := range m.sp.Dead() {
		dead[d.Reading.ID.String()] = true
	}
	for _, r := range m.order {
		switch {
		case !r.over():
			t.Fatalf("%s was never delivered", r.name)
		case r.refused && !r.acked && !r.asked && !dead[r.r.ID.String()] && !m.faults:
			t.Fatalf("%s was refused and is no dead letter", r.name)
		}
	}
	switch {
	case len(m.asking) > 0:
		t.Fatalf("%d senders have no answer", len(m.asking))
	case m.b.Held() != 0 || m.b.Used() != 0:
		t.Fatalf("%d readings of %d bytes are held", m.b.Held(), m.b.Used())
	case len(m.sp.Rows()) != 0:
		t.Fatalf("left in the spool: %v", m.sp.Rows())
	case m.b.Visitors() != 0 || m.b.KeysUnderWay() != 0:
		t.Fatalf("%d visitors and %d keys are left", m.b.Visitors(), m.b.KeysUnderWay())
	}
}

func (m *model) quiet() bool {
	return len(m.asking) == 0 && m.b.Held() == 0 && len(m.sp.Rows()) == 0 && m.sp.Queued() == 0 && m.sp.Loading() == 0 &&
		m.b.Visitors() == 0
}

// quietTB keeps from rapid what must not be called inside a synctest bubble.
type quietTB struct{ testing.TB }

func TestLanesAgainstModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(quietTB{t}, func(t *rapid.T) {
			m := newModel()
			defer m.close()
			t.Repeat(m.actions())
			m.settle(t)
		})
	})
}

func (m *model) actions() map[string]func(*rapid.T) {
	pulls := func(t *rapid.T) {
		for range rapid.IntRange(1, modelWindow).Draw(t, "n") {
			synctest.Wait()
			if !m.pull(t) {
				return
			}
		}
	}
	commit := func(t *rapid.T) { m.sp.Commit(rapid.IntRange(0, 5).Draw(t, "n")) }
	return map[string]func(*rapid.T){
		"":           m.check,
		"submit":     m.submit,
		"submit too": m.submit,
		"accept":     func(t *rapid.T) { m.accept(t, bridge.Handling{}) },
		"async":      func(t *rapid.T) { m.accept(t, async) },
		"page":       m.page,
		"keyed":      m.keyed,
		"send":       pulls,
		"send too":   pulls,
		"ack":        func(t *rapid.T) { m.ack(m.flight(t)) },
		"ack too":    func(t *rapid.T) { m.ack(m.flight(t)) },
		"refuse":     func(t *rapid.T) { m.refuse(m.flight(t)) },
		"retry":      m.retry,
		"lose":       func(*rapid.T) { m.lose() },
		"move":       m.move,
		"move too":   m.move,
		"hasty move": func(t *rapid.T) {
			m.submit(t)
			pulls(t)
			m.move(t)
			m.submit(t)
			pulls(t)
		},
		"hasty move too": func(t *rapid.T) {
			pulls(t)
			m.move(t)
			m.submit(t)
			pulls(t)
		},
		"ack late":    m.ackStale,
		"link down":   func(*rapid.T) { m.ups[0].SetTrouble("away"); m.b.LinkDown(m.ups[0]) },
		"trouble":     func(*rapid.T) { m.ups[0].SetTrouble("away") },
		"link up":     func(*rapid.T) { m.ups[0].SetTrouble("") },
		"commit":      commit,
		"commit too":  commit,
		"sync":        func(*rapid.T) { m.sp.Sync(1) },
		"load":        func(*rapid.T) { m.sp.Answer(1) },
		"load too":    func(*rapid.T) { m.sp.Answer(9) },
		"fail":        func(*rapid.T) { m.faults = true; m.sp.Fail(bridge.ErrSpoolFull) },
		"limit":       func(t *rapid.T) { m.sp.SetLimit(rapid.IntRange(1, 6).Draw(t, "limit")) },
		"room":        func(*rapid.T) { m.sp.Fail(nil); m.sp.SetLimit(0) },
		"blind":       func(*rapid.T) { m.sp.FailReads(errDisk); m.sp.Answer(1); m.sp.FailReads(nil) },
		"drop oldest": func(*rapid.T) { m.dropOldest() },
		"foreign":     m.foreign,
		"time": func(t *rapid.T) {
			time.Sleep(rapid.SampledFrom([]time.Duration{time.Millisecond, 500 * time.Millisecond, time.Second}).Draw(t, "d"))
		},
		"crash": m.crash,
	}
}
