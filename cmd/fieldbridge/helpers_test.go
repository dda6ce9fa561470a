package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fieldbridge/bridge/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test; it only passes when a test fails.
const patience = 30 * time.Second

// eventually waits until ok says yes.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	over := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-over:
			t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

// logBuffer collects log lines. It can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// writeConfig writes a configuration and the files it names (mode 0600, by
// their relative names) into a new directory.
func writeConfig(t *testing.T, text string, files map[string]string) (path string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path = filepath.Join(dir, "fieldbridge.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// testGateway is a gateway that runs in this process, as "fieldbridge run" runs
// it.
type testGateway struct {
	// HTTP is the host:port of its endpoint.
	HTTP string
	// Logs is everything it logs, from level DEBUG on.
	Logs *logBuffer

	t      *testing.T
	gw     *gateway
	client *http.Client
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned
	err    error         // what it returned
}

// startGateway runs a gateway with this configuration until stop, or the test's
// end. A free port is listened on unless the text says otherwise, and
// ack_timeout is long, so that a slow machine fails no test. Relative names in
// the configuration are those of files: name to content.
//
// At its end every log line is searched for what is in those files (but public
// keys and certificates) and for anything like a token.
func startGateway(t *testing.T, configText string, files map[string]string) *testGateway {
	t.Helper()
	if !strings.Contains(configText, "ack_timeout") {
		configText = "ack_timeout = \"30s\"\n" + configText
	}
	if !strings.Contains(configText, "[http]") {
		configText += "\n[http]\nlisten = \"127.0.0.1:0\"\n"
	}
	cfg, err := config.Load(writeConfig(t, configText, files))
	if err != nil {
		t.Fatal(err)
	}
	g := &testGateway{
		t: t, Logs: &logBuffer{}, done: make(chan struct{}),
		client: newClient(t),
	}
	g.gw, err = newGateway(cfg, slog.New(slog.NewTextHandler(g.Logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	g.HTTP = g.gw.http.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	go func() {
		defer close(g.done)
		g.err = g.gw.run(ctx)
	}()
	t.Cleanup(func() {
		g.stop()
		checkNoSecrets(t, g.Logs.String(), files)
		if t.Failed() {
			t.Logf("log of the gateway:\n%s", g.Logs)
		}
	})
	return g
}

// stop ends the gateway in order, as SIGTERM does, and waits for it. More than
// once is fine.
func (g *testGateway) stop() {
	g.t.Helper()
	g.cancel()
	g.wait()
}

// wait waits until the gateway has ended.
func (g *testGateway) wait() {
	g.t.Helper()
	select {
	case <-g.done:
	case <-time.After(patience):
		g.t.Fatalf("the gateway does not stop\n%s", g.Logs)
	}
	g.client.CloseIdleConnections()
	if g.err != nil {
		g.t.Errorf("the gateway ended with: %v", g.err)
	}
}

// awaitUp waits until all serial ports are open and all sessions are up.
func (g *testGateway) awaitUp() {
	g.t.Helper()
	g.awaitPorts()
	eventually(g.t, "all sessions up", func() bool {
		for _, s := range g.gw.sessions {
			if !s.State().Up {
				return false
			}
		}
		return true
	})
}

// awaitPorts waits until all serial ports are open.
func (g *testGateway) awaitPorts() {
	g.t.Helper()
	eventually(g.t, "all serial ports open", func() bool {
		for _, p := range g.gw.ports {
			if !p.Stats().Up {
				return false
			}
		}
		return true
	})
}

// answer is what the HTTP endpoint says.
type answer struct {
	Status     int
	RetryAfter string
	Type       string // Content-Type
	ID         string // of a 200
	State      string // of a 200
	Detail     string // of a problem
	ReasonCode int    // of a problem
}

// post sends a reading; subtopic and contentType may be empty.
func (g *testGateway) post(device, subtopic, contentType, body string) answer {
	g.t.Helper()
	a, err := postTo(g.client, g.url(device, subtopic), contentType, body)
	if err != nil {
		g.t.Errorf("POST for %s: %v", device, err)
	}
	return a
}

func (g *testGateway) url(device, subtopic string) string {
	u := "http://" + g.HTTP + "/v1/devices/" + device + "/uplink"
	if subtopic != "" {
		u += "/" + subtopic
	}
	return u
}

// newClient makes an HTTP client of the test's own.
func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func postTo(client *http.Client, url, contentType, body string) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	data, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return answer{}, err
	}
	a := answer{Status: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After"), Type: resp.Header.Get("Content-Type")}
	return a, json.Unmarshal(data, &struct {
		ID, State, Detail *string
		ReasonCode        *int
	}{&a.ID, &a.State, &a.Detail, &a.ReasonCode})
}

// tokenLike is a JSON Web Token, or its first two parts.
var tokenLike = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.`)

// checkNoSecrets searches what was printed or logged for the content of secret
// files and for tokens.
func checkNoSecrets(t *testing.T, text string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		for _, secret := range secretsIn(content) {
			if strings.Contains(text, secret) {
				t.Errorf("the content of %s shows in a log or an output", name)
				break
			}
		}
	}
	if m := tokenLike.FindString(text); m != "" {
		t.Errorf("a token shows in a log or an output: %s…", m)
	}
}

// secretsIn returns what must not show of a file: the lines of a private key, or
// a secret as a whole.
func secretsIn(content string) []string {
	block, _ := pem.Decode([]byte(content))
	if block == nil {
		return []string{strings.TrimSpace(content)}
	}
	if !strings.Contains(block.Type, "PRIVATE KEY") {
		return nil
	}
	var lines []string
	for line := range strings.Lines(content) {
		if line = strings.TrimSpace(line); len(line) >= 16 && !strings.HasPrefix(line, "-----") {
			lines = append(lines, line)
		}
	}
	return lines
}
