package modbus

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

	"github.com/google/go-cmp/cmp"
)

// running is a master at work in a bubble.
type running struct {
	*Master
	t      *testing.T
	start  time.Time
	polls  []Poll // Run's; read it behind synctest.Wait
	cancel func()
	done   chan struct{} // closed when Run has returned
}

func run(t *testing.T, line Line, slaves ...Slave) *running {
	t.Helper()
	r := &running{t: t, start: time.Now()}
	var err error
	r.Master, err = New(Options{Line: line, Baud: 9600, Slaves: slaves,
		Emit: func(_ context.Context, p Poll) { r.polls = append(r.polls, p) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	r.cancel, r.done = cancel, done
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return r
}

// until lets the time pass until d after the start.
func (r *running) until(d time.Duration) {
	time.Sleep(time.Until(r.start.Add(d)))
	synctest.Wait()
}

func (r *running) payloads(slave int) (out []string) {
	for _, p := range r.polls {
		if p.Slave == slave {
			out = append(out, string(p.Payload))
		}
	}
	return out
}

func (r *running) counted(want map[Outcome]uint64) {
	r.t.Helper()
	if d := cmp.Diff(want, r.Stats().Requests); d != "" {
		r.t.Errorf("requests by outcome (-want +got):\n%s", d)
	}
}

func TestPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newSim(t, map[byte]*simSlave{
			1: {
				input:   map[uint16]uint16{0: 0x4148, 1: 0, 2: 2305, 4: 7, 3: 0, 100: 1},
				holding: map[uint16]uint16{0: 0x8001},
				coils:   map[uint16]bool{3: true, 4: false},
				inputs:  map[uint16]bool{9: true},
			},
			2: {holding: map[uint16]uint16{0: 0xFFFF, 1: 0xFFFF, 2: 0xFFFF, 3: 0xFFFF}},
		})
		m := run(t, w,
			Slave{Address: 1, Device: "meter", Subtopic: "grid", Every: 10 * time.Second, MaxGap: 1, Registers: []Register{
				{Name: "far", Function: 4, Address: 100},
				{Name: "fan", Function: 1, Address: 4},
				{Name: "voltage", Function: 4, Address: 2, Scale: "0.1", Unit: "V"},
				{Name: "flow", Function: 4, Address: 0, Type: Float32},
				{Name: "count", Function: 4, Address: 4},
				{Name: "pump", Function: 1, Address: 3},
				{Name: "door", Function: 2, Address: 9},
				{Name: "ready", Function: 3, Address: 0, Type: Bool, Bit: bit(15)},
				{Name: "state", Function: 3, Address: 0},
			}},
			Slave{Address: 2, Device: "counter", Every: 10 * time.Second, Registers: []Register{
				{Name: "energy", Function: 3, Type: Uint64},
			}})
		m.until(11 * time.Second)
		want := `{"far":1,"fan":false,"voltage":230.5,"flow":12.5,"count":7,"pump":true,"door":true,"ready":true,"state":32769}`
		if d := cmp.Diff([]string{want, want}, m.payloads(1)); d != "" {
			t.Errorf("slave 1 (-want +got):\n%s", d)
		}
		const energy = `{"energy":18446744073709551615}`
		if d := cmp.Diff([]string{energy, energy}, m.payloads(2)); d != "" {
			t.Errorf("slave 2 (-want +got):\n%s", d)
		}
		p := m.polls[0]
		if p.Device != "meter" || p.Subtopic != "grid" || p.Err != nil || p.Missing != nil || p.Time.Before(m.start) {
			t.Errorf("poll is %+v", p)
		}
		round := []string{"1 1 3 2", "1 2 9 1", "1 3 0 1", "1 4 0 5", "1 4 100 1", "2 3 0 4"}
		if d := cmp.Diff(slices.Concat(round, round), s.requests()); d != "" {
			t.Errorf("requests (-want +got):\n%s", d)
		}
		m.counted(map[Outcome]uint64{OK: 12})
		stats := m.Stats().Slaves
		if stats[0].Polls != 2 || stats[0].Requests != 5 || stats[0].Silent || stats[0].LastAnswer.IsZero() || stats[1].Address != 2 {
			t.Errorf("stats are %+v", stats)
		}
	})
}

// TestFaults: what each fault of an answer is counted as, and that the retry
// brings the value.
func TestFaults(t *testing.T) {
	for name, v := range map[string]struct {
		fault fault
		want  Outcome
	}{
		"lost": {lost, Timeout}, "damaged": {damaged, BadCheck}, "cut": {cut, Incomplete},
		"noise alone": {noise, Garbage}, "foreign": {foreign, WrongSlave}, "other function": {otherFunction, WrongFunction},
		"longer": {longer, WrongLength}, "busy": {refusing(6), ServerDeviceBusy.Outcome()},
		"byte by byte": {dribbled, ""}, "noise around": {noisy, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newSim(t, map[byte]*simSlave{5: {holding: map[uint16]uint16{0: 1, 1: 2, 2: 3}, faults: []fault{v.fault}}})
				m := run(t, w, Slave{Address: 5, Device: "d", Every: time.Minute, Registers: []Register{
					{Name: "a", Function: 3}, {Name: "b", Function: 3, Address: 1}, {Name: "c", Function: 3, Address: 2}}})
				m.until(10 * time.Second)
				if d := cmp.Diff([]string{`{"a":1,"b":2,"c":3}`}, m.payloads(5)); d != "" {
					t.Error(d)
				}
				want, n := map[Outcome]uint64{OK: 1}, 1
				if v.want != "" {
					want[v.want], n = 1, 2
				}
				m.counted(want)
				if got := s.requests(); len(got) != n {
					t.Errorf("requests are %q, want %d", got, n)
				}
			})
		})
	}
}

// TestExceptionsThatStay are not asked about again, and the rest is read.
func TestExceptionsThatStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newSim(t, map[byte]*simSlave{1: {holding: map[uint16]uint16{0: 1}, input: map[uint16]uint16{7: 2}, faults: []fault{refusing(1)}}})
		m := run(t, w, Slave{Address: 1, Device: "d", Every: time.Minute, Registers: []Register{
			{Name: "a", Function: 3}, {Name: "b", Function: 4, Address: 7}}})
		m.until(time.Second)
		if d := cmp.Diff([]string{`{"b":2}`}, m.payloads(1)); d != "" {
			t.Error(d)
		}
		p := m.polls[0]
		var failed *RequestError
		if !errors.As(p.Err, &failed) || failed.Exception != IllegalFunction || !slices.Equal(p.Missing, []string{"a"}) {
			t.Errorf("missing %q: %v", p.Missing, p.Err)
		}
		if !strings.Contains(p.Err.Error(), "illegal function (exception 01)") {
			t.Errorf("the error does not name the exception: %v", p.Err)
		}
		if n := len(s.requests()); n != 2 {
			t.Errorf("%d requests", n)
		}
	})
}

// TestSplit: a group that the slave refuses is asked in parts, from then on.
func TestSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newSim(t, map[byte]*simSlave{
			1: {holding: map[uint16]uint16{0: 1, 1: 2, 5: 3}},          // a hole that cannot be read
			2: {holding: map[uint16]uint16{0: 1, 2: 3}},                // a register that is not there
			3: {holding: map[uint16]uint16{0: 1, 1: 2, 2: 3}, most: 1}, // one at a time
		})
		slave := func(address, gap int, at ...int) Slave {
			out := Slave{Address: address, Device: "d", Every: time.Minute, MaxGap: gap}
			for _, a := range at {
				out.Registers = append(out.Registers, Register{Name: fmt.Sprint("r", a), Function: 3, Address: a})
			}
			return out
		}
		m := run(t, w, slave(1, 8, 0, 1, 5), slave(2, 0, 0, 1, 2), slave(3, 0, 0, 1, 2))
		m.until(time.Second)
		first := []string{
			"1 3 0 6", "1 3 0 2", "1 3 5 1",
			"2 3 0 3", "2 3 0 1", "2 3 1 1", "2 3 2 1",
			"3 3 0 3", "3 3 0 1", "3 3 1 1", "3 3 2 1",
		}
		if d := cmp.Diff(first, s.requests()); d != "" {
			t.Errorf("first poll (-want +got):\n%s", d)
		}
		m.until(61 * time.Second)
		second := slices.DeleteFunc(first, func(q string) bool { return slices.Contains([]string{"1 3 0 6", "2 3 0 3", "3 3 0 3"}, q) })
		if d := cmp.Diff(second, s.requests()); d != "" {
			t.Errorf("second poll (-want +got):\n%s", d)
		}
		for slave, want := range map[int]string{1: `{"r0":1,"r1":2,"r5":3}`, 2: `{"r0":1,"r2":3}`, 3: `{"r0":1,"r1":2,"r2":3}`} {
			if d := cmp.Diff([]string{want, want}, m.payloads(slave)); d != "" {
				t.Errorf("slave %d (-want +got):\n%s", slave, d)
			}
		}
		for _, p := range m.polls {
			if (p.Slave == 2) != (p.Err != nil) || (p.Slave == 2) != slices.Equal(p.Missing, []string{"r1"}) {
				t.Errorf("slave %d misses %q: %v", p.Slave, p.Missing, p.Err)
			}
		}
	})
}

// TestSilentSlave: one that is away costs the others nothing but the time of its
// bounded attempts, and is found again when it is back.
func TestSilentSlave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		words := map[uint16]uint16{0: 1, 9: 2}
		s, w := newSim(t, map[byte]*simSlave{
			1: {holding: words}, 2: {holding: words, always: lost}, 3: {holding: words},
		})
		slave := func(address int) Slave {
			return Slave{Address: address, Device: "d", Every: 2 * time.Second, Registers: []Register{
				{Name: "a", Function: 3}, {Name: "b", Function: 3, Address: 9}}}
		}
		m := run(t, w, slave(1), slave(2), slave(3))
		m.until(100*time.Second + 1900*time.Millisecond)
		for _, address := range []int{1, 3} {
			if n := len(m.payloads(address)); n != 51 {
				t.Errorf("slave %d was read %d times in 101.9 s, want 51", address, n)
			}
		}
		if n := len(m.payloads(2)); n > 0 {
			t.Errorf("slave 2 was read %d times", n)
		}
		// Three polls with two retries each, then one attempt every 30 s: at 30,
		// 60 and 90 s.
		m.counted(map[Outcome]uint64{OK: 204, Timeout: 9 + 3})
		if st := m.Stats().Slaves[1]; !st.Silent || st.Failed != 6 || st.LastError == nil {
			t.Errorf("stats are %+v", st)
		}
		s.change(func() { s.slaves[2].always = nil })
		m.until(125 * time.Second) // it is tried at 120
		if d := cmp.Diff([]string{`{"a":1,"b":2}`, `{"a":1,"b":2}`, `{"a":1,"b":2}`}, m.payloads(2)); d != "" {
			t.Error(d)
		}
		if m.Stats().Slaves[1].Silent {
			t.Error("slave 2 still counts as silent")
		}
	})
}

// TestMuteRegister: a slave that does not answer one request gives its other
// values all the same.
func TestMuteRegister(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		words := map[uint16]uint16{0: 1, 10: 2, 20: 3}
		_, w := newSim(t, map[byte]*simSlave{1: {holding: words, mute: map[uint16]bool{0: true}}})
		m := run(t, w, Slave{Address: 1, Device: "d", Every: 10 * time.Second, Retries: bit(0), Registers: []Register{
			{Name: "a", Function: 3}, {Name: "b", Function: 3, Address: 10}, {Name: "c", Function: 3, Address: 20}}})
		m.until(45 * time.Second)
		// The first poll ends at the mute one; the others begin behind it.
		const rest = `{"b":2,"c":3}`
		if d := cmp.Diff([]string{rest, rest, rest, rest}, m.payloads(1)); d != "" {
			t.Error(d)
		}
		if st := m.Stats().Slaves[0]; st.Silent || st.Failed != 5 {
			t.Errorf("stats are %+v", st)
		}
	})
}

// TestSchedule: polls are at whole intervals from the start, whatever they take.
func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newSim(t, map[byte]*simSlave{
			1: {holding: map[uint16]uint16{0: 1}, delay: 137 * time.Millisecond},
			2: {holding: map[uint16]uint16{0: 1}, delay: 430 * time.Millisecond},
		})
		one := []Register{{Name: "a", Function: 3}}
		m := run(t, w,
			Slave{Address: 1, Device: "d", Every: time.Second, Registers: one},
			Slave{Address: 2, Device: "d", Every: 200 * time.Millisecond, Registers: one})
		m.until(100*time.Second + 950*time.Millisecond)
		var at []time.Duration
		s.change(func() {
			for i, q := range s.asked {
				if strings.HasPrefix(q, "1 ") {
					at = append(at, s.times[i].Sub(m.start))
				}
			}
		})
		if len(at) != 101 {
			t.Fatalf("slave 1 was asked %d times in 100.95 s, want 101", len(at))
		}
		for i, d := range at {
			// At most one answer of slave 2 and its silence may be before it.
			if late := d - time.Duration(i)*time.Second; late < 0 || late > 450*time.Millisecond {
				t.Errorf("poll %d is at %s", i, d)
			}
		}
		st := m.Stats()
		second := uint64(len(m.payloads(2)))
		if total := second + st.Missed; second < 160 || total < 500 || total > 506 {
			t.Errorf("slave 2 was read %d times, %d polls were missed, of 505", second, st.Missed)
		}
	})
}

// TestLateAnswers: an answer that comes after its time-out is never taken for that
// of another request.
func TestLateAnswers(t *testing.T) {
	for _, delay := range []time.Duration{490, 520, 700, 900, 990} {
		t.Run(fmt.Sprint(delay), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, w := newSim(t, map[byte]*simSlave{
					1: {holding: map[uint16]uint16{0: 100, 10: 110, 20: 120}, delay: delay * time.Millisecond},
					2: {holding: map[uint16]uint16{0: 200}},
				})
				m := run(t, w,
					Slave{Address: 1, Device: "d", Every: 10 * time.Second, Retries: bit(1), Registers: []Register{
						{Name: "a", Function: 3}, {Name: "b", Function: 3, Address: 10}, {Name: "c", Function: 3, Address: 20}}},
					Slave{Address: 2, Device: "d", Every: 700 * time.Millisecond, Registers: []Register{{Name: "z", Function: 3}}})
				m.until(10 * time.Minute)
				n := 0
				for _, p := range m.payloads(1) {
					if p != `{"a":100,"b":110,"c":120}` {
						t.Fatalf("poll %d is %s", n, p)
					}
					n++
				}
				if n < 59 {
					t.Errorf("only %d polls", n)
				}
			})
		})
	}
}

// brokenLine fails until it is told otherwise.
type brokenLine struct {
	Line
	mu  sync.Mutex // guards err
	err error
}

func (l *brokenLine) Exchange(ctx context.Context, x Exchange) ([]byte, error) {
	l.mu.Lock()
	err := l.err
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return l.Line.Exchange(ctx, x)
}

func (l *brokenLine) mend() {
	l.mu.Lock()
	l.err = nil
	l.mu.Unlock()
}

func TestLineFails(t *testing.T) {
	for _, v := range []struct {
		err  error
		want map[Outcome]uint64
	}{
		{errWireGone, map[Outcome]uint64{LineFailed: 10, OK: 1}},
		{ErrBusy, map[Outcome]uint64{LineBusy: 30, OK: 1}},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, w := newSim(t, map[byte]*simSlave{1: {holding: map[uint16]uint16{0: 1}}})
			line := &brokenLine{Line: w, err: v.err}
			m := run(t, line, Slave{Address: 1, Device: "d", Every: time.Second, Registers: []Register{{Name: "a", Function: 3}}})
			m.until(9500 * time.Millisecond)
			line.mend()
			m.until(10500 * time.Millisecond)
			m.counted(v.want)
			// The slave is not to blame, and is read at once.
			if st := m.Stats().Slaves[0]; st.Silent || st.Failed != 10 || st.Polls != 1 {
				t.Errorf("stats are %+v", st)
			}
		})
	}
}

func TestLineBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newSim(t, map[byte]*simSlave{1: {holding: map[uint16]uint16{0: 1}}})
		stop := make(chan struct{})
		chatted := make(chan struct{})
		go func() { // another master that does not know its place
			defer close(chatted)
			for {
				s.write([]byte{0x55})
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
		}()
		m := run(t, w, Slave{Address: 1, Device: "d", Every: 10 * time.Second, Registers: []Register{{Name: "a", Function: 3}}})
		m.until(5 * time.Second)
		close(stop)
		<-chatted
		m.counted(map[Outcome]uint64{LineBusy: 3})
		if asked := s.requests(); len(asked) > 0 {
			t.Errorf("asked into the noise: %q", asked)
		}
		m.until(11 * time.Second)
		if len(m.payloads(1)) != 1 {
			t.Error("not read after the noise")
		}
	})
}

// TestStop: Run ends soon, even in the middle of a request.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w := newSim(t, map[byte]*simSlave{1: {always: lost}})
		m := run(t, w, Slave{Address: 1, Device: "d", Every: time.Second, Timeout: time.Minute, Registers: []Register{{Name: "a", Function: 3}}})
		m.until(10 * time.Second)
		m.cancel()
		<-m.done
		if took := time.Since(m.start); took > 10*time.Second+time.Millisecond {
			t.Errorf("Run ended after %s", took)
		}
		m.counted(map[Outcome]uint64{})
	})
}
