package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"fieldbridge/adapters/rest"
	"fieldbridge/adapters/webhook"
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
	log      *slog.Logger
	spool    *spool.DB
	clock    *clock.Clock
	bridge   *bridge.Bridge
	metrics  *metrics
	http     *rest.Server
	ports    map[string]*line
	hooks    map[string]*webhook.Target // by URL
	sessions []*session.Session
	states   *states

	maxBytes int64                       // of the spool
	room     *room                       // of the spool
	looked   atomic.Pointer[spool.Stats] // the spool as of a moment ago; never nil
}

// newGateway builds a gateway, opens its spool and binds its HTTP listener.
// Nothing runs before run; nothing needs a broker, a port or the right time to
// be there. Who does not call run calls close.
func newGateway(cfg *config.Config, log *slog.Logger) (_ *gateway, err error) {
	keys, err := validate(cfg)
	if err != nil {
		return nil, err
	}
	g := &gateway{log: log, ports: map[string]*line{}, hooks: map[string]*webhook.Target{}}
	g.metrics = newMetrics(cfg, g)
	g.states = newStates(g, cfg)
	g.maxBytes, g.room = cfg.Spool.MaxBytes, &room{}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if err := g.openSpool(cfg); err != nil {
		return nil, err
	}
	g.bridge = bridge.New(bridge.Options{
		AckTimeout: cfg.AckTimeout, Spool: watchedSpool{g.spool, g.room}, Downlinks: g.spool, Logger: log,
		Delivery: bridge.DeliveryPolicy{MaxAge: cfg.Spool.MaxAge},
		Stamp:    g.stamp, Published: g.metrics.published,
	})
	w := &wiring{
		cfg: cfg, signers: keys, log: log, downlinks: g.bridge.Downlink,
		acked:     g.spool.DownlinkAcked,
		forgotten: g.spool.SessionLost,
		down:      func(s *session.Session) { g.bridge.LinkDown(s) },
		trusted:   g.trusted,
		when:      g.when,
		metrics:   g.metrics,
	}
	if err := g.connect(w); err != nil {
		return nil, err
	}
	slices.Sort(g.states.listed)
	intake := countingIntake{g.bridge, g.metrics}
	for _, s := range cfg.Serials {
		p, err := newLine(s, lineOptions{to: intake, log: log, timeKnown: func() bool { return g.clock.State().Trusted }})
		if err != nil {
			return nil, err
		}
		g.ports[s.Name] = p
	}
	if err := g.route(cfg); err != nil {
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
	g.http, err = rest.New(rest.Options{
		Listen: cfg.HTTP.Listen, MaxBody: cfg.HTTP.MaxBody, Logger: log, Ready: g.ready,
		Metrics: g.metrics.handler(log), States: g.states,
	}, intake)
	if err != nil {
		return nil, fmt.Errorf("http: %w", err)
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
	if g.http != nil {
		_ = g.http.Close()
	}
	for _, t := range g.hooks {
		t.Close()
	}
	if g.spool != nil {
		if err := g.spool.Close(); err != nil {
			g.log.Error("spool not closed in order", "error", err)
		}
	}
}

// connect gives every device its session.
func (g *gateway) connect(w *wiring) error {
	for i := range w.cfg.Connectors {
		c := &w.cfg.Connectors[i]
		var shared *session.Session
		if c.Auth == config.AuthUplinkSecret {
			s, err := w.sharedSession(c)
			if err != nil {
				return err
			}
			g.sessions = append(g.sessions, s)
			shared = s
		}
		for _, d := range w.cfg.Devices {
			if d.ConnectorName != c.Name {
				continue
			}
			s := shared
			if s == nil {
				var err error
				if s, err = w.deviceSession(c, d); err != nil {
					return err
				}
				g.sessions = append(g.sessions, s)
			}
			g.states.carry(d.ID, s, shared == nil)
			if err := g.bridge.Connect(d.ID, bridge.Connection{
				Uplink: s, MaxPayload: c.MaxPayload, SpoolFirst: d.Durability == config.DurabilityAlways,
			}); err != nil {
				return err
			}
		}
		if c.AnyDevice {
			g.states.others = shared
			g.bridge.ConnectOthers(bridge.Connection{
				Uplink: shared, MaxPayload: c.MaxPayload, SpoolFirst: w.cfg.Durability == config.DurabilityAlways,
			})
		}
	}
	return nil
}

// route tells where downlinks go. One target per URL or port keeps the order of
// what goes there.
func (g *gateway) route(cfg *config.Config) error {
	for _, d := range cfg.Devices {
		for _, dl := range d.Downlinks {
			r := bridge.Route{Filter: dl.Subtopic}
			if dl.Serial != "" {
				r.Target, r.To = "serial "+dl.Serial, g.metrics.counted(targetSerial, g.ports[dl.Serial])
			} else {
				t := g.hooks[dl.Webhook]
				if t == nil {
					var err error
					if t, err = webhook.New(webhook.Options{URL: dl.Webhook, Logger: g.log}); err != nil {
						return err
					}
					g.hooks[dl.Webhook] = t
				}
				r.Target, r.To = webhookName(dl.Webhook), g.metrics.counted(targetWebhook, t)
			}
			if err := g.bridge.Route(d.ID, r); err != nil {
				return err
			}
		}
	}
	return nil
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
	core.Go(func() error { return g.bridge.Run(inner) })
	for _, s := range g.sessions {
		core.Go(func() error { return s.Run(inner) })
	}

	intake, intakeCtx := errgroup.WithContext(ctx)
	intake.Go(func() error { return g.http.Run(intakeCtx) })
	for _, p := range g.ports {
		intake.Go(func() error { return p.Run(intakeCtx) })
	}
	g.log.Info("ready", "http", g.http.Addr().String(), "sessions", len(g.sessions), "ports", len(g.ports))
	notify(g.log, sd.SdNotifyReady)

	err := intake.Wait()
	notify(g.log, sd.SdNotifyStopping)
	dctx, cancel := context.WithTimeout(inner, drainTimeout)
	_ = g.bridge.Drain(dctx) // what is left is flushed
	cancel()
	fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if ferr := g.bridge.Flush(fctx); ferr != nil {
		g.log.Error("not all readings could be stored, what is in memory is lost", "readings", g.bridge.Held(), "error", ferr)
	}
	stop()
	if cerr := core.Wait(); err == nil && !errors.Is(cerr, context.Canceled) {
		err = cerr
	}
	g.log.Info("stopped")
	return err
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
			for _, s := range g.sessions {
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
	SerialPorts      int           `json:"serialPorts"`
	SerialPortsUp    int           `json:"serialPortsUp"`
	ReadingsInMemory int           `json:"readingsInMemory"`
	Clock            clockDocument `json:"clock"`
	Spool            spoolDocument `json:"spool"`
}

// ready answers /readyz. A broker that is down is no reason to be unready. It
// does not wait for the disk: of the spool it tells what followSpool has seen.
func (g *gateway) ready() (bool, any) {
	d := readyDocument{
		Sessions: len(g.sessions), SerialPorts: len(g.ports), ReadingsInMemory: g.bridge.Held(),
		Clock: clockOf(g.clock.State()), Spool: g.spoolDocument(*g.looked.Load()),
	}
	for _, s := range g.sessions {
		if s.State().Up {
			d.SessionsUp++
		}
	}
	for _, p := range g.ports {
		if p.Stats().Up {
			d.SerialPortsUp++
		}
	}
	return true, d
}
