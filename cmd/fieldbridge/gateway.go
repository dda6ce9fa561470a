package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"fieldbridge/adapters/rest"
	"fieldbridge/adapters/serial"
	"fieldbridge/adapters/webhook"
	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
	"fieldbridge/bridge/session"
)

// drainTimeout is how long a stopping gateway waits for PUBACKs.
const drainTimeout = 5 * time.Second

// gateway is the daemon: everything that a configuration asks for, wired.
type gateway struct {
	log      *slog.Logger
	bridge   *bridge.Bridge
	http     *rest.Server
	ports    map[string]*serial.Port
	hooks    map[string]*webhook.Target // by URL
	sessions []*session.Session
}

// newGateway builds a gateway and binds its HTTP listener. Nothing runs before
// run; nothing needs a broker, a port or the right time to be there.
func newGateway(cfg *config.Config, log *slog.Logger) (*gateway, error) {
	keys, err := signers(cfg)
	if err != nil {
		return nil, err
	}
	g := &gateway{
		log:    log,
		bridge: bridge.New(bridge.Options{AckTimeout: cfg.AckTimeout, Logger: log}),
		ports:  map[string]*serial.Port{},
		hooks:  map[string]*webhook.Target{},
	}
	w := &wiring{cfg: cfg, signers: keys, log: log, downlinks: g.bridge.Downlink}
	if err := g.connect(w); err != nil {
		return nil, err
	}
	for _, s := range cfg.Serials {
		p, err := newPort(s, g.bridge, log)
		if err != nil {
			return nil, err
		}
		g.ports[s.Name] = p
	}
	if err := g.route(cfg); err != nil {
		return nil, err
	}
	g.http, err = rest.New(rest.Options{
		Listen: cfg.HTTP.Listen, MaxBody: cfg.HTTP.MaxBody, Logger: log, Ready: g.ready,
	}, g.bridge)
	if err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	return g, nil
}

func newPort(s config.Serial, to serial.Accepter, log *slog.Logger) (*serial.Port, error) {
	return serial.New(serial.Options{
		Name: s.Name, Port: s.Port, Baud: s.Baud, Mode: s.Mode,
		Delimiter: s.Delimiter, MaxFrame: int(s.MaxFrame), Decode: s.Decode,
		Device: s.Device, Subtopic: s.Subtopic, ContentType: s.ContentType,
		Logger: log,
	}, to)
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
			if err := g.bridge.Connect(d.ID, bridge.Connection{Uplink: s, MaxPayload: c.MaxPayload}); err != nil {
				return err
			}
		}
		if c.AnyDevice {
			g.bridge.ConnectOthers(bridge.Connection{Uplink: shared, MaxPayload: c.MaxPayload})
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
				r.Target, r.To = fmt.Sprintf("serial %q", dl.Serial), g.ports[dl.Serial]
			} else {
				t := g.hooks[dl.Webhook]
				if t == nil {
					var err error
					if t, err = webhook.New(webhook.Options{URL: dl.Webhook, Logger: g.log}); err != nil {
						return err
					}
					g.hooks[dl.Webhook] = t
				}
				r.Target, r.To = "webhook", t
			}
			if err := g.bridge.Route(d.ID, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// run runs the gateway until ctx is done, then stops in order: first what takes
// readings in, then, when the broker has them or drainTimeout is over, the
// sessions.
func (g *gateway) run(ctx context.Context) error {
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	core, inner := errgroup.WithContext(inner)
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
	defer cancel()
	if derr := g.bridge.Drain(dctx); derr != nil {
		g.log.Error("readings are lost: the broker has not acknowledged them and they are in memory only",
			"readings", g.bridge.Held())
	}
	stop()
	if cerr := core.Wait(); err == nil && !errors.Is(cerr, context.Canceled) {
		err = cerr
	}
	for _, t := range g.hooks {
		t.Close()
	}
	g.log.Info("stopped")
	return err
}

// notify tells systemd, if it is there (sd_notify(3)).
func notify(log *slog.Logger, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		log.Warn("systemd not notified", "error", err)
	}
}

// ready answers /readyz. A broker that is down is no reason to be unready.
func (g *gateway) ready() (bool, any) {
	up := 0
	for _, s := range g.sessions {
		if s.State().Up {
			up++
		}
	}
	ports := 0
	for _, p := range g.ports {
		if p.Stats().Up {
			ports++
		}
	}
	return true, map[string]int{
		"sessions": len(g.sessions), "sessionsUp": up,
		"serialPorts": len(g.ports), "serialPortsUp": ports,
		"readingsHeld": g.bridge.Held(),
	}
}
