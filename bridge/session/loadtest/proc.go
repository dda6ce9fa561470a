//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// spareFiles are those that a process has open besides its connections.
const spareFiles = 200

// allowFiles raises the limit of open files of this process and its children.
// The Go runtime raises its own, but gives children what there was before
// unless it is set by the program.
func allowFiles(need int) error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	want := uint64(need + spareFiles)
	set := syscall.Rlimit{Cur: l.Max, Max: l.Max}
	if want > l.Max {
		set = syscall.Rlimit{Cur: want, Max: want} // for root
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &set); err != nil {
		return fmt.Errorf("%d open files are needed and %d allowed: raise the hard limit (ulimit -Hn), or use fewer sessions: %w", want, l.Max, err)
	}
	return nil
}

// usage is what this process takes.
type usage struct {
	RSS        int64 // bytes
	Goroutines int
	CPU        time.Duration
}

// measured returns the memory to the system and then looks.
func measured() (usage, error) {
	for range 2 { // finalizers free what the second collects
		runtime.GC()
		debug.FreeOSMemory()
	}
	u := usage{Goroutines: runtime.NumGoroutine()}
	var err error
	if u.CPU, err = cpu(); err != nil {
		return u, err
	}
	u.RSS, err = resident()
	return u, err
}

// resident reads VmRSS (proc_pid_status(5)).
func resident() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("resident memory: %w", err)
	}
	_, rest, _ := bytes.Cut(b, []byte("VmRSS:"))
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0, fmt.Errorf("resident memory: no VmRSS in /proc/self/status")
	}
	kib, err := strconv.ParseInt(string(fields[0]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resident memory: %w", err)
	}
	return kib << 10, nil
}

// cpu is the time this process has run, user and system.
func cpu() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("CPU time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// perSource is how many connections come from one address of 127.0.0.0/8. An
// address has 28,000 ports by default, and one that was used is not free for a
// minute.
const perSource = 5000

// dialer connects from several loopback addresses, in turn.
type dialer struct {
	sources uint32
	turn    atomic.Uint32
	dials   *dials
}

func newDialer(sessions int, d *dials) *dialer {
	return &dialer{sources: uint32((sessions + perSource - 1) / perSource), dials: d}
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.dials.note(time.Now())
	nd := net.Dialer{
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+d.turn.Add(1)%d.sources))},
		// Else the port is chosen before the other end is known, and is free for
		// one connection of the whole machine (ip(7)).
		Control: func(_, _ string, c syscall.RawConn) (err error) {
			cerr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
			})
			if cerr != nil {
				return cerr
			}
			return err
		},
	}
	return nd.DialContext(ctx, network, address)
}
