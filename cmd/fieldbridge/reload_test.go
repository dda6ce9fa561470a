package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fieldbridge/bridge/devbroker"
)

// rewrite replaces the gateway's configuration and has it read anew.
func (g *testGateway) rewrite(text string) error {
	g.t.Helper()
	if err := os.WriteFile(g.Path, []byte(complete(text)), 0o600); err != nil {
		g.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return g.gw.requestReload(ctx)
}

// reload is rewrite for a configuration without mistakes.
func (g *testGateway) reload(text string) {
	g.t.Helper()
	if err := g.rewrite(text); err != nil {
		g.t.Fatalf("reload: %v", err)
	}
	g.HTTP = g.gw.now().http.Addr().String()
}

func listed(id, connector string, more ...string) string {
	return fmt.Sprintf("[[device]]\nid = %q\nconnector = %q\n%s\n", id, connector, strings.Join(more, "\n"))
}

func webhookTo(url string) string { return fmt.Sprintf("[[device.downlink]]\nwebhook = %q", url) }

// TestReloadLeavesTheRestAlone: devices come and go, and no other session
// notices.
func TestReloadLeavesTheRestAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	base := listed("pump-1", "plant") + listed("app", "yard")
	g := startGateway(t, s.config("", "", base), s.Files)
	g.awaitUp()
	connects := len(s.Broker.Connects())
	g.reload(s.config("", "", base+listed("app-2", "yard")))
	if a := g.post("app-2", "", "text/plain", "x"); a.Status != http.StatusOK {
		t.Errorf("answer %+v for the device that came", a)
	}
	g.reload(s.config("", "", base+"\n# only a comment\n"))
	if a := g.post("app-2", "", "text/plain", "x"); a.Status != http.StatusNotFound {
		t.Errorf("answer %+v for the device that went", a)
	}
	for _, id := range []string{"pump-1", "app"} {
		if a := g.post(id, "", "text/plain", "x"); a.Status != http.StatusOK {
			t.Errorf("answer %+v for %s", a, id)
		}
	}
	if n := len(s.Broker.Connects()); n != connects {
		t.Errorf("%d CONNECTs, want the %d from before", n, connects)
	}
}

// TestReloadMovesDevices: between connectors, between ways to authenticate, away
// and back, with readings that wait.
func TestReloadMovesDevices(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	n := newNumbered()
	own, shared := listed("pump-1", "plant"), listed("pump-1", "yard")
	rest := listed("app", "yard")
	g := startGateway(t, "ack_timeout = \"300ms\"\n"+s.config("", "", own+rest), s.Files)
	g.awaitUp()
	post := func(count int) {
		t.Helper()
		for range count {
			payload := n.next("pump-1")
			if a := g.post("pump-1", "", "text/plain", payload); a.Status/100 != 2 {
				t.Fatalf("answer %+v", a)
			}
		}
	}
	post(3)
	g.reload("ack_timeout = \"300ms\"\n" + s.config("", "", shared+rest))
	post(3)
	if c := s.Broker.Connected("pump-1"); c {
		t.Error("the device's own session is still there")
	}
	s.Broker.Freeze() // now they wait
	post(3)
	g.reload("ack_timeout = \"300ms\"\n" + s.config("", "", rest))
	if a := g.post("pump-1", "", "text/plain", "x"); a.Status != http.StatusNotFound {
		t.Errorf("answer %+v while the device is away", a)
	}
	g.awaitSpooled(3)
	s.Broker.Thaw()
	g.reload("ack_timeout = \"300ms\"\n" + s.config("", "", own+rest))
	post(3)
	s.await("pump-1", 12)
	g.awaitEmpty()
	n.check(t, payloadsOf(s.messages("pump-1")), true)
}

// TestReloadWithMistakes changes nothing and says where the mistakes are.
func TestReloadWithMistakes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	base := listed("pump-1", "plant") + listed("app", "yard")
	g := startGateway(t, s.config("", "", base), s.Files)
	g.awaitUp()
	connects, before := len(s.Broker.Connects()), g.gw.now()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := os.WriteFile(filepath.Join(filepath.Dir(g.Path), "nokey.pem"), []byte("not a key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for _, c := range []struct{ name, text, want string }{
		{"syntax", "[[connector\n", "fieldbridge.toml:"},
		{"unknown key", s.config("", "", base+"colour = 3\n"), "colour"},
		{"no key file", s.config("", "", base+listed("pump-9", "plant")), "pump-9.pem"},
		{"not a key", s.config("", "", base+listed("nokey", "plant")), "nokey.pem"},
		{"port taken", s.config("", "", base+listed("app-2", "yard")) + fmt.Sprintf("[http]\nlisten = %q\n", taken.Addr()), taken.Addr().String()},
	} {
		if err := g.rewrite(c.text); err == nil {
			t.Errorf("%s: no error", c.name)
		} else if failed++; !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %q does not name %q", c.name, err, c.want)
		}
		if g.gw.now() != before {
			t.Fatalf("%s: something has changed", c.name)
		}
	}
	if got := strings.Count(g.Logs.String(), "not reloaded"); got < failed {
		t.Errorf("%d failures are in the log, want %d", got, failed)
	}
	for _, id := range []string{"pump-1", "app"} {
		if a := g.post(id, "", "text/plain", "x"); a.Status != http.StatusOK {
			t.Errorf("answer %+v for %s", a, id)
		}
	}
	if n := len(s.Broker.Connects()); n != connects {
		t.Errorf("%d CONNECTs, want the %d from before", n, connects)
	}
	m := g.scrape()
	if m[`config_reloads_total{outcome="failed"}`] != float64(failed) || m["config_last_reload_successful"] != 0 {
		t.Error("the metrics do not tell of the failures")
	}
	g.reload(s.config("", "", base))
	if m := g.scrape(); m[`config_reloads_total{outcome="ok"}`] != 1 || m["config_last_reload_successful"] != 1 {
		t.Error("the metrics do not tell of the success")
	}
}

// TestReloadOfDownlinks: subscriptions follow the routes, and what is stored for
// a target waits until it is back.
func TestReloadOfDownlinks(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	up := make(chan struct{})
	hook := newWebhook(t, func(c hookCall) int {
		select {
		case <-up:
			return http.StatusNoContent
		default:
			return http.StatusServiceUnavailable
		}
	})
	with := func(path string) string { return listed("app", "yard", webhookTo(hook.URL+path)) }
	g := startGateway(t, s.config("", "", with("/a")), s.Files)
	g.awaitUp()
	down := devbroker.Message{Connector: yardID, Device: "app", ContentType: "text/plain", Payload: []byte("1")}
	s.down(down)
	hook.want(hookCall{"/a", "text/plain", "app", "", "1"})
	g.reload(s.config("", "", listed("app", "yard")))
	g.awaitUp()
	if err := s.Broker.Publish(down); err == nil {
		t.Error("the session is still subscribed")
	}
	close(up)
	for len(hook.Calls) > 0 { // attempts from before
		<-hook.Calls
	}
	g.reload(s.config("", "", with("/a")))
	hook.want(hookCall{"/a", "text/plain", "app", "", "1"})
	g.awaitUp()
	connects := len(s.Broker.Connects())
	g.reload(s.config("", "", with("/b")))
	down.Payload = []byte("2")
	s.down(down)
	hook.want(hookCall{"/b", "text/plain", "app", "", "2"})
	if n := len(s.Broker.Connects()); n != connects {
		t.Errorf("%d CONNECTs for another webhook, want %d", n, connects)
	}
}

// TestReloadOfHTTP: another limit keeps the socket, another address opens one.
func TestReloadOfHTTP(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	text := s.config("", "", listed("app", "yard"))
	limit := func(n int) string {
		return text + fmt.Sprintf("[http]\nlisten = \"127.0.0.1:0\"\nmax_body = \"%dB\"\n", n)
	}
	g := startGateway(t, limit(4), s.Files)
	g.awaitUp()
	if a := g.post("app", "", "text/plain", "12345"); a.Status != http.StatusRequestEntityTooLarge {
		t.Errorf("answer %+v", a)
	}
	before := g.HTTP
	g.reload(limit(5))
	g.client.CloseIdleConnections()
	if a := g.post("app", "", "text/plain", "12345"); a.Status != http.StatusOK || g.HTTP != before {
		t.Errorf("answer %+v at %s, was %s", a, g.HTTP, before)
	}
	next := freeAddr(t)
	g.reload(text + fmt.Sprintf("[http]\nlisten = %q\n", next))
	if a := g.post("app", "", "text/plain", "x"); a.Status != http.StatusOK || g.HTTP != next {
		t.Errorf("answer %+v at %s, want %s", a, g.HTTP, next)
	}
	eventually(t, "the old address is closed", func() bool {
		c, err := net.Dial("tcp", before)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
}

// TestReloadOfPorts opens those anew that have changed, and no other.
func TestReloadOfPorts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	one, two := openPTY(t), openPTY(t)
	text := s.config("", "", listed("app", "yard", "[[device.downlink]]", `serial = "two"`))
	port := func(name, path, more string) string {
		return fmt.Sprintf("[[serial]]\nname = %q\nport = %q\ndevice = \"app\"\n%s\n", name, path, more)
	}
	g := startGateway(t, text+port("one", one.Path, "")+port("two", two.Path, ""), s.Files)
	g.awaitUp()
	g.reload(text + port("one", one.Path, "") + port("two", two.Path, "delimiter = \";\""))
	g.awaitUp()
	one.write("from one\n")
	two.write("from two;")
	s.awaitPayload("from one")
	s.awaitPayload("from two")
	s.down(devbroker.Message{Connector: yardID, Device: "app", ContentType: "text/plain", Payload: []byte("go")})
	if opens := g.gw.now().ports["one"].Stats().Opens; opens != 1 {
		t.Errorf("the port that has not changed was opened %d times", opens)
	}
	eventually(t, "the downlink at the port that was opened anew", func() bool { return g.gw.now().ports["two"].Stats().Delivered == 1 })
	// Two that change places, and one that goes.
	g.reload(text + port("one", two.Path, "") + port("two", one.Path, ""))
	g.awaitUp()
	two.write("other one\n")
	s.awaitPayload("other one")
	g.reload(s.config("", "", listed("app", "yard")+port("two", one.Path, "")))
	one.write("the last\n")
	s.awaitPayload("the last")
}

// TestReloadOfSettings: what only has to be set is set, and what cannot change is
// named.
func TestReloadOfSettings(t *testing.T) {
	t.Parallel()
	s, _ := newLateSite(t)
	text := s.yardConfig(oneDevice)
	g := startGateway(t, text, s.Files)
	// A reading in the spool and a limit below two.
	expectStored(t, g.post("app", "", "text/plain", strings.Repeat("x", 1<<10)))
	g.reload("state_dir = \"elsewhere\"\n" + text + "[spool]\nmin_free = \"1MiB\"\nmax_bytes_per_device = \"64KiB\"\n[clock]\nrequire_sync = true\n")
	for _, key := range []string{"state_dir", "clock.require_sync"} {
		if !strings.Contains(g.Logs.String(), "key="+key) {
			t.Errorf("the log does not say that %s keeps its value", key)
		}
	}
	eventually(t, "the limit", func() bool {
		return g.post("app", "", "text/plain", strings.Repeat("x", 60<<10)).Status == http.StatusInsufficientStorage
	})
}
