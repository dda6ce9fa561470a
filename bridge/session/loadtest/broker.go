//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"fieldbridge/bridge/freeport"
)

// broker is a Mosquitto with two listeners on loopback: one for the sessions,
// with TLS if that is asked for, and a plain one for the witness. Its methods are
// for one goroutine.
type broker struct {
	conf     string
	sessions string // host:port
	witness  string
	ca       []byte // PEM; nil without TLS
	cmd      *exec.Cmd
	exited   chan error
	accepted atomic.Int64 // clients that were connected, by its log
	last     atomic.Value // string: the last line of its log that is no connect
}

// findMosquitto also looks where Debian puts daemons, which is not on every
// user's PATH.
func findMosquitto() (string, error) {
	if p, err := exec.LookPath("mosquitto"); err == nil {
		return p, nil
	}
	p, err := exec.LookPath("/usr/sbin/mosquitto")
	if err != nil {
		return "", errors.New("mosquitto is not installed: install the package mosquitto")
	}
	return p, nil
}

// newBroker writes the configuration. The queue of a subscriber has no bound, so
// that what the witness has not read yet is not dropped. What the broker keeps
// is written when it is told to end, and never else.
func newBroker(dir string, o options) (*broker, error) {
	b := &broker{conf: filepath.Join(dir, "mosquitto.conf")}
	for b.sessions == b.witness {
		for _, addr := range []*string{&b.sessions, &b.witness} {
			var err error
			if *addr, err = freeport.Loopback(); err != nil {
				return nil, err
			}
		}
	}
	listener := func(addr string) string {
		host, port, _ := net.SplitHostPort(addr)
		return fmt.Sprintf("listener %s %s\n", port, host)
	}
	conf := "log_dest stderr\nlog_type error\nlog_type warning\nlog_type notice\nallow_anonymous true\n" +
		"sys_interval 0\nmax_inflight_messages 1000\nmax_queued_messages 0\n" +
		"persistence true\nautosave_interval 0\npersistence_location " + dir + "/\n"
	if os.Geteuid() == 0 {
		conf += "user root\n" // else it gives up its rights and cannot read the files
	}
	if o.NoDelay {
		conf += "set_tcp_nodelay true\n"
	}
	conf += listener(b.witness) + listener(b.sessions)
	if o.TLS {
		cert, key, ca, err := certify(dir)
		if err != nil {
			return nil, err
		}
		b.ca = ca
		conf += fmt.Sprintf("certfile %s\nkeyfile %s\n", cert, key)
	}
	if err := os.WriteFile(b.conf, []byte(conf), 0o600); err != nil {
		return nil, fmt.Errorf("configuration of mosquitto: %w", err)
	}
	return b, nil
}

const brokerPatience = 20 * time.Second

// start starts the process and returns when it listens.
func (b *broker) start(ctx context.Context) error {
	program, err := findMosquitto()
	if err != nil {
		return err
	}
	cmd := exec.Command(program, "-c", b.conf)
	log, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("start mosquitto: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start mosquitto: %w", err)
	}
	b.cmd, b.exited = cmd, make(chan error, 1)
	go func(exited chan<- error) {
		b.read(log)
		exited <- cmd.Wait()
	}(b.exited)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(brokerPatience); ; {
		if c, err := net.Dial("tcp", b.sessions); err == nil {
			return c.Close()
		}
		select {
		case <-tick.C:
		case err := <-b.exited:
			b.cmd = nil
			return fmt.Errorf("mosquitto ended: %w; its last line: %v", err, b.last.Load())
		case <-end:
			return fmt.Errorf("mosquitto does not listen after %s", brokerPatience)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *broker) read(log io.Reader) {
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.Contains(line, "New client connected"):
			b.accepted.Add(1)
		case !strings.Contains(line, "New connection"):
			b.last.Store(line)
		}
	}
}

// stop ends the process with a signal and waits for it: SIGTERM lets it write
// down what it keeps, SIGKILL does not.
func (b *broker) stop(sig syscall.Signal) error {
	if b.cmd == nil {
		return nil
	}
	defer func() { b.cmd = nil }()
	if err := b.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop mosquitto: %w", err)
	}
	select {
	case <-b.exited:
		return nil
	case <-time.After(brokerPatience):
		_ = b.cmd.Process.Kill()
		<-b.exited
		return fmt.Errorf("mosquitto did not end within %s of %s", brokerPatience, sig)
	}
}
