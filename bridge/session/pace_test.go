package session

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"fieldbridge/bridge"
)

// Renewals go first, then those with readings, then the others; each in the
// order in which they came.
func TestPacerOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer(10)
		<-p.join(idling).come // the first one goes at once
		began := time.Now()
		var mu sync.Mutex
		var order []string
		var all sync.WaitGroup
		add := func(name string, r rank) *turn {
			turn := p.join(r)
			all.Go(func() {
				<-turn.come
				mu.Lock()
				defer mu.Unlock()
				order = append(order, fmt.Sprintf("%s@%s", name, time.Since(began)))
			})
			return turn
		}
		add("idle-1", idling)
		late := add("idle-2", idling)
		add("waiting-1", waiting)
		add("waiting-2", waiting)
		add("renewal", renewing)
		gone := p.join(waiting)
		p.leave(gone)
		p.hurry(late, waiting) // something came for it
		p.hurry(gone, renewing)
		all.Wait()
		want := []string{"renewal@100ms", "idle-2@200ms", "waiting-1@300ms", "waiting-2@400ms", "idle-1@500ms"}
		if !slices.Equal(order, want) {
			t.Errorf("order %q, want %q", order, want)
		}
		p.hurry(late, idling) // it has gone: nothing happens
		p.leave(late)
	})
}

// No window of a second has more admissions than the budget, however long nobody
// came.
func TestPacerIsABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 20
		p := NewPacer(rate)
		var at []time.Time
		for i := range 10 * rate {
			<-p.join(idling).come
			at = append(at, time.Now())
			if i == 50 {
				time.Sleep(time.Minute)
			}
		}
		for i := rate; i < len(at); i++ {
			if at[i].Sub(at[i-rate]) < time.Second {
				t.Fatalf("%d admissions within %s", rate+1, at[i].Sub(at[i-rate]))
			}
		}
		if d := at[len(at)-1].Sub(at[0]) - time.Minute; d > 10*time.Second {
			t.Errorf("%d admissions took %s", len(at), d)
		}
	})
}

// A pacer that nobody waits for has no timer, and one that was given up does not
// spend anything.
func TestPacerLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPacer(1)
		<-p.join(idling).come
		a, b := p.join(idling), p.join(idling)
		p.leave(a)
		p.leave(b)
		if p.timer != nil || p.queue.Len() != 0 {
			t.Fatalf("%d wait, timer %v", p.queue.Len(), p.timer)
		}
		c := p.join(idling)
		began := time.Now()
		<-c.come
		if d := time.Since(began); d != time.Second {
			t.Errorf("admitted after %s", d)
		}
	})
}

// fleet is sessions of one connector at one broker, whose CONNECTs are counted.
type fleet struct {
	sessions []*Session
	queues   []*queue
	mu       sync.Mutex // guards what follows
	connects []time.Time
	first    []string // client ids in the order of their first CONNECT
	minted   int
	answer   func(p *peer, id string)
}

func newFleet(t *testing.T, n, rate int, change func(*Options)) *fleet {
	t.Helper()
	f := &fleet{answer: func(p *peer, _ string) { p.connack(0, true, nil) }}
	srv := newServer(t)
	srv.conns = make(chan *peer, 100_000)
	pacer := NewPacer(rate)
	ep, err := NewEndpoint(EndpointOptions{Address: "broker.example:1883", Dial: srv.dial})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { cancel(); all.Wait() })
	for i := range n {
		o := Options{
			Endpoint: ep, ClientID: fmt.Sprintf("dev-%d", i), Pacer: pacer,
			Topics: Topics{Uplink: "/up/device/id/{device}", Downlink: "/down/device/id/{device}/#"},
			Credentials: func() (Credentials, error) {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.minted++
				return Credentials{Username: "unused"}, nil
			},
		}
		if change != nil {
			change(&o)
		}
		s, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		f.sessions = append(f.sessions, s)
		f.queues = append(f.queues, &queue{t: t, uplink: s})
	}
	all.Go(func() {
		for {
			select {
			case p := <-srv.conns:
				all.Go(func() { f.serve(ctx, p) })
			case <-ctx.Done():
				return
			}
		}
	})
	for _, s := range f.sessions {
		all.Go(func() { _ = s.Run(ctx) })
	}
	return f
}

func (f *fleet) serve(ctx context.Context, p *peer) {
	for {
		select {
		case in, ok := <-p.in:
			if !ok {
				return
			}
			switch c := in.(type) {
			case *packets.Connect:
				f.mu.Lock()
				f.connects = append(f.connects, time.Now())
				if !slices.Contains(f.first, c.ClientID) {
					f.first = append(f.first, c.ClientID)
				}
				answer := f.answer
				f.mu.Unlock()
				answer(p, c.ClientID)
			case *packets.Publish:
				p.puback(c.PacketID, 0)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (f *fleet) count() (connects, minted int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.connects), f.minted
}

// within checks that no second had more CONNECTs than the budget.
func (f *fleet) within(t *testing.T, rate int) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := rate; i < len(f.connects); i++ {
		if d := f.connects[i].Sub(f.connects[i-rate]); d < time.Second {
			t.Fatalf("%d CONNECTs within %s", rate+1, d)
		}
	}
}

// All sessions of a connector share its budget; those with readings come first,
// also if the reading comes while they wait.
func TestFleetConnects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rate = 200, 20
		f := newFleet(t, n, rate, nil)
		began := time.Now()
		time.Sleep(time.Second)
		busy := []int{150, 170, 199}
		for _, i := range busy {
			f.queues[i].submit(bridge.Reading{Device: dev, ContentType: "text/plain", Payload: []byte("x")})
		}
		before, _ := f.count()
		time.Sleep(time.Second)
		f.mu.Lock()
		for _, i := range busy {
			if at := slices.Index(f.first, fmt.Sprintf("dev-%d", i)); at < 0 || at > before+len(busy) {
				t.Errorf("dev-%d came as number %d, it had a reading when there were %d", i, at, before)
			}
		}
		f.mu.Unlock()
		for {
			if c, _ := f.count(); c == n {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		if d := time.Since(began); d < 9*time.Second || d > 11*time.Second {
			t.Errorf("%d sessions connected in %s, want about %d s", n, d, n/rate)
		}
		f.within(t, rate)
		for i, s := range f.sessions {
			if !s.State().Up {
				t.Errorf("session %d: %+v", i, s.State())
			}
		}
	})
}

// A broker that refuses everybody sees the budget and no more, and nobody signs
// more tokens than CONNECTs.
func TestFleetRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rate = 300, 10
		f := newFleet(t, n, rate, nil)
		f.mu.Lock()
		f.answer = func(p *peer, id string) {
			p.connack(0x88, false, nil)
			p.cut()
		}
		f.mu.Unlock()
		time.Sleep(5 * time.Minute)
		connects, minted := f.count()
		if connects < 5*60*rate*9/10-n || minted-connects > 1 {
			t.Errorf("%d CONNECTs, %d tokens", connects, minted)
		}
		f.within(t, rate)
	})
}

// Tokens that are renewed while others wait to connect: renewals go first, all
// are in time, and the budget holds.
func TestFleetRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, rate = 200, 5
		life := 100 * time.Second // 200 / 80 s are 2.5 a second
		f := newFleet(t, n, rate, func(o *Options) {
			o.Credentials = func() (Credentials, error) {
				now := time.Now()
				return Credentials{Renew: now.Add(life * 8 / 10), Expires: now.Add(life)}, nil
			}
		})
		for range 600 {
			time.Sleep(time.Second)
			for i, s := range f.sessions {
				if st := s.State(); st.Up && time.Until(st.TokenExpires) <= 0 {
					t.Fatalf("session %d is up with a token that has expired", i)
				}
			}
		}
		f.within(t, rate)
		up := 0
		for _, s := range f.sessions {
			if s.State().Up {
				up++
			}
		}
		if up != n {
			t.Errorf("%d sessions are up, want %d", up, n)
		}
	})
}

// A renewal goes before all who wait to connect: they would not have come to an
// end before the token does.
func TestRenewalGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		pacer := NewPacer(1)
		start(t, srv, func(o *Options) { renewIn(10 * time.Second)(o); o.Pacer = pacer })
		p := srv.accept(false)
		time.Sleep(9 * time.Second)
		for range 200 {
			defer pacer.leave(pacer.join(waiting))
		}
		began := time.Now()
		p.left()
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("renewed after %s more, want about a second", d)
		}
		srv.accept(true)
	})
}

// The wait for a turn is no part of a connection's life: a broker that drops
// everybody at once is not hammered however long the queue is.
func TestWaitIsNotStable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		pacer := NewPacer(1)
		pacer.interval = time.Minute // longer than Stable
		r := start(t, srv, func(o *Options) { o.Pacer = pacer })
		n := connects(srv, 10*time.Hour, func(p *peer) { p.connack(0x86, false, nil); p.cut() })
		// Slow pauses of 2.5 min on average, and half a minute of the pacer's.
		if n > 300 {
			t.Errorf("%d CONNECTs in ten hours", n)
		}
		r.stop()
	})
}
