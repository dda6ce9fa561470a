package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"fieldbridge/adapters/rest"
	"fieldbridge/bridge/clock"
	"fieldbridge/bridge/devbroker"
)

// get asks the endpoint and returns the status code and the body, into which
// into is decoded.
func (g *testGateway) get(path string, into any) int {
	g.t.Helper()
	resp, err := g.client.Get("http://" + g.HTTP + path)
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, private := range []string{yardSecret, "/up/", "/down/", "BEGIN"} {
		if strings.Contains(string(body), private) {
			g.t.Errorf("GET %s shows %s", path, private)
		}
	}
	checkNoSecrets(g.t, string(body), g.files)
	if err := json.Unmarshal(body, into); err != nil {
		g.t.Fatalf("GET %s: %s: %v", path, body, err)
	}
	return resp.StatusCode
}

// status runs the command and returns what it prints.
func (g *testGateway) status() string {
	g.t.Helper()
	code, stdout, stderr := cli("status", "--address", g.HTTP)
	if code != 0 || stderr != "" {
		g.t.Fatalf("status: exit code %d: %s", code, stderr)
	}
	checkNoSecrets(g.t, stdout, g.files)
	g.get("/v1/status", &statusDocument{}) // which also looks whether it is as documented
	for line := range strings.Lines(stdout) {
		if !strings.HasPrefix(line, "  ") && !strings.HasPrefix(line, "clock:") && len([]rune(line)) > 121 {
			g.t.Errorf("a line of %d characters: %s", len([]rune(line)), line)
		}
	}
	return stdout
}

// awaitStatus waits until the command prints all of this.
func (g *testGateway) awaitStatus(parts ...string) {
	g.t.Helper()
	last := ""
	defer func() {
		if g.t.Failed() {
			g.t.Logf("status:\n%s", last)
		}
	}()
	for _, p := range parts {
		eventually(g.t, "status says "+p, func() bool {
			last = g.status()
			return strings.Contains(strings.Join(strings.Fields(last), " "), p)
		})
	}
}

func TestStatusOfARunningGateway(t *testing.T) {
	s := newSite(t)
	port := openPTY(t)
	g := startGateway(t, s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	g.awaitUp()
	port.write("21.5\n\xff\xfe\n")
	s.awaitPayload("21.5")
	g.awaitStatus(
		"plant 2 2 0 in 59m", "yard 1 1 0 - mqtt://"+s.Addr,
		"scale up 1 1 0", "pump-1", "clock: trusted: ",
		"waiting: 0 readings in memory, 0 in the spool (0 B of 256 MiB), 0 downlinks",
	)
	var d rest.DeviceState
	if code := g.get("/v1/devices/pump-1", &d); code != http.StatusOK || d.Connector != "plant" || d.Session.State != "up" ||
		d.Session.TokenExpires == "" || d.LastReading == "" || d.LastError != nil || d.Queue != (rest.Queue{}) {
		t.Errorf("%d %+v", code, d)
	}
	d = rest.DeviceState{}
	if g.get("/v1/devices/app", &d); d.Connector != "yard" || d.Session.TokenExpires != "" || d.LastReading != "" {
		t.Errorf("%+v", d)
	}
	if code := g.get("/v1/devices/nobody", &struct{}{}); code != http.StatusNotFound {
		t.Errorf("answer %d for a device that is not there", code)
	}
	code, stdout, _ := cli("status", "--json", "--address", g.HTTP)
	var doc statusDocument
	if err := json.Unmarshal([]byte(stdout), &doc); code != 0 || err != nil || doc.Devices != 3 || len(doc.Connectors) != 2 || len(doc.Ports) != 1 {
		t.Errorf("exit code %d, %v: %s", code, err, stdout)
	}
}

// TestStatusFromTheConfiguration is the way that an operator goes.
func TestStatusFromTheConfiguration(t *testing.T) {
	s := newSite(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	g := startGateway(t, s.config("", "", devicesText)+fmt.Sprintf("[http]\nlisten = %q\n", address), s.Files)
	code, stdout, stderr := cli("status", "--config", g.Path)
	if code != 0 || !strings.Contains(stdout, " at "+address+", up for ") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	g.stop()
	code, _, stderr = cli("status", "--config", g.Path)
	if code != 1 || !strings.Contains(stderr, "no daemon answers at "+address) || !strings.Contains(stderr, "systemctl status fieldbridge") {
		t.Errorf("exit code %d without a daemon: %s", code, stderr)
	}
}

func TestStatusWhileTheBrokerIsDown(t *testing.T) {
	t.Parallel()
	s := newDarkSite(t)
	var listen func() net.Listener
	s.Addr, listen = reservedAddr(t)
	g := startGateway(t, s.config("", "", devicesText), s.Files)
	expectStored(t, g.post("app", "", "text/plain", "x"))
	g.awaitStatus("plant 2 0 2", "plant: 2 down (such as pump-1): ", "yard: 1 down: ", "connection refused", " 1 in the spool (", "the oldest for ")

	var ready struct {
		Status string
		Detail readyDocument
	}
	eventually(t, "the spool in /readyz", func() bool {
		return g.get("/readyz", &ready) == http.StatusOK && ready.Detail.Spool.Readings == 1
	})
	if d := ready.Detail; ready.Status != "ready" || d.Sessions != 3 || d.SessionsUp != 0 || !d.Clock.Trusted ||
		d.Clock.Source == "none" || d.Clock.Reason == "" || d.Spool.Full || d.Spool.OldestSeconds == nil || d.Spool.Bytes == 0 {
		t.Errorf("%+v", ready)
	}
	var d rest.DeviceState
	eventually(t, "the queue of the device", func() bool {
		g.get("/v1/devices/app", &d)
		return d.Queue.Spooled == 1
	})
	if d.Session.State != "down" || !strings.Contains(d.Session.Error, "connection refused") || d.Session.LastError == nil || d.LastReading == "" {
		t.Errorf("%+v", d)
	}
	s.serve(listen(), func(c net.Conn) net.Conn { return c })
	g.awaitUp()
	// What was wrong last stays to be seen.
	g.awaitStatus("plant 2 2 0", "plant: last error ")
}

func TestStatusNamesWrongCredentials(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	files := maps.Clone(s.Files)
	files["pump-1.pem"] = newKey(t, "ES256")
	g := startGateway(t, s.config("", "", devicesText), files)
	g.awaitSessions(2)
	g.awaitStatus("plant 2 1 1", "plant: 1 down (such as pump-1): broker answered CONNACK 0x86 (bad user name or password)")
}

func TestStatusNamesASecondClient(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := startGateway(t, s.config("", "", devicesText), s.Files)
	g.awaitUp()
	// The same device on a second gateway.
	other := startGateway(t, s.config("", "", devicesText), s.Files)
	other.awaitSessions(3)
	g.awaitStatus("broker answered DISCONNECT 0x8E (session taken over)", "another client uses this client id: is the device configured on a second gateway?")
}

func TestStatusWhileTheClockIsNotTrusted(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	g := runPrepared(t, writeConfig(t, complete(s.config("", "", devicesText)), s.Files), s.Files, func(g *gateway) {
		g.clock = clock.New(clock.Options{
			RequireSync: true,
			Adjtimex:    func() (int, int32, error) { return 5, 0x40, nil }, // TIME_ERROR, STA_UNSYNC
		})
	})
	g.awaitSessions(1) // yard needs no token
	expectStored(t, g.post("pump-1", "", "text/plain", "x"))
	g.awaitStatus("clock: NOT TRUSTED, no token is made: the kernel says that the clock is not synchronised, and require_sync is set",
		"plant: 2 down (such as pump-1): credentials: the clock is not trusted", "age of the oldest not known")
	var ready struct{ Detail readyDocument }
	if code := g.get("/readyz", &ready); code != http.StatusOK || ready.Detail.Clock.Trusted || ready.Detail.Clock.Source != "none" {
		t.Errorf("answer %d %+v", code, ready)
	}
}

func TestStatusOfAMissingPort(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	missing := t.TempDir() + "/ttyUSB0"
	g := startGateway(t, s.config("", "", fmt.Sprintf(scaleText, missing)), s.Files)
	g.awaitStatus("scale down 0 0 0 -", "scale: down: open serial port "+missing+": no such file or directory")
}

func TestStatusOfAFullSpool(t *testing.T) {
	t.Parallel()
	s := newDarkSite(t)
	s.Addr, _ = reservedAddr(t)
	g := startGateway(t, s.config("", "", devicesText)+"[spool]\nmax_bytes = \"1MiB\"\nmin_free = \"1MiB\"\n", s.Files)
	body := strings.Repeat("x", 200<<10)
	for g.post("app", "", "text/plain", body).Status != http.StatusInsufficientStorage {
	}
	g.awaitStatus("FULL: spool full: max_bytes (1048576) is reached")
	var d rest.DeviceState
	if g.get("/v1/devices/app", &d); d.LastError == nil || !strings.Contains(d.LastError.Error, "not accepted: spool full") {
		t.Errorf("%+v", d)
	}
	// A smaller one has room.
	expectStored(t, g.post("app", "", "text/plain", "x"))
	if text := g.status(); strings.Contains(text, "FULL") {
		t.Errorf("still full:\n%s", text)
	}
}

func TestStatusOfARefusedReading(t *testing.T) {
	s := newSite(t)
	s.Broker.RefusePublishes(func(devbroker.Message) byte { return 0x99 })
	g := startGateway(t, s.config("", "", devicesText), s.Files)
	g.awaitUp()
	g.post("app", "", "text/plain", "x")
	var d rest.DeviceState
	if g.get("/v1/devices/app", &d); d.LastError == nil || !strings.Contains(d.LastError.Error, "reason code 0x99 (payload format invalid") {
		t.Errorf("%+v", d)
	}
}

// TestTenThousandDevices pages through them all.
func TestTenThousandDevices(t *testing.T) {
	s := newDarkSite(t)
	s.Addr, _ = reservedAddr(t)
	var text strings.Builder
	const count = 10_000
	for i := range count {
		fmt.Fprintf(&text, "[[device]]\nid = \"d%05d\"\nconnector = \"yard\"\n", i)
	}
	g := startGateway(t, s.config("", "", text.String()), s.Files)
	began, pages, seen, after := time.Now(), 0, 0, ""
	for {
		var page struct {
			Devices []rest.DeviceState
			Next    string
		}
		if code := g.get("/v1/devices?limit=1000&after="+after, &page); code != http.StatusOK {
			t.Fatalf("answer %d", code)
		}
		for _, d := range page.Devices {
			if want := fmt.Sprintf("d%05d", seen); string(d.Device) != want {
				t.Fatalf("%s follows, want %s", d.Device, want)
			}
			seen++
		}
		pages++
		if after = page.Next; after == "" {
			break
		}
	}
	t.Logf("%d devices in %d pages: %s", seen, pages, time.Since(began))
	if seen != count || pages != 10 {
		t.Errorf("%d devices in %d pages", seen, pages)
	}
	var doc statusDocument
	if g.get("/v1/status", &doc); doc.Devices != count {
		t.Errorf("%+v", doc)
	}
}

// TestStatusOfSomethingElse: what answers is not the daemon.
func TestStatusOfSomethingElse(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"404":      {http.NotFound, "gave 404 Not Found; is another program or an older fieldbridge listening there?"},
		"redirect": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) }, "gave 302 Found"},
		"page":     {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, "the answer is not a status"},
		"JSON":     {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") }, "it has no version or no clock"},
		"flood": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat(" ", maxAnswer+1)) },
			"the answer is longer than"},
		"cut off": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "no daemon answers at"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(c.answer)
			defer srv.Close()
			code, stdout, stderr := cli("status", "--address", strings.TrimPrefix(srv.URL, "http://"))
			if code != 1 || stdout != "" || !strings.Contains(stderr, c.want) {
				t.Errorf("exit code %d, stdout %q, stderr %q; want 1 and %q", code, stdout, stderr, c.want)
			}
		})
	}
}
