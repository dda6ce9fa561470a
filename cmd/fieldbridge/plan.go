package main

import (
	"reflect"

	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
)

// sessionKey names a session within a configuration: that of a device, or, with
// device "", that of all devices of a connector.
type sessionKey struct {
	connector string
	device    bridge.DeviceID
}

// sessionSpec is everything that a session is made of. Two that are deeply equal
// make the same session.
type sessionSpec struct {
	connector config.Connector
	device    config.Device // of a session of its own
	gateway   string
	subscribe []bridge.DeviceID // of a shared one
}

// deviceSpec is how a device's readings leave.
type deviceSpec struct {
	session    sessionKey
	maxPayload int64
	spoolFirst bool
}

// hookSpec is everything but the URL that a webhook is made of.
type hookSpec struct {
	secrets []bridge.Secret
	caPEM   []byte
	proxy   string
}

// layout is a configuration as the gateway's parts see it: what belongs to each,
// and nothing of where it stands in the files.
type layout struct {
	connectors map[string]config.Connector // without what makes no other session
	sessions   map[sessionKey]sessionSpec
	order      []sessionKey
	devices    map[bridge.DeviceID]deviceSpec
	others     *deviceSpec // of devices that are not listed; nil: refused
	routes     map[bridge.DeviceID][]config.Downlink
	ports      map[string]config.Serial
	hooks      map[string]hookSpec // by URL
	http       config.HTTP
}

// newLayout is pure: what it returns depends on cfg alone and shares nothing
// that is changed.
func newLayout(cfg *config.Config) *layout {
	l := &layout{
		connectors: map[string]config.Connector{},
		sessions:   map[sessionKey]sessionSpec{}, devices: map[bridge.DeviceID]deviceSpec{},
		routes: map[bridge.DeviceID][]config.Downlink{}, ports: map[string]config.Serial{},
		hooks: map[string]hookSpec{}, http: cfg.HTTP,
	}
	l.http.Pos = config.Position{}
	for i := range cfg.Connectors {
		l.connector(cfg, &cfg.Connectors[i])
	}
	for _, d := range cfg.Devices {
		for _, dl := range d.Downlinks {
			dl.Pos = config.Position{}
			l.routes[d.ID] = append(l.routes[d.ID], dl)
			if dl.Webhook != "" {
				l.hooks[dl.Webhook] = hookSpec{dl.Secrets, dl.CAPEM, dl.Proxy}
			}
		}
	}
	for _, s := range cfg.Serials {
		l.ports[s.Name] = s.Bare()
	}
	return l
}

// connector adds a connector with its devices.
func (l *layout) connector(cfg *config.Config, c *config.Connector) {
	// What only the Bridge looks at, or has been worked into the devices, makes
	// no other session.
	bare := *c
	bare.Pos, bare.KeyFile, bare.AnyDevice, bare.MaxPayload = config.Position{}, "", false, 0
	l.connectors[c.Name] = bare
	shared := !c.PerDevice
	common := sessionSpec{connector: bare, gateway: cfg.Gateway}
	key := sessionKey{connector: c.Name}
	for _, d := range cfg.Devices {
		if d.ConnectorName != c.Name {
			continue
		}
		if shared {
			if len(d.Downlinks) > 0 {
				common.subscribe = append(common.subscribe, d.ID)
			}
		} else {
			key.device = d.ID
			l.add(key, sessionSpec{connector: bare, gateway: cfg.Gateway, device: bareDevice(d)})
		}
		l.devices[d.ID] = deviceSpec{
			session: key, maxPayload: c.MaxPayload, spoolFirst: d.Durability == config.DurabilityAlways,
		}
	}
	if shared {
		l.add(key, common)
	}
	if c.AnyDevice {
		l.others = &deviceSpec{
			session: sessionKey{connector: c.Name}, maxPayload: c.MaxPayload, spoolFirst: cfg.Durability == config.DurabilityAlways,
		}
	}
}

func (l *layout) add(key sessionKey, spec sessionSpec) {
	l.sessions[key] = spec
	l.order = append(l.order, key)
}

// secret is that with which a device's session logs in at the broker, or zero.
func (l *layout) secret(id bridge.DeviceID) bridge.Secret {
	d, ok := l.devices[id]
	if !ok {
		if l.others == nil {
			return bridge.Secret{}
		}
		d = *l.others
	}
	s := l.sessions[d.session]
	if !s.device.Secret.IsZero() {
		return s.device.Secret
	}
	return s.connector.Secret
}

// bareDevice is what a session needs of a device. Of its downlinks that is only
// whether there are any.
func bareDevice(d config.Device) config.Device {
	d.Pos, d.Durability = config.Position{}, ""
	if len(d.Downlinks) > 0 {
		d.Downlinks = make([]config.Downlink, 1)
	}
	return d
}

// plan is what has to be done to get from one layout to another. Whatever is not
// in it goes on as if nothing had happened.
type plan struct {
	stop, start []sessionKey      // in both: it is replaced
	devices     []bridge.DeviceID // that are new, have moved, or whose limits or session have changed
	gone        []bridge.DeviceID
	others      bool              // they change
	routes      []bridge.DeviceID // that have other routes than before
	closePorts  []string
	openPorts   []string // in both: it is opened anew
	addHooks    []string
	dropHooks   []string // in both: it is made anew
	http        httpChange
}

type httpChange int

const (
	httpSame httpChange = iota
	httpSettings
	httpAddress
)

// diff is pure.
func diff(old, next *layout) plan {
	var p plan
	p.stop, p.start = changed(old.sessions, next.sessions)
	renewed := map[sessionKey]bool{}
	for _, key := range p.start {
		renewed[key] = true
	}
	// A session that is replaced takes its devices along.
	for id, spec := range next.devices {
		if was, ok := old.devices[id]; !ok || was != spec || renewed[spec.session] {
			p.devices = append(p.devices, id)
		}
	}
	for id := range old.devices {
		if _, ok := next.devices[id]; !ok {
			p.gone = append(p.gone, id)
		}
	}
	p.others = !reflect.DeepEqual(old.others, next.others) || next.others != nil && renewed[next.others.session]
	for id := range next.devices {
		if !reflect.DeepEqual(old.routes[id], next.routes[id]) {
			p.routes = append(p.routes, id)
		}
	}
	p.closePorts, p.openPorts = changed(old.ports, next.ports)
	p.dropHooks, p.addHooks = changed(old.hooks, next.hooks)
	switch {
	case old.http.Listen != next.http.Listen:
		p.http = httpAddress
	case !reflect.DeepEqual(old.http, next.http):
		p.http = httpSettings
	}
	return p
}

// changed returns the keys of old that have another value, or none, in next, and
// the other way round.
func changed[K comparable, V any](old, next map[K]V) (out, in []K) {
	for k, v := range old {
		if n, ok := next[k]; !ok || !reflect.DeepEqual(v, n) {
			out = append(out, k)
		}
	}
	for k, v := range next {
		if o, ok := old[k]; !ok || !reflect.DeepEqual(v, o) {
			in = append(in, k)
		}
	}
	return out, in
}
