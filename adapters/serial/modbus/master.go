package modbus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"fieldbridge/bridge"
)

// DefaultProbeEvery is how often a slave that has fallen silent is tried, unless
// its own interval is longer.
const DefaultProbeEvery = 30 * time.Second

// silentAfter is after how many polls without any answer a slave counts as
// silent.
const silentAfter = 3

// DefaultTurnaround is how long the slaves get to do what a broadcast told them
// (MSL section 2.4.1: 100 to 200 ms).
const DefaultTurnaround = 200 * time.Millisecond

// Options describe a master. Line, Baud, Slaves and Emit are needed.
type Options struct {
	Line Line
	// Baud is the line's speed, from which its times follow.
	Baud   int
	Slaves []Slave
	// Emit gets each poll that brought values, from Run's goroutine. The payload
	// is then its own. While it waits, nothing is polled.
	Emit func(ctx context.Context, p Poll)
	// ProbeEvery is the pace at which silent slaves are tried.
	ProbeEvery time.Duration
	// Logger gets changes of the slaves' state. Nil means no logging.
	Logger *slog.Logger
}

// Poll is what one poll of a slave brought.
type Poll struct {
	Slave    int
	Device   bridge.DeviceID
	Subtopic bridge.Subtopic
	// Time is when the first of its answers came.
	Time time.Time
	// Payload is a JSON object of the registers that were answered, in their
	// order in the configuration.
	Payload []byte
	// Missing are the names of the other registers; Err is why, the first reason
	// of them. Both are empty after a good poll.
	Missing []string
	Err     error
}

// Stats is a snapshot of what a master has done since it was made.
type Stats struct {
	// Requests counts requests by outcome, each retry as one of its own. The map
	// is the caller's.
	Requests map[Outcome]uint64
	// Missed counts polls that were left out, since their time passed while the
	// line was taken or the slave not to be asked.
	Missed uint64
	// Slaves are in the order of Options.
	Slaves []SlaveStats
}

// SlaveStats is the state of one Slave.
type SlaveStats struct {
	Address int
	Device  bridge.DeviceID
	// Silent: the last polls brought no answer, and it is tried at the slower
	// pace.
	Silent bool
	// Polls counts those that brought every register, Failed the others.
	Polls, Failed uint64
	// Requests is how many requests a poll takes now.
	Requests int
	// LastAnswer is when it last answered a poll, zero if never.
	LastAnswer time.Time
	// LastError is why a register was last missing, nil if never.
	LastError error
}

// Master polls slaves and writes to them. Run is called once; the other methods
// may be called from any goroutine.
type Master struct {
	line       Line
	baud       int
	emit       func(context.Context, Poll)
	probeEvery time.Duration
	log        *slog.Logger
	polls      []*polled

	stations map[byte]*station // by address; the map stays as New made it

	mu    sync.Mutex // guards what follows, the stats of polls and quiet of stations
	stats Stats      // without Slaves
}

// station is a slave's address on the line.
type station struct {
	// turn is held by whoever asks the slave, retries included.
	turn chan struct{}
	// quiet is until when an answer to an earlier request may still come. The
	// Master's mu guards it; it is set by the holder of turn.
	quiet time.Time
}

// polled is a unit and the state of its polling. What is not under the Master's
// mu belongs to Run.
type polled struct {
	*unit
	blocks []*block
	first  int       // the block with which the next poll begins
	due    time.Time // of the next poll
	silent int       // polls in a row without an answer
	words  string    // the last failure that was logged, "" after a good poll
	stats  SlaveStats
}

// New makes a master. The error names all mistakes, each slave's as *FieldErrors.
func New(o Options) (*Master, error) {
	m := &Master{line: o.Line, baud: o.Baud, emit: o.Emit, probeEvery: o.ProbeEvery, log: o.Logger,
		stations: map[byte]*station{}, stats: Stats{Requests: map[Outcome]uint64{}}}
	setDefault(&m.probeEvery, DefaultProbeEvery)
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	var errs []error
	if o.Line == nil || o.Emit == nil {
		errs = append(errs, errors.New("line and emit must be given"))
	}
	if o.Baud < 1 {
		errs = append(errs, fmt.Errorf("baud must be above 0 (got %d)", o.Baud))
	}
	for i, s := range o.Slaves {
		u, err := s.compile()
		if err != nil {
			errs = append(errs, fmt.Errorf("slave[%d]: %w", i, err))
			continue
		}
		p := &polled{unit: u, stats: SlaveStats{Address: s.Address, Device: s.Device}}
		if u.Every > 0 {
			p.blocks = group(pointers(u.registers), u.MaxGap, u.limit)
		}
		p.stats.Requests = len(p.blocks)
		m.polls = append(m.polls, p)
		m.stations[byte(s.Address)] = &station{turn: make(chan struct{}, 1)}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("modbus master: %w", err)
	}
	return m, nil
}

func pointers(registers []register) []*register {
	out := make([]*register, len(registers))
	for i := range registers {
		out[i] = &registers[i]
	}
	return out
}

// Stats returns the counters as they are now.
func (m *Master) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Requests = maps.Clone(s.Requests)
	for _, p := range m.polls {
		s.Slaves = append(s.Slaves, p.stats)
	}
	return s
}

// Run polls the slaves until ctx is done, and then returns nil. The times of a
// slave's polls are whole intervals from Run's start; one whose time has passed
// when the line gets free is made at once, those before it are left out. Of
// several that are due, the one that has waited longest comes first, so that a
// slave that takes long to answer cannot keep the others waiting for ever.
func (m *Master) Run(ctx context.Context) error {
	start := time.Now()
	for _, p := range m.polls {
		p.due = start
	}
	for {
		p := m.next()
		if p == nil {
			<-ctx.Done()
			return nil
		}
		if !sleep(ctx, time.Until(p.due)) {
			return nil
		}
		m.poll(ctx, p)
		if ctx.Err() != nil {
			return nil
		}
		m.schedule(p, start, time.Now())
	}
}

// next is the slave that is due first, or nil if none is polled.
func (m *Master) next() (first *polled) {
	for _, p := range m.polls {
		if p.Every > 0 && (first == nil || p.due.Before(first.due)) {
			first = p
		}
	}
	return first
}

// schedule sets the time of the next poll: the first whole interval after now at
// which the slave may be asked.
func (m *Master) schedule(p *polled, start, now time.Time) {
	every := p.Every
	if p.silent >= silentAfter && m.probeEvery > every {
		// Rounded up, so that the slave keeps its rhythm.
		every *= (m.probeEvery + every - 1) / every
	}
	if quiet := m.quiet(m.stations[byte(p.Address)]); quiet.After(now) {
		now = quiet // the others need not wait for it
	}
	was := p.due
	p.due = start.Add((now.Sub(start)/every + 1) * every)
	if missed := p.due.Sub(was)/every - 1; missed > 0 {
		m.mu.Lock()
		m.stats.Missed += uint64(missed)
		m.mu.Unlock()
	}
}

// sleep waits for d and reports whether ctx was not done before.
func sleep(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// ask sends a request until it is answered well, at most tries times. If an
// answer may still be under way after that, the slave is asked nothing else for
// two time-outs: what comes then is dropped by the line. Errors are
// *RequestErrors.
func (m *Master) ask(ctx context.Context, u *unit, r *Request, tries int) (Answer, error) {
	s := m.stations[r.Slave]
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return Answer{}, r.failed(LineFailed, 0, context.Cause(ctx))
	}
	if !sleep(ctx, time.Until(m.quiet(s))) {
		return Answer{}, r.failed(LineFailed, 0, context.Cause(ctx))
	}
	late := false
	for {
		a, err := m.once(ctx, u, r)
		tries--
		var failed *RequestError
		errors.As(err, &failed)
		late = late || failed.late()
		if err == nil || tries <= 0 || ctx.Err() != nil || !failed.retry() {
			if late {
				m.mu.Lock()
				s.quiet = time.Now().Add(2 * u.Timeout)
				m.mu.Unlock()
			}
			return a, err
		}
	}
}

func (m *Master) quiet(s *station) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return s.quiet
}

// once sends a request once.
func (m *Master) once(ctx context.Context, u *unit, r *Request) (Answer, error) {
	wire, err := r.Encode()
	if err != nil {
		return Answer{}, r.failed(LineFailed, 0, err)
	}
	x := Exchange{Request: wire, Silence: Silence(m.baud), Timeout: u.Timeout + wireTime(r.AnswerLength(), m.baud), Done: r.Done}
	if r.Slave == Broadcast {
		x.Timeout, x.Done = DefaultTurnaround, nil
	}
	answer, err := m.line.Exchange(ctx, x)
	if err != nil && ctx.Err() != nil {
		return Answer{}, r.failed(LineFailed, 0, context.Cause(ctx)) // not the line's fault: not counted
	}
	a, err := r.judge(answer, err)
	outcome := OK
	var failed *RequestError
	if errors.As(err, &failed) {
		outcome = failed.Outcome
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stats.Requests[outcome]++
	return a, err
}

// judge makes an answer or a *RequestError of what the line gave.
func (r *Request) judge(answer []byte, err error) (Answer, error) {
	switch {
	case err == nil, errors.Is(err, ErrTimeout):
		a, perr := r.Parse(answer)
		var failed *RequestError
		if errors.As(perr, &failed) {
			failed.Err = err
		}
		return a, perr
	case errors.Is(err, ErrBusy):
		return Answer{}, r.failed(LineBusy, 0, err)
	default:
		return Answer{}, r.failed(LineFailed, 0, err)
	}
}
