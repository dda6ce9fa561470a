package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// docClient is a client of the guide, as it stands there but for the address.
type docClient struct {
	t *testing.T
	// dir is where it runs: beside its token.
	dir string
	// command runs it, without what it is to do.
	command []string
}

// clientKinds are the clients, each with what makes its file a command, or says
// why it cannot be run here.
var clientKinds = []struct {
	file string
	make func(t *testing.T, path string) ([]string, error)
}{
	{"client.sh", func(_ *testing.T, path string) ([]string, error) {
		for _, tool := range []string{"sh", "curl", "jq", "awk", "openssl"} {
			if _, err := exec.LookPath(tool); err != nil {
				return nil, err
			}
		}
		return []string{"sh", path}, nil
	}},
	{"client.py", func(_ *testing.T, path string) ([]string, error) {
		// A Python of one's own in the path may lack what the system's has.
		var err error
		for _, python := range []string{"python3", "/usr/bin/python3"} {
			var out []byte
			if out, err = exec.Command(python, "-c", "import requests, sys; print(sys.executable)").CombinedOutput(); err == nil {
				return []string{strings.TrimSpace(string(out)), path}, nil
			}
			err = fmt.Errorf("%s with requests: %w: %s", python, err, out)
		}
		return nil, err
	}},
	{"client.mjs", func(_ *testing.T, path string) ([]string, error) {
		if out, err := exec.Command("node", "-e", "fetch").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("node with fetch: %w: %s", err, out)
		}
		return []string{"node", path}, nil
	}},
	{"client.go", func(t *testing.T, path string) ([]string, error) {
		if _, err := exec.LookPath("go"); err != nil {
			return nil, err
		}
		program := strings.TrimSuffix(path, ".go")
		build := exec.Command("go", "build", "-o", program, filepath.Base(path))
		build.Dir = filepath.Dir(path)
		// Nothing but the standard library, and not this module.
		build.Env = append(os.Environ(), "GOFLAGS=", "GOPROXY=off", "GOTOOLCHAIN=local", "GOWORK=off")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v: %s", err, out)
		}
		return []string{program}, nil
	}},
}

func newDocClient(t *testing.T, file, text string, command func(t *testing.T, path string) ([]string, error)) (*docClient, *tap) {
	t.Helper()
	between := newTap(t)
	c := &docClient{t: t, dir: t.TempDir()}
	if strings.Count(text, "127.0.0.1:8080") != 1 {
		t.Fatalf("the guide's %s does not name its address once", file)
	}
	path := filepath.Join(c.dir, file)
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "127.0.0.1:8080", between.addr)), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if c.command, err = command(t, path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	c.use(hallToken)
	return c, between
}

// headerCommand is the guide's way to the header file of curl.
func headerCommand(t *testing.T) string {
	t.Helper()
	for _, b := range docBlocks(t, httpGuide) {
		for line := range strings.Lines(b.text) {
			if strings.Contains(line, "> tokens/hall-a.header") {
				return line
			}
		}
	}
	t.Fatal("the guide does not make a header file")
	return ""
}

// use gives the client a token.
func (c *docClient) use(token string) {
	c.t.Helper()
	if err := os.MkdirAll(filepath.Join(c.dir, "tokens"), 0o700); err != nil {
		c.t.Fatal(err)
	}
	// A second line is for those who change to a new token, not for clients.
	if err := os.WriteFile(filepath.Join(c.dir, "tokens/hall-a"), []byte(token+"\nanother-token-of-it\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	header := exec.Command("sh", "-ec", headerCommand(c.t))
	header.Dir = c.dir
	if out, err := header.CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
}

// running is a client at work.
type running struct {
	*exec.Cmd
	out, errs logBuffer
	done      chan struct{} // closed at its end
	err       error
}

// start has the client do something.
func (c *docClient) start(what, stdin string) *running {
	c.t.Helper()
	r := &running{Cmd: exec.Command(c.command[0], append(slices.Clone(c.command[1:]), what)...), done: make(chan struct{})}
	r.Dir = c.dir
	r.Stdin, r.Stdout, r.Stderr = strings.NewReader(stdin), &r.out, &r.errs
	r.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(strings.ToLower(v), "="); !strings.HasSuffix(name, "_proxy") {
			r.Env = append(r.Env, v)
		}
	}
	if err := r.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		r.err = r.Wait()
	}()
	c.t.Cleanup(func() {
		r.stop()
		checkNoSecrets(c.t, r.out.String()+r.errs.String(), map[string]string{"hall-a": hallToken, "slow": slowToken})
		if c.t.Failed() {
			c.t.Logf("%s %s\nstdout: %s\nstderr: %s", filepath.Base(c.command[len(c.command)-1]), what, r.out.String(), r.errs.String())
		}
	})
	return r
}

// stop ends a client that does not end by itself, and what it has started.
func (r *running) stop() {
	_ = syscall.Kill(-r.Process.Pid, syscall.SIGTERM)
	select {
	case <-r.done:
	case <-time.After(patience):
		_ = syscall.Kill(-r.Process.Pid, syscall.SIGKILL)
		<-r.done
	}
}

// wait waits until the client ends and returns what it has printed.
func (r *running) wait(t *testing.T) (out string, err error) {
	t.Helper()
	select {
	case <-r.done:
		return r.out.String(), r.err
	case <-time.After(2 * patience):
		t.Fatal("the client does not end")
		return "", nil
	}
}

// run has the client do something that succeeds, and returns what it prints.
func (c *docClient) run(what, stdin string) string {
	c.t.Helper()
	out, err := c.start(what, stdin).wait(c.t)
	if err != nil {
		c.t.Errorf("%s: %v", what, err)
	}
	return out
}
