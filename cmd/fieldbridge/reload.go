package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"fieldbridge/bridge/config"
	"fieldbridge/bridge/session"
	"fieldbridge/bridge/spool"
)

// reloadRequest asks the goroutine of run for a reload.
type reloadRequest struct{ done chan error } // capacity 1

// requestReload has a gateway that runs read its configuration anew, and waits
// until that is done or refused.
func (g *gateway) requestReload(ctx context.Context) error {
	r := reloadRequest{make(chan error, 1)}
	select {
	case g.requests <- r:
		return <-r.done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// contexts are those of what takes readings in, and of everything else.
type contexts struct{ intake, core context.Context }

// reload makes the gateway do what its file says now. Everything that can fail is
// made first; then only what has changed is stopped and started. With an error
// all is as it was.
func (g *gateway) reload(ctx contexts) error {
	notify(g.log, reloading())
	defer notify(g.log, sd.SdNotifyReady)
	began := time.Now()
	p, err := g.change(ctx)
	g.metrics.reload(err)
	if err != nil {
		g.reportMistakes(err)
		return err
	}
	l := g.now()
	g.log.Info("configuration reloaded", "http", l.http.Addr().String(), "sessions", len(l.sessions), "ports", len(l.ports),
		"sessions_stopped", len(p.stop), "sessions_started", len(p.start),
		"devices_changed", len(p.devices), "devices_removed", len(p.gone),
		"took", time.Since(began).Round(time.Millisecond))
	return nil
}

// reloading tells systemd that a reload has begun (sd_notify(3)).
func reloading() string {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return sd.SdNotifyReloading
	}
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sd.SdNotifyReloading, t.Nano()/1000)
}

func (g *gateway) reportMistakes(err error) {
	const message = "configuration not reloaded, everything goes on as before"
	var mistakes *config.Errors
	if !errors.As(err, &mistakes) {
		g.log.Error(message, "error", err)
		return
	}
	for _, m := range mistakes.Mistakes {
		g.log.Error(message, "mistake", m.Error())
	}
}

// change is reload without a word to anyone.
func (g *gateway) change(ctx contexts) (plan, error) {
	next, err := config.Load(g.began.File)
	if err != nil {
		return plan{}, err
	}
	keys, err := validate(next, g.log)
	if err != nil {
		return plan{}, err
	}
	g.keepFixed(next)
	p := diff(g.now().layout, newLayout(next))
	c, err := g.prepare(next, keys, p)
	if err != nil {
		return plan{}, err
	}
	if err := c.commit(ctx); err != nil {
		c.discard()
		return plan{}, err
	}
	return p, nil
}

// keepFixed puts back what cannot change while the gateway runs, and says so.
func (g *gateway) keepFixed(next *config.Config) {
	keep := func(key string, differs bool) {
		if differs {
			g.log.Warn("this key keeps its value until the gateway is restarted: restart to apply", "key", key)
		}
	}
	keep("state_dir", next.StateDir != g.began.StateDir)
	keep("clock.require_sync", next.Clock.RequireSync != g.began.Clock.RequireSync)
	next.StateDir, next.Clock = g.began.StateDir, g.began.Clock
}

// commit turns what runs into what was prepared. An error comes before anything
// has changed.
func (c *change) commit(ctx contexts) error {
	g, old, l := c.g, c.old, c.lineup
	// A port of a device that moves or goes must not be ahead of it.
	var closing []*part
	for _, name := range c.plan.closePorts {
		closing = append(closing, g.reading[old.ports[name]])
	}
	stopAll(closing)
	if err := g.bridge.Change(c.changes()); err != nil {
		for _, name := range c.plan.closePorts {
			g.reading[old.ports[name]] = g.intake.start(ctx.intake, old.ports[name].Run)
		}
		return err
	}
	for _, name := range c.plan.closePorts {
		delete(g.reading, old.ports[name])
	}
	g.tune(l.cfg)
	c.stopSessions()
	g.current.Store(l)
	if err := g.bridge.Reroute(c.routes()); err != nil {
		g.log.Error("downlinks not rerouted: restart to apply", "error", err)
	}
	for _, s := range c.fresh {
		g.running[s] = g.core.start(ctx.core, s.Run)
	}
	for _, name := range c.plan.openPorts {
		port := l.ports[name]
		l.lines[name].now.Store(&port)
		g.reading[l.ports[name]] = g.intake.start(ctx.intake, l.ports[name].Run)
	}
	if l.http != old.http {
		before := g.serving
		g.serving = g.intake.start(ctx.intake, l.http.Run)
		before.cancel()   // it answers what it has begun
		<-old.http.Shut() // who connects after the reload gets the new rules
	}
	g.takeSecrets(l)
	for url, t := range l.hooks {
		l.hookers[url].now.Store(&t)
	}
	for _, url := range c.plan.dropHooks {
		old.hooks[url].Close() // what it is at goes on
	}
	return nil
}

// tune applies what only has to be set.
func (g *gateway) tune(cfg *config.Config) {
	if g.reset != nil {
		g.reset(cfg)
	}
	g.bridge.Tune(cfg.AckTimeout, cfg.Spool.MaxAge)
	g.spool.SetLimits(spool.Limits{
		MaxBytes: cfg.Spool.MaxBytes, MaxBytesPerDevice: cfg.Spool.MaxBytesPerDevice,
		MinFree: cfg.Spool.MinFree, MaxAge: cfg.Spool.MaxAge, WhenFull: cfg.Spool.WhenFull,
	})
}

// client is how a broker knows a session.
type client struct{ address, id string }

// stopSessions ends the sessions that are replaced or not wanted any more, in
// order, and waits: two with one client id would throw each other out.
func (c *change) stopSessions() {
	name := func(l *lineup, key sessionKey) client {
		return client{l.layout.sessions[key].connector.Address, l.byKey[key].ClientID()}
	}
	heirs := map[client]*session.Session{}
	for _, key := range c.plan.start {
		heirs[name(c.lineup, key)] = c.lineup.byKey[key]
	}
	var ending []*part
	replaced := map[*session.Session]*session.Session{}
	for _, key := range c.plan.stop {
		s := c.old.byKey[key]
		ending = append(ending, c.g.running[s])
		delete(c.g.running, s)
		heir := heirs[name(c.old, key)]
		switch {
		case heir != nil:
			replaced[heir] = s
		case c.served(key):
			s.Abandon()
		}
	}
	stopAll(ending)
	for heir, s := range replaced {
		heir.Replace(s)
	}
}

// served reports whether another session has the downlinks of an old one now:
// the broker must not keep them for it. Those of a device that is gone it may
// keep, as when the gateway stops.
func (c *change) served(key sessionKey) bool {
	ids := c.old.layout.sessions[key].subscribe
	if key.device != "" {
		ids = append(ids, key.device)
	}
	for _, id := range ids {
		if _, ok := c.lineup.layout.devices[id]; ok {
			return true
		}
	}
	return false
}

const (
	outcomeOK     = "ok"
	outcomeFailed = "failed"
)

// addReloads makes the metrics of reloads.
func (m *metrics) addReloads() {
	m.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsPrefix, Name: "config_reloads_total",
		Help: "Reloads of the configuration, by whether they worked.",
	}, []string{"outcome"})
	m.reloads.WithLabelValues(outcomeOK)
	m.reloads.WithLabelValues(outcomeFailed)
	m.reloaded = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: metricsPrefix, Name: "config_last_reload_successful",
		Help: "1 if the file was in order when it was last read, so that it is what runs.",
	})
	m.reloadAt = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: metricsPrefix, Name: "config_last_reload_success_timestamp_seconds",
		Help: "When the configuration that runs was read, in Unix time.",
	})
	m.reloaded.Set(1)
	m.reloadAt.SetToCurrentTime()
}

// reload counts one.
func (m *metrics) reload(err error) {
	if err != nil {
		m.reloads.WithLabelValues(outcomeFailed).Inc()
		m.reloaded.Set(0)
		return
	}
	m.reloads.WithLabelValues(outcomeOK).Inc()
	m.reloaded.Set(1)
	m.reloadAt.SetToCurrentTime()
}
