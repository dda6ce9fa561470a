package session

import (
	"context"
	"crypto/tls"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The socket gives up within the keep alive, under TLS too, and does not probe.
func TestTune(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"plain": func(c net.Conn) net.Conn { return c },
		"TLS":   func(c net.Conn) net.Conn { return tls.Client(c, &tls.Config{ServerName: "x"}) },
	} {
		c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		tune(wrap(c), 90*time.Second)
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var timeout, probes int
		_ = raw.Control(func(fd uintptr) {
			timeout, _ = unix.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
			probes, _ = unix.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
		})
		if timeout != 90_000 || probes != 0 {
			t.Errorf("%s: user timeout %d ms, keep alive %d; want 90000, 0", name, timeout, probes)
		}
	}
	one, two := net.Pipe()
	tune(one, time.Second) // is no socket
	_, _ = one.Close(), two.Close()
}
