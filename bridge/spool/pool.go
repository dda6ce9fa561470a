package spool

import (
	"errors"
	"sync"
)

// poolSize bounds the connections for reading, of about 1 MiB each.
const poolSize = 4

// pool keeps connections for reading. The database's gate is held while one is
// used.
type pool struct {
	open func() (*conn, error)

	mu    sync.Mutex // guards idle
	idle  []*conn
	slots semaphore
}

type semaphore struct {
	once sync.Once
	c    chan struct{}
}

func (s *semaphore) take() {
	s.once.Do(func() { s.c = make(chan struct{}, poolSize) })
	s.c <- struct{}{}
}

func (s *semaphore) give() { <-s.c }

// with lends f a connection.
func (p *pool) with(f func(*conn) error) error {
	p.slots.take()
	defer p.slots.give()
	p.mu.Lock()
	var c *conn
	if n := len(p.idle); n > 0 {
		c, p.idle = p.idle[n-1], p.idle[:n-1]
	}
	p.mu.Unlock()
	if c == nil {
		var err error
		if c, err = p.open(); err != nil {
			return err
		}
	}
	err := f(c)
	if err != nil {
		return errors.Join(err, c.close())
	}
	p.mu.Lock()
	p.idle = append(p.idle, c)
	p.mu.Unlock()
	return nil
}

// close closes what is idle. Nobody may use the pool meanwhile.
func (p *pool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, c := range p.idle {
		errs = append(errs, c.close())
	}
	p.idle = nil
	return errors.Join(errs...)
}

// read lends f a connection that sees what is committed.
func (d *DB) read(f func(*conn) error) error {
	d.gate.RLock()
	defer d.gate.RUnlock()
	d.mu.Lock()
	closed := d.closed
	d.mu.Unlock()
	if closed {
		return ErrClosed
	}
	return d.pool.with(f)
}
