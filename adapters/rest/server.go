// Package rest takes readings in over HTTP: an app on this machine posts a
// payload, and gets its 2xx once the broker has it or it is safe in the spool.
//
// Other machines may reach it only over TLS, and only if it can tell its callers
// apart, by tokens or by client certificates: otherwise New refuses any address
// but those of this machine, and pages in this machine's browsers are refused by
// their Origin and Host headers. On a Unix socket its permissions say who may.
package rest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"fieldbridge/bridge"
)

// Defaults of Options.
const (
	DefaultMaxBody           = 256 << 10
	DefaultMaxConnections    = 1024
	DefaultMaxConcurrent     = 512 // but at most half of the connections
	DefaultMaxPolls          = 64  // but at most an eighth of the connections
	DefaultMaxStreams        = 64  // likewise
	DefaultReadHeaderTimeout = 5 * time.Second
	DefaultReadTimeout       = 30 * time.Second
	DefaultAcceptTimeout     = 60 * time.Second
	DefaultIdleTimeout       = 2 * time.Minute
	DefaultDrainTimeout      = 10 * time.Second
	DefaultSocketMode        = 0o660
)

const (
	// maxHeaderBytes, and 4 KiB that net/http adds to it, bound request line and
	// headers. The longest path that can be right, a device id and a sub topic
	// percent-encoded, is below 4 KiB.
	maxHeaderBytes = 12 << 10
	// answerTime is what writing an answer may take a slow client.
	answerTime = 10 * time.Second
	// cutTime is what handlers that were cancelled at the end of a drain get to
	// write their answer.
	cutTime = time.Second
)

// Accepter takes readings; *bridge.Bridge is one. Its methods are called from
// many goroutines at once.
type Accepter interface {
	// Known reports whether readings of the device are taken. It does not
	// block: it is asked before the body is read, so that a wrong path costs
	// nothing.
	Known(device bridge.DeviceID) bool
	// Accept blocks until the broker or the spool has the reading or it is
	// refused, and returns soon after ctx is done. The payload belongs to it
	// from then on. A key that comes again gets the receipt of the first time.
	// The errors that the caller is told about are bridge.ErrUnknownDevice,
	// bridge.ErrTooLarge, bridge.ErrKeyReused, bridge.ErrSpoolFull (with the
	// text around it), *bridge.UnavailableError, *bridge.RejectedError and
	// ctx's; any other is logged and answered with 500.
	Accept(ctx context.Context, r bridge.Reading, how bridge.Handling) (bridge.Receipt, error)
	// AcceptAll is Accept for many, with one result for each at its place. Those
	// of one device are taken in order. There is a key for each, or one without a
	// Value.
	AcceptAll(ctx context.Context, rs []bridge.Reading, keys []bridge.Key, async bool) []bridge.Accepted
}

// Options configure a Server. Zero values mean the defaults above.
type Options struct {
	// Listen is "host:port": a loopback address or localhost, or any other with
	// TLS, and Tokens or client certificates. Port 0 takes a free one; Addr tells
	// which. Or "unix:/path" for a socket that is made, and removed at the end.
	Listen string
	// SocketMode are the permissions of a Unix socket: who may write to it may
	// use the endpoint.
	SocketMode fs.FileMode
	// TLS encrypts the endpoint; nil: it is not encrypted.
	TLS *TLS
	// MaxBody is the largest payload in bytes.
	MaxBody int64
	// MaxConnections bounds the connections that are open, together with those
	// of a predecessor. Beyond, one that is idle, or slow with its request, gives
	// way; if all are in the middle of a request, new ones wait.
	MaxConnections int
	// GaveWay is told of each connection that had to, from many goroutines at
	// once. nil: nobody is.
	GaveWay func(Yield)
	// MaxConcurrent bounds the readings that are being accepted, or received
	// beyond their first 16 KiB; above it, 503. With MaxBody and MaxConnections
	// it bounds the memory.
	MaxConcurrent int
	// Logger gets a line per request at DEBUG, and what is broken at ERROR.
	// nil logs nothing. Payloads and queries are never logged.
	Logger *slog.Logger
	// Ready answers GET /readyz: can readings be accepted, and a detail that is
	// shown as JSON. It must not block and must not tell a secret. nil means
	// always. A broker that is down is no reason to say no.
	Ready func() (ok bool, detail any)
	// Metrics answers GET /metrics. It must not tell a secret. nil: nothing is
	// at this path.
	Metrics http.Handler
	// Mailboxes answers GET and DELETE of /v1/devices/{device}/downlinks. nil:
	// nothing is at these paths.
	Mailboxes Mailboxes
	// States answers GET /v1/status, /v1/devices and /v1/devices/{device}. nil:
	// nothing is at these paths.
	States States
	// Events are what GET /v1/events streams. nil: nothing is at this path.
	Events *Events
	// Tokens are who may use the endpoint, but for /healthz, /readyz and
	// /openapi.yaml. None: everyone who reaches it.
	Tokens  []Token
	clients []*client // made of Tokens
	// Secret is that with which a device's session logs in at the broker, zero if
	// it has none: POST /v3/capture takes it for a token for this device. It is
	// asked with every such request, from many goroutines at once. nil: there are
	// none.
	Secret func(bridge.DeviceID) bridge.Secret
	// Denied is told of each request that was not let in, from many goroutines
	// at once. nil: nobody is.
	Denied func(Denial)

	// MaxPolls and MaxStreams bound the requests that fetch, or wait for,
	// downlinks, and the streams of them; above, 503.
	MaxPolls   int
	MaxStreams int

	// ReadHeaderTimeout bounds the time to send the headers, ReadTimeout that
	// to send the whole request.
	ReadHeaderTimeout time.Duration
	ReadTimeout       time.Duration
	// AcceptTimeout bounds how long Accept may take.
	AcceptTimeout time.Duration
	// IdleTimeout is how long a connection is kept between requests.
	IdleTimeout time.Duration
	// DrainTimeout is how long Run waits at its end for readings in progress.
	DrainTimeout time.Duration
}

func (o Options) withDefaults() (Options, error) {
	set := func(d *time.Duration, def time.Duration) bool {
		if *d == 0 {
			*d = def
		}
		return *d > 0
	}
	ok := set(&o.ReadHeaderTimeout, DefaultReadHeaderTimeout) &&
		set(&o.ReadTimeout, DefaultReadTimeout) &&
		set(&o.AcceptTimeout, DefaultAcceptTimeout) &&
		set(&o.IdleTimeout, DefaultIdleTimeout) &&
		set(&o.DrainTimeout, DefaultDrainTimeout)
	if o.SocketMode == 0 {
		o.SocketMode = DefaultSocketMode
	}
	if o.MaxBody == 0 {
		o.MaxBody = DefaultMaxBody
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	// Those that cannot give way must not be all.
	share := func(n *int, def, part int) {
		if *n == 0 {
			*n = max(min(def, o.MaxConnections/part), 1)
		}
	}
	share(&o.MaxConcurrent, DefaultMaxConcurrent, 2)
	share(&o.MaxPolls, DefaultMaxPolls, 8)
	share(&o.MaxStreams, DefaultMaxStreams, 8)
	if !ok || o.MaxPolls < 0 || o.MaxStreams < 0 || o.MaxBody < 0 || o.MaxConcurrent < 0 || o.MaxConnections < 0 {
		return o, errors.New("http options: limits and timeouts must not be negative")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Ready == nil {
		o.Ready = func() (bool, any) { return true, nil }
	}
	if err := o.TLS.check(); err != nil {
		return o, err
	}
	var err error
	o.clients, err = newClients(o.Tokens)
	return o, err
}

// Server is the HTTP endpoint.
type Server struct {
	opts       Options
	accepter   Accepter
	listener   net.Listener // without TLS, so that a successor can have it
	socket     *socketFile  // of a Unix socket
	released   sync.Once    // the socket
	http       *http.Server
	cancel     context.CancelFunc     // ends the context of all requests
	acceptance acceptance             // how long readings wait
	closing    sync.Once              // closed
	closed     chan struct{}          // closed with the listener
	live       atomic.Int64           // connections that are open
	active     atomic.Int64           // those of them that are at a request
	before     atomic.Pointer[Server] // the predecessor, until Run
	followed   atomic.Bool            // by a successor
	gate       *gate
	ending     chan struct{} // closed when the end has begun: those who wait are to go
	last       chan struct{} // closed when batches are to come to their end, too
	polls      chan struct{} // one value per request that fetches downlinks
	streams    chan struct{} // one value per stream
	batches    chan struct{} // one value per batch
	slots      chan struct{} // one value per reading in progress; capacity MaxConcurrent

	connections *conns                 // with predecessor and successors
	roster      atomic.Pointer[roster] // never nil
}

// New binds the listener, so that a wrong or taken address is known before
// anything runs. The caller must call Run or Close.
func New(o Options, a Accepter) (*Server, error) {
	if a == nil {
		return nil, errors.New("http options: no accepter")
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	ln, socket, err := listen(o)
	if err != nil {
		return nil, err
	}
	s := newServer(o, a, ln)
	s.socket = socket
	return s, nil
}

func newServer(o Options, a Accepter, ln net.Listener) *Server {
	// Requests do not live in Run's context: its end must not take the answer
	// from those that wait for the broker.
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		opts: o, accepter: a, listener: ln, cancel: cancel, closed: make(chan struct{}),
		gate: newGate(), connections: newConns(),
		ending: make(chan struct{}), last: make(chan struct{}), polls: make(chan struct{}, o.MaxPolls), streams: make(chan struct{}, o.MaxStreams),
		batches:    make(chan struct{}, max(o.MaxConcurrent/batchShare, 1)),
		slots:      make(chan struct{}, o.MaxConcurrent),
		acceptance: acceptance{base: ctx, timeout: o.AcceptTimeout},
	}
	s.roster.Store(newRoster(o.clients, nil))
	s.http = &http.Server{
		Handler:                      s.routes(),
		ConnState:                    s.state,
		BaseContext:                  func(net.Listener) context.Context { return ctx },
		ConnContext:                  withConn,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            o.ReadHeaderTimeout,
		ReadTimeout:                  o.ReadTimeout,
		WriteTimeout:                 o.ReadTimeout + o.AcceptTimeout + answerTime,
		IdleTimeout:                  o.IdleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     log.New(&serverLog{log: o.Logger}, "", 0),
	}
	return s
}

// Addr is the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Connections is how many are open, with those of predecessors.
func (s *Server) Connections() int { return s.connections.count() }

// Shut is closed when the end of Run has begun. If there is a successor, what is
// accepted from then on is the successor's.
func (s *Server) Shut() <-chan struct{} { return s.ending }

// isLast reports whether batches are to come to their end.
func (s *Server) isLast() bool {
	select {
	case <-s.last:
		return true
	default:
		return false
	}
}

func (s *Server) isEnding() bool {
	select {
	case <-s.ending:
		return true
	default:
		return false
	}
}

// Close releases the listener of a server that will not run. During Run it ends
// Run without a drain; after it, it does nothing.
func (s *Server) Close() error {
	s.cancel()
	defer s.releaseSocket()
	if before := s.before.Load(); before != nil {
		before.followed.Store(false)
	}
	if err := errors.Join(s.http.Close(), s.closeListener()); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close http endpoint: %w", err)
	}
	return nil
}

func (s *Server) releaseSocket() { s.released.Do(s.socket.release) }

// Run serves until ctx is done. Then it refuses new requests, or leaves them to a
// successor, lets those in progress be answered for up to DrainTimeout, cancels
// what is left and returns nil once no call of the Accepter is under way. It is
// called once.
func (s *Server) Run(ctx context.Context) error {
	s.opts.Logger.Info("http endpoint listens", "address", s.Addr().String(), "tls", s.opts.TLS != nil)
	defer s.releaseSocket()
	s.before.Store(nil)
	s.connections.limit(s.opts.MaxConnections)
	if s.socket != nil { // the mode may be another than before
		if err := os.Chmod(s.socket.path, s.opts.SocketMode); err != nil {
			s.opts.Logger.Error("permissions of the http socket not set", "error", err)
		}
	}
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.wrap(s.listener)) }()

	var err error
	select {
	case err = <-served:
		close(s.ending)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil // by Close
		} else {
			err = fmt.Errorf("serve http on %s: %w", s.Addr(), err)
		}
	case <-ctx.Done():
		if s.followed.Load() {
			s.handOver(served)
		} else {
			close(s.ending)
			s.drain()
		}
	}
	s.cancel()
	s.gate.close()
	_ = s.http.Close() // what is still open has been cut off on purpose
	s.gate.wait()
	return err
}
