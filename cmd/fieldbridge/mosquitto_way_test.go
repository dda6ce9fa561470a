package main

import (
	"crypto"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge/token"
)

// mosqKey is a new private key as a file's content.
func mosqKey(t *testing.T) string {
	t.Helper()
	_, pem := mosqKeyPair(t)
	return pem
}

func mosqKeyPair(t *testing.T) (crypto.Signer, string) {
	t.Helper()
	key, err := token.Generate("ES256")
	if err != nil {
		t.Fatal(err)
	}
	pem, err := token.EncodePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem)
}

const mosqJWTConfig = `
[[connector]]
name = "plant"
broker = "mqtt://%s"
auth = "device-credentials"
key_file = "{device}.pem"

[[device]]
id = "pump-1"
`

const mosqSecretConfig = `
[[connector]]
name = "yard"
broker = "mqtt://%s"
auth = "uplink-secret"
id = "connector-7"
secret_file = "secret"

[[device]]
id = "pump-1"
`

const mosqSecret = "the-yard-secret-1f6b"

// mosqKinds are the two ways to authenticate, each with a broker that suits it.
func mosqKinds() []struct {
	name, config, up, down string
	files                  func(*testing.T) map[string]string
	options                mosqOptions
} {
	return []struct {
		name, config, up, down string
		files                  func(*testing.T) map[string]string
		options                mosqOptions
	}{
		{
			name: "device credentials", config: mosqJWTConfig,
			up: "/up/device/id/pump-1", down: "/down/device/id/pump-1",
			files: func(t *testing.T) map[string]string { return map[string]string{"pump-1.pem": mosqKey(t)} },
		},
		{
			name: "uplink secret", config: mosqSecretConfig,
			up: "/up/" + mosqSecret + "/id/pump-1", down: "/down/" + mosqSecret + "/id/pump-1",
			files:   func(*testing.T) map[string]string { return map[string]string{"secret": mosqSecret} },
			options: mosqOptions{user: "connector-7", password: mosqSecret},
		},
	}
}

// TestMosquittoReadings sends every content type to every depth of sub topic,
// over HTTP, and lines over a serial port.
func TestMosquittoReadings(t *testing.T) {
	for _, kind := range mosqKinds() {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := mosqStart(t, kind.options)
			w := b.witness()
			line := openPTY(t)
			text := fmt.Sprintf(kind.config, b.addr) + fmt.Sprintf(`
[[serial]]
name = "scale"
port = %q
device = "pump-1"
subtopic = "weight/gross"
`, line.Path)
			g := startGateway(t, text, kind.files(t))
			g.awaitUp()
			for _, c := range []struct{ contentType, sent, body string }{
				{"application/json", "application/json", `{"pressure":4.20,"unit":"bar"}`},
				{"text/plain", "text/plain; charset=iso-8859-1", "4.2 bar"},
				{"application/octet-stream", "application/octet-stream", "\x01\x02\x03 bytes"},
				{"application/xml", "application/xml", "<p>4.2</p>"},
				{"text/csv", "text/csv", "4.2,bar"},
			} {
				for _, sub := range []string{"", "alerts", "alerts/critical"} {
					if a := g.post("pump-1", sub, c.sent, c.body); a.Status != http.StatusOK || a.State != "delivered" {
						t.Fatalf("POST %s to %q: %+v", c.sent, sub, a)
					}
					topic := kind.up
					if sub != "" {
						topic += "/" + sub
					}
					w.want(topic + " " + c.sent + " " + c.body)
				}
			}
			line.write("ST,GS,+0024.31kg\r\n")
			w.want(kind.up + "/weight/gross text/plain ST,GS,+0024.31kg")
		})
	}
}

// TestMosquittoDownlinks sends downlinks by mosquitto_pub to a serial port and to
// a webhook.
func TestMosquittoDownlinks(t *testing.T) {
	for _, kind := range mosqKinds() {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := mosqStart(t, kind.options)
			line := openPTY(t)
			calls := make(chan *http.Request, 10)
			bodies := make(chan string, 10)
			hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				calls <- r
				bodies <- string(body)
			}))
			defer hook.Close()
			text := fmt.Sprintf(kind.config, b.addr) + fmt.Sprintf(`
[[device.downlink]]
subtopic = "command/#"
serial = "scale"
[[device.downlink]]
subtopic = "valve"
webhook = "%s/valve"

[[serial]]
name = "scale"
port = %q
device = "pump-1"
`, hook.URL, line.Path)
			g := startGateway(t, text, kind.files(t))
			g.awaitUp()

			b.publish(kind.down+"/command/tare", "TARE")
			line.want("TARE")
			b.publish(kind.down+"/valve", `{"open":true}`, "-D", "publish", "content-type", "application/json")
			select {
			case r := <-calls:
				if body := <-bodies; body != `{"open":true}` {
					t.Errorf("the webhook got %q", body)
				}
				for name, want := range map[string]string{
					"Content-Type": "application/json", "Fieldbridge-Device": "pump-1", "Fieldbridge-Subtopic": "valve",
				} {
					if got := r.Header.Get(name); got != want {
						t.Errorf("header %s: %q, want %q", name, got, want)
					}
				}
				if r.Header.Get("webhook-id") == "" || r.Header.Get("webhook-timestamp") == "" {
					t.Errorf("headers of the webhook: %v", r.Header)
				}
			case <-time.After(patience):
				t.Fatal("the webhook was not called")
			}

			// While the gateway is away the broker keeps what is for it.
			g.stop()
			b.publish(kind.down+"/command/zero", "ZERO")
			g = g.restart()
			line.want("ZERO")
			g.stop()
		})
	}
}

// TestMosquittoConnect reads the CONNECT in the broker's own log.
func TestMosquittoConnect(t *testing.T) {
	b := mosqStart(t, mosqOptions{})
	g := startGateway(t, fmt.Sprintf(mosqJWTConfig, b.addr), map[string]string{"pump-1.pem": mosqKey(t)})
	g.awaitUp()
	g.stop()
	// p: protocol version, c: clean start, k: keep alive, u: user name.
	if want := "as pump-1 (p5, c0, k60, u'"; !strings.Contains(b.log.String(), want) {
		t.Errorf("no %q in the broker's log:\n%s", want, b.log)
	}
}

// TestMosquittoPassword: a wrong secret is refused, and everybody who needs to
// know hears of it.
func TestMosquittoPassword(t *testing.T) {
	b := mosqStart(t, mosqOptions{user: "connector-7", password: "another-one-9c"})
	g := startGateway(t, fmt.Sprintf(mosqSecretConfig, b.addr), map[string]string{"secret": mosqSecret})
	eventually(t, "the refusal is known", func() bool {
		return strings.Contains(g.gw.now().sessions[0].Trouble(), "0x8")
	})
	expectStored(t, g.post("pump-1", "", "text/plain", "1"))
	for _, want := range []string{"session down", "connector's id and secret"} {
		eventually(t, want+" in the log", func() bool { return strings.Contains(g.Logs.String(), want) })
	}
}

// TestMosquittoTLS connects over TLS with a CA of its own, and says what is wrong
// where that cannot work.
func TestMosquittoTLS(t *testing.T) {
	later, past := time.Now().Add(12*time.Hour), time.Now().Add(-time.Hour)
	for _, c := range []struct {
		name                string
		caUntil, brokerEnds time.Time
		config              string // {ca} is the CA's file
		want                []string
	}{
		{name: "works", caUntil: later, brokerEnds: later, config: `ca_file = "{ca}"`},
		{name: "unknown root", caUntil: later, brokerEnds: later, want: []string{"Plant Root 3", "no ca_file is set", "ca-certificates"}},
		{name: "expired CA", caUntil: past, brokerEnds: later, config: `ca_file = "{ca}"`, want: []string{"Plant Root 3", "{ca}", "expired on"}},
		{name: "expired broker", caUntil: later, brokerEnds: past, config: `ca_file = "{ca}"`, want: []string{"CN=broker", "clock"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ca := mosqNewCA(t, "Plant Root 3", c.caUntil)
			cert, key := ca.server(c.brokerEnds)
			b := mosqStart(t, mosqOptions{ca: ca.file, cert: cert, key: key})
			text := strings.ReplaceAll(fmt.Sprintf(mosqJWTConfig, b.addr), "mqtt://", "mqtts://")
			text = strings.Replace(text, "key_file", strings.ReplaceAll(c.config, "{ca}", ca.file)+"\nkey_file", 1)
			g := startGateway(t, text, map[string]string{"pump-1.pem": mosqKey(t)})
			if c.want == nil {
				g.awaitUp()
				w := b.witness()
				if a := g.post("pump-1", "", "text/plain", "4.2"); a.Status != http.StatusOK {
					t.Fatalf("POST: %+v", a)
				}
				w.want("/up/device/id/pump-1 text/plain 4.2")
				return
			}
			eventually(t, "the handshake fails", func() bool {
				return strings.Contains(g.gw.now().sessions[0].Trouble(), "TLS with")
			})
			expectStored(t, g.post("pump-1", "", "text/plain", "4.2"))
			trouble := g.gw.now().sessions[0].Trouble()
			for _, want := range c.want {
				if want = strings.ReplaceAll(want, "{ca}", ca.file); !strings.Contains(trouble, want) {
					t.Errorf("the session's state does not name %q: %s", want, trouble)
				}
			}
		})
	}
}
