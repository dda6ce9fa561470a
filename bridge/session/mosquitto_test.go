package session

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/freeport"
)

// mosquitto is one on a free loopback port. Where CI is not "true" a machine
// without it skips the test.
func mosquitto(t *testing.T) (broker *os.Process, addr string) {
	t.Helper()
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/mosquitto") // not on every user's PATH
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v: install the package mosquitto", err)
		}
		t.Skipf("%v: install the package mosquitto to run this test", err)
	}
	if addr, err = freeport.Loopback(); err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addr)
	conf := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(conf, []byte("listener "+port+" 127.0.0.1\nallow_anonymous true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", conf)
	cmd.Stderr = io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(20 * time.Second); ; {
		if c, err := net.Dial("tcp", addr); err == nil {
			_ = c.Close()
			return cmd.Process, addr
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("mosquitto does not listen")
		}
	}
}

// Mosquitto, which allows ten aliases a connection, passes readings on with their
// full topics. When it is stopped like a link that is dead, the session notices
// by its keep alive, and nothing is lost.
func TestMosquitto(t *testing.T) {
	broker, addr := mosquitto(t)
	host, port, _ := net.SplitHostPort(addr)
	clients := []string{"-V", "mqttv5", "-h", host, "-p", port, "-q", "1"}
	// A retained message shows when the witness is subscribed.
	if out, err := exec.Command("mosquitto_pub", append(clients, "-t", "/ready", "-m", "x", "-r")...).CombinedOutput(); err != nil {
		if os.Getenv("CI") != "true" && errors.Is(err, exec.ErrNotFound) {
			t.Skipf("%v: install the package mosquitto-clients to run this test", err)
		}
		t.Fatalf("%v: %s", err, out)
	}
	sub := exec.Command("mosquitto_sub", append(clients, "-t", "#", "-F", "%t %p")...)
	out, err := sub.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Process.Kill(); _ = sub.Wait() })
	seen := make(chan string, 1000) // more than the test sends
	go func() {
		defer close(seen)
		for s := bufio.NewScanner(out); s.Scan(); {
			seen <- s.Text()
		}
	}()
	witness := func() string {
		select {
		case line := <-seen:
			return line
		case <-time.After(30 * time.Second):
			t.Fatal("mosquitto_sub shows nothing")
			return ""
		}
	}
	if line := witness(); line != "/ready x" {
		t.Fatalf("the witness began with %q", line)
	}

	down := make(chan struct{}, 100)
	r := newRig(t, newServer(t), func(o *Options) {
		if o.Endpoint, err = NewEndpoint(EndpointOptions{Address: addr}); err != nil {
			t.Fatal(err)
		}
		o.TopicAlias, o.KeepAlive, o.ConnectTimeout = true, 2*time.Second, time.Second
		o.Backoff = Backoff{Min: 10 * time.Millisecond, Max: 100 * time.Millisecond}
		o.Down = func(*Session) {
			select {
			case down <- struct{}{}:
			default:
			}
		}
	})
	r.run()
	want := []string{}
	for i := range 60 {
		sub := bridge.Subtopic(fmt.Sprintf("room-%d", i%12))
		<-r.queues[dev].submit(bridge.Reading{Device: dev, Subtopic: sub, ContentType: "text/plain", Payload: []byte(fmt.Sprint(i))})
		want = append(want, fmt.Sprintf("%s/%s %d", upTo, sub, i))
	}
	var got []string
	for range want {
		got = append(got, witness())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}

	if err := broker.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	select {
	case <-down:
	case <-time.After(30 * time.Second):
		t.Error("not noticed")
	}
	o := r.queues[dev].submit(bridge.Reading{Device: dev, ContentType: "text/plain", Payload: []byte("after")})
	if err := broker.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if out := <-o; out.Kind != bridge.Acked {
		t.Errorf("%+v", out)
	}
	if line := witness(); line != upTo+" after" {
		t.Errorf("%q", line)
	}
	// Logged by now: the session is up again.
	if len(r.log.lines("session down", "keep alive")) == 0 {
		t.Errorf("noticed by something else:\n%s", r.log)
	}
}
