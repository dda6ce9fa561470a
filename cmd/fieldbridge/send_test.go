package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"fieldbridge/bridge/devbroker"
)

// cliReading is cli with a standard input.
func cliReading(stdin io.Reader, args ...string) (code int, stdout, stderr string) {
	var out bytes.Buffer
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(&out)
	err := root.Execute()
	if err != nil {
		stderr = err.Error()
	}
	return exitCode(err), out.String(), stderr
}

// send runs the command with this standard input.
func (g *testGateway) send(stdin string, args ...string) (code int, stdout, stderr string) {
	g.t.Helper()
	code, stdout, stderr = cliReading(strings.NewReader(stdin), append([]string{"send", "--address", g.HTTP}, args...)...)
	checkNoSecrets(g.t, stdout+stderr, g.files)
	return code, stdout, stderr
}

// wantSent checks that a command line gave a receipt, and nothing else.
func wantSent(t *testing.T, state string, code int, stdout, stderr string) {
	t.Helper()
	id, rest, _ := strings.Cut(stdout, " ")
	if code != 0 || uuid.Validate(id) != nil || rest != state+"\n" || stderr != "" {
		t.Errorf("exit code %d, stdout %q, stderr %q, want an id and %q", code, stdout, stderr, state)
	}
}

func wantRefused(t *testing.T, want, code int, stdout, stderr string, parts ...string) {
	t.Helper()
	if code != want || stdout != "" {
		t.Errorf("exit code %d, stdout %q, want %d", code, stdout, want)
	}
	for _, p := range parts {
		if !strings.Contains(stderr, p) {
			t.Errorf("stderr %q does not say %q", stderr, p)
		}
	}
}

func TestSend(t *testing.T) {
	s := newSite(t)
	g := startGateway(t, s.config("", "user_properties = true", devicesText), s.Files)
	g.awaitUp()
	file := filepath.Join(t.TempDir(), "reading")
	if err := os.WriteFile(file, []byte("<t>1</t>"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		payload, sub, contentType string // as the broker gets them
		args                      []string
	}{
		{`{"t":21.5}`, "", "application/json", []string{"-"}},
		{"21.5 °C\n", "", "text/plain", []string{"-"}},
		{"\x00\xff", "a/b c/d?e%", "application/octet-stream", []string{"--subtopic", "a/b c/d?e%", "-"}},
		{"1", "", "text/csv; charset=utf-8", []string{"--content-type", "text/csv;charset=utf-8", "-"}},
		{"<t>1</t>", "x", "application/xml", []string{"--content-type", "application/xml", "--subtopic", "x", file}},
	} {
		code, stdout, stderr := g.send(c.payload, append([]string{"--device", "app"}, c.args...)...)
		wantSent(t, "delivered", code, stdout, stderr)
		s.awaitPayload(c.payload)
		all := s.messages("app")
		m := all[len(all)-1]
		if m.ContentType != c.contentType || m.Topic != topicOf("app", c.sub) {
			t.Errorf("%q came as %q on %q", c.payload, m.ContentType, m.Topic)
		}
	}
	code, stdout, stderr := g.send(`"late"`, "--device", "app", "--timestamp", "2026-01-31T12:00:00.5+01:00", "-")
	wantSent(t, "delivered", code, stdout, stderr)
	all := s.messages("app")
	if text := fmt.Sprint(all[len(all)-1]); !strings.Contains(text, "2026-01-31T11:00:00.5") || !strings.Contains(text, strings.Fields(stdout)[0]) {
		t.Errorf("the time or the id is not in %s", text)
	}
}

func TestSendIsRefused(t *testing.T) {
	s := newSite(t)
	s.Broker.RefusePublishes(func(m devbroker.Message) byte {
		if string(m.Payload) == "bad" {
			return 0x99
		}
		return 0
	})
	g := startGateway(t, s.config("", "", devicesText), s.Files)
	g.awaitUp()
	for _, c := range []struct {
		name, stdin string
		args        []string
		code        int
		want        string
	}{
		{"unknown device", "1", []string{"--device", "nobody", "-"}, 1, "(404 Not Found): unknown device: \"nobody\"; add a [[device]] block"},
		{"by the broker", "bad", []string{"--device", "app", "-"}, 1, "payload does not fit its content type"},
		{"too large for the daemon", strings.Repeat("x", 2<<20), []string{"--device", "app", "-"}, 1, "(413 Request Entity Too Large): the body is larger than 262144 bytes"},
		{"not JSON", "{", []string{"--device", "app", "--content-type", "application/json", "-"}, 1, "(400 Bad Request): the body is not one JSON value"},
		{"empty", "", []string{"--device", "app", "-"}, 1, "the standard input is empty"},
		{"no file", "", []string{"--device", "app", "/nonexistent"}, 2, "/nonexistent: no such file"},
		{"a directory", "", []string{"--device", "app", "/"}, 2, "is a directory"},
		{"no argument", "1", []string{"--device", "app"}, 2, "takes one file, or - for the standard input"},
		{"no device", "1", []string{"-"}, 2, `required flag(s) "device" not set`},
		{"bad device", "1", []string{"--device", "a/b", "-"}, 2, "--device: "},
		{"bad sub topic", "1", []string{"--device", "app", "--subtopic", "a//b", "-"}, 2, "--subtopic: "},
		{"bad content type", "1", []string{"--device", "app", "--content-type", "image/png", "-"}, 2, "--content-type: "},
		{"bad time", "1", []string{"--device", "app", "--timestamp", "yesterday", "-"}, 2, "--timestamp: \"yesterday\" is not ISO 8601"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := g.send(c.stdin, c.args...)
			wantRefused(t, c.code, code, stdout, stderr, c.want)
		})
	}
	if n := len(s.messages("app")); n != 0 {
		t.Errorf("%d readings arrived", n)
	}
}

const (
	hallToken   = "hall-0123456789abcdef"
	readerToken = "reader-0123456789abcdef"
	pumpToken   = "pump-0123456789abcdef"
)

// TestSendFromTheConfiguration is the way that an operator goes: the command
// finds the daemon, a token that fits, and the largest payload.
func TestSendFromTheConfiguration(t *testing.T) {
	s := newSite(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	s.Files["reader"], s.Files["pump"], s.Files["hall"] = readerToken, pumpToken, hallToken
	g := startGateway(t, s.config("", "", devicesText)+fmt.Sprintf(`
[http]
listen = %q
max_body = "1KiB"
[[http.token]]
name = "reader"
token_file = "reader"
devices = ["*"]
directions = ["read"]
[[http.token]]
name = "pump"
token_file = "pump"
devices = ["pump-*"]
directions = ["uplink"]
`, address), s.Files)
	g.awaitSessions(3)
	beside := func(name string) string { return filepath.Join(filepath.Dir(g.Path), name) }
	send := func(stdin string, args ...string) (int, string, string) {
		code, stdout, stderr := cliReading(strings.NewReader(stdin), append([]string{"send", "--config", g.Path}, args...)...)
		checkNoSecrets(t, stdout+stderr, s.Files)
		return code, stdout, stderr
	}
	code, stdout, stderr := send("1", "--device", "pump-1", "-")
	wantSent(t, "delivered", code, stdout, stderr)
	code, stdout, stderr = cliReading(strings.NewReader("1"), "send", "--address", address, "--token-file", beside("pump"), "--device", "pump-2", "-")
	wantSent(t, "delivered", code, stdout, stderr)

	code, stdout, stderr = send("1", "--device", "app", "-")
	wantRefused(t, 2, code, stdout, stderr, `no [[http.token]] of `+g.Path+` may send readings of "app"`, "--token-file")
	code, stdout, stderr = send("1", "--device", "app", "--token-file", beside("pump"), "-")
	wantRefused(t, 1, code, stdout, stderr, "(403 Forbidden): this token is not for this device", "give a token with --token-file")
	code, stdout, stderr = send("1", "--device", "pump-1", "--token-file", beside("reader"), "-")
	wantRefused(t, 1, code, stdout, stderr, "(403 Forbidden): this token is not for uplink")
	code, stdout, stderr = send("1", "--device", "pump-1", "--token-file", beside("hall"), "-")
	wantRefused(t, 1, code, stdout, stderr, "(401 Unauthorized): the token is not one of this gateway's")
	code, stdout, stderr = g.send("1", "--device", "pump-1", "-")
	wantRefused(t, 1, code, stdout, stderr, "(401 Unauthorized): a token is needed")
	code, stdout, stderr = send(strings.Repeat("x", 1025), "--device", "pump-1", "-")
	wantRefused(t, 1, code, stdout, stderr, "the standard input has more than 1024 bytes; send less at a time, or raise http.max_body")
	code, stdout, stderr = send(strings.Repeat("x", 1024), "--device", "pump-1", "-")
	wantSent(t, "delivered", code, stdout, stderr)

	g.stop()
	code, stdout, stderr = send("1", "--device", "pump-1", "-")
	wantRefused(t, 1, code, stdout, stderr, "no daemon answers at "+address, "systemctl status fieldbridge")
	if strings.Contains(stderr, "may arrive twice") {
		t.Errorf("nobody can have got it: %s", stderr)
	}
}

func TestSendWhileTheBrokerIsDown(t *testing.T) {
	t.Parallel()
	s := newDarkSite(t)
	var listen func() net.Listener
	s.Addr, listen = reservedAddr(t)
	g := startGateway(t, s.config("", "", devicesText), s.Files)
	code, stdout, stderr := g.send("x", "--device", "app", "-")
	wantSent(t, "stored", code, stdout, stderr)
	s.serve(listen(), func(c net.Conn) net.Conn { return c })
	s.awaitPayload("x")
}

// TestTokenFilesOfTheCommandLine are as safe as those of the configuration.
func TestTokenFilesOfTheCommandLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for _, c := range []struct {
		name, content string
		mode          os.FileMode
		want          string
	}{
		{"open to others", hallToken, 0o644, "can be read or changed by other users (mode 0644) (run: chmod 600 "},
		{"large", strings.Repeat("x\n", 64<<10), 0o600, "is larger than 64KiB"},
		{"no token", "two words, and more", 0o600, "line 1 of " + path + " is not a token"},
		{"empty", "\n", 0o600, "is empty"},
	} {
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		for _, command := range [][]string{{"status"}, {"send", "--device", "d", "-"}} {
			code, stdout, stderr := cli(append(command, "--address", "127.0.0.1:1", "--token-file", path)...)
			wantRefused(t, 2, code, stdout, stderr, "--token-file: ", c.want)
			if strings.Contains(stderr, "words") || strings.Contains(stderr, hallToken) {
				t.Errorf("%s: the content shows: %s", c.name, stderr)
			}
		}
	}
}

// TestSendToSomethingElse: what answers is not the daemon.
func TestSendToSomethingElse(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"404":     {http.NotFound, "answered with 404 Not Found; is another program"},
		"page":    {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, "the answer is not a receipt"},
		"JSON":    {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }, "the answer is not a receipt"},
		"cut off": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "it may arrive twice"},
		"problem": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"detail":"\u001b[31mno"}`)
		}, `(503 Service Unavailable): "\x1b[31mno" (Retry-After: 7 seconds)`},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(c.answer)
			defer srv.Close()
			code, stdout, stderr := cliReading(strings.NewReader("1"), "send", "--address", strings.TrimPrefix(srv.URL, "http://"), "--device", "d", "-")
			wantRefused(t, 1, code, stdout, stderr, c.want)
		})
	}
}

// TestSendEndsWhenItIsTold, though its input does not.
func TestSendEndsWhenItIsTold(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := readPayload(ctx, "-", r, 10); err == nil || !strings.Contains(err.Error(), "had not ended") {
		t.Errorf("error %v", err)
	}
}
