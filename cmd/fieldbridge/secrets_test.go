package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"fieldbridge/adapters/rest"
	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
	"fieldbridge/bridge/devbroker"
)

// put replaces a file of the configuration, as an editor does: by its name.
func (g *testGateway) put(name, content string, mode os.FileMode) {
	g.t.Helper()
	path := filepath.Join(filepath.Dir(g.Path), name)
	if err := os.WriteFile(path+".new", []byte(content), mode); err != nil {
		g.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		g.t.Fatal(err)
	}
}

// statusWith posts a reading with a token.
func (g *testGateway) statusWith(token string) int {
	g.t.Helper()
	return g.with(http.Header{"Content-Type": {"text/plain"}, "Authorization": {"Bearer " + token}}, "x").Status
}

func (g *testGateway) awaitLog(text string, count int) {
	g.t.Helper()
	eventually(g.t, fmt.Sprintf("%q in the log %d times", text, count), func() bool { return strings.Count(g.Logs.String(), text) >= count })
}

// TestTokenFileIsFollowed: a token gives way to the next without a reload, a file
// of no use changes nothing, and a reload finds what is in use.
func TestTokenFileIsFollowed(t *testing.T) {
	t.Parallel()
	const app, next, last, watcher = "app-0123456789abcdef", "next-0123456789abcdef", "last-0123456789abcdef", "watcher-0123456789abcdef"
	s := newSite(t)
	s.Files["app.token"], s.Files["watcher.token"] = app+"\n", watcher+"\n"
	text := s.config("", "", listed("app", "yard")) + `
[http]
listen = "127.0.0.1:0"
[[http.token]]
name = "app"
token_file = "app.token"
devices = ["*"]
[[http.token]]
name = "watcher"
token_file = "watcher.token"
devices = ["*"]
`
	g := startGateway(t, text, s.Files)
	defer func() {
		checkNoSecrets(t, g.Logs.String(), map[string]string{"next": next, "last": last})
	}()
	g.awaitUp()
	w := g.watchEvents(watcher)
	server := g.gw.now().http
	accepted := func(token string) func() bool { return func() bool { return g.statusWith(token) == http.StatusOK } }
	if !accepted(app)() || g.statusWith(next) != http.StatusUnauthorized {
		t.Fatal("the tokens at the start")
	}
	g.put("app.token", app+"\n"+next+"\n", 0o600)
	eventually(t, "the next token", accepted(next))
	if !accepted(app)() {
		t.Error("the first token is not valid beside the next")
	}
	g.put("app.token", next+"\n", 0o600)
	eventually(t, "the end of the first token", func() bool { return g.statusWith(app) == http.StatusUnauthorized })

	const bad, mended = "is of no use", "in order again"
	for i, change := range []func(){
		func() { g.put("app.token", last+"\n", 0o644) },
		func() { g.put("app.token", watcher+"\n", 0o600) },
	} {
		change()
		g.awaitLog(bad, i+1)
		if !accepted(next)() || g.statusWith(last) != http.StatusUnauthorized {
			t.Errorf("file %d changed something", i)
		}
		if err := g.rewrite(text); err == nil || !accepted(next)() {
			t.Errorf("file %d: a reload takes it (%v) or forgets what was in use", i, err)
		}
		g.put("app.token", next+"\n", 0o600)
		g.awaitLog(mended, i+1)
	}
	g.reload(text)
	if !accepted(next)() || g.statusWith(app) != http.StatusUnauthorized {
		t.Error("a reload goes back to older tokens")
	}
	g.put("app.token", last+"\n", 0o600)
	g.reload(text) // it may come before the look
	if !accepted(last)() || g.statusWith(next) != http.StatusUnauthorized {
		t.Error("a reload does not take what is in the file")
	}
	g.put("app.token", next+"\n", 0o600) // and following goes on
	eventually(t, "the token after a reload", accepted(next))
	if g.gw.now().http != server {
		t.Error("there is another HTTP server")
	}
	w.await(rest.Event{Kind: rest.ReadingAccepted, Device: "app", ID: "some", ContentType: "text/plain", Bytes: new(1), Adapter: adapterHTTP})
	if w.isOver() {
		t.Error("the stream of another token has ended")
	}
	if n := strings.Count(g.Logs.String(), bad); n != 2 {
		t.Errorf("%d lines say that a file is of no use, want one for each of 2", n)
	}
}

// TestWebhookSecretIsFollowed without a reload, between attempts to deliver one
// downlink.
func TestWebhookSecretIsFollowed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	secret := func(c string) string {
		return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(c, 32)))
	}
	verifies := func(secret string, h http.Header, body []byte) bool {
		witness, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Error(err)
			return false
		}
		return witness.Verify(body, h) == nil
	}
	a, b := secret("a"), secret("b")
	seen := make(chan string, 1024)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		who := ""
		for name, secret := range map[string]string{"a": a, "b": b} {
			if verifies(secret, r.Header, body) {
				who += name
			}
		}
		select {
		case seen <- who:
		default:
		}
		if who != "b" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(hook.Close)
	s.Files["hook.secret"] = a + "\n"
	text := s.config("", "", fmt.Sprintf("[[device]]\nid = \"app\"\nconnector = \"yard\"\n[[device.downlink]]\nwebhook = %q\nsecret_file = \"hook.secret\"\n", hook.URL))
	g := startGateway(t, text, s.Files)
	target := g.gw.now().hooks[hook.URL]
	await := func(who string) {
		t.Helper()
		for over := time.After(patience); ; {
			select {
			case got := <-seen:
				if got == who {
					return
				}
			case <-over:
				t.Fatalf("nothing signed with %q", who)
			}
		}
	}
	s.down(devbroker.Message{Connector: yardID, Device: "app", Payload: []byte("1")})
	await("a")
	g.put("hook.secret", "whsec_short\n", 0o600)
	g.awaitLog("is of no use", 1)
	await("a")
	g.put("hook.secret", b+"\n", 0o600)
	await("b") // and delivered
	g.reload(text)
	s.down(devbroker.Message{Connector: yardID, Device: "app", Payload: []byte("2")})
	await("b")
	if g.gw.now().hooks[hook.URL] != target {
		t.Error("the webhook was made anew")
	}
	if strings.Contains(g.Logs.String(), "whsec_short") || strings.Contains(g.Logs.String(), b) {
		t.Error("the log shows a secret")
	}
}

// TestSecretFileLooks: a file is read when it has not changed since the look
// before, and what is wrong with it is said once.
func TestSecretFileLooks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log logBuffer
	const one, two = "one-0123456789abcdef", "two-0123456789abcdef"
	f := &secretFile{path: path, read: config.ReadTokens, secrets: []bridge.Secret{bridge.NewSecret(one)}, log: slog.New(slog.NewTextHandler(&log, nil))}
	look := func(when string, want bool, lines int) {
		t.Helper()
		fresh, ok := f.look()
		if ok {
			ok = f.take(fresh)
		}
		if got := strings.Count(log.String(), "\n"); ok != want || got != lines {
			t.Errorf("%s: new content %v, %d lines, want %v, %d:\n%s", when, ok, got, want, lines, log.String())
		}
	}
	write(one)
	look("it is there", false, 0)
	look("it has not changed", false, 0)
	write(two[:18]) // somebody writes
	look("half written", false, 0)
	write(two)
	look("just written", false, 0)
	look("written", true, 1)
	look("then", false, 1)
	write("short")
	look("just spoilt", false, 1)
	look("spoilt", false, 2)
	look("still", false, 2)
	write(two)
	look("just mended", false, 2)
	look("mended", false, 3)
	look("then", false, 3)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	look("just gone", false, 3)
	look("gone", false, 4)
	write(one)
	look("just back", false, 4)
	look("back with another", true, 5)
}

// TestTokensOfTwoFiles: no two blocks ever have the same token.
func TestTokensOfTwoFiles(t *testing.T) {
	for _, c := range []struct {
		name  string
		used  [3]string
		fresh map[int]string
		want  map[int]string
	}{
		{"all new", [3]string{"a", "b", "c"}, map[int]string{0: "x", 1: "y", 2: "z"}, map[int]string{0: "x", 1: "y", 2: "z"}},
		{"taken", [3]string{"a", "b", "c"}, map[int]string{0: "b"}, map[int]string{}},
		{"moved on", [3]string{"a", "b", "c"}, map[int]string{0: "b", 1: "x"}, map[int]string{0: "b", 1: "x"}},
		{"changed places", [3]string{"a", "b", "c"}, map[int]string{0: "b", 1: "a"}, map[int]string{0: "b", 1: "a"}},
		{"two want one", [3]string{"a", "b", "c"}, map[int]string{0: "x", 2: "x"}, map[int]string{0: "x"}},
		{"one after the other", [3]string{"a", "b", "c"}, map[int]string{0: "b", 1: "c"}, map[int]string{}},
	} {
		s := &secretFollower{}
		secret := func(text string) []bridge.Secret { return []bridge.Secret{bridge.NewSecret(text)} }
		for _, u := range c.used {
			s.tokens = append(s.tokens, config.HTTPToken{Name: "of " + u})
			s.of = append(s.of, secretFile{path: u, secrets: secret(u)})
		}
		fresh := map[int][]bridge.Secret{}
		for i, text := range c.fresh {
			fresh[i] = secret(text)
		}
		refused := s.settle(fresh)
		if len(fresh) != len(c.want) || len(fresh)+len(refused) != len(c.fresh) {
			t.Errorf("%s: %d taken, %v refused", c.name, len(fresh), refused)
		}
		var all []string
		for i := range s.of {
			text := c.used[i]
			if fresh[i] != nil {
				text = fresh[i][0].Reveal()
			}
			if want, ok := c.want[i]; ok && want != text {
				t.Errorf("%s: block %d has %q, want %q", c.name, i, text, want)
			}
			if slices.Contains(all, text) {
				t.Errorf("%s: %q is there twice", c.name, text)
			}
			all = append(all, text)
		}
	}
}
