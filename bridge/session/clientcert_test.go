package session

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fieldbridge/bridge"
)

func clientCert(t *testing.T, name string, from, to time.Time, by *authority) *ClientCert {
	t.Helper()
	cert, key := certificate(t, name, from, to, by)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClientCert("/etc/fieldbridge/"+name+".pem",
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		bridge.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A broker that refuses a client certificate says so by a TLS alert, which comes
// with the first read in TLS 1.3 and with the handshake in TLS 1.2.
func TestClientCertRefused(t *testing.T) {
	now := time.Now()
	root := newAuthority(t, "Root", now.Add(-time.Hour), now.Add(time.Hour))
	other := newAuthority(t, "Other Root", now.Add(-time.Hour), now.Add(time.Hour))
	trusted := x509.NewCertPool()
	trusted.AddCert(root.cert)
	serverCert, serverKey := certificate(t, "broker", now.Add(-time.Hour), now.Add(time.Hour), root, "localhost")
	for _, tt := range []struct {
		name string
		cert *ClientCert
		want []string // none: it is let in
	}{
		{"good", clientCert(t, "good", now.Add(-time.Hour), now.Add(time.Hour), root), nil},
		{"none", nil, []string{"to want a client certificate: set client_cert_file"}},
		{"expired", clientCert(t, "old", now.Add(-2*time.Hour), now.Add(-time.Hour), root),
			[]string{`the client certificate "CN=old" in /etc/fieldbridge/old.pem is valid from`, "get a new one and restart, or correct the clock"}},
		{"of another issuer", clientCert(t, "stranger", now.Add(-time.Hour), now.Add(time.Hour), other),
			[]string{`in /etc/fieldbridge/stranger.pem`, `"CN=Other Root"`}},
	} {
		for version, name := range map[uint16]string{tls.VersionTLS13: "TLS 1.3", tls.VersionTLS12: "TLS 1.2"} {
			t.Run(tt.name+" "+name, func(t *testing.T) {
				conf := &tls.Config{
					Certificates: []tls.Certificate{{Certificate: [][]byte{serverCert.Raw}, PrivateKey: serverKey}},
					ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: trusted, MaxVersion: version,
				}
				addr := listen(t, func(c net.Conn) {
					s := tls.Server(c, conf)
					if s.Handshake() == nil {
						_, _ = io.WriteString(s, "x")
					}
					_ = s.Close()
				})
				_, port, _ := net.SplitHostPort(addr)
				ep, err := NewEndpoint(EndpointOptions{Address: "localhost:" + port, TLS: true, CAFile: "ca.pem", CAPEM: root.pem(), Cert: tt.cert})
				if err != nil {
					t.Fatal(err)
				}
				c, err := ep.connect(t.Context())
				if err == nil {
					var n int
					if n, err = c.Read(make([]byte, 1)); n > 0 {
						err = nil // the end of the connection may come along
					}
					_ = c.Close()
				}
				checkError(t, err, tt.want)
			})
		}
	}
}

func TestNewClientCertErrors(t *testing.T) {
	now := time.Now()
	cert, _ := certificate(t, "a", now, now.Add(time.Hour), nil)
	const secret = "hunter2-Very-Secret"
	_, err := NewClientCert("c.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), bridge.NewSecret(secret))
	checkError(t, err, []string{"client_cert_file c.pem"})
	if strings.Contains(err.Error(), secret) {
		t.Errorf("the key shows in %v", err)
	}
	_, err = NewEndpoint(EndpointOptions{Address: "h:1", Cert: clientCert(t, "b", now, now.Add(time.Hour), nil)})
	checkError(t, err, []string{"needs TLS"})
}

// Devices must not resume each other's TLS sessions: the certificate is not
// looked at again.
func TestWithCertSharesNoTLSSession(t *testing.T) {
	now := time.Now()
	ep, err := NewEndpoint(EndpointOptions{Address: "h:1", TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	a := ep.WithCert(clientCert(t, "a", now, now.Add(time.Hour), nil))
	b := ep.WithCert(clientCert(t, "b", now, now.Add(time.Hour), nil))
	if a.tls.ClientSessionCache == b.tls.ClientSessionCache || a.tls.ClientSessionCache == ep.tls.ClientSessionCache {
		t.Error("a cache of TLS sessions is shared")
	}
	if a.tls.RootCAs != ep.tls.RootCAs {
		t.Error("the roots are not shared")
	}
}

// hungUp is a connection over which a broker has said an alert and is gone.
type hungUp struct {
	recorder
	closed bool
}

func (*hungUp) Write([]byte) (int, error) { return 0, unix.ECONNRESET }

func (c *hungUp) Read([]byte) (int, error) {
	if c.closed {
		return 0, net.ErrClosed
	}
	return 0, &net.OpError{Op: "remote error", Err: errors.New("tls: expired certificate")}
}

func (*hungUp) SetReadDeadline(time.Time) error { return nil }

func (c *hungUp) Close() error {
	c.closed = true
	return nil
}

// What a broker has said counts, even if it was gone before the CONNECT was sent.
func TestLoginTellsAlert(t *testing.T) {
	r := newRig(t, newServer(t), subscribing)
	c := &hungUp{}
	_, err := r.login(&link{conn: newConn(c)})
	if err == nil || !strings.Contains(err.Error(), "expired certificate") || strings.Contains(err.Error(), "reset") || !c.closed {
		t.Errorf("error %v, closed: %t", err, c.closed)
	}
}
