package freeport

import (
	"net"
	"testing"
)

// Addresses are free, differ, and are none that the system gives by itself.
func TestLoopback(t *testing.T) {
	seen := map[string]bool{}
	for range 20 {
		addr, err := Loopback()
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		a := l.Addr().(*net.TCPAddr)
		if seen[addr] || !a.IP.IsLoopback() || a.Port < lowest || a.Port >= highest {
			t.Errorf("%s", addr)
		}
		seen[addr] = true
	}
}
