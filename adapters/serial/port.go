package serial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	bugst "go.bug.st/serial"

	"fieldbridge/bridge"
)

// readSize is the most that one read takes: what the kernel's line discipline
// holds for a tty (N_TTY_BUF_SIZE).
const readSize = 4096

// Port is one serial port with the device behind it. Make it with New, run it
// with Run; Deliver and Stats may be called at any time from any goroutine.
type Port struct {
	opts     Options // with defaults; nobody changes it
	mode     bugst.Mode
	accepter Accepter
	log      *slog.Logger
	counters counters
	running  atomic.Bool

	mu   sync.Mutex // guards conn
	conn *conn      // nil while the port is not open

	writing chan struct{} // capacity 1: held by the one that writes
	torn    bool          // owned by the holder of writing; see outgoing
}

// New makes a port from o, without opening it. Its error names every mistake in
// o, one a line.
func New(o Options, a Accepter) (*Port, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("serial port %q: %w", o.Name, err)
	}
	if a == nil {
		return nil, fmt.Errorf("serial port %q: no accepter for its readings", o.Name)
	}
	mode, err := parseMode(o.Mode)
	if err != nil {
		return nil, fmt.Errorf("serial port %q: %w", o.Name, err)
	}
	mode.BaudRate = o.Baud
	return &Port{
		opts:     o,
		mode:     mode,
		accepter: a,
		log:      o.Logger.With("port", o.Name, "device", string(o.Device)),
		writing:  make(chan struct{}, 1),
	}, nil
}

// Stats returns a snapshot.
func (p *Port) Stats() Stats { return p.counters.snapshot() }

// Run opens the port, submits what comes from it and opens it again after any
// error, until ctx is done. It then closes the port and returns nil, whatever
// Deliver is doing. The only error is to run a port twice at the same time.
func (p *Port) Run(ctx context.Context) error {
	if !p.running.CompareAndSwap(false, true) {
		return fmt.Errorf("run serial port %q: it is running already", p.opts.Name)
	}
	defer p.running.Store(false)

	var pauses backoff
	var reported string // the last failure to open, to log each one once
	for ctx.Err() == nil {
		c, err := openConn(p.opts.Port, p.mode)
		if err != nil {
			err = explainOpen(p.opts.Port, err)
			p.counters.update(func(s *Stats) { s.OpenFailures++; s.LastError = err })
			level := slog.LevelWarn
			if err.Error() == reported {
				level = slog.LevelDebug
			}
			reported = err.Error()
			retryIn := pauses.pause()
			p.log.Log(ctx, level, "serial port cannot be opened", "error", err, "retry_in", retryIn)
			pause(ctx, retryIn)
			continue
		}
		reported = ""
		opened := time.Now()
		err = p.serve(ctx, c)
		if ctx.Err() != nil {
			break
		}
		pauses.worked(time.Since(opened))
		retryIn := pauses.pause()
		p.log.Warn("serial port lost", "error", err, "retry_in", retryIn)
		pause(ctx, retryIn)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// serve works on an open port until it fails or ctx is done, and closes it.
func (p *Port) serve(ctx context.Context, c *conn) (err error) {
	p.setConn(c)
	p.counters.update(func(s *Stats) { s.Up = true; s.Opens++ })
	p.log.Info("serial port open", "path", p.opts.Port, "baud", p.opts.Baud, "mode", p.opts.Mode)
	release := onDone(ctx, c.interrupt)
	defer func() {
		release()
		p.setConn(nil)
		c.close()
		p.counters.update(func(s *Stats) {
			s.Up = false
			if ctx.Err() == nil {
				s.LastError = err
			}
		})
	}()

	var framer framer = newLineSplitter(p.opts.Delimiter, p.opts.MaxFrame)
	in := intake{port: p, warned: make(map[Refusal]bool)}
	emit := func(frame []byte, why Refusal) { in.take(ctx, frame, why) }
	buf := make([]byte, readSize)
	for {
		n, err := c.read(buf)
		if n > 0 {
			in.at = time.Now()
			framer.feed(buf[:n], emit)
		}
		if err != nil {
			if framer.pending() > 0 {
				in.refuse(RefusedIncomplete)
			}
			return describeLoss(err)
		}
	}
}

func (p *Port) setConn(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conn = c
}

func (p *Port) getConn() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn
}

// intake turns the frames of one opening into readings. It belongs to Run.
type intake struct {
	port     *Port
	at       time.Time        // when the last bytes came
	warned   map[Refusal]bool // reasons already logged
	dropping bool             // the last reading was not taken
}

func (in *intake) take(ctx context.Context, frame []byte, why Refusal) {
	if why != "" {
		in.refuse(why)
		return
	}
	p := in.port
	payload, why := decode(p.opts.Decode, frame)
	if why != "" {
		in.refuse(why)
		return
	}
	p.counters.update(func(s *Stats) { s.FramesGood++; s.LastFrame = in.at })
	err := p.accepter.Submit(ctx, bridge.Reading{
		Device:      p.opts.Device,
		Subtopic:    p.opts.Subtopic,
		ContentType: p.opts.ContentType,
		Payload:     payload,
		Time:        in.at,
	})
	in.submitted(ctx, err)
}

// submitted counts a reading that was not taken, and logs when that begins and
// ends.
func (in *intake) submitted(ctx context.Context, err error) {
	p := in.port
	if err == nil {
		if in.dropping {
			in.dropping = false
			p.log.Info("readings are taken again")
		}
		return
	}
	p.counters.update(func(s *Stats) { s.Dropped++ })
	level := slog.LevelDebug
	// At the end of ctx a reading can be refused because of that alone.
	if !in.dropping && ctx.Err() == nil {
		in.dropping = true
		level = slog.LevelWarn
	}
	message := "reading dropped"
	var full *bridge.UnavailableError
	if errors.As(err, &full) {
		message = "reading dropped, no room"
	}
	p.log.Log(ctx, level, message, "error", err)
}

// refuse counts, and logs the first refusal for each reason: a wrong speed would
// fill the log otherwise.
func (in *intake) refuse(why Refusal) {
	p := in.port
	p.counters.update(func(s *Stats) {
		if s.FramesRefused == nil {
			s.FramesRefused = make(map[Refusal]uint64)
		}
		s.FramesRefused[why]++
	})
	level := slog.LevelDebug
	if !in.warned[why] {
		in.warned[why] = true
		level = slog.LevelWarn
	}
	p.log.Log(context.Background(), level, "frame refused", "reason", string(why), "hint", hints[why])
}
