package serial

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	bugst "go.bug.st/serial"
)

// readSize is the most that one read takes: what the kernel's line discipline
// holds for a tty (N_TTY_BUF_SIZE).
const readSize = 4096

// Port is one serial port with the devices behind it. Make it with New, run it
// with Run; Deliver, Exchange and Stats may be called at any time from any
// goroutine.
type Port struct {
	opts     Options // with defaults; nobody changes it
	mode     bugst.Mode
	accepter Accepter
	log      *slog.Logger
	counters counters
	running  atomic.Bool

	mu   sync.Mutex // guards what follows
	now  *opening   // nil while the port is not open
	torn bool       // the last write was cut off; see outgoing
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
	mode.InitialStatusBits = o.statusBits()
	return &Port{opts: o, mode: mode, accepter: a, log: o.Logger.With("port", o.Name)}, nil
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
		w, path, err := p.open()
		if err != nil {
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
		err = p.serve(ctx, w, path)
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

// open finds the port, anew each time because adapters change places, and opens
// it.
func (p *Port) open() (w wire, path string, err error) {
	if file, ok := replayFile(p.opts.Port); ok {
		w, err = openReplay(file)
		return w, file, err
	}
	path = p.opts.Port
	if p.opts.Locate != nil {
		if path, err = p.opts.Locate(); err != nil {
			return nil, "", err
		}
	}
	c, err := openConn(path, p.mode)
	if err != nil && p.mode.InitialStatusBits != nil {
		// A port without modem lines, such as a pseudo-terminal, has none to set.
		mode := p.mode
		mode.InitialStatusBits = nil
		if plain, perr := openConn(path, mode); perr == nil {
			p.log.Warn("the port has no DTR and RTS, they are not set", "path", path, "error", err)
			return plain, path, nil
		}
	}
	if err != nil {
		return nil, "", explainOpen(path, err)
	}
	return c, path, nil
}

// serve works on an open port until it fails or ctx is done, and closes it.
func (p *Port) serve(ctx context.Context, w wire, path string) (err error) {
	o := newOpening(p, w)
	p.setOpen(o)
	p.counters.update(func(s *Stats) { s.Up = true; s.Opens++; s.Path = path })
	p.log.Info("serial port open", "path", path, "baud", p.opts.Baud, "mode", p.opts.Mode)
	release := onDone(ctx, w.interrupt)
	defer func() {
		release()
		p.setOpen(nil)
		close(o.done)
		w.close()
		o.workers.Wait()
		p.counters.update(func(s *Stats) {
			s.Up = false
			if ctx.Err() == nil {
				s.LastError = err
			}
		})
	}()
	return o.run(ctx)
}

func (p *Port) setOpen(o *opening) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = o
}

func (p *Port) getOpen() *opening {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// wire is what carries the bytes: conn, or a recording.
type wire interface {
	// read returns at least one byte or an error; soon after interrupt, an error.
	read(p []byte) (int, error)
	// write returns when the line has sent the last byte, or soon after ctx is
	// done. touched: after an error, a part of p may have reached the device.
	write(ctx context.Context, p []byte, perByte time.Duration) (touched bool, err error)
	// fail makes read return err.
	fail(err error)
	interrupt()
	close()
}
