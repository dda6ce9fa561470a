package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"fieldbridge/bridge/token"
)

// fileNames are the names in a directory.
func fileNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func readFile(t *testing.T, parts ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestKeysNew(t *testing.T) {
	umask := os.FileMode(syscall.Umask(0))
	syscall.Umask(int(umask))
	for _, alg := range []string{"ES256", "RS256"} {
		t.Run(alg, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "etc", "keys")
			code, stdout, stderr := cli("keys", "new", "--device", "pump 1", "--alg", alg, "--out", dir)
			if code != 0 || stderr != "" {
				t.Fatalf("exit code %d, stderr %q", code, stderr)
			}
			modes := map[string]os.FileMode{"pump 1.pem": 0o600, "pump 1.pub.pem": 0o644, "pump 1.crt.pem": 0o644}
			if got, want := fileNames(t, dir), slices.Sorted(maps.Keys(modes)); !slices.Equal(got, want) {
				t.Fatalf("files are %q, want %q", got, want)
			}
			for name, mode := range modes {
				info, err := os.Stat(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				if got := info.Mode().Perm(); got != mode&^umask {
					t.Errorf("%s has mode %o, want %o", name, got, mode&^umask)
				}
				if !strings.Contains(stdout, filepath.Join(dir, name)) {
					t.Errorf("the output does not name %s: %q", name, stdout)
				}
			}
			private := readFile(t, dir, "pump 1.pem")
			checkNoSecrets(t, stdout, map[string]string{"pump 1.pem": string(private)})

			key, err := token.ParsePrivateKey(private)
			if err != nil {
				t.Fatal(err)
			}
			switch key.(type) {
			case *ecdsa.PrivateKey:
				if alg != "ES256" {
					t.Errorf("the key is %T", key)
				}
			case *rsa.PrivateKey:
				if alg != "RS256" {
					t.Errorf("the key is %T", key)
				}
			}
			if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(publicKey(t, readFile(t, dir, "pump 1.pub.pem"))) {
				t.Error("the public key is not the private key's")
			}
			block, _ := pem.Decode(readFile(t, dir, "pump 1.crt.pem"))
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if cert.Subject.CommonName != "pump 1" {
				t.Errorf("the certificate's CN is %q", cert.Subject.CommonName)
			}
			if !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(cert.PublicKey) {
				t.Error("the certificate's key is not the private key's")
			}
			// A root signs itself without being a CA; CheckSignatureFrom would mind.
			if err := cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
				t.Errorf("the certificate's signature: %v", err)
			}
		})
	}
}

// publicKey reads a public key with the standard library alone.
func publicKey(t *testing.T, data []byte) crypto.PublicKey {
	t.Helper()
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) > 0 {
		t.Fatalf("not one PEM block with a public key: %q", data)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestKeysNewOverwritesNothing(t *testing.T) {
	for _, there := range []string{"a.pem", "a.pub.pem", "a.crt.pem"} {
		t.Run(there, func(t *testing.T) {
			dir := t.TempDir()
			name := filepath.Join(dir, there)
			if err := os.WriteFile(name, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			code, stdout, stderr := cli("keys", "new", "--device", "a", "--out", dir)
			if code != 1 || stdout != "" || !strings.Contains(stderr, name+" exists already: move it away first") {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			if got := fileNames(t, dir); len(got) != 1 || string(readFile(t, name)) != "precious" {
				t.Errorf("files are %q, %s holds %q", got, there, readFile(t, name))
			}
		})
	}
	t.Run("a link to nowhere", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Symlink(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "a.pem")); err != nil {
			t.Fatal(err)
		}
		if code, _, stderr := cli("keys", "new", "--device", "a", "--out", dir); code != 1 || len(fileNames(t, dir)) != 1 {
			t.Errorf("exit code %d, stderr %q, files %q", code, stderr, fileNames(t, dir))
		}
	})
}

func TestKeysNewRefuses(t *testing.T) {
	for _, c := range []struct{ name, device, alg, want string }{
		{"a wildcard in the id", "a+b", "ES256", "--device: invalid: device id"},
		{"a path as id", "../a", "ES256", "--device: invalid: device id"},
		{"an empty id", "", "ES256", "--device: invalid: device id is empty"},
		{"another algorithm", "a", "EdDSA", `--alg: "EdDSA" is not supported; use ES256 or RS256`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			code, stdout, stderr := cli("keys", "new", "--device", c.device, "--alg", c.alg, "--out", dir)
			if code != 2 || stdout != "" || !strings.HasPrefix(stderr, c.want) {
				t.Errorf("exit code %d, stdout %q, stderr %q, want %q", code, stdout, stderr, c.want)
			}
			if got := fileNames(t, dir); len(got) != 0 {
				t.Errorf("files were left behind: %q", got)
			}
		})
	}
}

const tokenConfig = `[[connector]]
name = "plant"
broker = "mqtt://127.0.0.1:1"
auth = "device-credentials"
key_file = "{device}.pem"
[connector.token]
audience = "https://example.com/{connector}/{device}"
lifetime = "20m"
key_id = "sha256"
[[device]]
id = "a"
`

// TestKeyBecomesToken goes the way of an operator: make a key, name it in a
// configuration, print a token, check it with the uploaded half.
func TestKeyBecomesToken(t *testing.T) {
	for _, alg := range []string{"ES256", "RS256"} {
		t.Run(alg, func(t *testing.T) {
			path := writeConfig(t, tokenConfig, nil)
			dir := filepath.Dir(path)
			if code, _, stderr := cli("keys", "new", "--device", "a", "--alg", alg, "--out", dir); code != 0 {
				t.Fatalf("exit code %d, stderr %q", code, stderr)
			}
			public := publicKey(t, readFile(t, dir, "a.pub.pem"))

			before := time.Now().Truncate(time.Second)
			code, stdout, stderr := cli("token", "--config", path, "--device", "a")
			if code != 0 || stderr != "" || strings.Count(stdout, "\n") != 1 {
				t.Fatalf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			parsed, err := jwt.Parse(strings.TrimSpace(stdout), func(*jwt.Token) (any, error) { return public, nil },
				jwt.WithValidMethods([]string{alg}), jwt.WithIssuedAt(), jwt.WithExpirationRequired(),
				jwt.WithAudience("https://example.com/plant/a"), jwt.WithSubject("a"))
			if err != nil {
				t.Fatal(err)
			}
			issued, err := parsed.Claims.GetIssuedAt()
			if err != nil || issued.Before(before) {
				t.Errorf("iat is %v, %v; it is %v now", issued, err, before)
			}
			expires, err := parsed.Claims.GetExpirationTime()
			if err != nil || expires.Sub(issued.Time) != 20*time.Minute {
				t.Errorf("exp is %v, %v; want 20 minutes after %v", expires, err, issued)
			}
			block, _ := pem.Decode(readFile(t, dir, "a.pub.pem"))
			sum := sha256.Sum256(block.Bytes)
			if kid := parsed.Header["kid"]; kid != hex.EncodeToString(sum[:]) {
				t.Errorf("kid is %v", kid)
			}
		})
	}
}

func TestTokenDecode(t *testing.T) {
	path := writeConfig(t, tokenConfig, nil)
	if code, _, stderr := cli("keys", "new", "--device", "a", "--out", filepath.Dir(path)); code != 0 {
		t.Fatal(stderr)
	}
	code, stdout, stderr := cli("token", "--config", path, "--device", "a", "--decode")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	var got struct {
		Header struct{ Alg, Typ, Kid string }
		Claims struct {
			Aud, Sub string
			Iat, Exp int64
		}
	}
	dec := json.NewDecoder(strings.NewReader(stdout))
	dec.DisallowUnknownFields() // no signature, nothing else
	if err := dec.Decode(&got); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	if got.Header.Alg != "ES256" || got.Header.Typ != "JWT" || got.Header.Kid == "" {
		t.Errorf("header is %+v", got.Header)
	}
	if got.Claims.Aud != "https://example.com/plant/a" || got.Claims.Sub != "a" || got.Claims.Exp-got.Claims.Iat != 1200 {
		t.Errorf("claims are %+v", got.Claims)
	}
	checkNoSecrets(t, stdout, map[string]string{"a.pem": string(readFile(t, filepath.Dir(path), "a.pem"))})
}
