//go:build linux

package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/session"
	"fieldbridge/bridge/spool"
	"fieldbridge/bridge/token"
)

// fleet is the sessions and what the daemon has in front of them: lanes and a
// spool. Its methods are for one goroutine.
type fleet struct {
	o        options
	spool    *spool.DB
	bridge   *bridge.Bridge
	endpoint *session.Endpoint
	pacer    *session.Pacer
	dials    *dials
	sessions []*session.Session
	started  int // so many of them
	running  sync.WaitGroup

	downs []atomic.Bool // by device: a downlink has come
	mints mints
}

// mints are the moments at which tokens were made.
type mints struct {
	mu sync.Mutex // guards what follows
	of map[string]int
	rs []rotation
}

// note leaves out a device's first token, which replaces none.
func (m *mints) note(device string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of[device]++; m.of[device] > 1 {
		m.rs = append(m.rs, rotation{device, time.Now()})
	}
}

func (m *mints) rotations() []rotation {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rs
}

func newFleet(o options) (*fleet, error) {
	f := &fleet{
		o: o, pacer: session.NewPacer(o.Rate), dials: &dials{}, downs: make([]atomic.Bool, o.Sessions),
		mints: mints{of: map[string]int{}},
	}
	var err error
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	if f.spool, err = spool.Open(spool.Options{Dir: o.Dir, Logger: log}); err != nil {
		return nil, err
	}
	f.bridge = bridge.New(bridge.Options{Spool: f.spool, Logger: log})
	f.endpoint, err = session.NewEndpoint(session.EndpointOptions{
		Address: o.Address, TLS: o.TLS, CAPEM: o.CAPEM, CAFile: "of this run",
		Dial: newDialer(o.Sessions, f.dials).dial,
	})
	return f, err
}

// fill adds sessions until there are n.
func (f *fleet) fill(n int) error {
	for i := len(f.sessions); i < n; i++ {
		if err := f.add(i); err != nil {
			return err
		}
	}
	return nil
}

// start starts the sessions that were added since, all at once: their pacer
// spreads the connects. They run until ctx is done.
func (f *fleet) start(ctx context.Context) {
	for ; f.started < len(f.sessions); f.started++ {
		s := f.sessions[f.started]
		f.running.Go(func() { _ = s.Run(ctx) }) // returns nil
	}
}

func (f *fleet) add(i int) error {
	id := bridge.DeviceID(deviceID(i))
	credentials, err := f.credentials(id)
	if err != nil {
		return err
	}
	s, err := session.New(session.Options{
		Endpoint: f.endpoint, Pacer: f.pacer, ClientID: string(id), Credentials: credentials,
		Topics:    session.Topics{Uplink: uplinkTopic, Downlink: downlinkTopic},
		Subscribe: []bridge.DeviceID{id},
		Downlinks: func(_ bridge.Downlink, _ bridge.Origin, done func()) {
			f.downs[i].Store(true)
			done()
		},
		Down:      func(s *session.Session) { f.bridge.LinkDown(s) },
		Connector: "loadtest", KeepAlive: f.o.KeepAlive,
	})
	if err != nil {
		return err
	}
	f.sessions = append(f.sessions, s)
	return f.bridge.Connect(id, bridge.Connection{Uplink: s})
}

// credentials are as the daemon makes them.
func (f *fleet) credentials(id bridge.DeviceID) (func() (session.Credentials, error), error) {
	if f.o.Auth == authSecret {
		c := session.Credentials{Username: "loadtest", Password: bridge.NewSecret("of-no-worth")}
		return func() (session.Credentials, error) { return c, nil }, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", id, err)
	}
	signer, err := token.NewSigner(key, token.Options{
		Device: id, Audience: "https://akenza.io/devices/" + string(id), Lifetime: f.o.Life,
	})
	if err != nil {
		return nil, err
	}
	return func() (session.Credentials, error) {
		if f.o.Mode == modeRotation {
			f.mints.note(string(id))
		}
		t, err := signer.Mint()
		if err != nil {
			return session.Credentials{}, err
		}
		return session.Credentials{
			Username: "unused", Password: t.Value, Renew: token.RenewAt(t, mrand.Float64), Expires: t.Expires,
		}, nil
	}, nil
}

// up is how many sessions are connected.
func (f *fleet) up() (n int) {
	for _, s := range f.sessions {
		if s.State().Up {
			n++
		}
	}
	return n
}

// poll is how often a condition is looked at.
const poll = 20 * time.Millisecond

// until waits for a condition.
func until(ctx context.Context, patience time.Duration, what string, cond func() bool) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for end := time.After(patience); !cond(); {
		select {
		case <-tick.C:
		case <-end:
			return fmt.Errorf("not within %s: %s", patience, what)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// untilUp waits until all sessions are connected.
func (f *fleet) untilUp(ctx context.Context, patience time.Duration) error {
	err := until(ctx, patience, "all sessions up", func() bool { return f.up() == len(f.sessions) })
	if err == nil || ctx.Err() != nil {
		return err
	}
	for _, s := range f.sessions {
		if st := s.State(); !st.Up {
			return fmt.Errorf("%w: %d of %d are; one that is not: %s", err, f.up(), len(f.sessions), st.Trouble)
		}
	}
	return nil
}

// drain waits until nothing is held or spooled.
func (f *fleet) drain(ctx context.Context, patience time.Duration) error {
	dctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := f.bridge.Drain(dctx); err != nil {
		return err
	}
	return until(ctx, patience, "the spool empty", func() bool {
		bl, err := f.spool.Backlogs()
		return err == nil && len(bl) == 0 && f.bridge.Held() == 0
	})
}

// reached is how many devices have had a downlink.
func (f *fleet) reached() (n int) {
	for i := range f.downs {
		if f.downs[i].Load() {
			n++
		}
	}
	return n
}
