package rest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// TLS is how the endpoint is encrypted: TLS 1.2 or later, with HTTP/1.1 inside.
// Values are not changed once they are in use.
type TLS struct {
	// Certificate is shown to clients.
	Certificate tls.Certificate
	// ClientCAs are those one of which must have signed the certificate of each
	// client, for every path. nil: clients need none.
	ClientCAs *x509.CertPool
}

func (t *TLS) check() error {
	if t != nil && len(t.Certificate.Certificate) == 0 {
		return errors.New("http options: TLS without a certificate")
	}
	return nil
}

// config is made anew for each server, and with it the keys of session tickets:
// no session is resumed that began under other client CAs.
func (t *TLS) config() *tls.Config {
	c := &tls.Config{
		Certificates: []tls.Certificate{t.Certificate},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"http/1.1"},
	}
	if t.ClientCAs != nil {
		c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, t.ClientCAs
	}
	return c
}

// wrap gives the connections that a listener accepts their places, and puts TLS
// on them if there is to be any. http.Server makes the handshakes, within
// ReadHeaderTimeout.
func (s *Server) wrap(ln net.Listener) net.Listener {
	ln = &places{ln, s}
	if s.opts.TLS == nil {
		return ln
	}
	return tls.NewListener(ln, s.opts.TLS.config())
}

// places is a listener that accepts no more connections than may be open.
type places struct {
	net.Listener
	s *Server
}

// Accept implements net.Listener. http.Server tries again after a while if the
// process has no file descriptor left.
func (p *places) Accept() (net.Conn, error) {
	nc, err := p.Listener.Accept()
	if err != nil {
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
			p.s.connections.yield()
		}
		for _, passes := range passingErrors {
			if errors.Is(err, passes) {
				return nil, passing{err}
			}
		}
		return nil, err
	}
	c := &conn{Conn: nc, conns: p.s.connections, server: p.s}
	c.conns.admit(c, p.s.closed)
	return c, nil
}

// passingErrors are of one connection, or of a system that is short of something
// (accept(2)): no reason to take no more. http.Server would give up.
var passingErrors = []error{
	unix.EPROTO, unix.ENOPROTOOPT, unix.EPERM, unix.ENOBUFS, unix.ENOMEM,
	unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTDOWN, unix.EHOSTUNREACH, unix.ENONET,
}

// passing is an error after which http.Server tries again.
type passing struct{ error }

func (passing) Timeout() bool   { return false }
func (passing) Temporary() bool { return true }
func (p passing) Unwrap() error { return p.error }

// Close implements net.Listener.
func (p *places) Close() error { return p.s.closeListener() }

func withConn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, connOf(nc))
}

func (o *Options) scheme() string {
	if o.TLS != nil {
		return "https"
	}
	return "http"
}

// guarded reports whether other machines may reach the endpoint: what is sent
// cannot be read on the way, and who sends it is known.
func (o *Options) guarded() bool { return o.TLS.guards(len(o.Tokens)) }

func (t *TLS) guards(tokens int) bool { return t != nil && (tokens > 0 || t.ClientCAs != nil) }

const listenAdvice = `other machines may reach the endpoint only with TLS, and with tokens or client certificates; ` +
	`without, use "127.0.0.1:8080", "[::1]:8080" or "localhost:8080"`

// listen listens on a Unix socket, on an address that only this machine reaches,
// or on any if the endpoint is guarded.
func listen(o Options) (net.Listener, *socketFile, error) {
	if path, ok := unixPath(o.Listen); ok {
		ln, file, err := listenUnix(path, o.SocketMode)
		if err != nil {
			return nil, nil, fmt.Errorf("listen on %q: %w", o.Listen, err)
		}
		return ln, file, nil
	}
	ln, err := o.listenTCP()
	return ln, nil, err
}

func (o *Options) listenTCP() (net.Listener, error) {
	host, _, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: not host:port or unix:/path; such as \"127.0.0.1:8080\"", o.Listen)
	}
	if !o.guarded() && !isLoopbackHost(host) {
		return nil, fmt.Errorf("listen on %q: not a loopback address; %s", o.Listen, listenAdvice)
	}
	ln, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", o.Listen, err)
	}
	// A hosts file can say anything about localhost.
	if err := o.fits(ln); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("listen on %q: %w", o.Listen, err)
	}
	return ln, nil
}

// fits returns nil if the endpoint may be where a listener is.
func (o *Options) fits(ln net.Listener) error {
	if _, ok := ln.Addr().(*net.UnixAddr); ok {
		return nil // what its mode lets in
	}
	if a, ok := ln.Addr().(*net.TCPAddr); !o.guarded() && (!ok || !a.IP.IsLoopback()) {
		return fmt.Errorf("it is %s, not a loopback address; %s", ln.Addr(), listenAdvice)
	}
	return nil
}

// isLoopbackHost takes a host without port or brackets.
func isLoopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
