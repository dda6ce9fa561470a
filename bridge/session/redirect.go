package session

import (
	"crypto/tls"
	"net"
	"strconv"
	"strings"
	"time"
)

// maxHops bounds how often a session is sent on without a connection that lasts.
const maxHops = 3

// maxReference bounds what is read, and shown, of a server reference, in bytes.
const maxReference = 256

// redirect is where the broker has sent the session. It belongs to the goroutine
// of Run; others may read at while a connection is served.
type redirect struct {
	at    *Endpoint // nil: the configured one
	moved bool      // for good (0x9D), as far as it works
	hops  int
}

// endpoint is the broker to connect to.
func (s *Session) endpoint() *Endpoint {
	if s.redirect.at != nil {
		return s.redirect.at
	}
	return s.opts.Endpoint
}

// steer decides where the next attempt goes after a failure: to the server that
// the broker names, if it is one of AllowedServers, because the credentials go
// along; else back to the configured one.
func (s *Session) steer(err error, lasted time.Duration) {
	r := &s.redirect
	if lasted >= s.opts.Backoff.Stable {
		r.hops = 0
	}
	re := asReason(err)
	if re == nil || re.Code != 0x9C && re.Code != 0x9D {
		cause := causeOf(err)
		if r.at != nil && (!r.moved || cause == Unreachable || cause == NotLoggedIn) {
			r.at = nil
		}
		return
	}
	address := s.allowedServer(re.Server)
	switch {
	case address == "":
		re.stray = true
		r.at = nil
	case r.hops >= maxHops:
		re.loops = true
		r.at, r.hops = nil, 0
	default:
		r.hops++
		r.at, r.moved = s.opts.Endpoint.elsewhere(address), re.Code == 0x9D
		re.soon = true
		s.log.Info("the broker sends the session to another server", "server", address, "for_good", r.moved)
	}
}

// allowedServer is the first server of a reference that may be followed, as
// host:port, or "".
func (s *Session) allowedServer(reference string) string {
	_, port, err := net.SplitHostPort(s.opts.Endpoint.Address)
	if err != nil {
		return ""
	}
	for _, server := range servers(reference, port) {
		host, _, _ := net.SplitHostPort(server) // it is one
		for _, allowed := range s.opts.AllowedServers {
			if strings.EqualFold(allowed, server) || strings.EqualFold(allowed, host) {
				return server
			}
		}
	}
	return ""
}

// servers takes a server reference apart (MQTT v5 section 4.11): names or
// addresses, each with or without a port, separated by spaces. What is none is
// left out.
func servers(reference, defaultPort string) (out []string) {
	if len(reference) > maxReference {
		return nil
	}
	for s := range strings.FieldsSeq(reference) {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			host, port = s, defaultPort
			if inner, ok := strings.CutPrefix(s, "["); ok {
				if host, ok = strings.CutSuffix(inner, "]"); !ok {
					continue
				}
			}
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || !isHost(host) {
			continue
		}
		out = append(out, net.JoinHostPort(host, strconv.FormatUint(n, 10)))
	}
	return out
}

// isHost accepts names of RFC 1123 (with _, which is seen) and IP addresses.
func isHost(s string) bool {
	if net.ParseIP(s) != nil {
		return true
	}
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
	})
}

// elsewhere is the endpoint with another address, which is checked against the
// server's certificate. All else, the trusted roots and the resumable TLS
// sessions among it, is shared.
func (e *Endpoint) elsewhere(address string) *Endpoint {
	moved := *e
	moved.Address = address
	if e.tls != nil {
		moved.tls = e.tls.Clone()
		moved.tls.ServerName, _, _ = net.SplitHostPort(address)
	}
	return &moved
}

// resumable keeps TLS sessions, so that the sessions of a connector need no full
// handshake each. It is for one identity: a client certificate is not looked at
// again when a TLS session is resumed. There is one entry for each server name.
func resumable() tls.ClientSessionCache { return tls.NewLRUClientSessionCache(8) }
