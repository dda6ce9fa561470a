package openapitest

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/go-chi/chi/v5"
)

// Pair is a status of an operation.
type Pair struct {
	Operation string // "GET /path"
	Status    int
}

// Recorder is a handler that checks what another one answers. It is safe for use by
// many goroutines.
type Recorder struct {
	doc    *Document
	next   http.Handler
	routes chi.Routes

	mu     sync.Mutex // guards what follows
	idle   *sync.Cond // of mu: active is 0
	active int        // answers that are under way
	seen   map[Pair]int
	faults []error
}

// Record puts a recorder before a handler that has these routes.
func (d *Document) Record(next http.Handler, routes chi.Routes) *Recorder {
	r := &Recorder{doc: d, next: next, routes: routes, seen: map[Pair]int{}}
	r.idle = sync.NewCond(&r.mu)
	return r
}

// Result waits for the answers that are under way. It returns how often each status
// of each operation came, and what was wrong.
func (r *Recorder) Result() (seen map[Pair]int, faults []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.active > 0 {
		r.idle.Wait()
	}
	return maps.Clone(r.seen), slices.Clone(r.faults)
}

func (r *Recorder) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active++
}

func (r *Recorder) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active--
	r.idle.Broadcast()
}

// ServeHTTP implements http.Handler.
func (r *Recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.begin()
	defer r.end()
	path := req.URL.RawPath
	if path == "" {
		path = req.URL.EscapedPath()
	}
	x := &Exchange{
		Method: req.Method, Path: path, Query: req.URL.RawQuery, Request: req.Header.Clone(),
		Unrouted: !r.routes.Match(chi.NewRouteContext(), req.Method, path),
	}
	body := &readBody{ReadCloser: req.Body}
	answer := &writtenAnswer{ResponseWriter: w, x: x}
	req.Body = body
	x.Broken = true // unless the handler comes back
	defer func() {
		x.Body = body.got.Bytes()
		if !x.Broken {
			answer.WriteHeader(http.StatusOK)
		}
		if x.Status != 0 {
			r.note(x)
		}
	}()
	r.next.ServeHTTP(answer, req)
	x.Broken = false
}

func (r *Recorder) note(x *Exchange) {
	op, err := r.doc.Check(x)
	r.mu.Lock()
	defer r.mu.Unlock()
	if op != nil {
		r.seen[Pair{op.String(), x.Status}]++
	}
	if err != nil {
		r.faults = append(r.faults, fmt.Errorf("%s %s: %w", x.Method, x.Path, err))
	}
}

// readBody keeps what is read.
type readBody struct {
	io.ReadCloser
	got bytes.Buffer
}

func (b *readBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.got.Write(p[:n])
	return n, err
}

// writtenAnswer keeps what is written.
type writtenAnswer struct {
	http.ResponseWriter
	x *Exchange
}

func (w *writtenAnswer) WriteHeader(status int) {
	if w.x.Status == 0 && status >= 200 {
		w.x.Status, w.x.Header = status, w.Header().Clone()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *writtenAnswer) Write(p []byte) (int, error) {
	if w.x.Status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if len(w.x.Answer) == 0 && w.x.Header.Get("Content-Type") == "" {
		w.x.Header.Set("Content-Type", http.DetectContentType(p)) // as net/http does
	}
	w.x.Answer = append(w.x.Answer, p...)
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *writtenAnswer) Unwrap() http.ResponseWriter { return w.ResponseWriter }
