package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge/devbroker"
)

// demoFiles are the secret files of the demo that runs in a directory for
// temporary files.
func demoFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	eventually(t, "the demo's files", func() bool {
		for _, pattern := range []string{"*/secret", "*/" + demoScale + ".pem"} {
			names, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil || len(names) != 1 {
				return false
			}
			data, err := os.ReadFile(names[0])
			if err != nil || len(data) == 0 {
				return false
			}
			files[filepath.Base(names[0])] = string(data)
		}
		return true
	})
	return files
}

func TestDemo(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	c := startCLI(t, "demo", "--for", "2s")
	files := demoFiles(t, dir)
	select {
	case <-c.done:
	case <-time.After(patience):
		t.Fatalf("the demo does not end\n%s", &c.stdout)
	}
	out := c.stdout.String()
	if c.code != 0 || c.stderr.String() != "" {
		t.Fatalf("exit code %d, stderr %q, output:\n%s", c.code, &c.stderr, out)
	}
	const ms = `\d+(\.\d+)?(µs|ms|s)`
	order := []string{
		`^fieldbridge demo  everything in this process`,
		`  broker   mqtt://127\.0\.0\.1:\d+ +MQTT v5 with akenza's rules`,
		`  serial   /dev/pts/\d+ `,
		`  HTTP     http://127\.0\.0\.1:\d+ `,
		`  webhook  http://127\.0\.0\.1:\d+ `,
		`  curl -H 'Content-Type: text/plain' -d 'hello' http://127\.0\.0\.1:\d+/v1/devices/demo-app/uplink/greeting`,
		`round 1\n`,
		`↑ serial   scale writes  "ST,GS,\+0024\.38kg\\r\\n"\n`,
		`  broker got    ST,GS,\+0024\.38kg  text/plain  /up/device/id/demo-scale  ` + ms + `\n`,
		`↑ HTTP     app posts     \{"energy":1204\.5,"unit":"kWh"\}\n`,
		`  broker got    \{"energy":1204\.5,"unit":"kWh"\}  application/json  /up/\[redacted\]/id/demo-app/energy  ` + ms + `\n`,
		`  app hears     200 OK, delivered, id [0-9a-f-]{36}\n`,
		`↓ serial   broker sends  "TARE 1"  to demo-scale, topic command\n`,
		`  scale reads   "TARE 1\\n"\n`,
		`↓ webhook  broker sends  \{"valve":"open","percent":10\}  to demo-app, topic valve\n`,
		`  webhook got   \{"valve":"open","percent":10\}  application/json  device demo-app, sub topic valve\n`,
		`✓ serial up     \d+\n  ✓ HTTP up       \d+\n  ✓ serial down   \d+\n  ✓ webhook down  \d+\n$`,
	}
	rest := out
	for _, part := range order {
		at := regexp.MustCompile(part).FindStringIndex(rest)
		if at == nil {
			t.Fatalf("the output lacks, or has too early, %s:\n%s", part, out)
		}
		rest = rest[at[1]:]
	}
	if strings.Contains(out, "\x1b") || strings.Contains(out, "✗") {
		t.Errorf("colours or failures in the output:\n%q", out)
	}
	checkNoSecrets(t, out, files)
	if left := fileNames(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestDemoShowsVisitorsAndStops(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	c := startCLI(t, "demo") // until it is told to stop
	out := c.says(t, "webhook got")
	url := regexp.MustCompile(`http://\S+/uplink/greeting`).FindString(out)
	a, err := postTo(newClient(t), url, "text/plain", "\x1b[31mhello")
	if err != nil || a.Status != http.StatusOK {
		t.Errorf("answer %+v, %v", a, err)
	}
	c.says(t, `"\x1b[31mhello"  text/plain  /up/[redacted]/id/demo-app/greeting`)
	if code := c.stop(); code != 0 {
		t.Errorf("exit code %d, stderr %s", code, &c.stderr)
	}
	if left := fileNames(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestDemoFailsWhenALegDoes(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	parts, err := newDemoParts()
	if err != nil {
		t.Fatal(err)
	}
	defer parts.close()
	parts.broker.RefusePublishes(func(m devbroker.Message) byte {
		if m.Device == demoApp {
			return 0x99
		}
		return 0
	})
	var out logBuffer
	err = parts.demo(context.Background(), &out, time.Second)
	if exitCode(err) != 1 {
		t.Fatalf("exit code %d, %v", exitCode(err), err)
	}
	if text := err.Error(); !strings.HasPrefix(text, "demo failed: HTTP up: POST was answered with 422 ") || !strings.Contains(text, "0x99") || strings.Contains(text, "\n") {
		t.Errorf("error is %q", text)
	}
	for _, want := range []string{"✗ HTTP up: POST was answered with 422", "✓ serial up     1", "✗ HTTP up       0", "✓ webhook down  1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, &out)
		}
	}
	parts.close()
	if left := fileNames(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestDemoVerdict(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		ok   [legs]int
		err  [legs]error
		want string
	}{
		{name: "all", ok: [legs]int{1, 1, 1, 1}},
		{name: "one never came", ok: [legs]int{2, 1, 0, 1}, want: "demo failed: serial down: did not come to its turn"},
		{name: "one failed", ok: [legs]int{0, 1, 1, 1}, err: [legs]error{legSerialUp: broken}, want: "demo failed: serial up: broken"},
		{name: "one failed once", ok: [legs]int{5, 5, 5, 4}, err: [legs]error{legWebhookDown: broken}, want: "demo failed: webhook down: broken"},
		{name: "two", ok: [legs]int{0, 1, 1, 0}, err: [legs]error{legSerialUp: broken}, want: "demo failed: serial up: broken\nwebhook down: did not come to its turn"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &demo{print: newDemoPrinter(&logBuffer{}), ok: c.ok, err: c.err}
			got := ""
			if err := d.verdict(); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("verdict %q, want %q", got, c.want)
			}
		})
	}
}

func TestPrintable(t *testing.T) {
	for payload, want := range map[string]string{
		"21.5 °C":                       "21.5 °C",
		"a\nb":                          `"a\nb"`,
		"\x1b]0;title\a":                `"\x1b]0;title\a"`,
		"\xff\x00":                      "2 bytes: ff 00",
		"":                              "",
		strings.Repeat("x", 1000):       strings.Repeat("x", 200) + "… (1000 bytes)",
		strings.Repeat("x", 199) + "é…": strings.Repeat("x", 199) + "… (204 bytes)",
	} {
		if got := printable([]byte(payload)); got != want {
			t.Errorf("printable(%q) is %q, want %q", payload, got, want)
		}
	}
}
