package serial

import (
	"maps"
	"sync"
	"time"
)

// Stats is a snapshot of what a port has done since it was made.
type Stats struct {
	// Up: the port is open now.
	Up bool
	// Opens counts successful openings, OpenFailures the others.
	Opens, OpenFailures uint64
	// FramesGood counts frames that were cut and decoded.
	FramesGood uint64
	// FramesRefused counts the others by reason. The map is the caller's.
	FramesRefused map[Refusal]uint64
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

func (c *counters) snapshot() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.s
	s.FramesRefused = maps.Clone(s.FramesRefused)
	return s
}
