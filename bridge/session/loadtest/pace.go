//go:build linux

package main

import (
	"slices"
	"sync"
	"time"
)

// dials notes when connections were attempted. Its methods may be called from
// any goroutine.
type dials struct {
	mu sync.Mutex // guards at
	at []time.Time
}

func (d *dials) note(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at = append(d.at, t)
}

// times returns what was noted, in order.
func (d *dials) times() []time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	ts := slices.Clone(d.at)
	slices.SortFunc(ts, time.Time.Compare)
	return ts
}

// peak is the greatest number of times that lie within any window. The times
// are in order.
func peak(ts []time.Time, window time.Duration) (most int) {
	first := 0
	for i, t := range ts {
		for t.Sub(ts[first]) >= window {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}
