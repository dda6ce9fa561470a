package session

import (
	"github.com/eclipse/paho.golang/packets"
	"github.com/google/uuid"

	"fieldbridge/bridge"
)

// strikesAllowed is how often a reading that is alone in flight may cost the
// connection before it is refused for good.
const strikesAllowed = 2

// blamesPublish reports whether a DISCONNECT with this reason code is about
// something that we sent: most likely one of the publishes in flight.
func blamesPublish(code byte) bool {
	switch code {
	case 0x81, 0x82, 0x90, 0x95, 0x99: // malformed packet, protocol error, topic name, packet too large, payload format
		return true
	}
	return false
}

// suspects are the readings that were in flight when the broker disconnected
// because of one of them. While there are any, one publish is in flight at a
// time: so the next such disconnect points at the culprit, and the innocent get
// through. It is guarded by the window's mutex.
type suspects struct {
	strikes map[uuid.UUID]int
}

// judge looks at what was in flight on the connection that has ended. It returns
// the reading that is convicted, or nil.
func (s *suspects) judge(lost *packets.Disconnect, sent []*flight) *flight {
	if lost == nil || !blamesPublish(lost.ReasonCode) {
		return nil
	}
	if s.strikes == nil {
		s.strikes = map[uuid.UUID]int{}
	}
	for _, f := range sent {
		id := f.entry.Reading.ID
		if len(sent) == 1 {
			s.strikes[id]++
		} else if _, known := s.strikes[id]; !known {
			s.strikes[id] = 0
		}
		if s.strikes[id] >= strikesAllowed {
			delete(s.strikes, id)
			return f
		}
	}
	return nil
}

// clear takes a reading out because it got its answer.
func (s *suspects) clear(f *flight) {
	if s.strikes != nil {
		delete(s.strikes, f.entry.Reading.ID)
	}
}

func (s *suspects) any() bool { return len(s.strikes) > 0 }

// convict takes the culprit, if there is one, out of the session: contrary to
// section 4.4 it is not sent again, because no answer but another disconnect
// would come. Called with the window's mu held; the caller resolves the flight.
func (w *window) convict() (*flight, bridge.Outcome) {
	var sent []*flight
	for _, f := range w.flights {
		if !f.sentAt.IsZero() {
			sent = append(sent, f)
		}
	}
	f := w.suspects.judge(w.lost, sent)
	if f == nil {
		return nil, bridge.Outcome{}
	}
	delete(w.flights, f.id)
	code := w.lost.ReasonCode
	return f, bridge.Outcome{
		Kind: bridge.Refused, Code: code,
		Reason: CodeName(code) + ": the broker disconnected each time this reading was sent alone",
	}
}

// acquit ends the suspicion when nothing waits or is in flight any more.
func (w *window) acquit() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.flights) == 0 {
		w.suspects = suspects{}
	}
}
