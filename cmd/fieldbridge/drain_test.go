package main

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// drainingDaemon is a daemon that was told to end, and waits for the PUBACK of a
// reading; answered gets what its sender was told.
func drainingDaemon(t *testing.T, s *site) (d *testDaemon, client *http.Client, answered <-chan drained) {
	t.Helper()
	s.Broker.HoldAcks(true)
	d = startDaemon(t, daemonConfig(t, "ack_timeout = \"30s\"\n"+s.config("", "", "[[device]]\nid = \"app\"\nconnector = \"yard\"\n"), s.Files))
	eventually(t, "the session is up", func() bool {
		return strings.Contains(d.Logs.String(), `msg="session up" connector=yard`)
	})
	client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	done := make(chan drained, 1)
	go func() {
		a, err := postTo(client, "http://"+d.HTTP+"/v1/devices/app/uplink", "text/plain", "the last one")
		done <- drained{a, err}
	}()
	s.awaitPayload("the last one")
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	return d, client, done
}

type drained struct {
	answer
	err error
}

// From SIGTERM on who comes is told so, until what was in progress is answered.
func TestDaemonSaysThatItStops(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	d, client, answered := drainingDaemon(t, s)
	status := func(path string) int {
		resp, err := client.Get("http://" + d.HTTP + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: 503 without Retry-After", path)
		}
		return resp.StatusCode
	}
	eventually(t, "not ready", func() bool { return status("/readyz") == http.StatusServiceUnavailable })
	for range 3 {
		a, err := postTo(client, "http://"+d.HTTP+"/v1/devices/app/uplink", "text/plain", "too late")
		if err != nil || a.Status != http.StatusServiceUnavailable || !strings.Contains(a.Detail, "fieldbridge stops") {
			t.Errorf("answer %+v, %v", a, err)
		}
	}
	if got := status("/healthz"); got != http.StatusOK {
		t.Errorf("healthz: status %d", got)
	}
	select {
	case a := <-answered:
		t.Fatalf("answered before the broker had it: %+v", a)
	default:
	}
	s.Broker.HoldAcks(false)
	if a := <-answered; a.err != nil || a.Status != http.StatusOK || a.State != "delivered" {
		t.Errorf("answer %+v", a)
	}
	if code := d.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := payloadsOf(s.Broker.Messages()); len(got) != 1 {
		t.Errorf("the broker has %q", got)
	}
}

// A second signal waits for nobody.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	d, client, answered := drainingDaemon(t, newSite(t))
	eventually(t, "the end has begun", func() bool {
		resp, err := client.Get("http://" + d.HTTP + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable
	})
	if code := d.signal(syscall.SIGTERM); code != -1 {
		t.Errorf("exit code %d, want the signal as the end", code)
	}
	if a := <-answered; a.err == nil {
		t.Errorf("answer %+v", a)
	}
}
