package main

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"

	"fieldbridge/adapters/rest"
	"fieldbridge/adapters/webhook"
	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
	"fieldbridge/bridge/session"
	"fieldbridge/bridge/token"
)

// lineup is what runs under one configuration. Once it is in use nobody changes
// it: a reload makes another one, which shares what goes on.
type lineup struct {
	cfg      *config.Config
	layout   *layout
	states   *states
	http     *rest.Server
	sessions []*session.Session // in the order of the configuration
	byKey    map[sessionKey]*session.Session
	ports    map[string]*line
	shared   map[string]common                    // by connector
	lines    map[string]*standIn[*line]           // the ports as targets
	hooks    map[string]*webhook.Target           // by URL
	hookers  map[string]*standIn[*webhook.Target] // the webhooks as targets
}

func newLineup(g *gateway, cfg *config.Config) *lineup {
	l := &lineup{
		cfg: cfg, layout: newLayout(cfg),
		byKey: map[sessionKey]*session.Session{}, ports: map[string]*line{},
		lines: map[string]*standIn[*line]{}, hooks: map[string]*webhook.Target{},
		hookers: map[string]*standIn[*webhook.Target]{},
	}
	l.states = newStates(g, l, cfg)
	return l
}

// close releases what a lineup that does not run any more, or never did, has.
func (l *lineup) close() {
	if l.http != nil {
		_ = l.http.Close()
	}
	for _, t := range l.hooks {
		t.Close()
	}
}

// shareWith is what new sessions of connectors that have not changed share with
// those that go on: one budget of connects is for all of them.
func (l *lineup) shareWith(next *lineup) map[string]common {
	shared := map[string]common{}
	for name, c := range l.shared {
		was, is := l.layout.connectors[name], next.layout.connectors[name]
		if reflect.DeepEqual(was, is) {
			shared[name] = c
		}
	}
	return shared
}

// standIn is what the Bridge knows as a target of downlinks: it stays the same one
// when what is behind it is made anew with other settings.
type standIn[D bridge.Deliverer] struct{ now atomic.Pointer[D] }

// inherit returns the stand-in of before, or a new one for d.
func inherit[D bridge.Deliverer](before *standIn[D], d D) *standIn[D] {
	if before != nil {
		return before
	}
	s := &standIn[D]{}
	s.now.Store(&d)
	return s
}

// Deliver implements bridge.Deliverer.
func (s *standIn[D]) Deliver(ctx context.Context, d bridge.Downlink) (*bridge.Answer, error) {
	return (*s.now.Load()).Deliver(ctx, d)
}

// change is a lineup that is ready to take over, and the way there. Nothing of
// what runs has been touched yet.
type change struct {
	g      *gateway
	plan   plan
	old    *lineup
	lineup *lineup
	fresh  []*session.Session // in lineup and not in old
}

// prepare makes everything that p asks for and that can fail.
func (g *gateway) prepare(cfg *config.Config, keys map[bridge.DeviceID]*token.Ring, p plan) (_ *change, err error) {
	c := &change{g: g, plan: p, old: g.now(), lineup: newLineup(g, cfg)}
	defer func() {
		if err != nil {
			c.discard()
		}
	}()
	w := g.wiring(cfg, keys)
	w.shared = c.old.shareWith(c.lineup)
	if err := c.makeSessions(w); err != nil {
		return nil, err
	}
	c.lineup.shared = w.shared
	intake := countingIntake{g.bridge, g.metrics, g.events}
	l := c.lineup
	for _, s := range cfg.Serials {
		if l.ports[s.Name] = c.old.ports[s.Name]; slices.Contains(p.openPorts, s.Name) {
			if l.ports[s.Name], err = newLine(s, lineOptions{to: intake, log: g.log, timeKnown: g.timeKnown}); err != nil {
				return nil, err
			}
		}
		l.lines[s.Name] = inherit(c.old.lines[s.Name], l.ports[s.Name])
	}
	for url, spec := range l.layout.hooks {
		if l.hooks[url] = c.old.hooks[url]; slices.Contains(p.addHooks, url) {
			l.hooks[url], err = webhook.New(webhook.Options{
				URL: url, CAPEM: spec.caPEM, Proxy: spec.proxy, Logger: g.log,
			})
			if err != nil {
				delete(l.hooks, url)
				return nil, err
			}
		}
		l.hookers[url] = inherit(c.old.hookers[url], l.hooks[url])
	}
	if err := c.makeHTTP(intake); err != nil {
		return nil, fmt.Errorf("http: %w", err)
	}
	return c, nil
}

// wiring is what the sessions of a configuration have in common.
func (g *gateway) wiring(cfg *config.Config, keys map[bridge.DeviceID]*token.Ring) *wiring {
	return &wiring{
		cfg: cfg, signers: keys, log: g.log, downlinks: g.downlink,
		acked:     g.spool.DownlinkAcked,
		forgotten: g.spool.SessionLost,
		down:      func(s *session.Session) { g.bridge.LinkDown(s) },
		trusted:   g.trusted,
		when:      g.when,
		metrics:   g.metrics,
	}
}

// makeSessions makes the sessions that are new and takes the others over.
func (c *change) makeSessions(w *wiring) error {
	l := c.lineup
	devices := map[bridge.DeviceID]config.Device{}
	for _, d := range w.cfg.Devices {
		devices[d.ID] = d
	}
	begun := map[sessionKey]bool{}
	for _, key := range c.plan.start {
		begun[key] = true
	}
	for _, key := range l.layout.order {
		s := c.old.byKey[key]
		if begun[key] {
			var err error
			conn := w.cfg.Connector(key.connector)
			if key.device == "" {
				s, err = w.sharedSession(conn)
			} else {
				s, err = w.deviceSession(conn, devices[key.device])
			}
			if err != nil {
				return err
			}
			c.fresh = append(c.fresh, s)
		}
		l.byKey[key] = s
		l.sessions = append(l.sessions, s)
	}
	for id, spec := range l.layout.devices {
		l.states.carry(id, l.byKey[spec.session], spec.session.device != "")
	}
	slices.Sort(l.states.listed)
	if o := l.layout.others; o != nil {
		l.states.others = l.byKey[o.session]
	}
	return nil
}

// makeHTTP makes the HTTP endpoint, or takes the old one over.
func (c *change) makeHTTP(intake countingIntake) (err error) {
	g, l := c.g, c.lineup
	o := rest.Options{
		Listen: l.cfg.HTTP.Listen, SocketMode: l.cfg.HTTP.SocketMode, MaxBody: l.cfg.HTTP.MaxBody, Logger: g.log, Ready: g.ready,
		Metrics: g.metrics.handler(g.log), States: currentStates{g}, Events: &g.events.hub, Mailboxes: g.bridge,
		Tokens: httpTokens(l.cfg.HTTP.Tokens), Denied: g.metrics.denied,
		MaxConnections: connectionLimit(l.cfg, g.log), GaveWay: g.metrics.gaveWay,
		// A reload can change it and leave the endpoint alone.
		Secret: func(id bridge.DeviceID) bridge.Secret { return g.now().layout.secret(id) },
	}
	if o.TLS, err = httpTLS(&l.cfg.HTTP); err != nil {
		return err
	}
	switch {
	case c.old.http == nil || c.plan.http == httpAddress:
		l.http, err = rest.New(o, intake)
	case c.plan.http == httpSettings:
		l.http, err = c.old.http.Successor(o)
	default:
		l.http = c.old.http
	}
	return err
}

// discard releases what prepare has opened.
func (c *change) discard() {
	if c.lineup.http != nil && c.lineup.http != c.old.http {
		_ = c.lineup.http.Close()
	}
	for url, t := range c.lineup.hooks {
		if t != c.old.hooks[url] {
			t.Close()
		}
	}
}

// changes is what the Bridge has to be told of devices.
func (c *change) changes() bridge.Changes {
	l := c.lineup
	connection := func(d deviceSpec) bridge.Connection {
		return bridge.Connection{Uplink: l.byKey[d.session], MaxPayload: d.maxPayload, SpoolFirst: d.spoolFirst}
	}
	out := bridge.Changes{Connect: map[bridge.DeviceID]bridge.Connection{}, Disconnect: c.plan.gone}
	for _, id := range c.plan.devices {
		out.Connect[id] = connection(l.layout.devices[id])
	}
	if l.layout.others != nil {
		o := connection(*l.layout.others)
		out.Others = &o
	}
	return out
}

// routes is where the downlinks of devices go whose routes have changed. One
// target per URL or port keeps the order of what goes there.
func (c *change) routes() map[bridge.DeviceID][]bridge.Route {
	l := c.lineup
	out := map[bridge.DeviceID][]bridge.Route{}
	for _, id := range c.plan.routes {
		out[id] = nil
		for _, dl := range l.layout.routes[id] {
			r := bridge.Route{Filter: dl.Subtopic}
			switch {
			case dl.Mailbox:
			case dl.Serial != "":
				r.Target, r.To = "serial "+dl.Serial, c.g.counted(targetSerial, l.lines[dl.Serial])
			default:
				r.Target, r.To = webhookName(dl.Webhook), c.g.counted(targetWebhook, l.hookers[dl.Webhook])
			}
			out[id] = append(out[id], r)
		}
	}
	return out
}

// currentStates is the states of what runs now. It implements rest.States.
type currentStates struct{ g *gateway }

// Status implements rest.States.
func (c currentStates) Status() any { return c.g.now().states.Status() }

// Device implements rest.States.
func (c currentStates) Device(id bridge.DeviceID) (rest.DeviceState, bool) {
	return c.g.now().states.Device(id)
}

// Devices implements rest.States.
func (c currentStates) Devices(after string, limit int) ([]rest.DeviceState, bool) {
	return c.g.now().states.Devices(after, limit)
}
