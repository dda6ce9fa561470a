package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"fieldbridge/bridge"
)

const (
	plant = "[[connector]]\nname = \"plant\"\nbroker = \"mqtts://b.example\"\nauth = \"device-credentials\"\nkey_file = \"keys/good.pem\"\n"
	yard  = "[[connector]]\nname = \"yard\"\nbroker = \"mqtt://b.example:1884\"\nauth = \"uplink-secret\"\nid = \"abc\"\nsecret_file = \"secrets/yard\"\n"
)

func mustLoad(t testing.TB, dir, text string) *Config {
	t.Helper()
	cfg, err := loadText(t, dir, text)
	if err != nil {
		t.Fatalf("Load:\n%v", err)
	}
	return cfg
}

func TestDefaults(t *testing.T) {
	dir := fixture(t)
	cfg := mustLoad(t, dir, plant+yard+
		"[[device]]\nid = \"d1\"\nconnector = \"plant\"\n"+
		"[[serial]]\nname = \"s\"\nport = \"/dev/ttyS0\"\ndevice = \"d1\"\n")
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	main := filepath.Join(dir, "fieldbridge.toml")
	at := func(line int, key string) Position { return Position{File: main, Line: line, Key: key} }
	want := &Config{
		File: main, Gateway: host,
		StateDir: "/var/lib/fieldbridge", Durability: "auto",
		Log:        Log{Level: slog.LevelInfo, Format: "auto"},
		AckTimeout: time.Second,
		Spool: Spool{
			Pos: at(1, "spool"), MaxBytes: 268435456, MaxAge: 168 * time.Hour, WhenFull: "reject", MinFree: 67108864,
		},
		Clock: Clock{Pos: at(1, "clock")},
		HTTP:  HTTP{Pos: at(1, "http"), Listen: "127.0.0.1:8080", MaxBody: 262144, MaxConnections: 1024},
		Connectors: []Connector{{
			Pos: at(1, "connector[0]"), Name: "plant", Gateway: host, Profile: ProfileAkenza, Auth: AuthDeviceCredentials,
			PerDevice: true, ClientID: "{device}", Username: "unused",
			Broker: "mqtts://b.example:8883", Address: "b.example:8883", Host: "b.example", TLS: true,
			KeyFile: "keys/good.pem", KeepAlive: time.Minute, SessionExpiry: 24 * time.Hour,
			ReceiveMaximum: 32, MaxPayload: 262144, Connect: ConnectAlways, IdleTimeout: 30 * time.Second, ConnectRate: 20,
			UplinkTopic: "/up/device/id/{device}", DownlinkTopic: "/down/device/id/{device}/#",
			Token: Token{Audience: "https://akenza.io/devices/{device}", Subject: "{device}", Lifetime: time.Hour, KeyID: "none"},
		}, {
			Pos: at(6, "connector[1]"), Name: "yard", Gateway: host, Profile: ProfileAkenza, Auth: AuthUplinkSecret, Username: "{id}",
			Broker: "mqtt://b.example:1884", Address: "b.example:1884", Host: "b.example",
			ID: "abc", Secret: bridge.NewSecret(theSecret), KeepAlive: time.Minute, SessionExpiry: 24 * time.Hour,
			ReceiveMaximum: 32, MaxPayload: 262144, Connect: ConnectAlways, IdleTimeout: 30 * time.Second, ConnectRate: 20,
			UplinkTopic: "/up/{secret}/id/{device}", DownlinkTopic: "/down/{secret}/id/{device}/#",
		}},
		Devices: []Device{{
			Pos: at(12, "device[0]"), ID: "d1", ConnectorName: "plant",
			KeyFile: filepath.Join(dir, "keys/good.pem"), KeyPEM: bridge.NewSecret(readTrimmed(t, dir, "keys/good.pem")),
			Durability: "auto",
		}},
		Serials: []Serial{{
			Pos: at(15, "serial[0]"), Name: "s", Port: "/dev/ttyS0", Baud: 9600, Mode: "8N1",
			Framing: "line", Delimiter: []byte("\n"), MaxFrame: 4096, WriteTimeout: 10 * time.Second, Answer: SerialAnswer{Timeout: time.Second}, Decode: "text",
			Device: "d1", ContentType: "text/plain",
		}},
	}
	if diff := cmp.Diff(want, cfg, cmpopts.IgnoreUnexported(Config{}), cmp.Comparer(sameSecret)); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func sameSecret(a, b bridge.Secret) bool { return a.Reveal() == b.Reveal() }

func readTrimmed(t testing.TB, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// What a file gives reaches the Config: one value of each key, each another one
// than the default.
func TestValues(t *testing.T) {
	dir := fixture(t)
	cfg := mustLoad(t, dir, `
gateway = "hall-ä"
state_dir = "../state/./x"
durability = "always"
ack_timeout = "1500ms"
spool = { max_bytes = "1MiB", max_bytes_per_device = "64KiB", max_age = "1m", when_full = "drop-oldest", min_free = "1MiB" }
clock.require_sync = true
log.level = "debug"
log.format = "json"
http = { listen = "[::1]:0", max_body = "1MB", max_connections = 100 }
connector = [
  { name = "plant", broker = "mqtts://[2001:db8::1]:1", auth = "device-credentials", ca_file = "ca/good.pem",
    keep_alive = "65535s", session_expiry = "4294967294s", receive_maximum = 65535, max_payload = "256MiB",
    user_properties = true, uplink_topic = "{connector}/{device}", downlink_topic = "d/{device}/#",
    token = { audience = "x", lifetime = "2s", key_id = "sha256" } },
]
[[device]]
id = "dev-1"
key_file = "keys/{device}.pem"
durability = "auto"
[[device.downlink]]
subtopic = "+/x/#"
webhook = "https://h/x?y=z"
[[device.downlink]]
serial = "s"
[[serial]]
name = "s"
port = "/dev/pts/../ttyS0"
baud = 115200
mode = "7E2"
framing = "line"
delimiter = "\r\u0000"
max_frame = "1B"
decode = "raw"
device = "dev-1"
subtopic = "a/b"
content_type = "Text/CSV; charset=UTF-8"
`)
	c, d, s := cfg.Connectors[0], cfg.Devices[0], cfg.Serials[0]
	cfg.Spool.Pos, cfg.Clock.Pos = Position{}, Position{}
	for _, tt := range []struct {
		what      string
		got, want any
	}{
		{"gateway", cfg.Gateway, "hall-ä"},
		{"state_dir", cfg.StateDir, filepath.Join(filepath.Dir(dir), "state/x")},
		{"durability", cfg.Durability, DurabilityAlways},
		{"ack_timeout", cfg.AckTimeout, 1500 * time.Millisecond},
		{"spool", cfg.Spool, Spool{MaxBytes: 1 << 20, MaxBytesPerDevice: 64 << 10, MaxAge: time.Minute, WhenFull: WhenFullDropOldest, MinFree: 1 << 20}},
		{"clock", cfg.Clock, Clock{RequireSync: true}},
		{"log", cfg.Log, Log{slog.LevelDebug, "json"}},
		{"listen", cfg.HTTP.Listen, "[::1]:0"},
		{"max_body", cfg.HTTP.MaxBody, int64(1e6)},
		{"max_connections", cfg.HTTP.MaxConnections, 100},
		{"broker", c.Broker, "mqtts://[2001:db8::1]:1"},
		{"address", c.Address + " " + c.Host, "[2001:db8::1]:1 2001:db8::1"},
		{"ca_file", c.CAFile, filepath.Join(dir, "ca/good.pem")},
		{"ca", strings.TrimSpace(string(c.CAPEM)), readTrimmed(t, dir, "ca/good.pem")},
		{"keep_alive", c.KeepAlive, 65535 * time.Second},
		{"session_expiry", c.SessionExpiry, 0xFFFFFFFE * time.Second},
		{"receive_maximum", c.ReceiveMaximum, uint16(65535)},
		{"max_payload", c.MaxPayload, int64(256 << 20)},
		{"user_properties", c.UserProperties, true},
		{"topics", c.UplinkTopic + " " + c.DownlinkTopic, "{connector}/{device} d/{device}/#"},
		{"token", c.Token, Token{Audience: "x", Subject: "{device}", Lifetime: 2 * time.Second, KeyID: "sha256"}},
		{"device connector", d.ConnectorName, "plant"},
		{"device durability", d.Durability, DurabilityAuto},
		{"device key", d.KeyFile, filepath.Join(dir, "keys/dev-1.pem")},
		{"downlinks", fmt.Sprint(len(d.Downlinks), d.Downlinks[0].Subtopic, d.Downlinks[0].Webhook, d.Downlinks[1].Serial), "2+/x/#https://h/x?y=zs"},
		{"serial", s.Port + " " + s.Mode + " " + s.Decode, "/dev/pts/../ttyS0 7E2 raw"},
		{"baud", s.Baud, 115200},
		{"delimiter", string(s.Delimiter), "\r\x00"},
		{"max_frame", s.MaxFrame, int64(1)},
		{"subtopic", s.Subtopic, bridge.Subtopic("a/b")},
		{"content_type", s.ContentType, "text/csv; charset=UTF-8"},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("%s: got %#v, want %#v", tt.what, tt.got, tt.want)
		}
	}
}

func TestContentTypeFollowsDecode(t *testing.T) {
	dir := fixture(t)
	for decode, want := range map[string]string{
		"raw": "application/octet-stream", "text": "text/plain", "json": "application/json",
	} {
		cfg := mustLoad(t, dir, plant+"[[device]]\nid = \"d\"\n[[serial]]\nname = \"s\"\nport = \"/dev/x\"\ndevice = \"d\"\ndecode = \""+decode+"\"\n")
		if got := cfg.Serials[0].ContentType; got != want {
			t.Errorf("decode = %q: content type %q, want %q", decode, got, want)
		}
	}
}

// A device without a durability of its own has that of the gateway, also if it
// stands in an included file.
func TestDurabilityIsInherited(t *testing.T) {
	dir := fixture(t)
	cfg := mustLoad(t, dir, "include = [\"inc/*.toml\"]\ndurability = \"always\"\n"+plant+
		"[[device]]\nid = \"d1\"\n[[device]]\nid = \"d2\"\ndurability = \"auto\"\n[[device]]\nid = \"d3\"\ndurability = \"always\"\n")
	got := map[bridge.DeviceID]string{}
	for _, d := range cfg.Devices {
		got[d.ID] = d.Durability
	}
	want := map[bridge.DeviceID]string{"d1": "always", "d2": "auto", "d3": "always", "dev-1": "always"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("durability (-want +got):\n%s", diff)
	}
}

func TestStateDir(t *testing.T) {
	dir := fixture(t)
	for value, want := range map[string]string{
		"/var/lib/other/": "/var/lib/other", "state": filepath.Join(dir, "state"), ".": dir,
		dir + "/inc": filepath.Join(dir, "inc"), "not/there/yet": filepath.Join(dir, "not/there/yet"),
	} {
		if got := mustLoad(t, dir, "state_dir = \""+value+"\"\n"+plant).StateDir; got != want {
			t.Errorf("state_dir = %q: got %q, want %q", value, got, want)
		}
	}
	// Whatever the working directory is later, the path means the same.
	t.Chdir(dir)
	cfg, err := Load("fieldbridge.toml")
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(cfg.StateDir) {
		t.Errorf("state_dir %q is not absolute", cfg.StateDir)
	}
	writeFile(t, "relative.toml", "state_dir = \"state\"\n"+plant, 0o644)
	if cfg, err = Load("relative.toml"); err != nil || !filepath.IsAbs(cfg.StateDir) || filepath.Base(cfg.StateDir) != "state" {
		t.Errorf("state_dir of a file by its relative name: %+v, %v", cfg, err)
	}
}

// "" is no limit and the default; everything else is one.
func TestLimitPerDevice(t *testing.T) {
	dir := fixture(t)
	for value, want := range map[string]int64{`""`: 0, `"64KiB"`: 65536, `"256MiB"`: 256 << 20} {
		cfg := mustLoad(t, dir, plant+"[spool]\nmax_bytes_per_device = "+value+"\n")
		if got := cfg.Spool.MaxBytesPerDevice; got != want {
			t.Errorf("max_bytes_per_device = %s: got %d, want %d", value, got, want)
		}
	}
}

func TestCredentials(t *testing.T) {
	dir, creds := fixture(t), t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", creds)
	// systemd makes them 0440 for the service's user.
	writeFile(t, filepath.Join(creds, "yard"), "from-systemd", 0o440)
	writeFile(t, filepath.Join(creds, "key-dev-1"), "the key", 0o440)
	cfg := mustLoad(t, dir, strings.Replace(yard, "secrets/yard", "credentials:yard", 1)+
		strings.Replace(plant, "keys/good.pem", "credentials:key-{device}", 1)+
		"[[device]]\nid = \"dev-1\"\nconnector = \"plant\"\n")
	if got := cfg.Connectors[0].Secret.Reveal(); got != "from-systemd" {
		t.Errorf("secret is %q", got)
	}
	if got := cfg.Devices[0].KeyPEM.Reveal(); got != "the key" {
		t.Errorf("key is %q", got)
	}
}

func TestInclude(t *testing.T) {
	dir := fixture(t)
	// Paths in an included file start at that file; a file is read once; the
	// main file, hidden files and empty patterns are no trouble.
	writeFile(t, filepath.Join(dir, "more/c.toml"), strings.ReplaceAll(plant, "keys/", "../keys/"), 0o644)
	cfg := mustLoad(t, dir, "include = [\"inc/*.toml\", \"inc/a.toml\", \"./inc/../inc/a*\", \""+dir+"/inc/b.toml\", \"*.toml\", \"none/*.toml\", \"more/[c].toml\"]\n")
	if len(cfg.Devices) != 1 || len(cfg.Serials) != 1 || len(cfg.Connectors) != 1 {
		t.Fatalf("got %d devices, %d ports, %d connectors, want one each", len(cfg.Devices), len(cfg.Serials), len(cfg.Connectors))
	}
	want := Position{File: filepath.Join(dir, "inc/a.toml"), Line: 1, Key: "device[0]"}
	if got := cfg.Devices[0].Pos; got != want {
		t.Errorf("the device is at %v, want %v", got, want)
	}
	if got, want := cfg.Devices[0].KeyFile, filepath.Join(dir, "keys/good.pem"); got != want {
		t.Errorf("the key is %s, want %s", got, want)
	}
	if got, want := cfg.At(cfg.Devices[0].Pos, "id").String(), filepath.Join(dir, "inc/a.toml")+":2: device[0].id"; got != want {
		t.Errorf("the id is at %s, want %s", got, want)
	}
}

// The directory of the main file is taken literally, whatever its name.
func TestIncludeBesideOddDirectory(t *testing.T) {
	dir := filepath.Join(fixture(t), `a[1]*\b`)
	writeFile(t, filepath.Join(dir, "inc/a.toml"), yard, 0o644)
	writeFile(t, filepath.Join(dir, "inc/secrets/yard"), theSecret, 0o600)
	if cfg := mustLoad(t, dir, "include = [\"inc/*.toml\"]\n"); cfg.Connector("yard") == nil {
		t.Error("the included connector is not there")
	}
}

func TestAt(t *testing.T) {
	dir := fixture(t)
	cfg := mustLoad(t, dir, plant+"\n[http]\nmax_body = \"1KiB\"\n[[device]]\nid = \"d\"\n")
	main := filepath.Join(dir, "fieldbridge.toml")
	for _, tt := range []struct {
		block Position
		key   string
		want  string
	}{
		{Position{}, "", main + ":1"},
		{Position{}, "gateway", main + ":1: gateway"},
		{cfg.HTTP.Pos, "max_body", main + ":8: http.max_body"},
		{cfg.HTTP.Pos, "listen", main + ":7: http.listen"},
		{cfg.Connectors[0].Pos, "broker", main + ":3: connector[0].broker"},
		{cfg.Connectors[0].Pos, "token.lifetime", main + ":1: connector[0].token.lifetime"},
		{cfg.Devices[0].Pos, "", main + ":9: device[0]"},
		{cfg.Devices[0].Pos, "key_file", main + ":9: device[0].key_file"},
		{Position{File: "elsewhere", Key: "x"}, "y", "elsewhere:1: x.y"},
	} {
		if got := cfg.At(tt.block, tt.key).String(); got != tt.want {
			t.Errorf("At(%v, %q) = %s, want %s", tt.block, tt.key, got, tt.want)
		}
	}
	m := cfg.At(cfg.Devices[0].Pos, "key_file").Mistake("is no key", "make one")
	if got, want := m.Error(), main+":9: device[0].key_file: is no key (make one)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestConnector(t *testing.T) {
	cfg := mustLoad(t, fixture(t), plant+yard)
	if c := cfg.Connector("yard"); c != &cfg.Connectors[1] {
		t.Errorf("Connector(yard) = %p, want the second", c)
	}
	if c := cfg.Connector("none"); c != nil {
		t.Errorf("Connector(none) = %v, want nil", c)
	}
}

func TestExpand(t *testing.T) {
	c := Connector{Name: "yard", Secret: bridge.NewSecret("s3")}
	for _, tt := range []struct {
		template string
		device   bridge.DeviceID
		want     string
	}{
		{"/up/{secret}/id/{device}", "d1", "/up/s3/id/d1"},
		{"/{connector}/{device}/{device}/#", "d1", "/yard/d1/d1/#"},
		{"/up/{secret}/id/{device}", "{secret}", "/up/s3/id/{secret}"},
	} {
		got := c.Expand(tt.template, tt.device)
		if got.Reveal() != tt.want {
			t.Errorf("Expand(%q, %q) = %q, want %q", tt.template, tt.device, got.Reveal(), tt.want)
		}
		if fmt.Sprint(got) != "[redacted]" {
			t.Errorf("an expanded template prints %q", fmt.Sprint(got))
		}
	}
}

func TestPrintingShowsNoSecret(t *testing.T) {
	cfg := mustLoad(t, fixture(t), plant+yard+"[[device]]\nid = \"dev-1\"\nconnector = \"plant\"\n")
	var text, jsonLog bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("x", "cfg", cfg, "value", *cfg, "connector", cfg.Connectors[1], "device", cfg.Devices[0])
	slog.New(slog.NewJSONHandler(&jsonLog, nil)).Info("x", "cfg", cfg, "value", *cfg, "connector", cfg.Connectors[1], "device", cfg.Devices[0])
	asJSON, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	outputs := map[string]string{"slog text": text.String(), "slog JSON": jsonLog.String(), "JSON": string(asJSON)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{cfg, *cfg, cfg.Connectors, cfg.Connectors[1], &cfg.Connectors[1], cfg.Devices[0], cfg.Connectors[1].Secret} {
			outputs[verb] += fmt.Sprintf(verb, v)
		}
	}
	key := strings.Split(cfg.Devices[0].KeyPEM.Reveal(), "\n")[1]
	for how, out := range outputs {
		for _, secret := range []string{theSecret, key, fmt.Sprintf("%x", theSecret), fmt.Sprintf("%d", []byte(theSecret))} {
			if strings.Contains(out, secret) {
				t.Errorf("%s shows a secret: %s", how, out)
			}
		}
		if !strings.Contains(out, "[redacted]") {
			t.Errorf("%s shows nothing where the secret is: %s", how, out)
		}
	}
}

func TestConnectKeys(t *testing.T) {
	dir := fixture(t)
	cfg := mustLoad(t, dir, `
[[connector]]
name = "plant"
broker = "mqtts://b.example"
auth = "device-credentials"
key_file = "keys/good.pem"
connect = "on-demand"
idle_timeout = "5s"
connect_rate = 7
allowed_servers = ["B2.example", "b3.example:8884", "::1", "[::1]:8883"]
[[device]]
id = "dev-1"
key_files = ["keys/{device}.pem", "keys/good.pem"]
[[device]]
id = "dev-2"
`)
	c := cfg.Connectors[0]
	if c.Connect != ConnectOnDemand || c.IdleTimeout != 5*time.Second || c.ConnectRate != 7 {
		t.Errorf("got %+v", c)
	}
	if diff := cmp.Diff([]string{"b2.example", "b3.example:8884", "::1", "[::1]:8883"}, c.AllowedServers); diff != "" {
		t.Error(diff)
	}
	for i, want := range [][]string{{"keys/dev-1.pem", "keys/good.pem"}, {"keys/good.pem"}} {
		var got []string
		for _, k := range cfg.Devices[i].Keys() {
			got = append(got, strings.TrimPrefix(k.File, dir+"/"))
			if again, err := ReadKey(k.File); err != nil || again.Reveal() != k.PEM.Reveal() || again.IsZero() {
				t.Errorf("%s read again: %v", k.File, err)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// A key is read again with the limits that it was read with at first.
func TestReadKeyErrors(t *testing.T) {
	dir := fixture(t)
	for name, want := range map[string]string{
		"keys/open.pem":   "can be read or changed by other users (mode 0644) (run: chmod 600",
		"keys/empty.pem":  "is empty",
		"keys/absent.pem": "there is no file",
		"keys":            "is not a regular file",
		"secrets/huge":    "larger than",
	} {
		_, err := ReadKey(filepath.Join(dir, name))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), theSecret) {
			t.Errorf("%s: error %v does not say %q", name, err, want)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Join(dir, "keys")+"/")
	if _, err := ReadKey(filepath.Join(dir, "keys/open.pem")); err != nil {
		t.Errorf("a systemd credential: %v", err)
	}
}

func TestTokenDirections(t *testing.T) {
	dir := exampleDir(t)
	block := "[[http.token]]\nname = \"a\"\ntoken_file = \"tokens/scada\"\ndevices = [\"*\"]\n"
	for given, want := range map[string]string{"": "[uplink downlink read]", "directions = [\"read\"]\n": "[read]"} {
		cfg := mustLoad(t, dir, block+given+"[[connector]]\nname = \"plant\"\nbroker = \"mqtts://b.example\"\nauth = \"device-credentials\"\n")
		if got := fmt.Sprint(cfg.HTTP.Tokens[0].Directions); got != want {
			t.Errorf("%q: directions %s, want %s", given, got, want)
		}
	}
}
