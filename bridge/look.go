package bridge

import (
	"cmp"
	"fmt"
	"time"
)

// Device is a snapshot of a device for people.
type Device struct {
	// Memory is how many readings are in memory: on their way to the broker or
	// to the spool, or the head of a backlog that is being sent. What is there
	// may be in the spool, too.
	Memory int
	// LastReading is when the last reading came in; zero: none since the start.
	LastReading time.Time
	// LastError is the last thing that went wrong with a reading since the
	// start, and LastErrorAt when; "" if nothing did. It names no secret. It
	// stays when all is well again.
	LastError   string
	LastErrorAt time.Time
}

// Look returns the state of a device that is connected; of one that is not
// listed but taken, as far as something of it is held.
func (b *Bridge) Look(id DeviceID) (Device, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if d := b.devices[id]; d != nil {
		return d.lane.look(), true
	}
	if v := b.passing[id]; v != nil {
		return v.look(), true
	}
	return Device{}, b.open != nil
}

func (l *Lane) look() Device {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := Device{
		Memory:      l.away,
		LastReading: l.seen.reading, LastError: l.seen.error, LastErrorAt: l.seen.errorAt,
	}
	for e := l.head; e != nil; e = e.next {
		d.Memory++
	}
	return d
}

// sightings are what a lane remembers for people. The lane's mutex guards it.
type sightings struct {
	reading time.Time // when the last one came in
	error   string
	errorAt time.Time
}

func (s *sightings) failure(text string) { s.error, s.errorAt = text, time.Now() }

// outcome notes a broker's no.
func (s *sightings) outcome(o Outcome) {
	verb := "refused"
	switch o.Kind {
	case Refused:
	case Retry:
		verb = "put off"
	default:
		return
	}
	if o.Code == 0 {
		s.failure(verb + ": " + cmp.Or(o.Reason, "no reason was given"))
		return
	}
	s.failure(fmt.Sprintf("%s by the broker with reason code 0x%02X (%s)", verb, o.Code, o.Reason))
}
