package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
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
	"fieldbridge/bridge/spool"
)

// daemonVariable makes this test's binary the program itself, so that tests can
// kill it.
const daemonVariable = "FIELDBRIDGE_TEST_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(daemonVariable) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

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
	// Path is its configuration's.
	Path string
	// HTTP is the host:port of its endpoint.
	HTTP string
	// Logs is everything it logs, from level DEBUG on.
	Logs *logBuffer

	t      *testing.T
	files  map[string]string // of its configuration
	gw     *gateway
	client *http.Client
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned
	err    error         // what it returned
}

// startGateway runs a gateway with this configuration until stop, or the test's
// end. A free port is listened on unless the text says otherwise, ack_timeout is
// long, so that a slow machine fails no test, and the state is beside the
// configuration. Relative names in the configuration are those of files: name to
// content.
//
// At its end every log line is searched for what is in those files (but public
// keys and certificates) and for anything like a token.
func startGateway(t *testing.T, configText string, files map[string]string) *testGateway {
	t.Helper()
	return runGateway(t, writeConfig(t, complete(configText), files), files)
}

// complete adds what nearly every test wants to a configuration.
func complete(text string) string {
	if !strings.Contains(text, "ack_timeout") {
		text = "ack_timeout = \"30s\"\n" + text
	}
	if !strings.Contains(text, "state_dir") {
		text = "state_dir = \"state\"\n" + text
	}
	if !strings.Contains(text, "[spool]") {
		text += "\n[spool]\nmin_free = \"1MiB\"\n"
	}
	if !strings.Contains(text, "[http]") {
		text += "\n[http]\nlisten = \"127.0.0.1:0\"\n"
	}
	return text
}

// runGateway is startGateway for a configuration that is written already, which
// another gateway may have run with.
func runGateway(t *testing.T, path string, files map[string]string) *testGateway {
	t.Helper()
	return runPrepared(t, path, files, func(*gateway) {})
}

// runPrepared is runGateway for a gateway that is changed before it runs.
func runPrepared(t *testing.T, path string, files map[string]string, prepare func(*gateway)) *testGateway {
	t.Helper()
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	g := &testGateway{
		Path: path, t: t, files: files, Logs: &logBuffer{}, done: make(chan struct{}),
		client: newCheckedClient(t),
	}
	g.gw, err = newGateway(cfg, slog.New(slog.NewTextHandler(g.Logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	prepare(g.gw)
	g.HTTP = g.gw.now().http.Addr().String()
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

// restart stops the gateway and runs another one with the same configuration and
// state.
func (g *testGateway) restart() *testGateway {
	g.t.Helper()
	g.stop()
	return runGateway(g.t, g.Path, g.files)
}

// state is the gateway's state directory.
func (g *testGateway) state() string { return filepath.Join(filepath.Dir(g.Path), "state") }

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
		for _, s := range g.gw.now().sessions {
			if !s.State().Up {
				return false
			}
		}
		return true
	})
}

// awaitSessions waits until so many sessions are up.
func (g *testGateway) awaitSessions(count int) {
	g.t.Helper()
	eventually(g.t, fmt.Sprintf("%d sessions up", count), func() bool {
		up := 0
		for _, s := range g.gw.now().sessions {
			if s.State().Up {
				up++
			}
		}
		return up == count
	})
}

// awaitPorts waits until all serial ports are open.
func (g *testGateway) awaitPorts() {
	g.t.Helper()
	eventually(g.t, "all serial ports open", func() bool {
		for _, p := range g.gw.now().ports {
			if !p.Stats().Up {
				return false
			}
		}
		return true
	})
}

// awaitSpooled waits until the spool holds so many readings.
func (g *testGateway) awaitSpooled(readings int) {
	g.t.Helper()
	eventually(g.t, fmt.Sprintf("%d readings in the spool", readings), func() bool {
		return g.gw.spool.Stats().Readings == int64(readings)
	})
}

// awaitEmpty waits until no reading is in memory or in the spool.
func (g *testGateway) awaitEmpty() {
	g.t.Helper()
	eventually(g.t, "no reading to wait", func() bool {
		return g.gw.bridge.Held() == 0 && g.gw.spool.Stats().Readings == 0
	})
}

// deadReadings are the payloads of the dead letters that were readings, and the
// reason codes they died of.
func (g *testGateway) deadReadings() map[string]byte {
	g.t.Helper()
	letters, err := g.gw.spool.DeadLetters(0, 1000)
	if err != nil {
		g.t.Fatal(err)
	}
	dead := map[string]byte{}
	for _, l := range letters {
		if l.Kind == spool.KindReading {
			dead[string(l.Reading.Payload)] = l.Code
		}
	}
	return dead
}

// answer is what the HTTP endpoint says.
type answer struct {
	Status     int
	RetryAfter string
	Type       string // Content-Type
	ID         string // of a 2xx
	State      string // of a 2xx
	Applied    string // Preference-Applied
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
	return postWith(client, url, http.Header{"Content-Type": {contentType}}, body)
}

// postWith is postTo with any headers; empty ones are left out.
func postWith(client *http.Client, url string, header http.Header, body string) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for name := range header {
		if value := header.Get(name); value != "" {
			req.Header.Set(name, value)
		}
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
	a := answer{
		Status: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After"), Type: resp.Header.Get("Content-Type"),
		Applied: resp.Header.Get("Preference-Applied"),
	}
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
