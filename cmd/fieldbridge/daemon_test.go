package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fieldbridge/bridge/devbroker"
)

// testDaemon is "fieldbridge run" in a process of its own, which can be killed.
type testDaemon struct {
	// HTTP is the host:port of its endpoint.
	HTTP string
	Logs *logBuffer

	t      *testing.T
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
}

// startDaemon runs a daemon and waits until it is ready.
func startDaemon(t *testing.T, path string) *testDaemon {
	t.Helper()
	return runDaemon(t, path).ready()
}

// ready waits until the daemon takes requests.
func (d *testDaemon) ready() *testDaemon {
	t := d.t
	t.Helper()
	const before = `msg=ready http=`
	eventually(t, "the daemon is ready", func() bool {
		select {
		case <-d.exited:
			t.Fatalf("the daemon ended by itself\n%s", d.Logs)
		default:
		}
		_, rest, ok := strings.Cut(d.Logs.String(), before)
		d.HTTP, _, _ = strings.Cut(rest, " ")
		return ok && strings.Contains(rest, "\n")
	})
	return d
}

// runDaemon starts a process that may end at once.
func runDaemon(t *testing.T, path string) *testDaemon {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return runProgram(t, self, path)
}

// buildProgram builds what users get, which is smaller than a test's binary and
// has no race detector in it.
func buildProgram(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "fieldbridge")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return program
}

// runProgram is runDaemon with this binary.
func runProgram(t *testing.T, program, path string) *testDaemon {
	t.Helper()
	d := &testDaemon{t: t, Logs: &logBuffer{}, cmd: exec.Command(program, "run", "--config", path), exited: make(chan struct{})}
	d.cmd.Env = append(os.Environ(), daemonVariable+"=1", "NOTIFY_SOCKET=")
	d.cmd.Stdout, d.cmd.Stderr = d.Logs, d.Logs
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.exited)
		_ = d.cmd.Wait() // its state is looked at
	}()
	t.Cleanup(func() {
		d.signal(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("log of the daemon:\n%s", d.Logs)
		}
	})
	return d
}

// signal sends a signal, waits for the end and returns the exit code, -1 if the
// signal was the end.
func (d *testDaemon) signal(s syscall.Signal) int {
	d.t.Helper()
	_ = d.cmd.Process.Signal(s)
	return d.wait()
}

func (d *testDaemon) wait() int {
	d.t.Helper()
	select {
	case <-d.exited:
		return d.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		d.t.Fatalf("the daemon does not stop\n%s", d.Logs)
		return 0
	}
}

// daemonConfig writes a configuration for daemons.
func daemonConfig(t *testing.T, text string, files map[string]string) string {
	t.Helper()
	return writeConfig(t, complete("log = { level = \"debug\", format = \"text\" }\n"+text), files)
}

// TestKilledDaemonDeliversWhatItHadAcknowledged kills the daemon when the broker
// is rid of the downlinks and the webhook has none of them.
func TestKilledDaemonDeliversWhatItHadAcknowledged(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var open atomic.Bool
	hook := newWebhook(t, func(hookCall) int {
		if open.Load() {
			return http.StatusNoContent
		}
		return http.StatusServiceUnavailable
	})
	path := daemonConfig(t, s.config("", "", fmt.Sprintf("[[device]]\nid = \"app\"\nconnector = \"yard\"\n[[device.downlink]]\nwebhook = \"%s/app\"\n", hook.URL)), s.Files)
	d := startDaemon(t, path)
	bodies := []string{"first", "second", "third"}
	for _, body := range bodies {
		s.down(devbroker.Message{Connector: yardID, Device: "app", ContentType: "text/plain", Payload: []byte(body)})
	}
	client := s.yardClient()
	eventually(t, "the acknowledgements", func() bool { return s.Broker.Pending(client) == 0 })
	call := func(body string) hookCall { return hookCall{"/app", "text/plain", "app", "", body} }
	hook.want(call("first"))
	if code := d.signal(syscall.SIGKILL); code != -1 {
		t.Fatalf("exit code %d", code)
	}
	for len(hook.Calls) > 0 {
		hook.want(call("first"))
	}
	open.Store(true)
	d = startDaemon(t, path)
	for _, body := range bodies {
		hook.want(call(body))
	}
	// What is delivered is forgotten before the process ends in order.
	if code := d.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	d = startDaemon(t, path)
	eventually(t, "the session is up", func() bool { return s.Broker.Connected(client) })
	d.signal(syscall.SIGTERM)
	if left := len(hook.Calls); left > 0 {
		t.Errorf("%d deliveries too many", left)
	}
	checkNoSecrets(t, d.Logs.String(), s.Files)
}

// TestKilledDaemonHasWhatItAccepted kills the daemon right after its answer.
func TestKilledDaemonHasWhatItAccepted(t *testing.T) {
	t.Parallel()
	s, listen := newLateSite(t)
	path := daemonConfig(t, s.yardConfig(oneDevice), s.Files)
	n := newNumbered()
	client := newClient(t)
	for range 3 {
		d := startDaemon(t, path)
		for range 20 {
			a, err := postTo(client, "http://"+d.HTTP+"/v1/devices/app/uplink", "text/plain", n.next("app"))
			if err != nil {
				t.Fatal(err)
			}
			expectStored(t, a)
		}
		d.signal(syscall.SIGKILL)
	}
	listen()
	d := startDaemon(t, path)
	s.await("app", 60)
	if code := d.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	n.check(t, payloadsOf(s.Broker.Messages()), false)
}

// TestTerminatedDaemonWithoutBroker loses none of the lines that nobody waits
// for.
func TestTerminatedDaemonWithoutBroker(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	port := openPTY(t)
	n := newNumbered()
	// In memory until the end comes: ack_timeout is 30 s.
	path := daemonConfig(t, s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
	d := startDaemon(t, path)
	eventually(t, "the session is up", func() bool { return s.Broker.Connected("pump-1") })
	s.awaitPayload(writeLines(n, port, 5))
	s.Broker.Freeze()
	writeLines(n, port, 100)
	eventually(t, "all lines read", func() bool {
		resp, err := http.Get("http://" + d.HTTP + "/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return err == nil && strings.Contains(string(text), "\nfieldbridge_readings_in_memory 100\n")
	})
	if code := d.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	s.Broker.Thaw()
	d = startDaemon(t, path)
	s.awaitPayload(writeLines(n, port, 1))
	if code := d.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	// The broker may have had some of them before the end.
	n.check(t, payloadsOf(s.Broker.Messages()), true)
}

// TestSecondDaemon: two on one spool would send everything twice.
func TestSecondDaemon(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := daemonConfig(t, s.yardConfig(oneDevice), s.Files)
	first := startDaemon(t, path)
	second := runDaemon(t, path)
	if code := second.wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, want := range []string{fmt.Sprintf("locked by process %d", first.cmd.Process.Pid), "use another state_dir"} {
		if !strings.Contains(second.Logs.String(), want) {
			t.Errorf("it does not say %q: %s", want, second.Logs)
		}
	}
	a, err := postTo(newClient(t), "http://"+first.HTTP+"/v1/devices/app/uplink", "text/plain", "x")
	if err != nil || a.Status/100 != 2 {
		t.Errorf("the first one: answer %+v, %v", a, err)
	}
	// A lock does not outlive its process.
	first.signal(syscall.SIGKILL)
	if code := startDaemon(t, path).signal(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d after the first was killed", code)
	}
}
