package main

import (
	"bufio"
	"encoding/base64"
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

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"fieldbridge/bridge/devbroker"
)

// TestWebhookSecretIsReplaced lists a second secret, then drops the first one, by
// two reloads, while downlinks come.
func TestWebhookSecretIsReplaced(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	type sent struct {
		header http.Header
		body   []byte
	}
	got := make(chan sent, 16)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- sent{r.Header, body}
	}))
	t.Cleanup(hook.Close)
	secret := func(c string) string {
		return "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(c, 32)))
	}
	a, b := secret("a"), secret("b")
	s.Files["hook.secret"] = a + "\n"
	text := s.config("", "", fmt.Sprintf("[[device]]\nid = \"app\"\nconnector = \"yard\"\n[[device.downlink]]\nwebhook = %q\nsecret_file = \"hook.secret\"\n", hook.URL))
	g := startGateway(t, text, s.Files)
	for i, c := range []struct{ content, good, bad string }{{a, a, b}, {a + "\n" + b, a, secret("c")}, {a + "\n" + b, b, secret("c")}, {b, b, a}} {
		if i > 0 {
			if err := os.WriteFile(filepath.Join(filepath.Dir(g.Path), "hook.secret"), []byte(c.content+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			g.reload(text)
		}
		s.down(devbroker.Message{Connector: yardID, Device: "app", Payload: fmt.Append(nil, i)})
		var r sent
		select {
		case r = <-got:
		case <-time.After(patience):
			t.Fatal("the webhook was not called")
		}
		for secret, want := range map[string]bool{c.good: true, c.bad: false} {
			witness, err := standardwebhooks.NewWebhook(secret)
			if err != nil {
				t.Fatal(err)
			}
			if err := witness.Verify(r.body, r.header); (err == nil) != want {
				t.Errorf("step %d, want %v: %v", i, want, err)
			}
		}
		if string(r.body) != fmt.Sprint(i) {
			t.Errorf("step %d: body %q", i, r.body)
		}
	}
}

// TestWebhookReceivers: one of many receivers misbehaves in each way there is; the
// good one has all of its downlinks, in order, meanwhile, and each of the others
// ends as it should.
func TestWebhookReceivers(t *testing.T) {
	t.Parallel()
	b := mosqStart(t, mosqOptions{})
	speaking := func(text string, endless string) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_ = c.SetDeadline(time.Now().Add(patience))
					_, _ = http.ReadRequest(bufio.NewReader(c))
					_, err := io.WriteString(c, text)
					for err == nil && endless != "" {
						_, err = io.WriteString(c, endless)
					}
				}()
			}
		}()
		return "http://" + l.Addr().String()
	}
	tlsServer := httptest.NewTLSServer(http.NotFoundHandler())
	tlsServer.Config.ErrorLog = nil
	t.Cleanup(tlsServer.Close)
	hanging := make(chan struct{})
	hang := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hanging:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(hang.Close)
	t.Cleanup(func() { close(hanging) })
	receivers := []struct {
		name, url string
		dead      bool
		reason    string
	}{
		{"hangs", hang.URL, true, "expired"},
		{"refuses", "http://" + freeAddr(t), true, "connection refused"},
		{"closes mid-answer", speaking("HTTP/1.1 200 OK\r\nContent-Le", ""), true, "expired"},
		{"redirects", speaking("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", ""), true, "redirects are not followed"},
		{"says no", speaking("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", ""), true, "403"},
		{"asks for patience", speaking("HTTP/1.1 503 Busy\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n", ""), true, "503"},
		{"has another CA", tlsServer.URL, true, "certificate"},
		{"lies about its length", speaking("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", ""), false, ""},
		{"answers for ever", speaking("HTTP/1.1 200 OK\r\n\r\n", strings.Repeat("x", 1<<10)), false, ""},
	}
	good := newWebhook(t, nil)
	rest := fmt.Sprintf("[[device.downlink]]\nwebhook = %q\n", good.URL)
	for _, r := range receivers {
		rest += fmt.Sprintf("[[device.downlink]]\nwebhook = %q\n", r.url)
	}
	g := startGateway(t, fmt.Sprintf(mosqJWTConfig, b.addr)+rest, map[string]string{"pump-1.pem": mosqKey(t)})
	g.awaitUp()
	for i := range 5 {
		b.publish("/down/device/id/pump-1", fmt.Sprint(i), "-D", "publish", "message-expiry-interval", "4")
	}
	began := time.Now()
	for i := range 5 {
		if c := good.next(); c.Body != fmt.Sprint(i) {
			t.Errorf("downlink %d is %q", i, c.Body)
		}
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the good receiver had to wait for %s", took)
	}
	want := 0
	for _, r := range receivers {
		if r.dead {
			want += 5
		}
	}
	eventually(t, "all have been given up or delivered", func() bool {
		st := g.gw.spool.Stats()
		return st.Downlinks == 0 && st.DeadDownlinks == int64(want)
	})
	log := g.Logs.String()
	for _, r := range receivers {
		target := webhookName(r.url)
		buried, reasoned := 0, false
		for line := range strings.Lines(log) {
			if strings.Contains(line, "now a dead letter") && strings.Contains(line, target) {
				buried++
				reasoned = reasoned || strings.Contains(line, r.reason)
			}
		}
		if r.dead && (buried != 5 || !reasoned) || !r.dead && buried != 0 {
			t.Errorf("%s: %d dead letters, with its reason: %v", r.name, buried, reasoned)
		}
	}
}
