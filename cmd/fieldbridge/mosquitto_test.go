package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// These tests have Mosquitto as the broker and its command-line clients as the
// witnesses: nothing of ours says what arrived.

// mosqNeed finds Mosquitto's programs. On a machine without them the tests are
// skipped, but never where CI=true.
func mosqNeed(t *testing.T) {
	t.Helper()
	for _, p := range []string{"mosquitto", "mosquitto_sub", "mosquitto_pub", "mosquitto_passwd"} {
		if _, err := mosqPath(p); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%v: install the packages mosquitto and mosquitto-clients", err)
			}
			t.Skipf("%v: install the packages mosquitto and mosquitto-clients to run this test", err)
		}
	}
}

// mosqPath also looks where Debian puts daemons, which is not on every user's
// PATH.
func mosqPath(program string) (string, error) {
	if p, err := exec.LookPath(program); err == nil {
		return p, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", program))
}

// mosqBroker is a Mosquitto of the test's own on a free loopback port.
type mosqBroker struct {
	t       *testing.T
	addr    string
	host    string
	port    string
	conf    string
	cmd     *exec.Cmd
	log     *mosqLog
	clients []string // arguments with which clients connect
	exited  chan struct{}
}

// mosqOptions say how a broker is set up. The zero value lets anyone in, without
// TLS or persistence.
type mosqOptions struct {
	user, password string // only this user may connect, and the witness is it, too
	ca, cert, key  string // files: TLS
	addr           string // "": a free port
	extra          string // lines for mosquitto.conf
	persistent     bool   // extra says how
	quiet          bool   // the log has no line for each packet
}

// mosqStart starts a broker and waits until it listens.
func mosqStart(t *testing.T, o mosqOptions) *mosqBroker {
	t.Helper()
	mosqNeed(t)
	dir := t.TempDir()
	if o.addr == "" {
		o.addr = freeAddr(t)
	}
	b := &mosqBroker{t: t, addr: o.addr, conf: filepath.Join(dir, "mosquitto.conf"), log: &mosqLog{}}
	b.host, b.port, _ = net.SplitHostPort(o.addr)
	conf := fmt.Sprintf("listener %s %s\nlog_dest stderr\n", b.port, b.host)
	if !o.quiet {
		conf += "log_type all\n"
	}
	if !o.persistent {
		conf += "persistence false\n"
	}
	if os.Geteuid() == 0 {
		conf += "user root\n" // else it gives up its rights and cannot read the test's files
	}
	if o.user != "" {
		file := filepath.Join(dir, "passwd")
		passwd, _ := mosqPath("mosquitto_passwd")
		if out, err := exec.Command(passwd, "-b", "-c", file, o.user, o.password).CombinedOutput(); err != nil {
			t.Fatalf("mosquitto_passwd: %v: %s", err, out)
		}
		conf += "allow_anonymous false\npassword_file " + file + "\n"
		b.clients = append(b.clients, "-u", o.user, "-P", o.password)
	} else {
		conf += "allow_anonymous true\n"
	}
	if o.cert != "" {
		conf += fmt.Sprintf("cafile %s\ncertfile %s\nkeyfile %s\n", o.ca, o.cert, o.key)
		b.clients = append(b.clients, "--cafile", o.ca)
	}
	if err := os.WriteFile(b.conf, []byte(conf+o.extra), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	t.Cleanup(func() { b.stop(syscall.SIGKILL) })
	return b
}

func (b *mosqBroker) start() {
	b.t.Helper()
	program, _ := mosqPath("mosquitto")
	b.cmd = exec.Command(program, "-c", b.conf)
	b.cmd.Stderr = b.log
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.exited = make(chan struct{})
	go func(c *exec.Cmd, done chan struct{}) {
		_ = c.Wait()
		close(done)
	}(b.cmd, b.exited)
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := net.DialTimeout("tcp", b.addr, time.Second)
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-b.exited:
			b.t.Fatalf("mosquitto ended at once:\n%s", b.log)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("mosquitto does not listen on %s: %v\n%s", b.addr, err, b.log)
		}
	}
}

// stop sends the signal and waits for the end. It may be called again.
func (b *mosqBroker) stop(s syscall.Signal) {
	_ = b.cmd.Process.Signal(s)
	_ = b.cmd.Process.Signal(syscall.SIGCONT)
	<-b.exited
}

func (b *mosqBroker) freeze() { _ = b.cmd.Process.Signal(syscall.SIGSTOP) }
func (b *mosqBroker) thaw()   { _ = b.cmd.Process.Signal(syscall.SIGCONT) }

// publish sends one message by mosquitto_pub at QoS 1.
func (b *mosqBroker) publish(topic, payload string, more ...string) {
	b.t.Helper()
	args := append([]string{"-V", "mqttv5", "-h", b.host, "-p", b.port, "-q", "1", "-t", topic, "-m", payload}, b.clients...)
	out, err := exec.Command("mosquitto_pub", append(args, more...)...).CombinedOutput()
	if err != nil {
		b.t.Fatalf("mosquitto_pub: %v: %s", err, out)
	}
}

// mosqWitness is a mosquitto_sub on everything.
type mosqWitness struct {
	t     *testing.T
	lines chan string
}

// mosqReady is what shows that a witness is subscribed: a retained message.
const mosqReady = "witness/ready"

// witness starts a mosquitto_sub and returns when it is subscribed. Each message
// becomes one line of topic, content type and payload.
func (b *mosqBroker) witness() *mosqWitness {
	b.t.Helper()
	return b.subscribe("%t %C %p")
}

// subscribe is witness with a format and arguments of its own.
func (b *mosqBroker) subscribe(format string, more ...string) *mosqWitness {
	b.t.Helper()
	b.publish(mosqReady, "ready", "-r")
	ctx, cancel := context.WithCancel(context.Background())
	args := append([]string{"-V", "mqttv5", "-h", b.host, "-p", b.port, "-q", "1", "-t", "#", "-F", format}, b.clients...)
	cmd := exec.CommandContext(ctx, "mosquitto_sub", append(args, more...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	w := &mosqWitness{t: b.t, lines: make(chan string, 1_000_000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		in := bufio.NewScanner(out)
		for in.Scan() {
			w.lines <- in.Text()
		}
		_ = cmd.Wait()
	}()
	b.t.Cleanup(func() { cancel(); <-done })
	if l := w.next(); !strings.HasPrefix(l, mosqReady) {
		b.t.Fatalf("the witness began with %q", l)
	}
	return w
}

// next is the next line.
func (w *mosqWitness) next() string {
	w.t.Helper()
	select {
	case l := <-w.lines:
		return l
	case <-time.After(20 * time.Second):
		w.t.Fatal("the witness saw nothing for 20 s")
		return ""
	}
}

// want fails unless the next line is this one.
func (w *mosqWitness) want(line string) {
	w.t.Helper()
	if got := w.next(); got != line {
		w.t.Fatalf("the witness saw %q, want %q", got, line)
	}
}

// mosqLog collects what a broker says.
type mosqLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

var _ io.Writer = (*mosqLog)(nil)

// Write implements io.Writer.
func (l *mosqLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String is all of it.
func (l *mosqLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// count is how often the text occurs.
func (l *mosqLog) count(text string) int { return strings.Count(l.String(), text) }
