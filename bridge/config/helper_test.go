package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// theSecret must never be seen outside of its file.
const theSecret = "hunter2-Very-Secret"

// fixture makes a directory with the files that the configurations under
// testdata name and returns it.
func fixture(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	cert, key := certificate(t)
	_, other := certificate(t)
	write := func(name, content string, mode os.FileMode) {
		t.Helper()
		writeFile(t, filepath.Join(dir, name), content, mode)
	}
	write("keys/good.pem", key, 0o600)
	write("keys/dev-1.pem", key, 0o600)
	write("keys/open.pem", key, 0o644)
	write("keys/it's open.pem", key, 0o640)
	write("keys/cert.pem", key, 0o600)
	write("keys/other.pem", other, 0o600)
	write("keys/empty.pem", "\n", 0o600)
	write("secrets/yard", theSecret+"\n", 0o600)
	write("secrets/open", theSecret, 0o604)
	write("secrets/level", theSecret+"/x", 0o600)
	write("secrets/lines", theSecret+"\nx", 0o600)
	write("secrets/space", " "+theSecret, 0o600)
	write("secrets/binary", theSecret+"\xff", 0o600)
	write("secrets/long", strings.Repeat(theSecret, 60), 0o600)
	write("secrets/huge", strings.Repeat(theSecret, 6000), 0o600)
	write("tokens/good", theSecret+"-token\n\n"+theSecret+"-next\r\n", 0o600)
	write("tokens/next", theSecret+"-other", 0o600)
	write("tokens/short", "0123456789abcde", 0o600)
	write("tokens/space", theSecret+"-token x", 0o600)
	hook := func(n int) string { // its bytes are all the same, and n many
		return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte(n)}, n)) + "\n"
	}
	write("secrets/hook", "# since March\n"+hook(32)+"\n"+hook(24)+hook(64), 0o600)
	write("secrets/hook-base64", hook(32)+"\n"+"whsec_"+theSecret+"=!\n", 0o600)
	write("secrets/hook-short", hook(23), 0o600)
	write("secrets/hook-long", hook(64)+hook(65), 0o600)
	write("secrets/hook-twice", hook(32)+hook(32), 0o600)
	write("secrets/hook-many", hook(24)+hook(25)+hook(26)+hook(27)+hook(28)+hook(29)+hook(30)+hook(31)+hook(32), 0o600)
	write("secrets/hook-none", "# none\n\n", 0o600)
	write("ca/good.pem", "a comment\n"+cert+cert, 0o644)
	write("ca/none.pem", "nothing", 0o644)
	write("ca/key.pem", cert+key, 0o644)
	write("ca/damaged.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644)
	write("ca/cut.pem", cert+cert[:len(cert)/2], 0o644)
	write("inc/a.toml", "[[device]]\nid = \"dev-1\"\n", 0o644)
	write("inc/b.toml", "[[serial]]\nname = \"inc\"\nport = \"/dev/ttyS7\"\ndevice = \"dev-1\"\n", 0o644)
	write("inc/.a.toml.swp", "\x00", 0o644)
	write("inc/sub.d/x", "", 0o644)
	write("bad/broken.toml", "[[device]]\nid = \n", 0o644)
	write("bad/http.toml", "[http]\nlisten = \"127.0.0.1:1\"\n[[device]]\nid = \"x\"\nfoo = 1\n", 0o644)
	return dir
}

func writeFile(t testing.TB, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
}

func certificate(t testing.TB) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "test"},
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	block := func(typ string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: b}))
	}
	return block("CERTIFICATE", der), block("PRIVATE KEY", keyDER)
}

// loadText writes text as the main file into dir and loads it.
func loadText(t testing.TB, dir, text string) (*Config, error) {
	t.Helper()
	path := filepath.Join(dir, "fieldbridge.toml")
	writeFile(t, path, text, 0o644)
	return Load(path)
}

// mistakes returns the mistakes in err, one line each, with dir cut off the
// names of files.
func mistakes(t testing.TB, dir string, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var errs *Errors
	if !errors.As(err, &errs) {
		t.Fatalf("the error is a %T, want *Errors: %v", err, err)
	}
	if strings.Contains(err.Error(), theSecret) {
		t.Errorf("a secret is in the error:\n%v", err)
	}
	if n := strings.Count(err.Error(), "\n"); n != len(errs.Mistakes)-1 {
		t.Errorf("%d mistakes have %d line ends between them:\n%v", len(errs.Mistakes), n, err)
	}
	return strings.Split(strings.ReplaceAll(err.Error(), dir+"/", ""), "\n")
}
