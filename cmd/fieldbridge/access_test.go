package main

import (
	"os"
	"path/filepath"
	"testing"

	"fieldbridge/adapters/rest"
	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
)

func TestHTTPTokens(t *testing.T) {
	cfg := &config.Config{}
	if got := readToken(cfg); got != "" {
		t.Errorf("token %q without any", got)
	}
	cfg.HTTP.Tokens = []config.HTTPToken{
		{Name: "a", Secrets: []bridge.Secret{bridge.NewSecret("up")}, Devices: []string{"d*"}, Directions: []string{"uplink"}, Rate: 5},
		{Name: "b", Secrets: []bridge.Secret{bridge.NewSecret("x"), bridge.NewSecret("y")}, Devices: []string{"*"}, Directions: []string{"read", "downlink"}},
	}
	if got := readToken(cfg); got != "x" {
		t.Errorf("token %q, want that which may read", got)
	}
	got := httpTokens(cfg.HTTP.Tokens)
	if got[0].Directions != rest.Uplink || got[0].Rate != 5 || got[0].Digests[0] != rest.DigestToken("up") || got[0].Devices[0] != "d*" {
		t.Errorf("got %+v", got[0])
	}
	if got[1].Directions != rest.Read|rest.Downlink || len(got[1].Digests) != 2 {
		t.Errorf("got %+v", got[1])
	}
}

func TestLoadToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for content, want := range map[string]string{"abc\r\nnext\n": "abc", "\nabc": "abc", "": "", "a b": ""} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := loadToken(path); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", content, got, err, want)
		}
	}
}
