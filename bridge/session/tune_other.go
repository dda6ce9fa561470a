//go:build !linux

package session

import (
	"net"
	"time"
)

// tune does nothing where TCP_USER_TIMEOUT is not known.
func tune(net.Conn, time.Duration) {}

// hush and heed: see tune_linux.go. Elsewhere a PINGRESP is read as it comes.
func hush(net.Conn) bool { return false }

func heed(net.Conn) bool { return false }
