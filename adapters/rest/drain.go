package rest

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

// gate knows which requests are in progress. Once it is shut those that are new
// are told so.
type gate struct {
	mu       sync.Mutex // guards the rest
	admitted int        // in progress, from before it was shut
	late     int        // in progress, from after
	shut     bool
	changed  chan struct{} // capacity 1: it is shut, and one has left
}

func newGate() *gate { return &gate{changed: make(chan struct{}, 1)} }

// enter notes a request, until leave. It returns false if the gate is shut.
func (g *gate) enter() (admitted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		g.late++
		return false
	}
	g.admitted++
	return true
}

func (g *gate) leave(admitted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if admitted {
		g.admitted--
	} else {
		g.late--
	}
	if g.shut {
		select {
		case g.changed <- struct{}{}:
		default:
		}
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
}

func (g *gate) isShut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

func (g *gate) inProgress() (admitted, late int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.admitted, g.late
}

// empty waits until what was admitted is done, for up to a time. It reports
// whether it is. One goroutine may wait.
func (g *gate) empty(limit time.Duration) bool {
	over := time.NewTimer(limit)
	defer over.Stop()
	for {
		if admitted, _ := g.inProgress(); admitted == 0 {
			return true
		}
		select {
		case <-g.changed:
		case <-over.C:
			return false
		}
	}
}

// wait waits until nothing is in progress.
func (g *gate) wait() {
	for {
		if admitted, late := g.inProgress(); admitted == 0 && late == 0 {
			return
		}
		<-g.changed
	}
}

// admit lets requests in until the server ends. From then on only those are that
// ask how things are.
func (s *Server) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		admitted := s.gate.enter()
		defer s.gate.leave(admitted)
		asks := (r.Method == http.MethodGet || r.Method == http.MethodHead) &&
			r.URL.Path != "/v1/events" && !strings.HasSuffix(r.URL.Path, "/downlinks")
		if admitted || asks {
			next.ServeHTTP(w, r)
			return
		}
		refuse(w, &problem{status: http.StatusServiceUnavailable, retryAfter: stopRetry, hangUp: true,
			detail: "not accepted: fieldbridge stops; send it again after the time in Retry-After"})
	})
}

// drain answers what is in progress, and refuses what is new, on new connections
// as well, so that nobody meets a closed door before the end.
func (s *Server) drain() {
	s.gate.close()
	close(s.last)
	if !s.gate.empty(s.opts.DrainTimeout) {
		s.cut()
		s.gate.empty(cutTime)
	}
	s.closeListener()
	s.settle()
}

// cut ends the context of what is in progress, and the wait for bodies.
func (s *Server) cut() {
	count, _ := s.gate.inProgress()
	s.opts.Logger.Warn("http requests cut off", "count", count, "after", s.opts.DrainTimeout)
	s.cancel()
	s.connections.hurry(s)
}

// settle lets answers go out that are being written.
func (s *Server) settle() {
	over := time.NewTimer(cutTime)
	defer over.Stop()
	again := time.NewTicker(handOverLook)
	defer again.Stop()
	for s.active.Load() > 0 {
		select {
		case <-again.C:
		case <-over.C:
			return
		}
	}
}

// closeListener has Serve return, also while a connection waits for room.
func (s *Server) closeListener() error {
	s.closing.Do(func() { close(s.closed) })
	return s.listener.Close()
}
