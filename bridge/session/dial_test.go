package session

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// authority issues certificates; of the same name unless told otherwise.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func certificate(t *testing.T, name string, from, to time.Time, by *authority, hosts ...string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: from, NotAfter: to, DNSNames: hosts, BasicConstraintsValid: true,
		IsCA: by == nil, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	parent, signer := tmpl, key
	if by == nil {
		tmpl.KeyUsage |= x509.KeyUsageCertSign
	} else {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func newAuthority(t *testing.T, name string, from, to time.Time) *authority {
	t.Helper()
	cert, key := certificate(t, name, from, to, nil)
	return &authority{cert, key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// listen answers every connection with handle until the test ends, and gives the
// address.
func listen(t *testing.T, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handle(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

func TestTLSErrors(t *testing.T) {
	now := time.Now()
	hour, year := time.Hour, 365*24*time.Hour
	good := newAuthority(t, "Good Root", now.Add(-hour), now.Add(year))
	other := newAuthority(t, "Other Root", now.Add(-hour), now.Add(year))
	// The issuer has renewed its root: the same name and key, another end.
	expired := newAuthority(t, "Old Root", now.Add(-2*year), now.Add(-hour))
	for _, tt := range []struct {
		name     string
		by       *authority
		from, to time.Time
		host     string
		caFile   string
		ca       []byte
		want     []string // none: it works
	}{
		{"good", good, now.Add(-hour), now.Add(hour), "localhost", "ca.pem", good.pem(), nil},
		{"good among others", good, now.Add(-hour), now.Add(hour), "localhost", "ca.pem", append(other.pem(), good.pem()...), nil},
		{"leaf expired", good, now.Add(-2 * hour), now.Add(-hour), "localhost", "ca.pem", good.pem(),
			[]string{"the broker's certificate \"CN=broker\" is valid from", "this machine's clock says", "correct the clock"}},
		{"leaf not yet valid", good, now.Add(hour), now.Add(2 * hour), "localhost", "ca.pem", good.pem(),
			[]string{"correct the clock"}},
		{"root in ca_file expired", expired, now.Add(-hour), now.Add(hour), "localhost", "/etc/fieldbridge/old.pem", expired.pem(),
			[]string{`"CN=Old Root" in ca_file /etc/fieldbridge/old.pem expired on`, "replace it"}},
		{"unknown root", good, now.Add(-hour), now.Add(hour), "localhost", "/etc/fieldbridge/other.pem", other.pem(),
			[]string{`the root "CN=Good Root"`, "not in ca_file /etc/fieldbridge/other.pem", "ca-certificates"}},
		{"unknown root, no ca_file", good, now.Add(-hour), now.Add(hour), "localhost", "", nil,
			[]string{`the root "CN=Good Root"`, "no ca_file is set"}},
		{"host name", good, now.Add(-hour), now.Add(hour), "elsewhere.example", "ca.pem", good.pem(),
			[]string{"use one of the certificate's names in broker", "elsewhere.example"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cert, key := certificate(t, "broker", tt.from, tt.to, tt.by, tt.host)
			conf := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}}
			addr := listen(t, func(c net.Conn) {
				s := tls.Server(c, conf)
				_ = s.Handshake()
				_ = s.Close()
			})
			_, port, _ := net.SplitHostPort(addr)
			err := connectOnce(t, EndpointOptions{Address: "localhost:" + port, TLS: true, CAFile: tt.caFile, CAPEM: tt.ca,
				Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, network, addr)
				}})
			checkError(t, err, append(tt.want, "TLS with localhost:"+port)[:len(tt.want)+min(len(tt.want), 1)])
		})
	}
}

func connectOnce(t *testing.T, o EndpointOptions) error {
	t.Helper()
	ep, err := NewEndpoint(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := ep.connect(ctx)
	if err == nil {
		_ = c.Close()
	}
	return err
}

func checkError(t *testing.T, err error, want []string) {
	t.Helper()
	if (err == nil) != (len(want) == 0) {
		t.Fatalf("error %v, want %q", err, want)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %v\nwant %q in it", err, w)
		}
	}
}

func TestNoTLSThere(t *testing.T) {
	for name, handle := range map[string]func(net.Conn){
		"speaks at once": func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-x\r\n"); _, _ = c.Read(make([]byte, 4096)) },
		"answers": func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		},
		"closes": func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) },
	} {
		t.Run(name, func(t *testing.T) {
			err := connectOnce(t, EndpointOptions{Address: listen(t, handle), TLS: true})
			checkError(t, err, []string{"is it the one for mqtt://?"})
		})
	}
}

func TestEndpointErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		o    EndpointOptions
		want string
	}{
		"no port": {EndpointOptions{Address: "broker"}, `broker address "broker"`},
		"damaged": {EndpointOptions{Address: "b:1", TLS: true, CAFile: "ca.pem", CAPEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})}, "ca_file ca.pem"},
	} {
		_, err := NewEndpoint(tt.o)
		checkError(t, err, []string{tt.want})
		_ = name
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // nobody listens there now
	checkError(t, connectOnce(t, EndpointOptions{Address: l.Addr().String()}), []string{"connect to " + l.Addr().String(), "refused"})
}
