package bridgetest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"fieldbridge/bridge"
)

// Spool stands in for the durable store of readings and downlinks. Like the real
// one it takes operations in order, commits them later and answers from
// goroutines of its own, never from within a call. The zero value commits and
// answers by itself, as soon as it can. All methods may be called from any
// goroutine.
//
// It notes what the Bridge does against the contract of bridge.Spool; see Misuse.
type Spool struct {
	// Manual: commits are made by Sync and Commit only. Set it before use.
	Manual bool
	// ManualLoads: loads are answered by Answer only. Set it before use.
	ManualLoads bool

	mu      sync.Mutex // guards what follows
	disk    disk
	ops     []*op // not committed, oldest first
	reports []func()
	loads   []*load
	working bool // a goroutine commits and reports
	reading bool // a goroutine answers loads
	crashed bool
	limit   int
	failure error // of writes
	stiff   error // of what takes downlinks out
	blind   error // of reads
	appends int
	loaded  []int64 // what loads asked for, in bytes
	misuse  []string
}

// disk is what a crash leaves.
type disk struct {
	last      int64
	rows      []bridge.Stored
	dropped   map[int64]bool // rows that the spool itself has removed
	keys      map[string]remembered
	dead      []DeadLetter
	downlinks []bridge.StoredDownlink
	origins   map[string]bridge.Origin
}

type remembered struct {
	bridge.Remembered
	seq int64
}

// DeadLetter is a reading or a downlink that was buried.
type DeadLetter struct {
	Reading  bridge.Reading
	Downlink bridge.Downlink
	Epitaph  bridge.Epitaph
}

// op is a write: run changes the disk with mu held and returns what is to be
// reported, or nil.
type op struct {
	run   func() func()
	hides []int64 // rows that loads do not return any more
}

type load struct {
	device bridge.DeviceID // "" for downlinks
	run    func() func()
}

// Append implements bridge.Spool.
func (s *Spool) Append(rs []bridge.Reading, keys []bridge.Key, done func(int64, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(rs) > 0 {
		s.appends++
	}
	s.queueAppend(rs, keys, done)
}

// AppendAll implements bridge.Spool.
func (s *Spool) AppendAll(as []bridge.Append) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.appends++
	for _, a := range as {
		s.queueAppend(a.Readings, a.Keys, a.Done)
	}
}

// queueAppend is called with mu held.
func (s *Spool) queueAppend(rs []bridge.Reading, keys []bridge.Key, done func(int64, error)) {
	if len(keys) != 0 && len(keys) != len(rs) {
		s.note("Append: %d readings with %d keys", len(rs), len(keys))
	}
	copies := make([]bridge.Reading, len(rs))
	for i, r := range rs {
		copies[i] = r
		copies[i].Payload = slices.Clone(r.Payload)
	}
	s.queue(&op{run: func() func() {
		for i, r := range rs {
			if string(r.Payload) != string(copies[i].Payload) {
				s.note("the payload of %s was changed", r.ID)
			}
		}
		first, err := s.append(copies, keys)
		return func() { done(first, err) }
	}})
}

// append is called with mu held.
func (s *Spool) append(rs []bridge.Reading, keys []bridge.Key) (int64, error) {
	first := s.disk.last + 1
	switch {
	case len(rs) == 0:
		return first, nil
	case s.failure != nil:
		return 0, s.failure
	case s.limit > 0 && len(s.disk.rows)+len(rs) > s.limit:
		return 0, fmt.Errorf("%w: %d readings are its limit", bridge.ErrSpoolFull, s.limit)
	}
	for i, r := range rs {
		s.disk.last++
		s.disk.rows = append(s.disk.rows, bridge.Stored{Seq: s.disk.last, Reading: r})
		if i < len(keys) && keys[i].Value != "" {
			k := keyOf(r.Device, keys[i].Value)
			if _, ok := s.disk.keys[k]; ok {
				s.note("Append: the key %q is stored already", keys[i].Value)
			}
			put(&s.disk.keys, k, remembered{bridge.Remembered{ID: r.ID, Time: r.Time, Digest: keys[i].Digest}, s.disk.last})
		}
	}
	return first, nil
}

func keyOf(id bridge.DeviceID, key string) string { return string(id) + "\x00" + key }

func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[k] = v
}

// Delete implements bridge.Spool.
func (s *Spool) Delete(seqs []int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seqs = slices.Clone(seqs)
	s.queue(&op{hides: seqs, run: func() func() {
		for _, n := range seqs {
			s.remove("Delete", n)
		}
		return nil
	}})
}

// remove is called with mu held.
func (s *Spool) remove(what string, seq int64) {
	i := slices.IndexFunc(s.disk.rows, func(r bridge.Stored) bool { return r.Seq == seq })
	if i >= 0 {
		s.disk.rows = slices.Delete(s.disk.rows, i, i+1)
	} else if !s.disk.dropped[seq] {
		s.note("%s: %d is not stored", what, seq)
	}
}

// Bury implements bridge.Spool.
func (s *Spool) Bury(r bridge.Stored, e bridge.Epitaph, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &op{run: func() func() {
		err := s.failure
		if err == nil || r.Seq != 0 {
			// What is stored already needs no more room.
			err = nil
			s.disk.dead = append(s.disk.dead, DeadLetter{Reading: r.Reading, Epitaph: e})
			if r.Seq != 0 {
				s.remove("Bury", r.Seq)
			}
			for k, m := range s.disk.keys {
				if m.ID == r.ID {
					m.Dead = &e
					s.disk.keys[k] = m
				}
			}
		}
		if done == nil {
			return nil
		}
		return func() { done(err) }
	}}
	if r.Seq != 0 {
		o.hides = []int64{r.Seq}
	}
	s.queue(o)
}

// rowCost is what a row counts besides its payload.
const rowCost = 100

// Load implements bridge.Spool.
func (s *Spool) Load(device bridge.DeviceID, after int64, maxBytes int, done func([]bridge.Stored, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.loads {
		if l.device == device {
			s.note("Load: %s is being loaded", device)
		}
	}
	s.loaded = append(s.loaded, int64(maxBytes))
	s.await(&load{device: device, run: func() func() {
		if err := s.blind; err != nil {
			return func() { done(nil, err) }
		}
		var page []bridge.Stored
		size := 0
		for _, r := range s.disk.rows {
			if r.Device != device || r.Seq <= after || s.hidden(r.Seq) {
				continue
			}
			if size += rowCost + len(r.Payload); len(page) > 0 && size > maxBytes {
				break
			}
			r.Payload = slices.Clone(r.Payload)
			page = append(page, r)
		}
		return func() { done(page, nil) }
	}})
}

// hidden is called with mu held.
func (s *Spool) hidden(seq int64) bool {
	return slices.ContainsFunc(s.ops, func(o *op) bool { return slices.Contains(o.hides, seq) })
}

// Backlogs implements bridge.Spool.
func (s *Spool) Backlogs() ([]bridge.Backlog, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blind != nil {
		return nil, s.blind
	}
	var list []bridge.Backlog
	for _, r := range s.disk.rows {
		i := slices.IndexFunc(list, func(b bridge.Backlog) bool { return b.Device == r.Device })
		if i < 0 {
			i = len(list)
			list = append(list, bridge.Backlog{Device: r.Device, Oldest: r.Seq, Accepted: time.Now()})
		}
		list[i].Readings++
		list[i].Bytes += int64(rowCost + len(r.Payload))
		list[i].Newest = r.Seq
	}
	return list, nil
}

// Remembered implements bridge.Spool.
func (s *Spool) Remembered(device bridge.DeviceID, key string) (bridge.Remembered, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blind != nil {
		return bridge.Remembered{}, false, s.blind
	}
	m, ok := s.disk.keys[keyOf(device, key)]
	m.Waiting = slices.ContainsFunc(s.disk.rows, func(r bridge.Stored) bool { return r.Seq == m.seq })
	return m.Remembered, ok, nil
}

var (
	_ bridge.Spool     = (*Spool)(nil)
	_ bridge.Downlinks = (*Spool)(nil)
)
