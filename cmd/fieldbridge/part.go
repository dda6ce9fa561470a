package main

import (
	"context"
	"sync"
)

// crew runs parts that come and go. The zero value is not ready: see newCrew.
type crew struct {
	wg     sync.WaitGroup
	failed chan error // capacity 1: the first error of a part
}

func newCrew() *crew { return &crew{failed: make(chan error, 1)} }

// part is something that runs and can be ended alone.
type part struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
}

// start runs a part until ctx is done or it is stopped.
func (c *crew) start(ctx context.Context, run func(context.Context) error) *part {
	ctx, cancel := context.WithCancel(ctx)
	p := &part{cancel: cancel, done: make(chan struct{})}
	c.wg.Go(func() {
		defer close(p.done)
		defer cancel()
		if err := run(ctx); err != nil {
			select {
			case c.failed <- err:
			default:
			}
		}
	})
	return p
}

// wait waits until all parts have ended and returns the first error, if nobody
// has taken it.
func (c *crew) wait() error {
	c.wg.Wait()
	select {
	case err := <-c.failed:
		return err
	default:
		return nil
	}
}

// stopAll ends parts and waits for them.
func stopAll(parts []*part) {
	for _, p := range parts {
		p.cancel()
	}
	for _, p := range parts {
		<-p.done
	}
}
