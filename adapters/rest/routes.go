package rest

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
)

func (s *Server) routes() http.Handler {
	r := chi.NewRouter()
	r.Use(s.observe, routeAsSent, s.guard, s.admit)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		refuse(w, &problem{status: http.StatusNotFound,
			detail: "nothing is at this path; readings go to POST /v1/devices/{device}/uplink, with the sub topic behind it if there is one, and many at a time to POST /v1/uplinks"})
	})
	r.MethodNotAllowed(s.methodNotAllowed(r))

	r.Get("/healthz", s.healthz)
	r.Head("/healthz", s.healthz)
	r.Get("/readyz", s.readyz)
	r.Head("/readyz", s.readyz)
	r.Get("/openapi.yaml", s.openapi)
	r.Head("/openapi.yaml", s.openapi)
	r.Group(s.readRoutes)
	r.Group(s.uplinkRoutes)
	r.With(s.allowCapture, s.limit).Post("/v3/capture", s.capture)
	r.Group(s.downlinkRoutes)
	return r
}

// readRoutes are those that tell how things are.
func (s *Server) readRoutes(r chi.Router) {
	r.Use(s.allow(Read))
	if s.opts.Metrics != nil {
		r.Method(http.MethodGet, "/metrics", s.opts.Metrics)
		r.Method(http.MethodHead, "/metrics", s.opts.Metrics)
	}
	if s.opts.States != nil {
		for path, h := range map[string]http.HandlerFunc{
			"/v1/status": s.status, "/v1/devices": s.devices, "/v1/devices/{device}": s.device,
		} {
			r.Get(path, h)
			r.Head(path, h)
		}
	}
	if s.opts.Events != nil {
		r.Get("/v1/events", s.events)
	}
}

// uplinkRoutes are those that take readings. A request without a token takes no
// slot.
func (s *Server) uplinkRoutes(r chi.Router) {
	r.Use(s.allow(Uplink))
	r.With(s.limit).Post("/v1/devices/{device}/uplink", s.uplink)
	r.With(s.limit).Post("/v1/devices/{device}/uplink/*", s.uplink)
	r.With(s.limitAll).Post("/v1/uplinks", s.batch)
}

// downlinkRoutes are those of mailboxes. An answer is taken like a reading.
func (s *Server) downlinkRoutes(r chi.Router) {
	r.Use(s.allow(Downlink))
	if s.opts.Mailboxes != nil {
		r.Get("/v1/devices/{device}/downlinks", s.downlinks)
		r.With(s.limit).Delete("/v1/devices/{device}/downlinks/{id}", s.deleteDownlink)
	}
}

// methodNotAllowed answers 405 with Allow (RFC 9110, section 15.5.6), or 404 if
// no method would do: chi asks it about unknown methods before it looks at the
// path.
func (s *Server) methodNotAllowed(mux *chi.Mux) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		path := chi.RouteContext(r.Context()).RoutePath
		var allowed []string
		for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodDelete} {
			if mux.Match(chi.NewRouteContext(), m, path) {
				allowed = append(allowed, m)
			}
		}
		if allowed == nil {
			mux.NotFoundHandler()(w, r)
			return
		}
		allow := strings.Join(allowed, ", ")
		refuse(w, &problem{status: http.StatusMethodNotAllowed,
			detail: "this path does not take the request's method; use " + allow,
			header: http.Header{"Allow": {allow}}})
	}
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, "application/json", struct {
		Status string `json:"status"`
	}{"ok"})
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	ok, detail := s.opts.Ready()
	status, word := http.StatusOK, "ready"
	if s.gate.isShut() {
		ok = false
	}
	if !ok {
		w.Header().Set("Retry-After", strconv.Itoa(wholeSeconds(stopRetry)))
		status, word = http.StatusServiceUnavailable, "not ready"
	}
	writeJSON(w, status, "application/json", struct {
		Status string `json:"status"`
		Detail any    `json:"detail,omitempty"`
	}{word, detail})
}

// routeAsSent makes chi match the path as the client sent it. Otherwise it
// would take the decoded path when the escaping was the usual one and the
// escaped path when it was not, and nobody could tell afterwards whether a
// parameter has to be decoded. URL.EscapedPath alone will not do: it encodes
// the decoded path anew, with "/" for "%2F", if the client escaped too little.
func routeAsSent(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := r.URL.RawPath
		if path == "" {
			path = r.URL.EscapedPath()
		}
		chi.RouteContext(r.Context()).RoutePath = path
		next.ServeHTTP(w, r)
	})
}

// guard keeps web pages out: every page that a browser on this machine shows
// can send requests to loopback addresses, by their address (which the Origin
// header tells) or by a name of its own that resolves to one (DNS rebinding,
// which the Host header tells). Programs send neither. Where other machines may
// reach the endpoint it has names of its own; there no page gets in by a name
// that it made up, because the certificate is not for it. No page reaches a Unix
// socket.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.socket == nil && !s.opts.TLS.guards(len(s.roster.Load().clients)) && !loopbackHostPort(r.Host) {
			refuse(w, &problem{status: http.StatusForbidden,
				detail: fmt.Sprintf("the request is for a host that is not this machine; address it to %s://%s", s.opts.scheme(), s.Addr())})
			return
		}
		if !sameOrigin(r, s.opts.scheme()) {
			refuse(w, &problem{status: http.StatusForbidden,
				detail: "the request comes from a web page of another origin; send readings from a program, without an Origin header"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// loopbackHostPort reports whether a Host header names this machine. A request
// without one (HTTP/1.0) does not come from a browser.
func loopbackHostPort(hostport string) bool {
	if hostport == "" {
		return true
	}
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	} else if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	}
	return isLoopbackHost(host)
}

func sameOrigin(r *http.Request, scheme string) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		// A link may be followed here. What a page loads by itself, it cannot read,
		// but could hold streams and waiting requests with.
		if r.Method != http.MethodGet && r.Method != http.MethodHead || r.Header.Get("Sec-Fetch-Dest") != "document" {
			return false
		}
	}
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return true
	}
	if len(origins) > 1 {
		return false
	}
	u, err := url.Parse(origins[0])
	return err == nil && u.Scheme == scheme && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// observe logs each request and survives a panic of a handler.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		sw := &statusWriter{ResponseWriter: w, request: r, s: s}
		defer func() {
			if v := recover(); v != nil {
				s.recovered(sw, v)
			}
			sw.begins()
			if !s.opts.Logger.Enabled(r.Context(), slog.LevelDebug) {
				return
			}
			s.opts.Logger.LogAttrs(r.Context(), slog.LevelDebug, "http request",
				slog.String("method", r.Method),
				slog.String("route", chi.RouteContext(r.Context()).RoutePattern()),
				slog.Int("status", sw.status),
				slog.Duration("duration", time.Since(start)))
		}()
		next.ServeHTTP(sw, r)
	})
}

func (s *Server) recovered(w *statusWriter, v any) {
	s.opts.Logger.Error("http handler panicked", "error", fmt.Sprint(v), "stack", string(debug.Stack()))
	if w.status != 0 {
		// Part of an answer is out: only a broken connection says that the rest
		// is missing.
		panic(http.ErrAbortHandler)
	}
	refuse(w, &problem{status: http.StatusInternalServerError, hangUp: true, detail: internalDetail})
}

// statusWriter remembers the request, and the status of the answer; 0 means none
// yet.
type statusWriter struct {
	http.ResponseWriter
	request *http.Request
	status  int
	goesOn  bool // an answer that may take long: a stream, or a batch
	s       *Server
}

// begins notes that the client is to take its answer.
func (w *statusWriter) begins() {
	if c := connFrom(w.request.Context()); c != nil {
		c.answers()
	}
}

// goOn says of an answer that has not begun that it may take long.
func goOn(w http.ResponseWriter) {
	if sw, ok := w.(*statusWriter); ok {
		sw.goesOn = true
	}
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
		if w.s.isEnding() { // no connection is kept
			w.Header().Set("Connection", "close")
		}
		if !w.goesOn {
			w.begins()
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
