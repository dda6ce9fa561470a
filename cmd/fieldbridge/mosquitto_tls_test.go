package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// mosqCA is a certificate authority of a test's own.
type mosqCA struct {
	t    *testing.T
	dir  string
	file string // its root, PEM
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// mosqNewCA makes a root with this name that is valid until then.
func mosqNewCA(t *testing.T, name string, until time.Time) *mosqCA {
	t.Helper()
	ca := &mosqCA{t: t, dir: t.TempDir()}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    until.Add(-24 * time.Hour), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca.cert, ca.key = mosqSign(t, tmpl, nil, nil)
	ca.file = mosqWritePEM(t, filepath.Join(ca.dir, "ca.pem"), "CERTIFICATE", ca.cert.Raw)
	return ca
}

// server makes a certificate for 127.0.0.1 and returns its files.
func (ca *mosqCA) server(until time.Time) (cert, key string) {
	ca.t.Helper()
	c, k := mosqSign(ca.t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "broker"},
		NotBefore:    until.Add(-24 * time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca.cert, ca.key)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		ca.t.Fatal(err)
	}
	return mosqWritePEM(ca.t, filepath.Join(ca.dir, "cert.pem"), "CERTIFICATE", c.Raw),
		mosqWritePEM(ca.t, filepath.Join(ca.dir, "key.pem"), "PRIVATE KEY", der)
}

// mosqSign makes a key and has it certified by the parent, or by itself.
func mosqSign(t *testing.T, tmpl, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if parent == nil {
		parent, by = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

func mosqWritePEM(t *testing.T, file, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
