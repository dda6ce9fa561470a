package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const exampleFile = "../../config.example.toml"

func readExample(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// exampleDir makes a directory with the files that the example names.
func exampleDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	cert, key := certificate(t)
	writeFile(t, filepath.Join(dir, "certs/gateway.crt.pem"), cert, 0o644)
	writeFile(t, filepath.Join(dir, "certs/gateway.pem"), key, 0o600)
	writeFile(t, filepath.Join(dir, "keys/0004A30B001C1B03.pem"), key, 0o600)
	for _, name := range []string{"current", "next"} {
		writeFile(t, filepath.Join(dir, "keys/gate-8."+name+".pem"), key, 0o600)
	}
	writeFile(t, filepath.Join(dir, "secrets/yard"), theSecret, 0o600)
	writeFile(t, filepath.Join(dir, "tokens/scada"), theSecret, 0o600)
	writeFile(t, filepath.Join(dir, "secrets/valve"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", 0o600)
	writeFile(t, filepath.Join(dir, "ca/plc.pem"), cert, 0o644)
	return dir
}

func TestExampleLoads(t *testing.T) {
	cfg := mustLoad(t, exampleDir(t), readExample(t))
	if len(cfg.Connectors) != 3 || len(cfg.Devices) != 3 || len(cfg.Serials) != 6 {
		t.Errorf("got %d connectors, %d devices, %d serial ports", len(cfg.Connectors), len(cfg.Devices), len(cfg.Serials))
	}
}

// Every key that is accepted is in the example, and above each one that is
// explained there for the first time is a comment.
func TestExampleHasEveryKey(t *testing.T) {
	text := readExample(t)
	path := filepath.Join(exampleDir(t), "fieldbridge.toml")
	out := &collector{}
	src := out.newSource(path)
	var raw rawConfig
	if !src.decode(text, &raw) {
		t.Fatal(out.err())
	}
	given := make(map[string]bool)
	for key := range src.given {
		given[blockOf(key)] = true
	}
	keys := 0
	var walk func(typ reflect.Type, block string)
	walk = func(typ reflect.Type, block string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if tag(f) == "" {
				continue
			}
			keys++
			key := joinPath(block, tag(f))
			if !given[key] {
				t.Errorf("%s is not in the example", key)
			}
			ft := f.Type
			if ft.Kind() == reflect.Slice {
				ft = ft.Elem()
			}
			if ft.Kind() == reflect.Struct {
				walk(ft, key)
			}
		}
	}
	walk(reflect.TypeFor[rawConfig](), "")
	if keys < 130 {
		t.Errorf("looked for %d keys, want at least 130", keys)
	}
}

// Where the example says that it shows a default, it does.
func TestExampleShowsDefaults(t *testing.T) {
	cfg := mustLoad(t, exampleDir(t), readExample(t))
	bare := mustLoad(t, exampleDir(t), "[[connector]]\nname = \"plant\"\nbroker = \"mqtts://mqtt.akenza.io\"\nauth = \"device-credentials\"\nkey_file = \"keys/{device}.pem\"\n"+
		"[[device]]\nid = \"0004A30B001C1B03\"\n"+
		"[[serial]]\nname = \"scale\"\nport = \"/dev/x\"\ndevice = \"0004A30B001C1B03\"\n")
	c, d := cfg.Connectors[0], bare.Connectors[0]
	c.Pos, c.Gateway = d.Pos, d.Gateway
	if !reflect.DeepEqual(c, d) {
		t.Errorf("connector: the example has\n%+v, the defaults are\n%+v", c, d)
	}
	s, u := cfg.Serials[0], bare.Serials[0]
	s.Pos, s.Port, s.Subtopic = u.Pos, u.Port, u.Subtopic
	if !reflect.DeepEqual(s, u) {
		t.Errorf("serial: the example has\n%+v, the defaults are\n%+v", s, u)
	}
	if a, b := cfg.Devices[0].Durability, bare.Devices[0].Durability; a != b {
		t.Errorf("device: the example has durability %q, the default is %q", a, b)
	}
	cfg.HTTP.Pos, cfg.Spool.Pos, cfg.Clock.Pos = bare.HTTP.Pos, bare.Spool.Pos, bare.Clock.Pos
	if cfg.StateDir != bare.StateDir || cfg.Durability != bare.Durability || cfg.Spool != bare.Spool || cfg.Clock != bare.Clock {
		t.Errorf("the example has %q %q %+v %+v, the defaults are %q %q %+v %+v", cfg.StateDir, cfg.Durability, cfg.Spool, cfg.Clock,
			bare.StateDir, bare.Durability, bare.Spool, bare.Clock)
	}
	cfg.HTTP.Tokens = nil // there are none by default
	if !reflect.DeepEqual(cfg.HTTP, bare.HTTP) || cfg.Log != bare.Log || cfg.AckTimeout != bare.AckTimeout {
		t.Errorf("the example has %+v %+v %v, the defaults are %+v %+v %v", cfg.HTTP, cfg.Log, cfg.AckTimeout, bare.HTTP, bare.Log, bare.AckTimeout)
	}
}

func TestExampleIsPlain(t *testing.T) {
	for i, line := range strings.Split(readExample(t), "\n") {
		if len(line) > 80 {
			t.Errorf("line %d has %d characters, at most 80 fit on every terminal", i+1, len(line))
		}
	}
}
