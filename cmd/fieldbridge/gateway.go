package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"fieldbridge/bridge"
	"fieldbridge/bridge/clock"
	"fieldbridge/bridge/config"
	"fieldbridge/bridge/session"
	"fieldbridge/bridge/spool"
)

const (
	// drainTimeout is how long a stopping gateway waits for PUBACKs. What has
	// none then is in the spool.
	drainTimeout = 3 * time.Second
	// flushTimeout is how long it waits for the disk.
	flushTimeout = 20 * time.Second
)

// gateway is the daemon: everything that a configuration asks for, wired.
type gateway struct {
	log     *slog.Logger
	reset   func(*config.Config) // sets what is the process's; nil: nothing is
	spool   *spool.DB
	clock   *clock.Clock
	bridge  *bridge.Bridge
	metrics *metrics
	events  *happenings
	room    *room                       // of the spool
	looked  atomic.Pointer[spool.Stats] // the spool as of a moment ago; never nil

	began    *config.Config         // what it was started with
	current  atomic.Pointer[lineup] // what runs; never nil
	requests chan reloadRequest     // capacity 0

	// What follows belongs to the goroutine of run.
	core, intake *crew // sessions, and what takes readings in
	running      map[*session.Session]*part
	reading      map[*line]*part
	serving      *part
	secrets      *secretFollower // of what runs
}

// now is what runs.
func (g *gateway) now() *lineup { return g.current.Load() }

// newGateway builds a gateway, opens its spool and binds its HTTP listener.
// Nothing runs before run; nothing needs a broker, a port or the right time to
// be there. Who does not call run calls close.
func newGateway(cfg *config.Config, log *slog.Logger) (_ *gateway, err error) {
	keys, err := validate(cfg, log)
	if err != nil {
		return nil, err
	}
	g := &gateway{
		log: log, room: &room{}, events: &happenings{}, began: cfg, requests: make(chan reloadRequest),
		core: newCrew(), intake: newCrew(),
		running: map[*session.Session]*part{}, reading: map[*line]*part{},
	}
	g.current.Store(newLineup(g, cfg))
	g.metrics = newMetrics(cfg, g)
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if err := g.openSpool(cfg); err != nil {
		return nil, err
	}
	g.bridge = bridge.New(bridge.Options{
		AckTimeout: cfg.AckTimeout, Spool: watchedSpool{g.spool, g.room, g.events}, Downlinks: g.spool, Logger: log,
		Delivery: bridge.DeliveryPolicy{MaxAge: cfg.Spool.MaxAge},
		Stamp:    g.stamp, Published: g.metrics.published, Fetched: g.fetched,
		Delivered: g.events.delivered, GaveUp: g.events.gaveUp,
	})
	next, err := g.prepare(cfg, keys, diff(&layout{}, newLayout(cfg)))
	if err != nil {
		return nil, err
	}
	// From nothing to this configuration is a change like any other.
	if err := g.bridge.Change(next.changes()); err != nil {
		next.discard()
		return nil, err
	}
	g.current.Store(next.lineup)
	g.takeSecrets(next.lineup)
	if err := g.bridge.Reroute(next.routes()); err != nil {
		return nil, err
	}
	strangers, err := g.bridge.Recover()
	if err != nil {
		return nil, err
	}
	if strangers > 0 {
		log.Warn("the spool holds readings of devices that are not configured: they wait until their device is back, or max_age",
			"readings", strangers)
	}
	return g, nil
}

// openSpool opens the spool, and the clock, which goes by what the spool
// remembers.
func (g *gateway) openSpool(cfg *config.Config) (err error) {
	g.spool, err = spool.Open(spool.Options{
		Dir:      cfg.StateDir,
		MaxBytes: cfg.Spool.MaxBytes, MaxBytesPerDevice: cfg.Spool.MaxBytesPerDevice,
		MinFree: cfg.Spool.MinFree, MaxAge: cfg.Spool.MaxAge, WhenFull: cfg.Spool.WhenFull,
		Logger: g.log,
		// Asked once the spool is open.
		Trusted: func() bool { return g.clock != nil && g.clock.State().Trusted },
	})
	if err != nil {
		return err
	}
	g.looked.Store(new(g.spool.Stats()))
	g.clock = clock.New(clock.Options{
		RequireSync: cfg.Clock.RequireSync, LastTrusted: g.spool.LastTrusted(), Logger: g.log,
	})
	return nil
}

// timeKnown reports whether the wall clock can be trusted now.
func (g *gateway) timeKnown() bool { return g.clock.State().Trusted }

// trusted says why no token may be minted now, or nil.
func (g *gateway) trusted() error {
	if s := g.clock.State(); !s.Trusted {
		return fmt.Errorf("the clock is not trusted: %s", s.Reason)
	}
	return nil
}

// stamp says when a reading came: by the wall clock, if that can be trusted, else
// by what nobody can set.
func (g *gateway) stamp(r *bridge.Reading) {
	s := g.clock.Stamp()
	if r.Time = s.Wall; r.Time.IsZero() {
		r.Boot, r.Mono = s.Boot, s.Mono
	}
}

// when is a reading's time, as far as it is known by now.
func (g *gateway) when(r *bridge.Reading) time.Time {
	if !r.Time.IsZero() || r.Boot != g.clock.Boot() {
		return r.Time
	}
	if boot, ok := g.clock.WallAtBoot(); ok {
		return boot.Add(r.Mono)
	}
	return time.Time{}
}

// close releases what newGateway has opened.
func (g *gateway) close() {
	g.now().close()
	if g.spool != nil {
		if err := g.spool.Close(); err != nil {
			g.log.Error("spool not closed in order", "error", err)
		}
	}
}

// webhookName names a webhook in the spool and for people: where it is, without
// what may be secret in a query, and a digest to tell two apart.
func webhookName(target string) string {
	sum := sha256.Sum256([]byte(target))
	where := "webhook"
	if u, err := url.Parse(target); err == nil {
		where += " " + u.Scheme + "://" + u.Host + u.EscapedPath()
	}
	return where + " " + hex.EncodeToString(sum[:4])
}

// run runs the gateway until ctx is done, then stops in order: first what takes
// readings in, then, when the broker or the spool has them, the sessions, and
// the spool last.
func (g *gateway) run(ctx context.Context) error {
	defer g.close()
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	core, inner := errgroup.WithContext(inner)
	core.Go(func() error { return g.clock.Run(inner) })
	core.Go(func() error { return g.followClock(inner) })
	core.Go(func() error { return g.followSpool(inner) })
	core.Go(func() error { return g.followStates(inner) })
	core.Go(func() error { return g.bridge.Run(inner) })
	// Sessions end after what takes readings in.
	intakeCtx, stopIntake := context.WithCancel(ctx)
	defer stopIntake()
	l := g.now()
	for _, s := range l.sessions {
		g.running[s] = g.core.start(inner, s.Run)
	}
	g.serving = g.intake.start(intakeCtx, l.http.Run)
	for _, p := range l.ports {
		g.reading[p] = g.intake.start(intakeCtx, p.Run)
	}
	g.log.Info("ready", "http", l.http.Addr().String(), "sessions", len(l.sessions), "ports", len(l.ports))
	notify(g.log, sd.SdNotifyReady)

	err := g.serve(contexts{intakeCtx, inner})
	notify(g.log, sd.SdNotifyStopping)
	stopIntake()
	if werr := g.intake.wait(); err == nil {
		err = werr
	}
	dctx, cancel := context.WithTimeout(inner, drainTimeout)
	_ = g.bridge.Drain(dctx) // what is left is flushed
	cancel()
	fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if ferr := g.bridge.Flush(fctx); ferr != nil {
		g.log.Error("not all readings could be stored, what is in memory is lost", "readings", g.bridge.Held(), "error", ferr)
	}
	stop()
	_ = g.core.wait() // sessions return no error
	if cerr := core.Wait(); err == nil && !errors.Is(cerr, context.Canceled) {
		err = cerr
	}
	g.log.Info("stopped")
	return err
}

// serve reloads when it is asked to, and follows secret files, until the context of the intake is done or
// something that takes readings in has failed.
func (g *gateway) serve(ctx contexts) error {
	look := time.NewTicker(secretsLook)
	defer look.Stop()
	for {
		select {
		case r := <-g.requests:
			r.done <- g.reload(ctx)
		case <-look.C:
			g.followSecrets()
		case err := <-g.intake.failed:
			return err
		case <-ctx.intake.Done():
			return nil
		}
	}
}

// clockRecord is how often the trusted time is written down: a machine without
// a clock of its own starts from there.
const clockRecord = time.Hour

// followClock has tokens minted anew when the clock is trusted or was set, gives
// the readings that came before that their time, and writes trusted time down.
func (g *gateway) followClock(ctx context.Context) error {
	changes := g.clock.Changes()
	tick := time.NewTicker(clockRecord)
	defer tick.Stop()
	for {
		if now := g.clock.Stamp().Wall; !now.IsZero() {
			g.spool.SetLastTrusted(now)
		}
		if boot, ok := g.clock.WallAtBoot(); ok {
			if err := g.spool.Repair(g.clock.Boot(), boot); err != nil {
				g.log.Warn("readings from before the clock was right have not got their time in the spool", "error", err)
			}
		}
		select {
		case <-changes:
			for _, s := range g.now().sessions {
				s.Renew()
			}
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// notify tells systemd, if it is there (sd_notify(3)).
func notify(log *slog.Logger, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		log.Warn("systemd not notified", "error", err)
	}
}

// readyDocument is the detail of /readyz, documented in the README.
type readyDocument struct {
	Sessions         int           `json:"sessions"`
	SessionsUp       int           `json:"sessionsUp"`
	SessionsIdle     int           `json:"sessionsIdle"`
	SerialPorts      int           `json:"serialPorts"`
	SerialPortsUp    int           `json:"serialPortsUp"`
	ReadingsInMemory int           `json:"readingsInMemory"`
	Clock            clockDocument `json:"clock"`
	Spool            spoolDocument `json:"spool"`
}

// ready answers /readyz. A broker that is down is no reason to be unready. It
// does not wait for the disk: of the spool it tells what followSpool has seen.
func (g *gateway) ready() (bool, any) {
	l := g.now()
	d := readyDocument{
		Sessions: len(l.sessions), SerialPorts: len(l.ports), ReadingsInMemory: g.bridge.Held(),
		Clock: clockOf(g.clock.State()), Spool: g.spoolDocument(*g.looked.Load()),
	}
	for _, s := range l.sessions {
		switch st := s.State(); {
		case st.Up:
			d.SessionsUp++
		case st.Idle:
			d.SessionsIdle++
		}
	}
	for _, p := range l.ports {
		if p.Stats().Up {
			d.SerialPortsUp++
		}
	}
	return true, d
}
