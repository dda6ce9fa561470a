package session

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tune has the kernel give up on what the other side does not acknowledge within
// the keep alive (TCP_USER_TIMEOUT, tcp(7)), instead of after a quarter of an
// hour, and turns its own keep-alive probes off: MQTT's do the same, and each
// probe costs a metered link its bytes. A transport that is no TCP socket stays
// as it is.
func tune(c net.Conn, keepAlive time.Duration) {
	for {
		under, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = under.NetConn()
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	_ = t.SetKeepAlive(false)
	raw, err := t.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { setUserTimeout(int(fd), keepAlive) })
}

func setUserTimeout(fd int, d time.Duration) {
	// Of no use only to kernels before 2.6.37.
	_ = unix.SetsockoptInt(fd, syscall.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}
