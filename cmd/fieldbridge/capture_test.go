package main

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// capture posts a reading as to akenza's data gateway.
func (g *testGateway) capture(query, device, secret, body string) answer {
	g.t.Helper()
	a, err := postWith(g.client, "http://"+g.HTTP+"/v3/capture"+query, http.Header{
		"X-Device-Id": {device}, "X-Uplink-Secret": {secret}, "Content-Type": {"application/json"},
	}, body)
	if err != nil {
		g.t.Fatal(err)
	}
	return a
}

// TestCapture: an app with its connector's secret, one with a token, and one with
// neither; the secret is the one of now, also after a reload.
func TestCapture(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	files := map[string]string{"hall.token": hallToken}
	for name, content := range s.Files {
		files[name] = content
	}
	text := complete(s.config("", `devices = "any"`, listed("app", "yard")+listed("pump-1", "plant")+`
[[http.token]]
name = "hall"
token_file = "hall.token"
devices = ["*"]
`))
	g := runGateway(t, writeConfig(t, text, files), files)
	g.awaitUp()
	const topic = "/up/" + yardSecret + "/id/"
	for i, c := range []struct {
		query, device, secret string
		topic                 string // "": refused
	}{
		{"?deviceId=app", "", yardSecret, topic + "app"},
		{"?topic=alerts", "app", yardSecret, topic + "app/alerts"},
		{"?topic=default", "nobody-listed-this", yardSecret, topic + "nobody-listed-this"},
		{"", "pump-1", hallToken, "/up/device/id/pump-1"},
		{"", "app", hallToken, topic + "app"},
		{"", "pump-1", yardSecret, ""},
		{"", "app", "wrong", ""},
		{"", "app", "", ""},
	} {
		device := c.device
		if device == "" {
			device = "app"
		}
		before := len(s.messages(device))
		a := g.capture(c.query, c.device, c.secret, `{"n":1}`)
		if c.topic == "" {
			if a.Status != http.StatusUnauthorized || len(s.messages(device)) != before {
				t.Errorf("%d: status %d, want 401, and %d readings", i, a.Status, len(s.messages(device))-before)
			}
			continue
		}
		if a.Status != http.StatusOK || a.State != "delivered" || a.ID == "" {
			t.Errorf("%d: %+v", i, a)
			continue
		}
		if m := s.messages(device); len(m) != before+1 || m[before].Topic != c.topic || string(m[before].Payload) != `{"n":1}` {
			t.Errorf("%d: the broker has %+v, want one more on %s", i, m, c.topic)
		}
	}

	const next = "another-s3cret-of-the-yard"
	files["yard.secret"] = next
	if err := os.WriteFile(filepath.Join(filepath.Dir(g.Path), "yard.secret"), []byte(next), 0o600); err != nil {
		t.Fatal(err)
	}
	g.reload(text)
	if a := g.capture("", "app", yardSecret, "1"); a.Status != http.StatusUnauthorized {
		t.Errorf("with the secret of before: %+v", a)
	}
	if a := g.capture("", "app", hallToken, "1"); a.Status != http.StatusAccepted && a.Status != http.StatusOK {
		t.Errorf("with the token: %+v", a)
	}
}
