package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fieldbridge/bridge/config"
)

const unixPrefix = "unix:"

func (e endpoint) url(path string) string {
	host := e.address
	if strings.HasPrefix(host, unixPrefix) {
		host = "localhost"
	}
	if e.tls != nil {
		return "https://" + host + path
	}
	return "http://" + host + path
}

// transport is not the default one: no proxy of the environment knows this
// machine's ports.
func (e endpoint) transport() *http.Transport {
	t := &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Second, TLSClientConfig: e.tls}
	if path, ok := strings.CutPrefix(e.address, unixPrefix); ok {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	}
	return t
}

// trust has the endpoint known by the certificate of its configuration.
func (e *endpoint) trust(cfg *config.Config) error {
	t, err := httpTLS(&cfg.HTTP)
	if err != nil || t == nil {
		return err
	}
	e.tls = knownBy(t.Certificate.Certificate[0])
	if t.ClientCAs != nil {
		// Often it is of the same CA and good for clients, too.
		e.show(t.Certificate)
	}
	return nil
}

// show has the client show a certificate, whatever CAs the daemon asks for.
func (e *endpoint) show(pair tls.Certificate) {
	e.tls.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
}

var errOtherCertificate = errors.New("its certificate is not that of http.tls_cert_file: if the file has changed, reload the daemon")

// knownBy trusts this certificate and no other. Its names may well not be those
// by which this machine reaches itself.
func knownBy(leaf []byte) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection is stricter
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !bytes.Equal(s.PeerCertificates[0].Raw, leaf) {
				return errOtherCertificate
			}
			return nil
		},
	}
}

// tlsFlags say what the configuration does not tell.
type tlsFlags struct{ caFile, certFile, keyFile string }

func (f *tlsFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.caFile, "ca-file", "", "with --address https://: PEM file with the certificates to trust; without it, those of the system")
	c.Flags().StringVar(&f.certFile, "client-cert-file", "", "PEM file with the certificate to show, for an endpoint with client_ca_file")
	c.Flags().StringVar(&f.keyFile, "client-key-file", "", "PEM file with the private key of --client-cert-file")
	for _, name := range []string{"ca-file", "client-cert-file", "client-key-file"} {
		_ = c.MarkFlagFilename(name)
	}
}

// encrypt gives an endpoint its TLS; cfg is nil with --address, and https says
// how that begins.
func (f *tlsFlags) encrypt(e *endpoint, cfg *config.Config, https bool) error {
	switch {
	case f.caFile != "" && !https:
		return usagef("--ca-file is only for --address https://host:port")
	case https:
		e.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		if err := f.roots(e.tls); err != nil {
			return err
		}
	case cfg != nil:
		if err := e.trust(cfg); err != nil {
			return err
		}
	}
	if f.certFile == "" && f.keyFile == "" {
		return nil
	}
	if e.tls == nil {
		return usagef("--client-cert-file and --client-key-file have no effect without TLS: give --address https://host:port, or tls_cert_file in the configuration")
	}
	pair, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err != nil {
		return usagef("--client-cert-file, --client-key-file: %w", err)
	}
	e.show(pair)
	return nil
}

func (f *tlsFlags) roots(c *tls.Config) error {
	if f.caFile == "" {
		return nil
	}
	data, err := os.ReadFile(f.caFile)
	if err != nil {
		return usagef("--ca-file: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(data) {
		return usagef("--ca-file: %s holds no certificate (PEM)", f.caFile)
	}
	return nil
}

// handshakeError says why no connection with TLS came about; nil: it was not for
// that.
func (e endpoint) handshakeError(err error) error {
	var verify *tls.CertificateVerificationError
	var op *net.OpError
	switch {
	case errors.Is(err, errOtherCertificate):
		return fmt.Errorf("what answers at %s is not known: %w", e.address, errOtherCertificate)
	case errors.As(err, &verify):
		return fmt.Errorf("what answers at %s is not known: %w; trust its CA with --ca-file", e.address, verify)
	// A TLS alert, or what is left of it if it comes while the request is sent.
	case e.tls != nil && errors.As(err, &op) && (op.Op == "remote error" || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)):
		return fmt.Errorf("the daemon at %s does not let this command in: %w; with http.client_ca_file it wants a certificate of that CA: give --client-cert-file and --client-key-file", e.address, op.Err)
	}
	return nil
}
