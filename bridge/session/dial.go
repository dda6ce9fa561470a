package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// Endpoint is a broker's address. Make one with NewEndpoint.
type Endpoint struct {
	// Address is host:port.
	Address string
	path    string      // of the WebSocket; "": none, MQTT on the transport itself
	tls     *tls.Config // nil: plain TCP
	ca      []*x509.Certificate
	caFile  string
	cert    *ClientCert // nil: none is shown
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

// EndpointOptions say how to reach a broker.
type EndpointOptions struct {
	// Address is host:port.
	Address string
	// TLS: mqtts instead of mqtt, or wss instead of ws.
	TLS bool
	// Path has MQTT go over a WebSocket (MQTT v5 section 6) that is opened by a
	// request for this path; "" for none.
	Path string
	// CAFile is the name of the file that CAPEM came from, for error texts.
	CAFile string
	// CAPEM holds PEM certificates that are trusted in addition to the system's
	// roots.
	CAPEM []byte
	// Cert is shown if the broker asks for a client certificate; nil for none.
	Cert *ClientCert
	// Dial replaces the network, for tests.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// NewEndpoint checks the options.
func NewEndpoint(o EndpointOptions) (*Endpoint, error) {
	host, _, err := net.SplitHostPort(o.Address)
	if err != nil {
		return nil, fmt.Errorf("broker address %q: %w", o.Address, err)
	}
	e := &Endpoint{Address: o.Address, path: o.Path, caFile: o.CAFile, dial: o.Dial}
	if e.dial == nil {
		e.dial = (&net.Dialer{}).DialContext
	}
	if !o.TLS {
		if o.Cert != nil {
			return nil, errors.New("a client certificate needs TLS")
		}
		return e, nil
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a system without roots: ca_file may do
	}
	for rest := o.CAPEM; len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("ca_file %s: %w", o.CAFile, err)
		}
		e.ca = append(e.ca, c)
		roots.AddCert(c)
	}
	e.tls = &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS12, ClientSessionCache: resumable()}
	if o.Cert != nil {
		e = e.WithCert(o.Cert)
	}
	return e, nil
}

// WithCert returns the endpoint for another client certificate. It shares the
// trusted roots, and no TLS session.
func (e *Endpoint) WithCert(c *ClientCert) *Endpoint {
	own := *e
	own.cert = c
	if e.tls != nil {
		own.tls = e.tls.Clone()
		own.tls.ClientSessionCache = resumable()
		// Not Certificates: those are held back if the broker does not name their
		// issuer, and then nobody says why it refuses.
		own.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.pair, nil }
	}
	return &own
}

// connect opens the transport.
func (e *Endpoint) connect(ctx context.Context) (net.Conn, error) {
	c, err := e.dial(ctx, "tcp", e.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", e.Address, err)
	}
	if e.tls != nil {
		t := tls.Client(c, e.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("TLS with %s: %w", e.Address, e.explain(err))
		}
		c = alerted{t, e}
	}
	if e.path == "" {
		return c, nil
	}
	w, err := e.upgrade(ctx, c)
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("WebSocket at %s%s: %w", e.Address, e.path, err)
	}
	return w, nil
}

// explain says which certificate is at fault and what to do, which the errors
// of crypto/x509 leave to the reader.
func (e *Endpoint) explain(err error) error {
	var verify *tls.CertificateVerificationError
	if !errors.As(err, &verify) || len(verify.UnverifiedCertificates) == 0 {
		var header tls.RecordHeaderError
		if errors.As(err, &header) {
			return fmt.Errorf("%w; the port does not speak TLS: is it the one for mqtt://?", err)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return fmt.Errorf("%w; the other side ended the handshake at once: does this port speak TLS, or is it the one for mqtt://?", err)
		}
		return e.refused(err)
	}
	chain := verify.UnverifiedCertificates
	now := time.Now()
	clock := fmt.Sprintf("this machine's clock says %s", now.UTC().Format(time.RFC3339))
	for _, c := range e.ca {
		if now.After(c.NotAfter) && issued(c, chain) {
			return fmt.Errorf("%w; %q in ca_file %s expired on %s (%s): replace it by the issuer's current root",
				err, c.Subject, e.caFile, c.NotAfter.UTC().Format(time.RFC3339), clock)
		}
	}
	var hostname x509.HostnameError
	if errors.As(err, &hostname) {
		return fmt.Errorf("%w; use one of the certificate's names in broker", err)
	}
	for _, c := range chain {
		if now.After(c.NotAfter) || now.Before(c.NotBefore) {
			return fmt.Errorf("%w; the broker's certificate %q is valid from %s to %s, and %s: correct the clock, or have the broker's certificate renewed",
				err, c.Subject, c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339), clock)
		}
	}
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	if errors.As(err, &unknown) || errors.As(err, &invalid) {
		root := chain[len(chain)-1].Issuer
		where := "and no ca_file is set"
		if e.caFile != "" {
			where = "and it is not in ca_file " + e.caFile
		}
		return fmt.Errorf("%w; the root %q that the broker's certificate leads to is missing from this machine's trust store, or has expired there, %s: update the package ca-certificates, or put that root's PEM in a file and name it as ca_file",
			err, root, where)
	}
	return err
}

// issued reports whether ca is named as the issuer of a certificate in the
// chain.
func issued(ca *x509.Certificate, chain []*x509.Certificate) bool {
	for _, c := range chain {
		if string(c.RawIssuer) == string(ca.RawSubject) {
			return true
		}
	}
	return false
}
