package main

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/eclipse/paho.golang/paho"

	"fieldbridge/bridge/freeport"
)

// pahoClient is a client that is none of ours.
func pahoClient(t *testing.T, addr, clientID, username, password string) *paho.Client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := paho.NewClient(paho.ClientConfig{Conn: conn})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = c.Connect(ctx, &paho.Connect{
		ClientID: clientID, CleanStart: true, KeepAlive: 60,
		Username: username, UsernameFlag: true, Password: []byte(password), PasswordFlag: true,
	})
	if err != nil {
		t.Fatalf("connect as %s: %v", clientID, err)
	}
	t.Cleanup(func() {
		_ = c.Disconnect(&paho.Disconnect{})
		<-c.Done()
	})
	return c
}

func publishWith(t *testing.T, c *paho.Client, topic, contentType, payload string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := c.Publish(ctx, &paho.Publish{
		Topic: topic, QoS: 1, Payload: []byte(payload), Properties: &paho.PublishProperties{ContentType: contentType},
	})
	if err != nil {
		t.Fatalf("publish to %s: %v", topic, err)
	}
}

// brokerAddr reads the address out of what the command prints first.
func brokerAddr(t *testing.T, c *runningCommand, scheme string) string {
	t.Helper()
	_, rest, _ := strings.Cut(c.says(t, "\n"), scheme+"://")
	addr, _, ok := strings.Cut(rest, ",")
	if !ok {
		t.Fatalf("no address in %q", c.stdout.String())
	}
	return addr
}

func TestBroker(t *testing.T) {
	// With a second connector, the device has to name its own.
	text := strings.Replace(tokenConfig, "id = \"a\"\n", "id = \"a\"\nconnector = \"plant\"\n", 1)
	path := writeConfig(t, text+`
[[connector]]
name = "yard"
broker = "mqtt://127.0.0.1:1"
auth = "uplink-secret"
id = "yard-id"
secret_file = "yard.secret"
`, secretFiles())
	dir := filepath.Dir(path)
	if code, _, stderr := cli("keys", "new", "--device", "a", "--out", dir); code != 0 {
		t.Fatal(stderr)
	}
	code, jwt, stderr := cli("token", "--config", path, "--device", "a")
	if code != 0 {
		t.Fatal(stderr)
	}
	jwt = strings.TrimSpace(jwt)
	for _, c := range []struct {
		name string
		args []string
		head string
	}{
		{"by configuration", []string{"--config", path}, "1 devices, 1 connectors"},
		{"by flags", []string{
			"--device", "a=" + filepath.Join(dir, "a.pub.pem"), "--connector", "yard-id=" + filepath.Join(dir, "yard.secret"),
			"--audience", "https://example.com/plant/{device}",
		}, "1 devices, 1 connectors"},
		{"by certificate", []string{
			"--device", "a=" + filepath.Join(dir, "a.crt.pem"), "--connector", "yard-id=" + filepath.Join(dir, "yard.secret"),
			"--audience", "https://example.com/plant/{device}",
		}, "1 devices, 1 connectors"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := startCLI(t, append([]string{"broker", "--listen", "127.0.0.1:0"}, c.args...)...)
			addr := brokerAddr(t, b, "mqtt")
			b.says(t, c.head)
			publishWith(t, pahoClient(t, addr, "a", "unused", jwt), "/up/device/id/a/alerts", "text/plain", "too hot")
			b.says(t, "/up/device/id/a/alerts  text/plain  too hot\n")
			publishWith(t, pahoClient(t, addr, "any", "yard-id", yardSecret), "/up/"+yardSecret+"/id/gate", "application/octet-stream", "\xff\x00")
			b.says(t, "/up/[redacted]/id/gate  application/octet-stream  2 bytes: ff 00\n")
			if code := b.stop(); code != 0 {
				t.Errorf("exit code %d\n%s", code, &b.stderr)
			}
			checkNoSecrets(t, b.stdout.String()+b.stderr.String(), secretFiles())
		})
	}
}

// freeAddr is an address on which nobody listens, for what binds it itself.
func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := freeport.Loopback()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func TestBrokerChecksOneAudience(t *testing.T) {
	text := strings.Replace(tokenConfig, "id = \"a\"\n", "id = \"a\"\nconnector = \"plant\"\n", 1)
	key := newKey(t, "ES256")
	path := writeConfig(t, text+`
[[connector]]
name = "other"
broker = "mqtt://127.0.0.1:1"
auth = "device-credentials"
key_file = "{device}.pem"
[[device]]
id = "b"
connector = "other"
`, map[string]string{"a.pem": key, "b.pem": key})
	code, _, stderr := cli("broker", "--config", path, "--listen", "127.0.0.1:0")
	if code != 2 || !strings.Contains(stderr, "connectors plant and other have tokens for different audiences") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	b := startCLI(t, "broker", "--config", path, "--listen", "127.0.0.1:0", "--audience", "https://akenza.io/devices/{device}")
	addr := brokerAddr(t, b, "mqtt")
	code, jwt, stderr := cli("token", "--config", path, "--device", "b")
	if code != 0 {
		t.Fatal(stderr)
	}
	pahoClient(t, addr, "b", "unused", strings.TrimSpace(jwt))
}

// newKey makes a private key, as PEM.
func newKey(t *testing.T, alg string) string {
	t.Helper()
	dir := t.TempDir()
	if code, _, stderr := cli("keys", "new", "--device", "x", "--alg", alg, "--out", dir); code != 0 {
		t.Fatal(stderr)
	}
	return string(readFile(t, dir, "x.pem"))
}

// TestBrokerServesRun has the gateway and its broker as two commands with one
// configuration.
func TestBrokerServesRun(t *testing.T) {
	addr := freeAddr(t)
	path := writeConfig(t, "state_dir = \"state\"\nack_timeout = \"30s\"\n[http]\nlisten = \"127.0.0.1:0\"\n"+secretConfig(addr), secretFiles())
	g := startCLI(t, "run", "--config", path)
	g.says(t, `"msg":"ready"`)
	b := startCLI(t, "broker", "--config", path, "--listen", addr)
	brokerAddr(t, b, "mqtt")
	_, rest, _ := strings.Cut(g.stderr.String(), `"msg":"ready","http":"`)
	http, _, _ := strings.Cut(rest, `"`)
	client := newClient(t)
	a, err := postTo(client, "http://"+http+"/v1/devices/app/uplink/lobby/door", "text/csv", "open,1")
	if err != nil || a.Status != 200 && a.Status != 202 { // the session may not be up yet
		t.Fatalf("answer %+v, %v\n%s", a, err, &g.stderr)
	}
	b.says(t, "/up/[redacted]/id/app/lobby/door  text/csv  open,1\n")
	if code := g.stop(); code != 0 {
		t.Errorf("run: exit code %d\n%s", code, &g.stderr)
	}
	eventually(t, "the broker to see the gateway go", func() bool { return strings.Contains(b.stderr.String(), "client disconnected") })
	if code := b.stop(); code != 0 {
		t.Errorf("broker: exit code %d\n%s", code, &b.stderr)
	}
	checkNoSecrets(t, b.stdout.String()+b.stderr.String()+g.stderr.String(), secretFiles())
}

func TestBrokerWithTLS(t *testing.T) {
	dir := t.TempDir()
	if code, _, stderr := cli("keys", "new", "--device", "a", "--out", dir); code != 0 {
		t.Fatal(stderr)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	b := startCLI(t, "broker", "--listen", "127.0.0.1:0", "--device", "a="+file("a.pub.pem"), "--cert", file("a.crt.pem"), "--key", file("a.pem"))
	addr := brokerAddr(t, b, "mqtts")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if cn := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName; cn != "a" {
		t.Errorf("the certificate is of %q", cn)
	}
	_ = conn.Close()
	if code := b.stop(); code != 0 {
		t.Errorf("exit code %d\n%s", code, &b.stderr)
	}
}
