package main

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"fieldbridge/adapters/rest"
	"fieldbridge/bridge"
	"fieldbridge/bridge/clock"
	"fieldbridge/bridge/config"
	"fieldbridge/bridge/session"
	"fieldbridge/bridge/spool"
)

// statusDocument is the body of GET /v1/status, documented in the README. Names
// are added to it and never changed.
type statusDocument struct {
	Version          string        `json:"version"`
	Gateway          string        `json:"gateway"`
	Time             string        `json:"time"`
	UptimeSeconds    int64         `json:"uptimeSeconds"`
	Devices          int           `json:"devices"`
	ReadingsInMemory int           `json:"readingsInMemory"`
	Clock            clockDocument `json:"clock"`
	Spool            spoolDocument `json:"spool"`
	// Mailboxes is missing if no device has one.
	Mailboxes  *mailboxesDocument  `json:"mailboxes,omitempty"`
	Connectors []connectorDocument `json:"connectors"`
	Ports      []portDocument      `json:"ports"`
}

type clockDocument struct {
	Trusted bool `json:"trusted"`
	// Source is "kernel", "recorded" (it is later than all times on record) or
	// "none".
	Source string `json:"source"`
	Reason string `json:"reason"`
}

type spoolDocument struct {
	Readings int64 `json:"readings"`
	Bytes    int64 `json:"bytes"`
	MaxBytes int64 `json:"maxBytes"`
	// OldestSeconds is missing when it is not known because of the clock.
	OldestSeconds *int64 `json:"oldestSeconds,omitempty"`
	// Full: there was no room for the last reading that was to be stored.
	Full        bool   `json:"full"`
	FullReason  string `json:"fullReason,omitempty"`
	Downlinks   int64  `json:"downlinks"`
	DeadLetters int64  `json:"deadLetters"`
}

type connectorDocument struct {
	Name   string `json:"name"`
	Broker string `json:"broker"`
	Auth   string `json:"auth"`
	// Sessions, and how many of them are Up; Idle ones are on demand and have
	// nothing to send.
	Sessions int `json:"sessions"`
	Up       int `json:"up"`
	Idle     int `json:"idle,omitempty"`
	// TokenExpires is the first of the tokens in use to run out.
	TokenExpires string `json:"tokenExpires,omitempty"`
	// Troubles are why sessions are down, the most frequent first; MoreDown are
	// down for reasons for which there is no room in it.
	Troubles []troubleDocument `json:"troubles"`
	MoreDown int               `json:"moreDown,omitempty"`
	// LastError is the last one of any session, also of one that is up again.
	LastError *rest.Trouble `json:"lastError,omitempty"`
}

type troubleDocument struct {
	Error    string `json:"error"`
	Sessions int    `json:"sessions"`
	// Device is one that has it; none if the session is that of all devices.
	Device bridge.DeviceID `json:"device,omitempty"`
}

// maxTroubles bounds what is told of each connector.
const maxTroubles = 5

// backlogsAge is how old what is told of a device's part of the spool may be: to
// list it costs a read for each device that has one.
const backlogsAge = time.Second

// states tells how a gateway is under one configuration. It implements
// rest.States. What is not under mu does not change once the lineup is in use.
type states struct {
	g        *gateway
	l        *lineup
	cfg      *config.Config
	began    time.Time
	version  string
	listed   []bridge.DeviceID // sorted
	sessions map[bridge.DeviceID]*session.Session
	owners   map[*session.Session]bridge.DeviceID // of sessions with one device
	others   *session.Session                     // of devices that are not listed; nil: refused

	mu       sync.Mutex // guards what follows
	backlogs map[bridge.DeviceID]bridge.Backlog
	read     time.Time                // when backlogs was; zero: never
	boxes    map[string]spool.Waiting // by target; see mailboxes
	counted  time.Time                // when boxes was
}

func newStates(g *gateway, l *lineup, cfg *config.Config) *states {
	v, _ := buildVersion()
	return &states{
		g: g, l: l, cfg: cfg, began: time.Now(), version: v,
		sessions: map[bridge.DeviceID]*session.Session{}, owners: map[*session.Session]bridge.DeviceID{},
	}
}

// carry notes whose readings a session carries. When all are there, listed is to
// be sorted.
func (st *states) carry(id bridge.DeviceID, s *session.Session, alone bool) {
	st.sessions[id] = s
	if alone {
		st.owners[s] = id
	}
	st.listed = append(st.listed, id)
}

// Status implements rest.States.
func (st *states) Status() any {
	now := time.Now()
	doc := statusDocument{
		Version: st.version, Gateway: st.cfg.Gateway, Time: now.UTC().Format(time.RFC3339),
		UptimeSeconds: int64(now.Sub(st.began) / time.Second),
		Devices:       len(st.listed), ReadingsInMemory: st.g.bridge.Held(),
		Clock: clockOf(st.g.clock.State()), Spool: st.g.spoolDocument(st.g.spool.Stats()),
		Connectors: make([]connectorDocument, 0, len(st.cfg.Connectors)),
		Ports:      make([]portDocument, 0, len(st.cfg.Serials)),
	}
	doc.Mailboxes = st.mailboxesDocument()
	of := map[string][]*session.Session{}
	for _, s := range st.l.sessions {
		of[s.Connector()] = append(of[s.Connector()], s)
	}
	for i := range st.cfg.Connectors {
		c := &st.cfg.Connectors[i]
		doc.Connectors = append(doc.Connectors, st.connector(c, of[c.Name]))
	}
	for _, s := range st.cfg.Serials {
		doc.Ports = append(doc.Ports, st.port(s))
	}
	return doc
}

func clockOf(s clock.State) clockDocument {
	d := clockDocument{Trusted: s.Trusted, Source: "none", Reason: s.Reason}
	switch {
	case s.Trusted && s.Synchronised:
		d.Source = "kernel"
	case s.Trusted:
		d.Source = "recorded"
	}
	return d
}

func (g *gateway) spoolDocument(s spool.Stats) spoolDocument {
	full := g.room.reason()
	d := spoolDocument{
		Readings: s.Readings, Bytes: s.Bytes, MaxBytes: g.now().cfg.Spool.MaxBytes, Full: full != "", FullReason: full,
		Downlinks: s.Downlinks, DeadLetters: s.DeadReadings + s.DeadDownlinks,
	}
	switch {
	case s.Readings == 0:
		d.OldestSeconds = new(int64)
	case !s.Oldest.IsZero() && g.clock.State().Trusted:
		d.OldestSeconds = new(max(int64(time.Since(s.Oldest)/time.Second), 0))
	}
	return d
}

// ago is the wall time of an instant, as of the wall clock now: the clock may
// have been set since.
func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return time.Now().Add(-time.Since(t)).UTC().Format(time.RFC3339)
}

func trouble(text string, at time.Time) *rest.Trouble {
	if text == "" {
		return nil
	}
	return &rest.Trouble{Time: ago(at), Error: text}
}

// withoutDigits makes errors one kind that differ in ports or times of day.
func withoutDigits(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
}

func (st *states) connector(c *config.Connector, sessions []*session.Session) connectorDocument {
	d := connectorDocument{Name: c.Name, Broker: c.Broker, Auth: c.Auth, Sessions: len(sessions)}
	kinds := map[string]int{} // place in d.Troubles
	var expires time.Time
	var last session.State
	for _, s := range sessions {
		state := s.State()
		if e := state.TokenExpires; !e.IsZero() && (expires.IsZero() || e.Before(expires)) {
			expires = e
		}
		if state.LastErrorAt.After(last.LastErrorAt) {
			last = state
		}
		if state.Up {
			d.Up++
			continue
		}
		if state.Idle {
			d.Idle++
			continue
		}
		kind := withoutDigits(state.Trouble)
		i, ok := kinds[kind]
		if !ok {
			i = len(d.Troubles)
			kinds[kind] = i
			d.Troubles = append(d.Troubles, troubleDocument{Error: state.Trouble, Device: st.owners[s]})
		}
		d.Troubles[i].Sessions++
	}
	slices.SortStableFunc(d.Troubles, func(a, b troubleDocument) int { return cmp.Compare(b.Sessions, a.Sessions) })
	for _, t := range d.Troubles[min(maxTroubles, len(d.Troubles)):] {
		d.MoreDown += t.Sessions
	}
	d.Troubles = append([]troubleDocument{}, d.Troubles[:min(maxTroubles, len(d.Troubles))]...)
	if !expires.IsZero() {
		d.TokenExpires = expires.UTC().Format(time.RFC3339)
	}
	d.LastError = trouble(last.LastError, last.LastErrorAt)
	return d
}

// Device implements rest.States.
func (st *states) Device(id bridge.DeviceID) (rest.DeviceState, bool) {
	s := cmp.Or(st.sessions[id], st.others)
	if s == nil {
		return rest.DeviceState{}, false
	}
	return st.device(id, s, st.spooled()[id]), true
}

// Devices implements rest.States.
func (st *states) Devices(after string, limit int) (page []rest.DeviceState, more bool) {
	at, found := slices.BinarySearch(st.listed, bridge.DeviceID(after))
	if found {
		at++
	}
	end := min(at+limit, len(st.listed))
	backlogs := st.spooled()
	for _, id := range st.listed[at:end] {
		page = append(page, st.device(id, st.sessions[id], backlogs[id]))
	}
	return page, end < len(st.listed)
}

func (st *states) device(id bridge.DeviceID, s *session.Session, b bridge.Backlog) rest.DeviceState {
	state := s.State()
	look, _ := st.g.bridge.Look(id)
	d := rest.DeviceState{
		Device: id, Connector: s.Connector(),
		Session:     rest.SessionState{State: "down", Error: state.Trouble, LastError: trouble(state.LastError, state.LastErrorAt)},
		Queue:       rest.Queue{Memory: look.Memory, Spooled: b.Readings, Bytes: b.Bytes},
		Mailbox:     st.mailbox(id),
		LastReading: ago(look.LastReading),
		LastError:   trouble(look.LastError, look.LastErrorAt),
	}
	switch {
	case state.Up:
		d.Session.State = "up"
	case state.Idle:
		d.Session.State = "idle"
	}
	if !state.TokenExpires.IsZero() {
		d.Session.TokenExpires = state.TokenExpires.UTC().Format(time.RFC3339)
	}
	return d
}

// spooled is what the spool has of each device. The map is not changed any more.
func (st *states) spooled() map[bridge.DeviceID]bridge.Backlog {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.read.IsZero() && time.Since(st.read) < backlogsAge {
		return st.backlogs
	}
	list, err := st.g.spool.Backlogs()
	if err != nil {
		// The amounts are there all the same, only their ages are not.
		st.g.log.Debug("ages of the backlogs not read", "error", err)
	}
	st.backlogs = make(map[bridge.DeviceID]bridge.Backlog, len(list))
	for _, b := range list {
		st.backlogs[b.Device] = b
	}
	st.read = time.Now()
	return st.backlogs
}
