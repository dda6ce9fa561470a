package main

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge/config"
	"fieldbridge/bridge/token"
)

// client makes a client certificate and its key, both PEM.
func (ca *mosqCA) client(name string, until time.Time) (cert, key string) {
	ca.t.Helper()
	c, k := mosqSign(ca.t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    until.Add(-24 * time.Hour), NotAfter: until,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca.cert, ca.key)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		ca.t.Fatal(err)
	}
	block := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return block("CERTIFICATE", c.Raw), block("PRIVATE KEY", der)
}

// mosqSecond is a further listener of a broker.
func mosqSecond(t *testing.T, lines string) (addr, extra string) {
	t.Helper()
	addr = freeAddr(t)
	host, port, _ := net.SplitHostPort(addr)
	return addr, fmt.Sprintf("listener %s %s\n%s\n", port, host, lines)
}

// mosqUp waits until the broker's second listener is there.
func mosqUp(t *testing.T, addr string) {
	t.Helper()
	eventually(t, "a listener on "+addr, func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// MQTT over WebSocket, plain and encrypted, in both directions, with readings
// that need more than one frame at the broker's side.
func TestMosquittoWebSocket(t *testing.T) {
	mosqNeed(t)
	ca := mosqNewCA(t, "Test Root", time.Now().Add(time.Hour))
	cert, key := ca.server(time.Now().Add(time.Hour))
	for scheme, lines := range map[string]string{
		"ws":  "protocol websockets",
		"wss": fmt.Sprintf("protocol websockets\ncafile %s\ncertfile %s\nkeyfile %s", ca.file, cert, key),
	} {
		t.Run(scheme, func(t *testing.T) {
			addr, extra := mosqSecond(t, lines)
			b := mosqStart(t, mosqOptions{extra: extra})
			mosqUp(t, addr)
			w := b.witness()
			hook := newHook(t)
			text := fmt.Sprintf(mosqJWTConfig, addr)
			text = strings.Replace(text, "mqtt://", scheme+"://", 1)
			if scheme == "wss" {
				text = strings.Replace(text, "auth =", fmt.Sprintf("ca_file = %q\nauth =", ca.file), 1)
			}
			g := startGateway(t, text+"[[device.downlink]]\nwebhook = \""+hook.url+"\"\n", map[string]string{"pump-1.pem": mosqKey(t)})
			g.awaitUp()
			// Longer than the broker's frames, shorter than the witness's lines.
			for _, payload := range []string{"21.5", strings.Repeat("x", 50_000)} {
				if a := g.post("pump-1", "", "text/plain", payload); a.Status != http.StatusOK {
					t.Fatalf("answer %+v", a)
				}
				w.want("/up/device/id/pump-1 text/plain " + payload)
			}
			for _, payload := range []string{"open", strings.Repeat("y", 100_000)} {
				b.publish("/down/device/id/pump-1/valve", payload)
				if got := hook.next(t); got != payload {
					t.Fatalf("the webhook got %d bytes, want %d", len(got), len(payload))
				}
			}
		})
	}
}

// hook is a webhook that keeps what it gets.
type hook struct {
	url    string
	bodies chan string
}

func (h *hook) next(t *testing.T) string {
	t.Helper()
	select {
	case b := <-h.bodies:
		return b
	case <-time.After(patience):
		t.Fatal("the webhook got nothing")
		return ""
	}
}

// A certificate for each device is all the broker needs: it takes the user name
// from it.
func TestMosquittoClientCertificates(t *testing.T) {
	mosqNeed(t)
	ca := mosqNewCA(t, "Test Root", time.Now().Add(time.Hour))
	cert, key := ca.server(time.Now().Add(time.Hour))
	addr, extra := mosqSecond(t, fmt.Sprintf("cafile %s\ncertfile %s\nkeyfile %s\nrequire_certificate true\nuse_identity_as_username true", ca.file, cert, key))
	b := mosqStart(t, mosqOptions{extra: extra})
	mosqUp(t, addr)
	text := fmt.Sprintf(`
[[connector]]
name = "aws"
profile = "generic"
broker = "mqtts://%s"
ca_file = %q
auth = "certificate"
client_id = "thing-{device}"
client_cert_file = "{device}.crt"
client_key_file = "{device}.key"
uplink_topic = "dt/{device}"
downlink_topic = "cmd/{device}/#"
`, addr, ca.file)
	device := func(id string) string { return "[[device]]\nid = \"" + id + "\"\n" }

	t.Run("good", func(t *testing.T) {
		files := map[string]string{}
		for _, id := range []string{"pump-1", "pump-2"} {
			files[id+".crt"], files[id+".key"] = ca.client(id, time.Now().Add(time.Hour))
		}
		w := b.witness()
		g := startGateway(t, text+device("pump-1")+device("pump-2"), files)
		g.awaitUp()
		for _, id := range []string{"pump-1", "pump-2"} {
			if a := g.post(id, "", "text/plain", id); a.Status != http.StatusOK {
				t.Fatalf("answer %+v", a)
			}
			w.want("dt/" + id + " text/plain " + id)
			if n := b.log.count("as thing-" + id + " (p5, c0, k60, u'" + id + "')"); n != 1 {
				t.Errorf("%d logins of %s with the name in its certificate:\n%s", n, id, b.log)
			}
		}
	})
	for name, tt := range map[string]struct {
		until time.Time
		ca    *mosqCA
		want  string
	}{
		"expired":  {time.Now().Add(-time.Hour), ca, "get a new one and restart, or correct the clock"},
		"stranger": {time.Now().Add(time.Hour), mosqNewCA(t, "Other Root", time.Now().Add(time.Hour)), "Other Root"},
	} {
		t.Run(name, func(t *testing.T) {
			c, k := tt.ca.client("pump-1", tt.until)
			g := startGateway(t, text+device("pump-1"), map[string]string{"pump-1.crt": c, "pump-1.key": k})
			eventually(t, tt.want, func() bool {
				l := g.Logs.String()
				return strings.Contains(l, tt.want) && strings.Contains(l, "pump-1.crt")
			})
		})
	}
	t.Run("none", func(t *testing.T) {
		text := strings.Replace(fmt.Sprintf(mosqJWTConfig, addr), "mqtt://"+addr+"\"", "mqtts://"+addr+"\"\nca_file = \""+ca.file+"\"", 1)
		g := startGateway(t, text, map[string]string{"pump-1.pem": mosqKey(t)})
		eventually(t, "what to set", func() bool { return strings.Contains(g.Logs.String(), "set client_cert_file") })
	})
}

// One secret, and a session for each device; their names at the broker are those
// of the templates.
func TestMosquittoPerDeviceSessions(t *testing.T) {
	b := mosqStart(t, mosqOptions{user: "site", password: mosqSecret})
	w := b.witness()
	g := startGateway(t, fmt.Sprintf(`
gateway = "gw-1"
[[connector]]
name = "own"
profile = "generic"
broker = "mqtt://%s"
auth = "uplink-secret"
id = "site"
secret_file = "secret"
per_device_sessions = true
client_id = "{gateway}-{device}"
uplink_topic = "up/{device}"
[[device]]
id = "pump-1"
[[device]]
id = "pump-2"
`, b.addr), map[string]string{"secret": mosqSecret})
	g.awaitUp()
	for _, id := range []string{"pump-1", "pump-2"} {
		if a := g.post(id, "", "text/plain", id); a.Status != http.StatusOK {
			t.Fatalf("answer %+v", a)
		}
		w.want("up/" + id + " text/plain " + id)
		if n := b.log.count("as gw-1-" + id + " (p5, c0, k60, u'site')"); n != 1 {
			t.Errorf("%d sessions of %s:\n%s", n, id, b.log)
		}
	}
}

// An access token of each device is the user name, without a password, and the
// topics do not name the device.
func TestMosquittoAccessTokens(t *testing.T) {
	b := mosqStart(t, mosqOptions{})
	w := b.witness()
	hook := newHook(t)
	g := startGateway(t, fmt.Sprintf(`
[[connector]]
name = "tb"
profile = "generic"
broker = "mqtt://%s"
auth = "uplink-secret"
per_device_sessions = true
secret_file = "tokens/{device}"
username = "{secret}"
uplink_topic = "v1/devices/me/telemetry"
downlink_topic = "v1/devices/me/rpc/request/+"
[[device]]
id = "pump-1"
[[device.downlink]]
webhook = %q
[[device]]
id = "pump-2"
`, b.addr, hook.url), map[string]string{"tokens/pump-1": "token-of-pump-1/a", "tokens/pump-2": "token-of-pump-2/b"})
	g.awaitUp()
	for id, tok := range map[string]string{"pump-1": "token-of-pump-1/a", "pump-2": "token-of-pump-2/b"} {
		if a := g.post(id, "", "application/json", `{"t":1}`); a.Status != http.StatusOK {
			t.Fatalf("answer %+v", a)
		}
		w.want(`v1/devices/me/telemetry application/json {"t":1}`)
		if n := b.log.count("as " + id + " (p5, c0, k60, u'" + tok + "')"); n != 1 {
			t.Errorf("%d logins of %s:\n%s", n, id, b.log)
		}
	}
	b.publish("v1/devices/me/rpc/request/7", "open")
	if got := hook.next(t); got != "open" {
		t.Errorf("the webhook got %q", got)
	}
}

// Further claims stand in the token, and a broker that checks the others takes it.
func TestClaimsReachTheBroker(t *testing.T) {
	s := newSite(t)
	g := startGateway(t, "gateway = \"gw-1\"\n"+s.config(`
[connector.token]
[connector.token.claims]
role = "sensor"
topics = ["t/{device}/#"]
level = 3
site = { gateway = "{gateway}" }
`, "", "[[device]]\nid = \"pump-1\"\nconnector = \"plant\"\n"), s.Files)
	g.awaitUp()
	if a := g.post("pump-1", "", "text/plain", "1"); a.Status != http.StatusOK {
		t.Fatalf("answer %+v", a)
	}
	cfg, err := config.Load(g.Path)
	if err != nil {
		t.Fatal(err)
	}
	rings, err := signers(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	minted, _, err := rings["pump-1"].Mint()
	if err != nil {
		t.Fatal(err)
	}
	_, claims, err := token.Decode(minted.Value.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	delete(claims, "iat")
	delete(claims, "exp")
	want := map[string]any{
		"aud": "https://akenza.io/devices/pump-1", "sub": "pump-1", "role": "sensor",
		"topics": []any{"t/pump-1/#"}, "level": "3", "site": map[string]any{"gateway": "gw-1"},
	}
	claims["level"] = fmt.Sprint(claims["level"])
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

func newHook(t *testing.T) *hook {
	t.Helper()
	h := &hook{bodies: make(chan string, 10)}
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		h.bodies <- string(body)
	}))
	t.Cleanup(s.Close)
	h.url = s.URL
	return h
}
