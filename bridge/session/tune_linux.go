package session

import (
	"crypto/tls"
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
	t := socket(c)
	if t == nil {
		return
	}
	_ = t.SetKeepAlive(false)
	control(t, func(fd int) { setUserTimeout(fd, keepAlive) })
}

// socket is the TCP socket under a transport, or nil.
func socket(c net.Conn) *net.TCPConn {
	for {
		under, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			t, _ := c.(*net.TCPConn)
			return t
		}
		c = under.NetConn()
	}
}

func control(t *net.TCPConn, do func(fd int)) {
	if raw, err := t.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { do(int(fd)) })
	}
}

func setUserTimeout(fd int, d time.Duration) {
	// Of no use only to kernels before 2.6.37.
	_ = unix.SetsockoptInt(fd, syscall.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}

// The bytes of a PINGRESP as the socket gets it.
const (
	plainPingresp = 2
	tlsPingresp   = 5 + plainPingresp + 1 + 16 // RFC 8446, section 5.2, with any of its AEADs
)

// hush has the kernel keep a PINGRESP until heed is called, instead of waking
// this process for it (SO_RCVLOWAT, socket(7)): whatever is longer wakes it at
// once, and so does the end of the connection. No packet that matters is as
// short, and with TLS 1.2 a PINGRESP is longer, too. It reports whether that can
// be done.
func hush(c net.Conn) (done bool) {
	var n int
	switch c := c.(type) {
	case *net.TCPConn:
		n = plainPingresp
	case *tls.Conn:
		if _, ok := c.NetConn().(*net.TCPConn); ok {
			n = tlsPingresp
		}
	}
	if n == 0 {
		return false // a WebSocket has control frames that are as short
	}
	control(socket(c), func(fd int) {
		done = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, n+1) == nil
	})
	return done
}

// heed ends what hush began. It reports whether anything had been kept.
func heed(c net.Conn) (kept bool) {
	control(socket(c), func(fd int) {
		n, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
		kept = err == nil && n > 0
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1)
	})
	return kept
}
