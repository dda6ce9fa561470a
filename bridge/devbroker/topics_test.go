package devbroker

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"

	"fieldbridge/bridge"
)

// Whatever a client sends as topic or filter: it gets at its own only.
func FuzzSplit(f *testing.F) {
	f.Add("/up/device/id/dev/alerts")
	f.Add("/up/secret/id/x/#")
	f.Fuzz(func(t *testing.T, topic string) {
		device := identity{device: "dev"}
		if id, sub, ok := device.split(up, topic); ok {
			rest, found := strings.CutPrefix(topic, "/up/device/id/dev")
			if !found || id != "dev" || (rest != "" && rest != "/"+sub) {
				t.Errorf("the device got at %q: %q, %q", topic, id, sub)
			}
		}
		yard := identity{connector: "yard", secret: bridge.NewSecret("secret")}
		if id, _, ok := yard.split(up, topic); ok {
			if !strings.HasPrefix(topic, "/up/secret/id/"+string(id)) || strings.ContainsAny(string(id), "+#/") {
				t.Errorf("the connector got at %q: %q", topic, id)
			}
		}
		if r := (Message{Topic: "/up/secret/id/" + topic}).RedactedTopic(); !strings.HasPrefix(r, "/up/[redacted]/id/") {
			t.Errorf("shown as %q", r)
		}
	})
}

// Whatever a client sends as a password: it is no token of the device.
func FuzzVerify(f *testing.F) {
	f.Add("eyJ0eXAiOiJKV1QiLCJhbGciOiJFUzI1NiJ9.eyJpYXQiOjF9.AAAA")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	b, err := New(Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = b.Close() })
	key, err := testKey()
	if err != nil {
		f.Fatal(err)
	}
	if err := b.SetDevice("dev", key); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if _, broken := b.verify("dev", token); broken == "" {
			t.Error("accepted")
		}
	})
}

func testKey() (*ecdsa.PublicKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return &k.PublicKey, nil
}
