package token_test

import (
	"crypto"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"fieldbridge/bridge"
	"fieldbridge/bridge/token"
)

// keyOnDisk is a KeyFile whose file the test changes.
type keyOnDisk struct {
	*token.KeyFile
	path    string
	reads   int
	reports []string
}

func newKeyOnDisk(t *testing.T, name, from string) *keyOnDisk {
	t.Helper()
	k := &keyOnDisk{path: filepath.Join(t.TempDir(), name)}
	k.write(t, string(read(t, from)))
	var err error
	k.KeyFile, err = token.NewKeyFile(token.KeyFileOptions{
		Path: k.path, PEM: bridge.NewSecret(string(read(t, from))),
		Read: func(path string) (bridge.Secret, error) {
			k.reads++
			data, err := os.ReadFile(path)
			return bridge.NewSecret(string(data)), err
		},
		Report: func(name string, err error) {
			k.reports = append(k.reports, fmt.Sprintf("%s %t", name, err == nil))
		},
	}, token.Options{Device: device, Audience: audience, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *keyOnDisk) write(t *testing.T, content string) {
	t.Helper()
	if err := os.WriteFile(k.path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// signs checks whose key signs now, and what has been reported since the start.
func (k *keyOnDisk) signs(t *testing.T, public string, reports ...string) {
	t.Helper()
	tok, err := k.Mint()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jwt.Parse(tok.Value.Reveal(), func(*jwt.Token) (any, error) { return publicKey(t, public), nil }); err != nil {
		t.Errorf("not signed with the key of %s: %v", public, err)
	}
	if !slices.Equal(k.reports, reports) {
		t.Errorf("reported %q, want %q", k.reports, reports)
	}
}

func publicKey(t *testing.T, name string) crypto.PublicKey {
	t.Helper()
	public, err := token.ParsePublicKey(read(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return public
}

func TestKeyFileIsReadAgain(t *testing.T) {
	k := newKeyOnDisk(t, "dev.pem", "p256.sec1.pem")
	for range 3 {
		k.signs(t, "p256.pub.pem")
	}
	if k.reads != 1 {
		t.Errorf("read %d times without a change, want once at the start", k.reads)
	}
	k.write(t, string(read(t, "rsa2048.pkcs8.pem")))
	k.signs(t, "rsa2048.pub.pem", "dev.pem true")
	k.signs(t, "rsa2048.pub.pem", "dev.pem true")
	if k.reads != 2 {
		t.Errorf("read %d times, want once more for a change", k.reads)
	}
}

// A change between the reading of the configuration and now is not missed.
func TestKeyFileChangedBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dev.pem")
	if err := os.WriteFile(path, read(t, "rsa2048.pkcs8.pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	k, err := token.NewKeyFile(token.KeyFileOptions{
		Path: path, PEM: bridge.NewSecret(string(read(t, "p256.sec1.pem"))),
		Read: func(path string) (bridge.Secret, error) {
			data, err := os.ReadFile(path)
			return bridge.NewSecret(string(data)), err
		},
	}, token.Options{Device: device, Audience: audience, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	(&keyOnDisk{KeyFile: k}).signs(t, "rsa2048.pub.pem")
}

// A replacement that differs in nothing but its inode is a change.
func TestKeyFileReplaced(t *testing.T) {
	k := newKeyOnDisk(t, "dev.pem", "p256.sec1.pem")
	k.signs(t, "p256.pub.pem")
	info, err := os.Stat(k.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.path+".new", read(t, "p256.sec1.pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(k.path+".new", info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(k.path+".new", k.path); err != nil {
		t.Fatal(err)
	}
	k.signs(t, "p256.pub.pem", "dev.pem true")
}

// The old key signs on while the file is of no use, which is said once.
func TestKeyFileBreaks(t *testing.T) {
	k := newKeyOnDisk(t, "dev.pem", "p256.sec1.pem")
	rsa := string(read(t, "rsa2048.pkcs8.pem"))
	k.write(t, rsa[:len(rsa)/2])
	k.signs(t, "p256.pub.pem", "dev.pem false")
	k.signs(t, "p256.pub.pem", "dev.pem false")
	if err := os.Remove(k.path); err != nil {
		t.Fatal(err)
	}
	k.signs(t, "p256.pub.pem", "dev.pem false")
	k.write(t, rsa)
	k.signs(t, "rsa2048.pub.pem", "dev.pem false", "dev.pem true")
	k.write(t, string(read(t, "p384.sec1.pem"))) // a key, but none that signs tokens
	k.signs(t, "rsa2048.pub.pem", "dev.pem false", "dev.pem true", "dev.pem false")
}

func TestNewKeyFileErrors(t *testing.T) {
	o := token.Options{Device: device, Audience: audience, Lifetime: time.Hour}
	if _, err := token.NewKeyFile(token.KeyFileOptions{PEM: bridge.NewSecret("x")}, o); err == nil {
		t.Error("no key was accepted")
	}
	if _, err := token.NewRing(); err == nil {
		t.Error("no keys were accepted")
	}
}

func TestRing(t *testing.T) {
	a, b, c := newKeyOnDisk(t, "a.pem", "p256.sec1.pem"), newKeyOnDisk(t, "b.pem", "rsa2048.pkcs8.pem"), newKeyOnDisk(t, "c.pem", "p256.sec1.pem")
	r, err := token.NewRing(a.KeyFile, b.KeyFile, c.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		key               string
		accepted, another bool
	}{
		{"a.pem", true, false},
		{"a.pem", false, true},
		{"b.pem", true, false},
		{"b.pem", true, false}, // it stays
		{"b.pem", false, true},
		{"c.pem", false, true},
		{"a.pem", false, false}, // all of them: there is nothing to hurry for
		{"b.pem", false, true},
		{"c.pem", false, true},
		{"a.pem", false, false},
		{"b.pem", true, false},
		{"b.pem", false, true},
	} {
		_, k, err := r.Mint()
		if err != nil {
			t.Fatal(err)
		}
		if k.Name() != step.key {
			t.Fatalf("step %d: signed with %s, want %s", i, k.Name(), step.key)
		}
		if another := r.Answered(k, step.accepted); another != step.another {
			t.Errorf("step %d: another %t, want %t", i, another, step.another)
		}
	}
	one, err := token.NewRing(a.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if one.Answered(a.KeyFile, false) {
		t.Error("there is no other key")
	}
}

// Renewals of devices that started together are spread out, and none comes
// before the last fifth of the token's life or so late that the skew is used up.
func TestRenewalsAreSpread(t *testing.T) {
	const devices, life = 10_000, time.Hour
	at := time.Unix(1_760_000_000, 0)
	tok := token.Token{IssuedAt: at, Expires: at.Add(life)}
	perSecond := map[int64]int{}
	for range devices {
		in := token.RenewAt(tok, rand.Float64).Sub(at)
		if in < life-life/5 || in >= life-token.Skew(life) {
			t.Fatalf("renewed after %v", in)
		}
		perSecond[int64(in/time.Second)]++
	}
	most := 0
	for _, n := range perSecond {
		most = max(most, n)
	}
	// 360 seconds for 10,000 devices: 27.8 a second, with a spread of 5.3.
	if most > 60 || len(perSecond) < 350 {
		t.Errorf("%d renewals in one second, over %d seconds", most, len(perSecond))
	}
}

// Tokens are used concurrently with changes of the file.
func TestKeyFileConcurrently(t *testing.T) {
	k := newKeyOnDisk(t, "dev.pem", "p256.sec1.pem")
	errs := make(chan error, 4)
	for range 4 {
		go func() {
			var err error
			for range 50 {
				_, e := k.KeyFile.Mint()
				err = errors.Join(err, e)
			}
			errs <- err
		}()
	}
	for i := range 20 {
		k.write(t, string(read(t, []string{"p256.sec1.pem", "rsa2048.pkcs8.pem"}[i%2])))
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
