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

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"fieldbridge/bridge/config"
)

// endpoint is where a daemon's HTTP endpoint is and how it is talked to.
type endpoint struct {
	address string      // host:port, or unix:/path
	token   string      // "" for none
	tls     *tls.Config // nil: not encrypted
}

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
	t := &http.Transport{DisableKeepAlives: true, TLSClientConfig: e.tls}
	if path, ok := strings.CutPrefix(e.address, unixPrefix); ok {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	}
	return t
}

// configuredEndpoint is that of the daemon that runs with this configuration.
func configuredEndpoint(cfg *config.Config) (endpoint, error) {
	at, err := dialAddress(cfg.HTTP.Listen)
	if err != nil {
		return endpoint{}, err
	}
	e := endpoint{address: at, token: readToken(cfg)}
	t, err := httpTLS(&cfg.HTTP)
	if err != nil || t == nil {
		return e, err
	}
	e.tls = knownBy(t.Certificate.Certificate[0])
	if t.ClientCAs != nil {
		// Often it is of the same CA and good for clients, too.
		e.show(t.Certificate)
	}
	return e, nil
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

// endpointFlags say how to reach a daemon without its configuration, or what
// that does not tell.
type endpointFlags struct {
	address, tokenFile, caFile, certFile, keyFile string
}

func (f *endpointFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.address, "address", "", "host:port of the daemon's HTTP endpoint, https://host:port or unix:/path; the configuration is not read then")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file with a token for the endpoint; without it, one of the configuration's is used")
	c.Flags().StringVar(&f.caFile, "ca-file", "", "with --address https://: PEM file with the certificates to trust; without it, those of the system")
	c.Flags().StringVar(&f.certFile, "client-cert-file", "", "PEM file with the certificate to show, for an endpoint with client_ca_file")
	c.Flags().StringVar(&f.keyFile, "client-key-file", "", "PEM file with the private key of --client-cert-file")
}

// endpoint puts the flags together with the configuration at path.
func (f *endpointFlags) endpoint(path string) (endpoint, error) {
	e, err := f.place(path)
	if err != nil {
		return e, err
	}
	if f.tokenFile != "" {
		if e.token, err = loadToken(f.tokenFile); err != nil {
			return e, err
		}
	}
	if f.certFile == "" && f.keyFile == "" {
		return e, nil
	}
	if e.tls == nil {
		return e, usagef("--client-cert-file and --client-key-file have no effect without TLS: give --address https://host:port, or tls_cert_file in the configuration")
	}
	pair, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err != nil {
		return e, usagef("--client-cert-file, --client-key-file: %w", err)
	}
	e.show(pair)
	return e, nil
}

func (f *endpointFlags) place(path string) (e endpoint, err error) {
	address, encrypted := strings.CutPrefix(f.address, "https://")
	if f.caFile != "" && !encrypted {
		return e, usagef("--ca-file is only for --address https://host:port")
	}
	if address == "" {
		cfg, err := config.Load(path)
		if err != nil {
			return e, err
		}
		return configuredEndpoint(cfg)
	}
	if e.address, err = dialAddress(strings.TrimSuffix(address, "/")); err != nil || !encrypted {
		return e, err
	}
	e.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if f.caFile == "" {
		return e, nil
	}
	data, err := os.ReadFile(f.caFile)
	if err != nil {
		return e, usagef("--ca-file: %w", err)
	}
	e.tls.RootCAs = x509.NewCertPool()
	if !e.tls.RootCAs.AppendCertsFromPEM(data) {
		return e, usagef("--ca-file: %s holds no certificate (PEM)", f.caFile)
	}
	return e, nil
}

// noAnswer says why a request to the endpoint had no answer.
func (e endpoint) noAnswer(err error) error {
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
	return fmt.Errorf("no daemon answers at %s: %w\nis it running (systemctl status fieldbridge), and with the same http.listen? its log says why it does not start or where it listens", e.address, cause(err))
}
