package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fieldbridge/bridge/token"
)

func TestCheckTellsAllMistakesAtOnce(t *testing.T) {
	path := writeConfig(t, `gatewy = "x"
ack_timeout = "soon"
[http]
listen = "0.0.0.0:8080"
[[connector]]
name = "yard"
broker = "http://broker"
auth = "uplink-secret"
id = "yard-id"
secret_file = "yard.secret"
[[device]]
id = "a/b"
connector = "yrad"
[[serial]]
name = "scale"
port = "/dev/ttyUSB0"
mode = "9X1"
device = "nobody"
`, map[string]string{"yard.secret": yardSecret})
	if err := os.Chmod(filepath.Join(filepath.Dir(path), "yard.secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := cli("check", "--config", path)
	if code != 2 || stdout != "" {
		t.Errorf("exit code %d, stdout %q", code, stdout)
	}
	lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
	for i, want := range []string{
		`:1: gatewy: unknown key (did you mean "gateway"?)`,
		`:2: ack_timeout: "soon" is not a duration`,
		`:4: http.listen: "0.0.0.0:8080"`,
		`:7: connector[0].broker: does not start with mqtts://`,
		`:10: connector[0].secret_file: `,
		`:12: device[0].id: `,
		`:13: device[0].connector: no connector is named "yrad" (did you mean "yard"?)`,
		`:17: serial[0].mode: `,
		`:18: serial[0].device: no device has the id "nobody"`,
	} {
		if i >= len(lines) {
			t.Errorf("mistake %d is missing: %q", i, want)
		} else if !strings.HasPrefix(lines[i], path+want) {
			t.Errorf("mistake %d is %q, want %q", i, lines[i], want)
		}
	}
	if len(lines) > 9 {
		t.Errorf("%d mistakes too many: %q", len(lines)-9, lines[9:])
	}
	checkNoSecrets(t, stderr, secretFiles())
}

func TestCheckNamesBadKeys(t *testing.T) {
	small, err := token.Generate("ES256")
	if err != nil {
		t.Fatal(err)
	}
	public, err := token.EncodePublicKey(small.Public())
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"a.pem": "no PEM at all", "b.pem": string(public)}
	text := `[[connector]]
name = "plant"
broker = "mqtt://127.0.0.1:1"
auth = "device-credentials"
key_file = "{device}.pem"
[[device]]
id = "a"
[[device]]
id = "b"
key_file = "b.pem"
`
	path := writeConfig(t, text, files)
	dir := filepath.Dir(path)
	for _, command := range []string{"check", "run", "token --device a"} {
		args := append(strings.Fields(command), "--config", path)
		code, stdout, stderr := cli(args...)
		lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
		if code != 2 || stdout != "" || len(lines) != 2 {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", command, code, stdout, stderr)
			continue
		}
		// The first is at the block, as the connector's template names the key.
		want := fmt.Sprintf("%s:6: device[0].key_file: %s/a.pem: read private key: ", path, dir)
		if !strings.HasPrefix(lines[0], want) {
			t.Errorf("%s: %q, want %q", command, lines[0], want)
		}
		want = fmt.Sprintf("%s:10: device[1].key_file: %s/b.pem: read private key: ", path, dir)
		if !strings.HasPrefix(lines[1], want) {
			t.Errorf("%s: %q, want %q", command, lines[1], want)
		}
		checkNoSecrets(t, stderr, files)
	}
}

// liveRest is what checkLive's tests need beside the connectors.
const liveRest = `
[[device]]
id = "pump-1"
connector = "plant"
[[device]]
id = "app"
connector = "yard"
[[serial]]
name = "scale"
port = "%s"
device = "pump-1"
`

func TestCheckLive(t *testing.T) {
	s := newSite(t)
	port := openPTY(t)
	path := writeConfig(t, s.config("", "", fmt.Sprintf(liveRest, port.Path))+`
[[connector]]
name = "spare"
broker = "mqtt://127.0.0.1:1"
auth = "device-credentials"
`, s.Files)
	code, stdout, stderr := cli("check", "--live", "--config", path)
	want := fmt.Sprintf(`%s: no mistakes; 3 connectors, 2 devices, 1 serial ports
ok    serial port scale (%s)
ok    connector plant (mqtt://%s, as device pump-1)
ok    connector yard (mqtt://%s)
skip  connector spare: no device uses it
`, path, port.Path, s.Addr, s.Addr)
	if code != 0 || stdout != want || stderr != "" {
		t.Errorf("exit code %d, stderr %q, stdout:\n%s\nwant:\n%s", code, stderr, stdout, want)
	}
	for _, c := range s.Broker.Connects() {
		if c.Code != 0 {
			t.Errorf("CONNECT of %s was refused: %s", c.ClientID, c.Refused)
		}
	}
	if n := len(s.Broker.Connects()); n != 2 {
		t.Errorf("%d CONNECTs, want one for each connector in use", n)
	}
}

func TestCheckLiveSaysWhatTheBrokerAnswers(t *testing.T) {
	s := newSite(t)
	closed, _ := reservedAddr(t)
	files := map[string]string{"yard.secret": "not-the-secret", "pump-1.pem": s.Files["pump-2.pem"]}
	path := writeConfig(t, s.config("", "", fmt.Sprintf(liveRest, "/dev/nonexistent"))+`
[[connector]]
name = "gone"
broker = "mqtt://`+closed+`"
auth = "uplink-secret"
id = "yard-id"
secret_file = "yard.secret"
`, files)
	code, stdout, stderr := cli("check", "--live", "--config", path)
	if code != 1 || stderr != "check --live: not everything works, see above\n" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	lines := strings.Split(stdout, "\n")[1:]
	for i, want := range []string{
		"FAIL  serial port scale (/dev/nonexistent): open serial port /dev/nonexistent: no such file or directory",
		"FAIL  connector plant (mqtt://" + s.Addr + ", as device pump-1): broker answered CONNACK 0x86 (bad user name or password)",
		"FAIL  connector yard (mqtt://" + s.Addr + "): broker answered CONNACK 0x86 (bad user name or password)",
		"FAIL  connector gone (mqtt://" + closed + "): connect to " + closed + ": ",
	} {
		if !strings.HasPrefix(lines[i], want) {
			t.Errorf("line %d is %q, want %q", i, lines[i], want)
		}
	}
	checkNoSecrets(t, stdout+stderr, files)
}
