package rest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fieldbridge/bridge"
)

// Kinds of events. The word before the dot is the group.
const (
	ReadingAccepted   = "reading.accepted"
	ReadingDelivered  = "reading.delivered"
	ReadingStored     = "reading.stored"
	ReadingRefused    = "reading.refused" // not accepted
	ReadingDead       = "reading.dead"
	DownlinkReceived  = "downlink.received"
	DownlinkDelivered = "downlink.delivered"
	DownlinkRetry     = "downlink.retry"
	DownlinkDead      = "downlink.dead"
	SessionUp         = "session.up"
	SessionDown       = "session.down"
	PortUp            = "port.up"
	PortDown          = "port.down"
	SpoolFull         = "spool.full"
	SpoolRoom         = "spool.room"
	ClockTrusted      = "clock.trusted"
	ClockUntrusted    = "clock.untrusted"
)

var eventKinds = []string{
	ReadingAccepted, ReadingDelivered, ReadingStored, ReadingRefused, ReadingDead,
	DownlinkReceived, DownlinkDelivered, DownlinkRetry, DownlinkDead,
	SessionUp, SessionDown, PortUp, PortDown, SpoolFull, SpoolRoom, ClockTrusted, ClockUntrusted,
}

// Event is something that happened in the gateway. It holds no payload, no
// topic and no secret. What is empty is left out.
type Event struct {
	Kind string `json:"kind"`
	// Time is set by Events.Tell.
	Time        string          `json:"time"`
	Device      bridge.DeviceID `json:"device,omitempty"`
	ID          string          `json:"id,omitempty"`
	Subtopic    string          `json:"subtopic,omitempty"`
	ContentType string          `json:"contentType,omitempty"`
	// Bytes is the size of the payload; nil where there is none.
	Bytes *int `json:"bytes,omitempty"`
	// Adapter is what a reading came in by, Target what a downlink goes to.
	Adapter   string `json:"adapter,omitempty"`
	Target    string `json:"target,omitempty"`
	Connector string `json:"connector,omitempty"`
	Port      string `json:"port,omitempty"`
	// ReasonCode is the broker's; Reason is for people.
	ReasonCode int    `json:"reasonCode,omitempty"`
	Reason     string `json:"reason,omitempty"`
}

const (
	// eventRing is how many events are kept for streams that are slow or come
	// back.
	eventRing = 1024
	// maxStreams bounds the streams of events.
	maxStreams = 16
	// eventLinger is how long events are kept when the last stream has ended,
	// so that one that was cut off finds them.
	eventLinger = 30 * time.Second
)

// Events hands what happens to the streams of GET /v1/events. Without one it
// keeps nothing. The zero value is ready; methods may be called from any
// goroutine, and those of a nil one do nothing.
type Events struct {
	watched atomic.Bool

	mu      sync.Mutex // guards what follows
	ring    []Event    // the last ones; that with number n is at n % eventRing
	next    uint64     // number of the next event
	epoch   string     // tells numbers apart that begin anew
	watches map[*watch]struct{}
	began   chan struct{} // capacity 1; nil until Began is called
	off     *time.Timer   // when nobody watches; nil: somebody does, or it is over
}

// watch is where a stream is.
type watch struct {
	hub  *Events
	at   uint64
	wake chan struct{} // capacity 1
	gap  bool          // what the client saw last is not known here
}

// Watched reports whether anybody would see an event: if not, there is no need
// to make it.
func (h *Events) Watched() bool { return h != nil && h.watched.Load() }

// Began gets a value when somebody begins to watch. It is always the same channel,
// for one goroutine that has to see at once how things are.
func (h *Events) Began() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.began == nil {
		h.began = make(chan struct{}, 1)
	}
	return h.began
}

// Tell hands an event to all streams. It does not wait for them: a stream that
// is too slow misses events, and is told how many.
func (h *Events) Tell(e Event) {
	if !h.Watched() {
		return
	}
	e.Time = time.Now().UTC().Format(time.RFC3339Nano)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ring == nil {
		return // since Watched
	}
	h.ring[h.next%eventRing] = e
	h.next++
	for w := range h.watches {
		select {
		case w.wake <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// watch begins behind the event that a client saw last, or with the next one if
// last is "". ok is false if there are too many.
func (h *Events) watch(last string) (w *watch, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watches) >= maxStreams {
		return nil, false
	}
	if h.off != nil {
		h.off.Stop()
		h.off = nil
	}
	if h.ring == nil {
		h.ring, h.epoch, h.next = make([]Event, eventRing), newEpoch(), 0
		h.watches = map[*watch]struct{}{}
	}
	w = &watch{hub: h, at: h.next, wake: make(chan struct{}, 1)}
	if last != "" {
		epoch, number, _ := strings.Cut(last, "-")
		n, err := strconv.ParseUint(number, 10, 64)
		if w.gap = err != nil || epoch != h.epoch || n >= h.next; !w.gap {
			w.at = n + 1
		}
	}
	h.watches[w] = struct{}{}
	if !h.watched.Swap(true) {
		select {
		case h.began <- struct{}{}:
		default: // nobody asked, or was told already
		}
	}
	return w, true
}

func newEpoch() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// end is called once.
func (w *watch) end() {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watches, w)
	if len(h.watches) > 0 {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(eventLinger, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.off == t {
			h.watched.Store(false)
			h.ring, h.off = nil, nil
		}
	})
	h.off = t
}

// take appends the events that are new to into, up to its capacity. missed is
// how many were overwritten before; first is the number of the first.
func (w *watch) take(into []Event) (events []Event, first, missed uint64) {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.next > eventRing && w.at < h.next-eventRing {
		missed = h.next - eventRing - w.at
		w.at += missed
	}
	first = w.at
	for ; w.at < h.next && len(into) < cap(into); w.at++ {
		into = append(into, h.ring[w.at%eventRing])
	}
	return into, first, missed
}

func (w *watch) id(number uint64) string { return fmt.Sprintf("%s-%d", w.hub.epoch, number) }
