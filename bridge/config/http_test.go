package config

import (
	"os"
	"strings"
	"testing"
)

func TestListen(t *testing.T) {
	for s, ok := range map[string]bool{
		"127.0.0.1:8080": true, "127.8.8.8:1": true, "localhost:0": true, "[::1]:65535": true,
		"": false, ":0": false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "192.168.1.1:80": false,
		"localhost.example:1": false, "LOCALHOST:1": false, "127.0.0.1": false, "127.0.0.1:65536": false,
		"127.0.0.1:080": false, "127.0.0.1:": false, "127.1:80": false,
		"unix:/run/x": true, "unix:/": false, "unix:": false, "unix:run/x": false, "unix:/run/../x": false,
		"unix:/" + strings.Repeat("x", 106): true, "unix:/" + strings.Repeat("x", 107): false, "unix:/a\x00": false,
	} {
		if f := checkListen(s, protection{}); (f == nil) != ok {
			t.Errorf("checkListen(%q) = %v, want ok = %v", s, f, ok)
		}
	}
	for s, ok := range map[string]bool{
		":0": true, "0.0.0.0:1": true, "[::]:1": true, "10.0.0.1:1": true, "127.0.0.1:1": true, "localhost:1": true,
		"localhost.example:1": false, "10.0.0.1": false, "10.0.0.1:x": false,
	} {
		if f := checkListen(s, protection{tls: true, callers: true}); (f == nil) != ok {
			t.Errorf("with TLS and tokens checkListen(%q) = %v, want ok = %v", s, f, ok)
		}
		if strings.HasPrefix(s, "127.") || strings.HasPrefix(s, "localhost:") {
			continue
		}
		for _, p := range []protection{{tls: true}, {callers: true}} {
			if f := checkListen(s, p); f == nil {
				t.Errorf("checkListen(%q, %+v) accepts it", s, p)
			}
		}
	}
}

func TestSocketMode(t *testing.T) {
	for text, want := range map[string]os.FileMode{
		"listen = \"unix:/run/x\"": 0o660, "listen = \"unix:/run/x\"\nsocket_mode = \"600\"": 0o600, "socket_mode = \"\"": 0, "": 0,
		"listen = \"unix:/run/x\"\nsocket_mode = \"\"": 0o660,
	} {
		if got := mustLoad(t, fixture(t), plant+"[http]\n"+text+"\n").HTTP.SocketMode; got != want {
			t.Errorf("%s: mode %v, want %v", text, got, want)
		}
	}
}

// Any address will do with TLS, and tokens or client certificates.
func TestListenForOthers(t *testing.T) {
	dir := fixture(t)
	const encrypted = "[http]\nlisten = \":8443\"\ntls_cert_file = \"ca/good.pem\"\ntls_key_file = \"keys/cert.pem\"\n"
	cfg := mustLoad(t, dir, plant+encrypted+"client_ca_file = \"ca/good.pem\"\n").HTTP
	want := readTrimmed(t, dir, "ca/good.pem")
	if cfg.Listen != ":8443" || strings.TrimSpace(string(cfg.ClientCAPEM)) != want || strings.TrimSpace(string(cfg.Cert.CertPEM)) != want ||
		cfg.Cert.KeyPEM.Reveal() != readTrimmed(t, dir, "keys/cert.pem") {
		t.Errorf("got %+v", cfg)
	}
	cfg = mustLoad(t, dir, plant+encrypted+"[[http.token]]\nname = \"a\"\ntoken_file = \"tokens/good\"\ndevices = [\"*\"]\n").HTTP
	if cfg.Cert == nil || cfg.ClientCAPEM != nil || len(cfg.Tokens) != 1 {
		t.Errorf("got %+v", cfg)
	}
}
