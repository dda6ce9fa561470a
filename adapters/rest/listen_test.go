package rest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// authority is a CA of a test's own.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	ca := &authority{t: t}
	pair := ca.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	ca.cert, ca.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	return ca
}

// sign certifies a new key; the first one is the authority's own.
func (ca *authority) sign(template *x509.Certificate) tls.Certificate {
	ca.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		ca.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := ca.cert, ca.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		ca.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// server certifies a gateway that is at 127.0.0.1 and has a name.
func (ca *authority) server() tls.Certificate {
	return ca.sign(&x509.Certificate{
		DNSNames: []string{"gateway.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

func (ca *authority) client() tls.Certificate {
	return ca.sign(&x509.Certificate{
		Subject:  pkix.Name{CommonName: "scada"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (ca *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.cert)
	return p
}

// httpsClient trusts the authority and shows certificates, whatever CAs the
// server asks for.
func (ca *authority) httpsClient(show ...tls.Certificate) *http.Client {
	c := newClient(ca.t)
	c.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: ca.pool()}
	if len(show) > 0 {
		c.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &show[0], nil
		}
	}
	return c
}

func (r *running) httpsURL(path string) string { return "https://" + r.Addr().String() + path }

const upD1 = "/v1/devices/d1/uplink"

func TestTLS(t *testing.T) {
	ca := newAuthority(t, "ca")
	in := newIntake()
	s := start(t, Options{TLS: &TLS{Certificate: ca.server()}}, in)
	if a := post(t, ca.httpsClient(), s.httpsURL(upD1), "text/plain", "1"); a.status != http.StatusOK || len(in.take()) != 1 {
		t.Errorf("status %d", a.status)
	}
	if _, err := tryPost(newAuthority(t, "other").httpsClient(), s.httpsURL(upD1), "text/plain", "1"); err == nil {
		t.Error("a client trusts a certificate of an unknown CA")
	}
	if a := sendRaw(t, s.Addr(), request("POST", upD1, "1", "Content-Type: text/plain")); a.status != http.StatusBadRequest {
		t.Errorf("status %d for a request without TLS", a.status)
	}
	old := &tls.Config{RootCAs: ca.pool(), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	if conn, err := tls.Dial("tcp", s.Addr().String(), old); err == nil || !strings.Contains(err.Error(), "version") {
		if err == nil {
			_ = conn.Close()
		}
		t.Errorf("a handshake with TLS 1.1: %v", err)
	}
	conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{RootCAs: ca.pool(), NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if p := conn.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
		t.Errorf("the protocol is %q", p)
	}
	if n := len(in.take()); n != 0 {
		t.Errorf("the accepter saw %d readings more", n)
	}
}

func TestClientCertificates(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	in := newIntake()
	s := start(t, Options{TLS: &TLS{Certificate: ca.server(), ClientCAs: ca.pool()}}, in)
	if a := post(t, ca.httpsClient(ca.client()), s.httpsURL(upD1), "text/plain", "1"); a.status != http.StatusOK || len(in.take()) != 1 {
		t.Errorf("status %d", a.status)
	}
	for name, c := range map[string]*http.Client{
		"none": ca.httpsClient(), "another CA's": ca.httpsClient(other.client()), "a server's": ca.httpsClient(ca.server()),
	} {
		for _, path := range []string{upD1, "/healthz"} {
			if a, err := tryPost(c, s.httpsURL(path), "text/plain", "1"); err == nil {
				t.Errorf("certificate %s at %s: status %d", name, path, a.status)
			}
		}
	}
	if n := len(in.take()); n != 0 {
		t.Errorf("the accepter saw %d readings more", n)
	}
}

// TestSuccessorChangesCertificates: who connects afterwards gets the new rules,
// also with a session of before.
func TestSuccessorChangesCertificates(t *testing.T) {
	ca, next := newAuthority(t, "ca"), newAuthority(t, "next")
	s := start(t, Options{TLS: &TLS{Certificate: ca.server(), ClientCAs: ca.pool()}}, newIntake())
	change := func(o Options) {
		t.Helper()
		after, err := s.Successor(o)
		if err != nil {
			t.Fatal(err)
		}
		before := s
		s = run(t, after)
		before.stop()
		if err := within(t, before.done); err != nil {
			t.Error(err)
		}
	}
	resuming := ca.httpsClient(ca.client())
	resuming.Transport.(*http.Transport).TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	if a := post(t, resuming, s.httpsURL(upD1), "text/plain", "1"); a.status != http.StatusOK {
		t.Errorf("status %d", a.status)
	}
	server := next.server()
	change(Options{TLS: &TLS{Certificate: server, ClientCAs: next.pool()}})
	resuming.CloseIdleConnections()
	resuming.Transport.(*http.Transport).TLSClientConfig.RootCAs = next.pool()
	if a, err := tryPost(resuming, s.httpsURL(upD1), "text/plain", "1"); err == nil {
		t.Errorf("status %d with a certificate of the CA of before", a.status)
	}
	if a := post(t, next.httpsClient(next.client()), s.httpsURL(upD1), "text/plain", "1"); a.status != http.StatusOK {
		t.Errorf("status %d with the new CA", a.status)
	}
	change(Options{})
	if a := post(t, newClient(t), s.url(upD1), "text/plain", "1"); a.status != http.StatusOK {
		t.Errorf("status %d without TLS", a.status)
	}
	change(Options{TLS: &TLS{Certificate: server}})
	if a := post(t, next.httpsClient(), s.httpsURL(upD1), "text/plain", "1"); a.status != http.StatusOK {
		t.Errorf("status %d with TLS again", a.status)
	}
	if _, err := s.Successor(Options{TLS: &TLS{}}); err == nil {
		t.Error("TLS without a certificate was taken")
	}
}

// An endpoint that other machines reach stays guarded.
func TestListenForOthers(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert := ca.server()
	tokens := []Token{{Name: "a", Digests: []TokenDigest{DigestToken("0123456789abcdef")}, Devices: []string{"*"}, Directions: Uplink}}
	for name, o := range map[string]Options{
		"nothing": {}, "TLS alone": {TLS: &TLS{Certificate: cert}}, "tokens alone": {Tokens: tokens},
	} {
		o.Listen = "0.0.0.0:0"
		if s, err := New(o, newIntake()); err == nil || !strings.Contains(err.Error(), "only with TLS, and with tokens or client certificates") {
			if err == nil {
				_ = s.Close()
			}
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, o := range map[string]Options{
		"tokens":              {TLS: &TLS{Certificate: cert}, Tokens: tokens},
		"client certificates": {TLS: &TLS{Certificate: cert, ClientCAs: ca.pool()}},
	} {
		o.Listen = "0.0.0.0:0"
		s := start(t, o, newIntake())
		_, port, err := net.SplitHostPort(s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequest("POST", "https://127.0.0.1:"+port+upD1, strings.NewReader("1"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer 0123456789abcdef")
		resp, err := ca.httpsClient(ca.client()).Do(req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if a, err := readAnswer(resp); err != nil || a.status != http.StatusOK {
			t.Errorf("%s: status %d, %v", name, a.status, err)
		}
		for _, less := range []Options{{}, {TLS: &TLS{Certificate: cert}}, {Tokens: tokens}} {
			if next, err := s.Successor(less); err == nil {
				_ = next.Close()
				t.Errorf("%s: a successor is open to everyone", name)
			}
		}
	}
}

// TestPagesOverTLS: the gateway's own names are known only where others reach
// it, and pages of other origins stay out.
func TestPagesOverTLS(t *testing.T) {
	ca := newAuthority(t, "ca")
	cert := ca.server()
	bare := start(t, Options{TLS: &TLS{Certificate: cert}}, newIntake())
	certs := start(t, Options{TLS: &TLS{Certificate: cert, ClientCAs: ca.pool()}}, newIntake())
	tokens := start(t, Options{TLS: &TLS{Certificate: cert}, Tokens: []Token{{
		Name: "a", Digests: []TokenDigest{DigestToken("0123456789abcdef")}, Devices: []string{"*"}, Directions: Uplink,
	}}}, newIntake())
	for _, tt := range []struct {
		name          string
		header        []string
		bare, guarded int
	}{
		{"a program", []string{"Host: 127.0.0.1"}, 200, 200},
		{"a program, by name", []string{"Host: gateway.example:8443"}, 403, 200},
		{"own page", []string{"Host: localhost:8443", "Origin: https://localhost:8443"}, 200, 200},
		{"own page, by name", []string{"Host: gateway.example", "Origin: https://gateway.example", "Sec-Fetch-Site: same-origin"}, 403, 200},
		{"own page without TLS", []string{"Host: localhost:8443", "Origin: http://localhost:8443"}, 403, 403},
		{"another page", []string{"Host: gateway.example", "Origin: https://evil.example"}, 403, 403},
		{"another site", []string{"Host: gateway.example", "Sec-Fetch-Site: cross-site"}, 403, 403},
	} {
		for s, want := range map[*running]int{bare: tt.bare, certs: tt.guarded, tokens: tt.guarded} {
			conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{ca.client()}})
			if err != nil {
				t.Fatal(err)
			}
			header := append([]string{"Content-Type: text/plain", "Authorization: Bearer 0123456789abcdef"}, tt.header...)
			if a := exchange(t, conn, request("POST", upD1, "1", header...)); a.status != want {
				t.Errorf("%s: status %d, want %d: %s", tt.name, a.status, want, a.body)
			}
			_ = conn.Close()
		}
	}
}
