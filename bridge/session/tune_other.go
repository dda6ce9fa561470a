//go:build !linux

package session

import (
	"net"
	"time"
)

// tune does nothing where TCP_USER_TIMEOUT is not known.
func tune(net.Conn, time.Duration) {}
