package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge/token"
)

// The files under testdata are written by openssl 3.0 and ssh-keygen and used
// nowhere else.
func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func publicEqual(a, b crypto.PublicKey) bool {
	e, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && e.Equal(b)
}

func TestParsePrivateKey(t *testing.T) {
	for _, tc := range []struct{ file, public string }{
		{"rsa2048.pkcs8.pem", "rsa2048.pub.pem"},
		{"rsa2048.pkcs1.pem", "rsa2048.pub.pkcs1.pem"},
		{"p256.sec1.pem", "p256.pub.pem"}, // begins with EC PARAMETERS
		{"p256.pkcs8.pem", "p256.cert.pem"},
		{"cert-and-key.pem", "p256.pub.pem"},
		{"crlf-bom.pem", "p256.pub.pem"},
	} {
		t.Run(tc.file, func(t *testing.T) {
			key, err := token.ParsePrivateKey(read(t, tc.file))
			if err != nil {
				t.Fatal(err)
			}
			public, err := token.ParsePublicKey(read(t, tc.public))
			if err != nil {
				t.Fatal(err)
			}
			if !publicEqual(key.Public(), public) {
				t.Errorf("the key does not belong to %s", tc.public)
			}
		})
	}
}

func TestParsePrivateKeyOfGo(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(ecKey)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := func(key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for _, tc := range []struct {
		name string
		pem.Block
		want crypto.PublicKey
	}{
		{"pkcs1", pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}, rsaKey.Public()},
		{"pkcs8 rsa", pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8(rsaKey)}, rsaKey.Public()},
		{"pkcs8 ec", pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8(ecKey)}, ecKey.Public()},
		{"sec1", pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}, ecKey.Public()},
	} {
		t.Run(tc.name, func(t *testing.T) {
			key, err := token.ParsePrivateKey(pem.EncodeToMemory(&tc.Block))
			if err != nil {
				t.Fatal(err)
			}
			if !publicEqual(key.Public(), tc.want) {
				t.Error("another key came out")
			}
		})
	}
}

func TestParsePrivateKeyErrors(t *testing.T) {
	for _, tc := range []struct{ file, want string }{
		{"rsa1024.pem", "RSA key of 1024 bits"},
		{"p384.sec1.pem", "EC key on P-384"},
		{"p384.pkcs8.pem", "EC key on P-384"},
		{"k256.sec1.pem", "not on the curve P-256"},
		{"k256.pkcs8.pem", "not on P-256"},
		{"p256.explicit.pem", "not on the curve P-256"},
		{"ed25519.pem", "d25519"},
		{"rsapss.pem", "RSA-PSS key"},
		{"dsa.pem", "a key of an unknown kind"},
		{"encrypted.pkcs8.pem", "passphrase"},
		{"encrypted.pkcs1.pem", "passphrase"},
		{"openssh.pem", "OPENSSH PRIVATE KEY"},
		{"p256.pub.pem", "holds a public key"},
		{"rsa2048.pub.pkcs1.pem", "holds a public key"},
		{"p256.cert.pem", "holds a certificate"},
		{"p256.der", "-inform DER"},
		{"cut.pem", "damaged or cut off"},
		{"damaged.pem", "damaged or cut off"},
	} {
		t.Run(tc.file, func(t *testing.T) {
			data := read(t, tc.file)
			_, err := token.ParsePrivateKey(data)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q does not say %q", err, tc.want)
			}
			for line := range strings.Lines(string(data)) {
				if line = strings.TrimSpace(line); len(line) > 20 && !strings.HasPrefix(line, "-----") && strings.Contains(err.Error(), line) {
					t.Error("the error quotes the file")
				}
			}
		})
	}
	for _, tc := range []struct{ name, data, want string }{
		{"empty", " \n", "the file is empty"},
		{"text", "hello", "fieldbridge keys new --device ID"},
		{"no key", "-----BEGIN X-----\nAAAA\n-----END X-----\n", `holds "X" and no private key`},
		{"huge", strings.Repeat("x", 70_000), "more than a key file can have"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := token.ParsePrivateKey([]byte(tc.data)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v does not say %q", err, tc.want)
			}
		})
	}
}

func TestParsePublicKeyErrors(t *testing.T) {
	for _, tc := range []struct{ file, want string }{
		{"rsa1024.pub.pem", "RSA key of 1024 bits"},
		{"p384.pub.pem", "EC key on P-384"},
		{"ed25519.pub.pem", "ed25519.PublicKey"},
		{"p256.pkcs8.pem", "must not leave this machine"},
		{"cut.pem", "damaged or cut off"},
		{"p256.der", "-pubin"},
	} {
		t.Run(tc.file, func(t *testing.T) {
			if _, err := token.ParsePublicKey(read(t, tc.file)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v does not say %q", err, tc.want)
			}
		})
	}
}

func TestGenerateAndEncode(t *testing.T) {
	for _, alg := range []string{"ES256", "RS256"} {
		t.Run(alg, func(t *testing.T) {
			key, err := token.Generate(alg)
			if err != nil {
				t.Fatal(err)
			}
			private, err := token.EncodePrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			again, err := token.ParsePrivateKey(private)
			if err != nil {
				t.Fatal(err)
			}
			if !publicEqual(again.Public(), key.Public()) {
				t.Error("the private key changed on the way")
			}
			public, err := token.EncodePublicKey(key.Public())
			if err != nil {
				t.Fatal(err)
			}
			cert, err := token.SelfSigned(key, "0004A30B001C1B03")
			if err != nil {
				t.Fatal(err)
			}
			for _, data := range [][]byte{public, cert} {
				parsed, err := token.ParsePublicKey(data)
				if err != nil {
					t.Fatal(err)
				}
				if !publicEqual(parsed, key.Public()) {
					t.Error("the public key changed on the way")
				}
			}
			checkCertificate(t, cert)
		})
	}
	if _, err := token.Generate("EdDSA"); err == nil {
		t.Error("EdDSA was accepted")
	}
}

func checkCertificate(t *testing.T, data []byte) {
	t.Helper()
	block, _ := pem.Decode(data)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		t.Error(err)
	}
	if cert.Subject.CommonName != "0004A30B001C1B03" {
		t.Errorf("common name %q", cert.Subject.CommonName)
	}
	now := time.Now()
	if !cert.NotBefore.Before(now.Add(-23*time.Hour)) || !cert.NotAfter.After(now.AddDate(9, 11, 0)) {
		t.Errorf("valid from %v to %v", cert.NotBefore, cert.NotAfter)
	}
	if cert.SerialNumber.Sign() <= 0 {
		t.Errorf("serial number %v", cert.SerialNumber)
	}
}

func TestDecodeErrorsAreSilent(t *testing.T) {
	enc := base64.RawURLEncoding.EncodeToString
	object := enc([]byte(`{}`))
	for _, tc := range []struct{ name, token, want string }{
		{"empty", "", "1 parts"},
		{"two parts", object + "." + object, "2 parts"},
		{"padding", object + "=." + object + ".", "header: not base64url"},
		{"no json", object + "." + enc([]byte("hunter2")) + ".", "claims: not a JSON object"},
		{"array", object + "." + enc([]byte(`["hunter2"]`)) + ".", "claims: not a JSON object"},
		{"null", object + "." + enc([]byte(`null`)) + ".", "claims: not a JSON object"},
		{"two values", object + "." + enc([]byte(`{} {}`)) + ".", "more than one JSON value"},
		{"signature", object + "." + object + ".hunter2!", "signature: not base64url"},
		{"long", strings.Repeat("a", 65536), "at most 65535"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := token.Decode(tc.token)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("error %v does not say %q", err, tc.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the error quotes the token")
			}
		})
	}
}

func FuzzParsePrivateKey(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := token.ParsePrivateKey(data)
		if err != nil {
			return
		}
		switch key.(type) {
		case *rsa.PrivateKey, *ecdsa.PrivateKey:
		default:
			t.Fatalf("%T came out", key)
		}
		if _, err := token.EncodePrivateKey(key); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzParsePublicKey(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := token.ParsePublicKey(data)
		if err != nil {
			return
		}
		switch key.(type) {
		case *rsa.PublicKey, *ecdsa.PublicKey:
		case ed25519.PublicKey:
			t.Fatal("an Ed25519 key came out")
		default:
			t.Fatalf("%T came out", key)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add("eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9.eyJpYXQiOjF9.AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		header, claims, err := token.Decode(s)
		if err == nil && (header == nil || claims == nil) {
			t.Fatal("neither an error nor a result")
		}
	})
}

func seed(f *testing.F) {
	names, err := filepath.Glob("testdata/*.pem")
	if err != nil || len(names) == 0 {
		f.Fatal("no test keys", err)
	}
	for _, name := range names {
		f.Add(read(f, filepath.Base(name)))
	}
}
