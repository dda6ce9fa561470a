package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fieldbridge/adapters/rest"
)

const httpGuide = "../../docs/http.md"

// TestHTTPGuide runs the configuration of the guide on a gateway and its
// commands in a shell, as they stand there but for the port.
func TestHTTPGuide(t *testing.T) {
	for _, tool := range []string{"sh", "openssl", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	s := newSite(t)
	address := freeAddr(t)
	var setup, commands, fetch []string
	text := fmt.Sprintf("[http]\nlisten = %q\n", address)
	for _, b := range docBlocks(t, httpGuide) {
		script := strings.ReplaceAll(b.text, "127.0.0.1:8080", address)
		switch {
		case b.info == "toml":
			text += script
		case b.info == "sh" && strings.Contains(script, "openssl"):
			setup = append(setup, script)
		case b.info == "sh" && strings.Contains(script, "openapi.yaml"):
			fetch = append(fetch, script)
		case b.info == "sh":
			for line := range strings.Lines(script) {
				if strings.Contains(line, "umask") {
					setup = append(setup, line)
				} else {
					commands = append(commands, line)
				}
			}
		default:
			t.Errorf("line %d: a block of %q", b.line, b.info)
		}
	}
	if len(setup) != 3 || len(commands) != 6 || len(fetch) != 1 {
		t.Fatalf("found %d ways to make a file with the token, %d commands and %d to fetch the API", len(setup), len(commands), len(fetch))
	}
	files := map[string]string{"message.txt": "door open", "tokens/monitoring": readerToken}
	for name, content := range s.Files {
		files[name] = content
	}
	path := writeConfig(t, complete(s.config("", "", text+listed("hall-a-1", "yard"))), files)
	shell := guideShell(t, path)
	shell(strings.Join(setup, ""))
	delete(files, "message.txt") // no secret
	token, err := os.ReadFile(filepath.Join(filepath.Dir(path), "tokens", "hall-a"))
	if err != nil {
		t.Fatal(err)
	}
	files["tokens/hall-a"] = string(token)
	g := runGateway(t, path, files)
	g.awaitUp()
	for i, c := range commands {
		out := shell(c)
		if !strings.Contains(out, "delivered") || len(s.messages("hall-a-1")) != i+1 {
			t.Errorf("%s printed %q; %d readings have come", c, out, len(s.messages("hall-a-1")))
		}
	}
	shell(fetch[0])
	if got, err := os.ReadFile(filepath.Join(filepath.Dir(path), "openapi.yaml")); err != nil || string(got) != rest.OpenAPI {
		t.Errorf("openapi.yaml has %d bytes, want %d: %v", len(got), len(rest.OpenAPI), err)
	}
	rotate(t, g, shell, commands[0], string(token))
}

// rotate changes to a new token as the guide says.
func rotate(t *testing.T, g *testGateway, shell func(string) string, command, old string) {
	t.Helper()
	dir := filepath.Dir(g.Path)
	config, err := os.ReadFile(g.Path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old", old)
	write("new", hallToken)
	use := func(file string) int {
		code, _, _ := cliReading(strings.NewReader("1"), "send", "--address", g.HTTP, "--token-file", filepath.Join(dir, file), "--device", "hall-a-1", "-")
		return code
	}
	write("tokens/hall-a", old+hallToken+"\n")
	g.reload(string(config))
	if a, b := use("old"), use("new"); a != 0 || b != 0 {
		t.Errorf("with both lines: exit codes %d and %d", a, b)
	}
	write("tokens/hall-a", hallToken+"\n")
	g.reload(string(config))
	if a, b := use("old"), use("new"); a != 1 || b != 0 {
		t.Errorf("with the new line: exit codes %d and %d", a, b)
	}
	if out := shell(command); !strings.Contains(out, "delivered") {
		t.Errorf("%s printed %q", command, out)
	}
}

// guideShell runs scripts beside a configuration, with this program in the path.
func guideShell(t *testing.T, config string) func(script string) (stdout string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, "fieldbridge")); err != nil {
		t.Fatal(err)
	}
	return func(script string) string {
		t.Helper()
		c := exec.Command("sh", "-ec", script)
		c.Dir = filepath.Dir(config)
		c.Env = append(os.Environ(), daemonVariable+"=1", "FIELDBRIDGE_CONFIG="+config, "PATH="+bin+":"+os.Getenv("PATH"))
		var errs strings.Builder
		c.Stderr = &errs
		out, err := c.Output()
		if err != nil {
			t.Errorf("%s: %v: %s", script, err, errs.String())
		}
		return string(out)
	}
}
