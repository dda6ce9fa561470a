//go:build linux

package main

import (
	"bytes"
	"net"
	"sync"
)

// hang is a fault of the network: links stay open and nothing comes through.
type hang struct {
	mu   sync.Mutex
	over chan struct{} // guarded by mu; nil while there is none
}

func (h *hang) set(on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if on && h.over == nil {
		h.over = make(chan struct{})
	}
	if !on && h.over != nil {
		close(h.over)
		h.over = nil
	}
}

func (h *hang) wait() {
	h.mu.Lock()
	over := h.over
	h.mu.Unlock()
	if over != nil {
		<-over
	}
}

// flow is one direction of a link. Unlike a pipe it has room for what the other
// end does not read yet, as sockets have: who writes holds locks, and time does
// not pass in a bubble while somebody waits for one.
type flow struct {
	from, to net.Conn
	hang     *hang
	inspect  func([]byte)  // looks at the first write; may be nil
	more     chan struct{} // capacity 1: there is something in queue, or it has ended

	mu    sync.Mutex // guards what follows
	queue [][]byte
	ended bool
}

func (f *flow) read() {
	buf := make([]byte, 4<<10)
	for {
		n, err := f.from.Read(buf)
		if n > 0 && f.inspect != nil {
			f.inspect(buf[:n])
			f.inspect = nil
		}
		f.mu.Lock()
		if n > 0 {
			f.queue = append(f.queue, bytes.Clone(buf[:n]))
		}
		f.ended = err != nil
		f.mu.Unlock()
		select {
		case f.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// write passes on what was read, and the end after it.
func (f *flow) write() {
	defer f.to.Close()
	for range f.more {
		f.hang.wait()
		f.mu.Lock()
		queue, ended := f.queue, f.ended
		f.queue = nil
		f.mu.Unlock()
		for _, p := range queue {
			if _, err := f.to.Write(p); err != nil {
				_ = f.from.Close() // nobody is there to read it
				return
			}
		}
		if ended {
			return
		}
	}
}
