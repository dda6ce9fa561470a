package session

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"fieldbridge/bridge"
)

// ClientCert is what a session shows the broker in the TLS handshake. It may be
// shared by sessions. Make one with NewClientCert.
type ClientCert struct {
	file string
	pair tls.Certificate
}

// NewClientCert reads a PEM certificate, with those that lead to its root, and
// the private key of the first one. The file's name is for error texts; those
// have nothing of the key in them.
func NewClientCert(file string, cert []byte, key bridge.Secret) (*ClientCert, error) {
	pair, err := tls.X509KeyPair(cert, []byte(key.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("client_cert_file %s: %w", file, err)
	}
	return &ClientCert{file, pair}, nil
}

// alerted is a TLS connection that says what to do if the broker ends it because
// of the client's certificate. With TLS 1.3 that comes after the handshake, with
// the first bytes that are read.
type alerted struct {
	*tls.Conn
	e *Endpoint
}

// Read implements net.Conn.
func (a alerted) Read(p []byte) (int, error) {
	n, err := a.Conn.Read(p)
	if err == nil {
		return n, nil
	}
	return n, a.e.refused(err)
}

// refused explains the alerts that are about the client's certificate (RFC 8446
// section 6.2); any other error comes back as it is.
func (e *Endpoint) refused(err error) error {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return err
	}
	// crypto/tls does not export the alert, only its text.
	alert := strings.TrimPrefix(op.Err.Error(), "tls: ")
	if e.cert == nil {
		switch alert {
		case "certificate required", "bad certificate", "handshake failure":
			// The last one has other causes, too.
			return fmt.Errorf("%w; the broker seems to want a client certificate: set client_cert_file and client_key_file", err)
		}
		return err
	}
	leaf, now := e.cert.pair.Leaf, time.Now()
	what := fmt.Sprintf("the client certificate %q in %s", leaf.Subject, e.cert.file)
	switch alert {
	case "bad certificate", "unsupported certificate", "revoked certificate", "expired certificate", "unknown certificate",
		"unknown certificate authority", "certificate required", "access denied", "handshake failure":
	default:
		return err
	}
	if now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
		return fmt.Errorf("%w; %s is valid from %s to %s, and this machine's clock says %s: get a new one and restart, or correct the clock",
			err, what, leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	switch alert {
	case "unknown certificate authority":
		return fmt.Errorf("%w; the broker does not know %q, which issued %s: register that issuer at the broker, or use a certificate of one that it knows; certificates between them belong into the same file",
			err, leaf.Issuer, what)
	case "revoked certificate":
		return fmt.Errorf("%w; %s was revoked: get a new one and restart", err, what)
	case "expired certificate":
		return fmt.Errorf("%w; %s is valid until %s here, so the broker's clock is ahead, or another certificate in the file has expired",
			err, what, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return fmt.Errorf("%w; the broker refuses %s, issued by %q: is it registered and active there, and for use by clients?", err, what, leaf.Issuer)
}
