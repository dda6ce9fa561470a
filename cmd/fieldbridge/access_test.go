package main

import (
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
