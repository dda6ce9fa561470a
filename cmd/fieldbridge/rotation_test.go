package main

import (
	"crypto"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge/token"
)

// newKeyPair is a private key as a file's content, and its public half.
func newKeyPair(t *testing.T) (string, crypto.PublicKey) {
	t.Helper()
	key, err := token.Generate("ES256")
	if err != nil {
		t.Fatal(err)
	}
	private, err := token.EncodePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(private), key.Public()
}

func publicOf(t *testing.T, private string) crypto.PublicKey {
	t.Helper()
	key, err := token.ParsePrivateKey([]byte(private))
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

// setKeys changes the keys that the broker knows of pump-1 and ends its
// connection.
func (s *site) setKeys(keys ...crypto.PublicKey) {
	s.t.Helper()
	if err := s.Broker.SetDevice("pump-1", keys...); err != nil {
		s.t.Fatal(err)
	}
	s.Broker.Drop("pump-1")
}

const twoKeysText = `
[[device]]
id = "pump-1"
connector = "plant"
key_files = ["{device}.pem", "next.pem"]
`

// A key is changed without a gap: the broker gets the next one, forgets the
// current one, and knows the next one only. The key that works is named.
func TestKeyRotation(t *testing.T) {
	s := newSite(t)
	files := maps.Clone(s.Files)
	var next crypto.PublicKey
	files["next.pem"], next = newKeyPair(t)
	current := publicOf(t, files["pump-1.pem"])
	g := startGateway(t, s.config("", "", twoKeysText), files)
	g.awaitUp()
	says := func(what string) {
		t.Helper()
		eventually(t, what, func() bool { return strings.Contains(g.Logs.String(), what) })
	}
	says(`msg="the broker takes this key" connector=plant client_id=pump-1 key=pump-1.pem`)
	n := newNumbered()
	post := func() {
		t.Helper()
		if a := g.post("pump-1", "", "text/plain", n.next("pump-1")); a.Status/100 != 2 {
			t.Errorf("answer %+v", a)
		}
	}
	post()
	s.setKeys(current, next)
	post()
	s.setKeys(next)
	says(`msg="the broker takes this key" connector=plant client_id=pump-1 key=next.pem`)
	post()
	s.awaitPayload("pump-1#3")
	s.Broker.Drop("pump-1") // it keeps the one that works
	g.awaitUp()
	refused := 0
	for _, c := range s.connectsOf("pump-1") {
		if c.Code != 0 {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("%d CONNECTs were refused, want 1", refused)
	}
	g.awaitEmpty()
	n.check(t, payloadsOf(s.Broker.Messages()), true)
}

// A key file that is replaced is read again; one that breaks is not used, and the
// key before it stays.
func TestKeyFileReplaced(t *testing.T) {
	s := newSite(t)
	g := startGateway(t, s.config("", "", "[[device]]\nid = \"pump-1\"\nconnector = \"plant\"\n"), s.Files)
	g.awaitUp()
	path := filepath.Join(filepath.Dir(g.Path), "pump-1.pem")
	write := func(content string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path+".new", mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	private, public := newKeyPair(t)
	write(private, 0o600)
	s.setKeys(public)
	up := func(connects int) {
		t.Helper()
		eventually(t, fmt.Sprintf("connection %d", connects), func() bool { return len(s.connectsOf("pump-1")) == connects })
		g.awaitUp()
	}
	up(2)
	if !strings.Contains(g.Logs.String(), `msg="key file changed and was read again" device=pump-1 key=pump-1.pem`) {
		t.Error("it is not said that the key was read again")
	}
	for i, breakIt := range []func(){
		func() { write(private[:len(private)/2], 0o600) },
		func() { write(private, 0o644) }, // others can read it
		func() { _ = os.Remove(path) },
	} {
		breakIt()
		s.Broker.Drop("pump-1")
		up(3 + i)
	}
	if got := strings.Count(g.Logs.String(), "key file changed and is of no use"); got != 1 {
		t.Errorf("a file that is of no use was said %d times, want once", got)
	}
	for _, c := range s.connectsOf("pump-1") {
		if c.Code != 0 {
			t.Errorf("%+v", c)
		}
	}
}

// readyz is the answer of /readyz.
func (g *testGateway) readyz() map[string]int {
	g.t.Helper()
	resp, err := g.client.Get("http://" + g.HTTP + "/readyz")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		g.t.Fatalf("%s %s %v", resp.Status, body, err)
	}
	var answer struct {
		Detail struct{ SessionsUp, SessionsIdle int }
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		g.t.Fatal(err)
	}
	return map[string]int{"sessionsUp": answer.Detail.SessionsUp, "sessionsIdle": answer.Detail.SessionsIdle}
}

// A connector on demand connects for a reading, which is delivered and not
// stored, and leaves.
func TestOnDemandConnector(t *testing.T) {
	s := newSite(t)
	g := startGateway(t, s.config("connect = \"on-demand\"\nidle_timeout = \"1s\"", "", devicesText), s.Files)
	idle := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d idle sessions", n), func() bool { return g.readyz()["sessionsIdle"] == n })
	}
	idle(2)
	var device struct{ Session struct{ State, Error string } }
	resp, err := g.client.Get("http://" + g.HTTP + "/v1/devices/pump-1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&device); err != nil || device.Session.State != "idle" || device.Session.Error != "" {
		t.Errorf("the state of the device is %+v, %v", device, err)
	}
	eventually(t, "the yard's session", func() bool { return g.readyz()["sessionsUp"] == 1 })
	if n := len(s.connectsOf("pump-1")); n != 0 {
		t.Errorf("%d connections without a reason", n)
	}
	for i := range 2 {
		if a := g.post("pump-1", "", "text/plain", fmt.Sprint(i)); a.Status != http.StatusOK {
			t.Errorf("answer %+v", a)
		}
		idle(1)
		idle(2)
		eventually(t, "its end", func() bool { return !s.Broker.Connected("pump-1") })
	}
	if n := len(s.connectsOf("pump-1")); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
	g.awaitMetrics("idle sessions", map[string]func(float64) bool{
		`sessions{connector="plant",state="idle"}`: is(2),
		`sessions{connector="plant",state="down"}`: is(0),
		`sessions{connector="plant",state="up"}`:   is(0),
		`session_alarms{connector="plant"}`:        is(0),
	})
}

// Two gateways with one device: the one that is thrown out says so and keeps
// quiet.
func TestSecondGateway(t *testing.T) {
	s := newSite(t)
	text := s.config("", "", "[[device]]\nid = \"pump-1\"\nconnector = \"plant\"\n")
	one := startGateway(t, text, s.Files)
	one.awaitUp()
	two := startGateway(t, text, s.Files)
	two.awaitUp()
	eventually(t, "why", func() bool {
		return strings.Contains(one.Logs.String(), "0x8E (session taken over)") && strings.Contains(one.Logs.String(), "second gateway")
	})
	one.awaitMetrics("the takeover", map[string]func(float64) bool{
		`reason_codes_total{code="0x8E",packet="disconnect"}`: is(2), // yard's, too

		`reason_codes_total{code="0x00",packet="connack"}`: is(2),
		`session_alarms{connector="plant"}`:                is(1),
	})
	<-time.After(3 * time.Second)
	if n := len(s.connectsOf("pump-1")); n != 2 {
		t.Errorf("%d connections within three seconds, want 2", n)
	}
	two.awaitUp()
}
