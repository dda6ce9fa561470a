//go:build linux

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// The steps that a worker reports.
const (
	stepBase      = "base"      // nothing is connected
	stepMade      = "made"      // there are Sessions, the last of them not started
	stepConnected = "connected" // Sessions are
	stepIdle      = "idle"
	stepStorm     = "storm" // the broker may be killed now
	stepBack      = "back"  // all sessions are connected again
	stepSteady    = "steady"
	stepListening = "listening" // downlinks may be sent
	stepDone      = "done"
)

// event is what a worker has to say, one JSON object a line.
type event struct {
	Step     string
	At       time.Time
	Sessions int           `json:",omitempty"`
	Usage    usage         // at the end of the step
	Took     time.Duration // of connecting, or of the step
	CPU      time.Duration // during the step

	// At the end.
	Accepted         map[string]int `json:",omitempty"`
	Refused          int            `json:",omitempty"`
	Spooled, Dropped int64          `json:",omitempty"`
	Reached          int            `json:",omitempty"` // devices, by a downlink
	Dials            []time.Time    `json:",omitempty"`
	Rotations        []rotation     `json:",omitempty"`
}

// patience bounds what must happen.
const patience = 2 * time.Minute

// connecting is how long n connects take at the budget.
func (o *options) connecting(n int) time.Duration {
	return time.Duration(n) * time.Second / time.Duration(o.Rate)
}

// worker is the process that has the sessions. It is told its options on its
// standard input, ends when that ends, and reports on its standard output.
type worker struct {
	o     options
	out   *json.Encoder
	fleet *fleet
	t     *traffic
}

func work(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &worker{out: json.NewEncoder(out)}
	d := json.NewDecoder(in)
	if err := d.Decode(&w.o); err != nil {
		return fmt.Errorf("worker: options: %w", err)
	}
	// It reads a pipe and cannot be waited for: the process ends with it.
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	if err := allowFiles(w.o.Sessions); err != nil {
		return err
	}
	f, err := newFleet(w.o)
	if err != nil {
		return err
	}
	w.fleet, w.t = f, newTraffic(f.bridge, w.o.Sessions, w.o.Period)
	defer f.spool.Close()
	defer f.running.Wait()
	defer cancel()
	if err := w.run(ctx); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	return nil
}

func (w *worker) report(e event) error {
	e.At = time.Now()
	return w.out.Encode(e)
}

// step runs a part of the work and reports it.
func (w *worker) step(name string, do func() error) error {
	before, err := cpu()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	took := time.Since(began)
	after, err := cpu()
	if err != nil {
		return err
	}
	u, err := measured()
	if err != nil {
		return err
	}
	return w.report(event{Step: name, Sessions: len(w.fleet.sessions), Usage: u, Took: took, CPU: after - before})
}

func (w *worker) run(ctx context.Context) error {
	if err := w.step(stepBase, func() error { return nil }); err != nil {
		return err
	}
	for i := range w.o.Steps {
		n := w.o.Sessions * (i + 1) / w.o.Steps
		if err := w.step(stepMade, func() error { return w.fleet.fill(n) }); err != nil {
			return err
		}
		err := w.step(stepConnected, func() error {
			w.fleet.start(ctx)
			return w.fleet.untilUp(ctx, w.o.connecting(n)+patience)
		})
		if err != nil {
			return err
		}
	}
	if w.o.Idle > 0 {
		if err := w.step(stepIdle, func() error { return pause(ctx, w.o.Idle) }); err != nil {
			return err
		}
	}
	var err error
	if w.o.Mode == modeStorm {
		err = w.storm(ctx)
	} else {
		err = w.step(stepSteady, func() error { w.t.run(ctx, w.o.Steady); return ctx.Err() })
	}
	if err != nil {
		return err
	}
	return w.finish(ctx)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// storm has the broker killed in the middle of traffic.
func (w *worker) storm(ctx context.Context) error {
	tctx, stop := context.WithCancel(ctx)
	var sending sync.WaitGroup
	defer sending.Wait()
	defer stop()
	sending.Go(func() { w.t.run(tctx, maxDuration) })
	if err := pause(ctx, w.o.Calm); err != nil {
		return err
	}
	if err := w.report(event{Step: stepStorm}); err != nil {
		return err
	}
	if err := until(ctx, patience, "all sessions down", func() bool { return w.fleet.up() == 0 }); err != nil {
		return err
	}
	if err := w.fleet.untilUp(ctx, w.o.Away+2*w.o.connecting(w.o.Sessions)+patience); err != nil {
		return err
	}
	if err := w.report(event{Step: stepBack}); err != nil {
		return err
	}
	return pause(ctx, w.o.Calm)
}

// finish waits until everything is delivered, up and down, and reports.
func (w *worker) finish(ctx context.Context) error {
	if err := w.fleet.drain(ctx, patience); err != nil {
		return err
	}
	if err := w.report(event{Step: stepListening}); err != nil {
		return err
	}
	if err := until(ctx, patience, "a downlink for each device", func() bool { return w.fleet.reached() == w.o.Sessions }); err != nil {
		return fmt.Errorf("%w: %d devices have one", err, w.fleet.reached())
	}
	counts := w.fleet.bridge.Counts()
	return w.report(event{
		Step: stepDone, Accepted: w.t.accepted(), Refused: w.t.refused,
		Spooled: counts.Spooled, Dropped: counts.Dropped, Reached: w.fleet.reached(),
		Dials: w.fleet.dials.times(), Rotations: w.fleet.mints.rotations(),
	})
}
