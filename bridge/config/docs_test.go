package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	tomlBlock = regexp.MustCompile("(?ms)^```toml\n(.*?)^```$")
	fileKey   = regexp.MustCompile(`(?m)^(\w*_file)\s*=\s*"([^"]+)"`)
	deviceID  = regexp.MustCompile(`(?m)^\[\[device\]\]\nid\s*=\s*"([^"]+)"`)
)

// Every configuration in the document loads, with files of the right kind where
// it names some.
func TestConnectorsDocLoads(t *testing.T) {
	text, err := os.ReadFile("../../docs/connectors.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := tomlBlock.FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 6 {
		t.Fatalf("found %d configurations, want at least 6", len(blocks))
	}
	seen := map[string]bool{}
	for _, block := range blocks {
		dir := t.TempDir()
		cert, key := certificate(t)
		for _, file := range fileKey.FindAllStringSubmatch(block[1], -1) {
			content := map[string]string{"ca_file": cert, "client_cert_file": cert, "client_key_file": key, "key_file": key, "secret_file": theSecret}[file[1]]
			for _, id := range deviceID.FindAllStringSubmatch(block[1], -1) {
				writeFile(t, filepath.Join(dir, strings.ReplaceAll(file[2], placeDevice, id[1])), content, 0o600)
			}
		}
		cfg := mustLoad(t, dir, block[1])
		c := cfg.Connectors[0]
		seen[c.Auth] = true
		if c.Profile != ProfileGeneric || len(cfg.Devices) == 0 {
			t.Errorf("not a whole example:\n%s", block[1])
		}
	}
	if len(seen) != 3 {
		t.Errorf("there are examples for %v, want all three", seen)
	}
}
