package main

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"fieldbridge/adapters/rest"
	"fieldbridge/bridge"
	"fieldbridge/bridge/clock"
	"fieldbridge/bridge/session"
)

// happenings tells GET /v1/events what passes through the gateway. While nobody
// watches, each method costs one atomic load. A payload is told by its size, and
// an error as its sender or the log gets it, which names no secret.
type happenings struct{ hub rest.Events }

func (h *happenings) watched() bool { return h.hub.Watched() }

func readingEvent(kind string, r *bridge.Reading) rest.Event {
	e := rest.Event{
		Kind: kind, Device: r.Device, Subtopic: string(r.Subtopic), ContentType: r.ContentType, Bytes: new(len(r.Payload)),
	}
	if r.ID != uuid.Nil {
		e.ID = r.ID.String()
	}
	return e
}

func downlinkEvent(kind string, d *bridge.Downlink) rest.Event {
	return rest.Event{
		Kind: kind, Device: d.Device, ID: d.ID, Subtopic: d.Subtopic, ContentType: d.ContentType, Bytes: new(len(d.Payload)),
	}
}

// handedIn is what an adapter's reading came to.
func (h *happenings) handedIn(adapter string, r *bridge.Reading, err error) {
	e := readingEvent(rest.ReadingAccepted, r)
	e.Adapter = adapter
	if err != nil {
		e.Kind, e.Reason = rest.ReadingRefused, err.Error()
		var rejected *bridge.RejectedError
		if errors.As(err, &rejected) {
			e.ReasonCode = int(rejected.Code)
		}
	}
	h.hub.Tell(e)
}

// delivered is bridge.Options.Delivered.
func (h *happenings) delivered(r *bridge.Reading) {
	if h.watched() {
		h.hub.Tell(readingEvent(rest.ReadingDelivered, r))
	}
}

// stored is told of readings that the spool has.
func (h *happenings) stored(rs []bridge.Reading) {
	if !h.watched() {
		return
	}
	for i := range rs {
		h.hub.Tell(readingEvent(rest.ReadingStored, &rs[i]))
	}
}

func (h *happenings) buried(r *bridge.Reading, why bridge.Epitaph) {
	if !h.watched() {
		return
	}
	e := readingEvent(rest.ReadingDead, r)
	e.ReasonCode, e.Reason = int(why.Code), why.Reason
	h.hub.Tell(e)
}

// gaveUp is bridge.Options.GaveUp.
func (h *happenings) gaveUp(d *bridge.Downlink, why error) {
	if !h.watched() {
		return
	}
	e := downlinkEvent(rest.DownlinkDead, d)
	e.Reason = why.Error()
	h.hub.Tell(e)
}

// attempted tells how an attempt to deliver a downlink ended. Of one that was
// refused for good, gaveUp tells.
func (h *happenings) attempted(d *bridge.Downlink, target, outcome string, err error) {
	if !h.watched() || outcome == outcomeRefused {
		return
	}
	e := downlinkEvent(rest.DownlinkDelivered, d)
	e.Target = target
	if err != nil {
		e.Kind, e.Reason = rest.DownlinkRetry, err.Error()
	}
	h.hub.Tell(e)
}

// fetched is bridge.Options.Fetched.
func (g *gateway) fetched(d *bridge.Downlink, why error) {
	g.metrics.fetched(why == nil)
	if why != nil {
		g.events.gaveUp(d, why)
		return
	}
	g.events.attempted(d, targetMailbox, outcomeDelivered, nil)
}

// downlink takes a downlink from a session.
func (g *gateway) downlink(d bridge.Downlink, o bridge.Origin, done func()) {
	if g.events.watched() {
		g.events.hub.Tell(downlinkEvent(rest.DownlinkReceived, &d))
	}
	g.bridge.Downlink(d, o, done)
}

// room tells that the spool is full, for a reason, or has room again.
func (h *happenings) room(reason string) {
	if reason != "" {
		h.hub.Tell(rest.Event{Kind: rest.SpoolFull, Reason: reason})
		return
	}
	h.hub.Tell(rest.Event{Kind: rest.SpoolRoom})
}

// statesLook is how often sessions, ports and the clock are looked at while
// somebody watches.
const statesLook = 250 * time.Millisecond

// sight is how things were at the last look.
type sight struct {
	sessions map[*session.Session]bool // up
	ports    map[string]bool           // up
	trusted  bool
}

// followStates tells of sessions, ports and the clock when their state has
// changed, while somebody watches, until ctx is done. It returns nil.
func (g *gateway) followStates(ctx context.Context) error {
	tick := time.NewTicker(statesLook)
	defer tick.Stop()
	var last *sight // nil: nobody watched
	for {
		select {
		case <-tick.C:
		case <-g.events.hub.Began(): // what changes from now on is to be seen
		case <-ctx.Done():
			return nil
		}
		if !g.events.watched() {
			last = nil
			continue
		}
		last = g.lookAt(last)
	}
}

// lookAt tells what is not as it was, if that is known.
func (g *gateway) lookAt(last *sight) *sight {
	l := g.now()
	now := &sight{sessions: make(map[*session.Session]bool, len(l.sessions)), ports: make(map[string]bool, len(l.ports))}
	for _, s := range l.sessions {
		state := s.State()
		now.sessions[s] = state.Up
		if last != nil && last.sessions[s] != state.Up {
			g.events.hub.Tell(sessionEvent(s, l.states.owners[s], state))
		}
	}
	for name, p := range l.ports {
		stats := p.Stats()
		now.ports[name] = stats.Up
		if last != nil && last.ports[name] != stats.Up {
			kind := rest.PortDown
			if stats.Up {
				kind = rest.PortUp
			}
			g.events.hub.Tell(rest.Event{Kind: kind, Port: name})
		}
	}
	c := g.clock.State()
	if now.trusted = c.Trusted; last != nil && last.trusted != c.Trusted {
		g.events.hub.Tell(clockEvent(c))
	}
	return now
}

func sessionEvent(s *session.Session, owner bridge.DeviceID, state session.State) rest.Event {
	e := rest.Event{Kind: rest.SessionDown, Connector: s.Connector(), Device: owner, Reason: state.Trouble}
	if state.Up {
		e.Kind = rest.SessionUp
	}
	return e
}

func clockEvent(c clock.State) rest.Event {
	e := rest.Event{Kind: rest.ClockUntrusted, Reason: c.Reason}
	if c.Trusted {
		e.Kind = rest.ClockTrusted
	}
	return e
}
