package serial

import (
	"time"

	"fieldbridge/bridge"
)

// Event is something that happened on a port, for people who look on.
type Event struct {
	Kind EventKind
	At   time.Time
	// Bytes are valid until the observer returns.
	Bytes []byte
	// Reading is what a good frame became.
	Reading *bridge.Reading
	// Reason and Detail say why a frame was refused.
	Reason Refusal
	Detail string
}

// EventKind is what an Event tells of.
type EventKind int

// The kinds of events.
const (
	BytesIn EventKind = iota
	BytesOut
	FrameGood
	FrameRefused
)

func (o *Options) observe(e Event) {
	if o.Observe != nil {
		o.Observe(e)
	}
}
