package bridgetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/uuid"

	"fieldbridge/bridge"
)

// What follows is for the test that owns a Spool.

// queue is called with mu held.
func (s *Spool) queue(o *op) {
	s.ops = append(s.ops, o)
	if !s.Manual && !s.working {
		s.working = true
		go s.work()
	}
}

// work commits and reports until there is nothing to do.
func (s *Spool) work() {
	for {
		n := s.Commit(1)
		s.mu.Lock()
		if n == 0 && (len(s.ops) == 0 || s.crashed) {
			s.working = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

// Sync makes up to n operations durable, without telling anyone: the moment
// between a commit and its report. It returns how many there were.
func (s *Spool) Sync(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range n {
		if len(s.ops) == 0 || s.crashed {
			return i
		}
		o := s.ops[0]
		s.ops = s.ops[1:]
		if report := o.run(); report != nil {
			s.reports = append(s.reports, report)
		}
	}
	return n
}

// Commit is Sync that tells, also of what Sync has made durable before.
func (s *Spool) Commit(n int) int {
	n = s.Sync(n)
	for {
		s.mu.Lock()
		if len(s.reports) == 0 || s.crashed {
			s.mu.Unlock()
			return n
		}
		report := s.reports[0]
		s.reports = s.reports[1:]
		s.mu.Unlock()
		report()
	}
}

// await is called with mu held.
func (s *Spool) await(l *load) {
	s.loads = append(s.loads, l)
	if !s.ManualLoads && !s.reading {
		s.reading = true
		go s.read()
	}
}

// read answers loads until there are none.
func (s *Spool) read() {
	for {
		n := s.Answer(1)
		s.mu.Lock()
		if n == 0 && (len(s.loads) == 0 || s.crashed) {
			s.reading = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
	}
}

// Answer answers up to n loads and returns how many there were.
func (s *Spool) Answer(n int) int {
	for i := range n {
		s.mu.Lock()
		if len(s.loads) == 0 || s.crashed {
			s.mu.Unlock()
			return i
		}
		l := s.loads[0]
		report := l.run()
		s.loads = s.loads[1:]
		s.mu.Unlock()
		report()
	}
	return n
}

// Queued is the number of operations that are not durable yet.
func (s *Spool) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ops)
}

// Loading is the number of loads that are not answered yet.
func (s *Spool) Loading() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.loads)
}

// Crash ends the process of whoever uses s: nothing more is made durable or
// reported. It returns what the next process finds.
func (s *Spool) Crash() *Spool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crashed = true
	d := s.disk
	d.rows, d.dead, d.downlinks = slices.Clone(d.rows), slices.Clone(d.dead), slices.Clone(d.downlinks)
	d.dropped, d.keys, d.origins = maps.Clone(d.dropped), maps.Clone(d.keys), maps.Clone(d.origins)
	return &Spool{Manual: s.Manual, ManualLoads: s.ManualLoads, disk: d, limit: s.limit, misuse: s.misuse}
}

var errCrashed = errors.New("the process has ended")

// Release lets goroutines end that wait for a spool which is not needed any
// more: from now on it answers everything, with errors.
func (s *Spool) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crashed, s.Manual, s.ManualLoads = false, false, false
	s.failure, s.blind = errCrashed, errCrashed
	if !s.working {
		s.working = true
		go s.work()
	}
	if !s.reading {
		s.reading = true
		go s.read()
	}
}

// Fail makes all writes that need room fail, until it is called with nil.
func (s *Spool) Fail(err error) {
	s.mu.Lock()
	s.failure = err
	s.mu.Unlock()
}

// KeepDownlinks makes DeleteDownlink and BuryDownlink fail, until it is called
// with nil.
func (s *Spool) KeepDownlinks(err error) {
	s.mu.Lock()
	s.stiff = err
	s.mu.Unlock()
}

// FailReads makes all reads fail, until it is called with nil.
func (s *Spool) FailReads(err error) {
	s.mu.Lock()
	s.blind = err
	s.mu.Unlock()
}

// SetLimit bounds the number of readings; 0 means no limit.
func (s *Spool) SetLimit(n int) {
	s.mu.Lock()
	s.limit = n
	s.mu.Unlock()
}

// DropOldest removes up to n readings and their keys, as a full spool may, and
// returns them.
func (s *Spool) DropOldest(n int) []bridge.Stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, len(s.disk.rows))
	gone := slices.Clone(s.disk.rows[:n])
	s.disk.rows = slices.Delete(s.disk.rows, 0, n)
	for _, r := range gone {
		put(&s.disk.dropped, r.Seq, true)
		maps.DeleteFunc(s.disk.keys, func(_ string, m remembered) bool { return m.seq == r.Seq })
	}
	return gone
}

// Insert stores a reading as another process would.
func (s *Spool) Insert(r bridge.Reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.ID == uuid.Nil {
		r.ID = uuid.Must(uuid.NewV7())
	}
	_, _ = s.append([]bridge.Reading{r}, nil)
}

// Appends is the number of calls of Append with readings, and of AppendAll.
func (s *Spool) Appends() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.appends
}

// Loads lists how many bytes each Load asked for.
func (s *Spool) Loads() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.loaded)
}

// Rows returns the durable readings, oldest first.
func (s *Spool) Rows() []bridge.Stored {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.disk.rows)
}

// Dead returns the dead letters.
func (s *Spool) Dead() []DeadLetter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.disk.dead)
}

// note is called with mu held.
func (s *Spool) note(format string, args ...any) {
	s.misuse = append(s.misuse, fmt.Sprintf(format, args...))
}

// Misuse lists what the Bridge did against the contract.
func (s *Spool) Misuse() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.misuse)
}
