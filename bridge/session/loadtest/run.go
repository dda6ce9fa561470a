//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// workerEnv set to 1 makes the program the worker.
const workerEnv = "FIELDBRIDGE_LOADTEST_WORKER"

// result is what a run has shown.
type result struct {
	o      options
	points []event // stepBase and each stepConnected
	// connections are the bytes that the connections of each step took, beyond
	// what their devices had taken by then: made.
	connections []int64
	made        int64

	idle     *event
	steady   *event
	done     *event
	balance  balance
	latency  spread
	gaps     []time.Duration
	accepted int64 // connections, by the broker's log
	// restarted is when the broker listened again, back how long it took from
	// there until the last session was connected.
	restarted time.Time
	back      time.Duration
}

// run makes a run. What it says on the way goes to log.
func run(ctx context.Context, o options, log io.Writer) (_ *result, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := allowFiles(o.Sessions); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "fieldbridge-loadtest-")
	if err != nil {
		return nil, fmt.Errorf("directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b, err := newBroker(dir, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.stop(syscall.SIGKILL)) }()
	w := &witness{addr: b.witness, ledger: newLedger()}
	if err := prepare(ctx, b, w); err != nil {
		return nil, err
	}
	var witnessing sync.WaitGroup
	defer witnessing.Wait()
	defer cancel()
	witnessing.Go(func() { w.run(ctx) })

	o.Address, o.CAPEM, o.Dir = b.sessions, b.ca, filepath.Join(dir, "spool")
	r := &result{o: o}
	if err := r.follow(ctx, b, log); err != nil {
		return nil, err
	}
	accepted := 0
	for _, n := range r.done.Accepted {
		accepted += n
	}
	// The broker has them all, and the witness must get what there is.
	_ = until(ctx, 30*time.Second, "all readings at the witness", func() bool { return w.ledger.distinct() >= accepted })
	r.balance, r.latency = w.ledger.balance(r.done.Accepted), w.ledger.latency()
	r.gaps = w.ledger.gaps(r.done.Rotations)
	r.accepted = b.accepted.Load()
	return r, nil
}

// prepare starts the broker with a session of the witness and no other. As the
// broker writes down what it keeps when it is told to end, and not when it is
// killed, each start is from there: the witness misses nothing that the sessions
// publish before it is back.
func prepare(ctx context.Context, b *broker, w *witness) error {
	if err := b.start(ctx); err != nil {
		return err
	}
	if err := w.subscribe(ctx); err != nil {
		return err
	}
	if err := b.stop(syscall.SIGTERM); err != nil {
		return err
	}
	b.accepted.Store(0)
	return b.start(ctx)
}

// follow starts the worker and does what it waits for.
func (r *result) follow(ctx context.Context, b *broker, log io.Writer) (err error) {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), workerEnv+"=1")
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	defer func() {
		_ = in.Close() // the worker ends, if it has not yet
		if werr := cmd.Wait(); werr != nil {
			err = errors.Join(err, fmt.Errorf("worker: %w", werr))
		}
	}()
	if err := json.NewEncoder(in).Encode(r.o); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	for d := json.NewDecoder(out); r.done == nil; {
		var e event
		if err := d.Decode(&e); err != nil {
			return fmt.Errorf("worker: it ended early: %w", err)
		}
		if err := r.take(ctx, b, e, log); err != nil {
			return err
		}
	}
	return nil
}

func (r *result) take(ctx context.Context, b *broker, e event, log io.Writer) error {
	fmt.Fprintf(log, "%s %s: %d sessions, %.1f s, %.1f MiB, %d goroutines, %.2f CPU-s\n", e.At.Format(time.TimeOnly),
		e.Step, e.Sessions, e.Took.Seconds(), mib(e.Usage.RSS), e.Usage.Goroutines, e.CPU.Seconds())
	switch e.Step {
	case stepBase:
		r.points = append(r.points, e)
	case stepMade:
		r.made = e.Usage.RSS
	case stepConnected:
		r.points = append(r.points, e)
		r.connections = append(r.connections, e.Usage.RSS-r.made)
	case stepIdle:
		r.idle = &e
	case stepSteady:
		r.steady = &e
	case stepStorm:
		if err := b.stop(syscall.SIGKILL); err != nil {
			return err
		}
		if err := pause(ctx, r.o.Away); err != nil {
			return err
		}
		if err := b.start(ctx); err != nil {
			return err
		}
		r.restarted = time.Now()
	case stepBack:
		r.back = e.At.Sub(r.restarted)
	case stepListening:
		return sendDownlinks(ctx, b.witness, r.o.Sessions)
	case stepDone:
		r.done = &e
	}
	return nil
}
