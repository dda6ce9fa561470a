//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"
)

// note is the payload of a reading.
type note struct {
	Seq  int   `json:"seq"`  // from 0, for each device
	Sent int64 `json:"sent"` // Unix time, ns
	// Value makes it as long as a usual reading.
	Value float64 `json:"temperature"`
}

// arrivals are what came of one device.
type arrivals struct {
	high       int          // one more than the highest number that has come
	missing    map[int]bool // below high, has not come
	repeated   int
	disordered int // came first after a higher number
}

func (a *arrivals) see(seq int) (first bool) {
	switch {
	case seq >= a.high:
		for m := a.high; m < seq; m++ {
			if a.missing == nil {
				a.missing = map[int]bool{}
			}
			a.missing[m] = true
		}
		a.high = seq + 1
		return true
	case a.missing[seq]:
		delete(a.missing, seq)
		a.disordered++
		return true
	default:
		a.repeated++
		return false
	}
}

// sample is how long one reading took.
type sample struct {
	device string
	sent   time.Time
	took   time.Duration
}

// ledger is what has arrived. Its methods may be called from any goroutine.
type ledger struct {
	mu      sync.Mutex // guards what follows
	devices map[string]*arrivals
	samples []sample // of first arrivals
	strange int      // payloads that are none of ours
}

func newLedger() *ledger { return &ledger{devices: map[string]*arrivals{}} }

// see enters an arrival.
func (l *ledger) see(device string, payload []byte, now time.Time) {
	var n note
	err := json.Unmarshal(payload, &n)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil || n.Seq < 0 {
		l.strange++
		return
	}
	a := l.devices[device]
	if a == nil {
		a = &arrivals{}
		l.devices[device] = a
	}
	if a.see(n.Seq) {
		sent := time.Unix(0, n.Sent)
		l.samples = append(l.samples, sample{device, sent, now.Sub(sent)})
	}
}

// distinct is how many different readings have arrived.
func (l *ledger) distinct() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.samples)
}

// balance compares what arrived with what was accepted.
type balance struct {
	Accepted, Lost, Repeated, Disordered int
	// Strange arrivals were accepted from nobody.
	Strange int
}

// balance takes how many readings were accepted of each device.
func (l *ledger) balance(accepted map[string]int) balance {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := balance{Strange: l.strange}
	for device, n := range accepted {
		b.Accepted += n
		a := l.devices[device]
		if a == nil {
			a = &arrivals{}
		}
		b.Lost += len(a.missing) + max(n-a.high, 0)
		b.Strange += max(a.high-n, 0)
		b.Repeated += a.repeated
		b.Disordered += a.disordered
	}
	for device := range l.devices {
		if _, known := accepted[device]; !known {
			b.Strange++
		}
	}
	return b
}

// err says what is wrong with a balance. Repetitions are allowed: at least once
// is what is promised.
func (b balance) err() error {
	if b.Lost > 0 || b.Disordered > 0 || b.Strange > 0 {
		return fmt.Errorf("of %d readings %d were lost and %d out of order; %d arrivals were of none", b.Accepted, b.Lost, b.Disordered, b.Strange)
	}
	return nil
}

// spread are quantiles of durations.
type spread struct{ P50, P99, Max time.Duration }

func spreadOf(ds []time.Duration) spread {
	if len(ds) == 0 {
		return spread{}
	}
	slices.Sort(ds)
	at := func(q float64) time.Duration { return ds[min(int(q*float64(len(ds))), len(ds)-1)] }
	return spread{at(0.5), at(0.99), ds[len(ds)-1]}
}

func (l *ledger) latency() spread {
	l.mu.Lock()
	defer l.mu.Unlock()
	ds := make([]time.Duration, 0, len(l.samples))
	for _, s := range l.samples {
		ds = append(ds, s.took)
	}
	return spreadOf(ds)
}

// rotation is a moment at which a device's new token was made.
type rotation struct {
	Device string
	At     time.Time
}

// rotationWindow is how long after its token was made a reconnect is looked for.
const rotationWindow = time.Second

// gaps are, for each rotation, how long the reading waited that waited longest.
func (l *ledger) gaps(rs []rotation) []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	by := map[string][]sample{}
	for _, s := range l.samples {
		by[s.device] = append(by[s.device], s)
	}
	var out []time.Duration
	for _, r := range rs {
		ss := by[r.Device] // in the order of sending
		i, _ := slices.BinarySearchFunc(ss, r.At.Add(-rotationWindow/20), func(s sample, t time.Time) int { return s.sent.Compare(t) })
		longest := time.Duration(-1)
		for ; i < len(ss) && ss[i].sent.Before(r.At.Add(rotationWindow)); i++ {
			longest = max(longest, ss[i].took)
		}
		if longest >= 0 {
			out = append(out, longest)
		}
	}
	return out
}
