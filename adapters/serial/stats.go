package serial

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// Stats is a snapshot of what a port has done since it was made.
type Stats struct {
	// Up: the port is open now. Path is the device file that it was opened as
	// the last time.
	Up   bool
	Path string
	// Opens counts successful openings, OpenFailures the others.
	Opens, OpenFailures uint64
	// FramesGood counts frames that were cut and decoded.
	FramesGood uint64
	// FramesRefused counts the others by reason. The map is the caller's.
	FramesRefused map[Refusal]uint64
	// LastRefused are the last of them, the oldest first.
	LastRefused []RefusedFrame
	// Polls counts questions by outcome. The map is the caller's.
	Polls map[PollOutcome]uint64
	// Dropped counts good frames that the Accepter did not take.
	Dropped uint64
	// Delivered counts downlinks that were written and sent.
	Delivered uint64
	// LastError is why the port was lost or could not be opened, or nil if it
	// never was. It stays after the port came back.
	LastError error
	// LastFrame is when the last good frame ended; zero if there was none.
	LastFrame time.Time
}

// RefusedFrame is a frame that was refused, or bytes that were none.
type RefusedFrame struct {
	At     time.Time
	Reason Refusal
	// Detail is for people.
	Detail string
	// Hex are the first of its bytes, Bytes is how many were kept of it before
	// that.
	Hex   string
	Bytes int
}

const (
	maxRefusedKept = 8
	maxRefusedHex  = 64 // bytes shown of each
)

func (s *Stats) refused(f RefusedFrame) {
	if s.FramesRefused == nil {
		s.FramesRefused = make(map[Refusal]uint64)
	}
	s.FramesRefused[f.Reason]++
	if len(s.LastRefused) == maxRefusedKept {
		s.LastRefused = slices.Delete(s.LastRefused, 0, 1)
	}
	s.LastRefused = append(s.LastRefused, f)
}

// counters is the live form of Stats.
type counters struct {
	mu sync.Mutex // guards s
	s  Stats
}

func (c *counters) update(f func(s *Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.s)
}

func (c *counters) poll(o PollOutcome) {
	c.update(func(s *Stats) {
		if s.Polls == nil {
			s.Polls = make(map[PollOutcome]uint64)
		}
		s.Polls[o]++
	})
}

func (c *counters) snapshot() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.s
	s.FramesRefused = maps.Clone(s.FramesRefused)
	s.Polls = maps.Clone(s.Polls)
	s.LastRefused = slices.Clone(s.LastRefused)
	return s
}
