package main

import (
	"bufio"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// testPTY is a pseudo-terminal: the gateway opens Path, the test is the sensor
// at its other end.
type testPTY struct {
	Path  string
	Lines chan string // what the gateway writes, without the end of the line

	t      *testing.T
	master *os.File
	slave  *os.File // stays open, so that the line does not hang up between openings
	reader sync.WaitGroup
}

// openPTY makes a pseudo-terminal in raw mode: what the sensor writes before the
// gateway has opened the port waits for it.
func openPTY(t *testing.T) *testPTY {
	t.Helper()
	p := openDeafPTY(t)
	p.listen()
	return p
}

// openDeafPTY makes one whose sensor reads nothing before listen is called.
func openDeafPTY(t *testing.T) *testPTY {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	makeRaw(t, slave)
	// Fd, which pty.Open calls, makes the master blocking for good: use a copy.
	fd, err := unix.Dup(int(master.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_ = master.Close()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	p := &testPTY{
		Path: slave.Name(), Lines: make(chan string, 1024),
		t: t, master: os.NewFile(uintptr(fd), "master"), slave: slave,
	}
	t.Cleanup(p.hangUp)
	return p
}

// listen starts to read. Lines holds as many as it has room for.
func (p *testPTY) listen() {
	p.reader.Go(func() {
		for in := bufio.NewScanner(p.master); in.Scan(); {
			p.Lines <- strings.TrimRight(in.Text(), "\r")
		}
	})
}

// hangUp is what pulling the plug does. More than once is fine.
func (p *testPTY) hangUp() {
	_ = p.slave.Close()
	_ = p.master.Close()
	p.reader.Wait()
}

// write sends text as the sensor, which must end its lines itself.
func (p *testPTY) write(text string) {
	p.t.Helper()
	_ = p.master.SetWriteDeadline(time.Now().Add(patience))
	if _, err := p.master.WriteString(text); err != nil {
		p.t.Errorf("the sensor writes %q: %v", text, err) // also called by other goroutines
	}
}

// want waits for the next line that the gateway writes.
func (p *testPTY) want(line string) {
	p.t.Helper()
	select {
	case got := <-p.Lines:
		if got != line {
			p.t.Fatalf("the sensor got %q, want %q", got, line)
		}
	case <-time.After(patience):
		p.t.Fatalf("the sensor did not get %q", line)
	}
}

// makeRaw takes the terminal's own processing away (cfmakeraw(3)).
func makeRaw(t *testing.T, f *os.File) {
	t.Helper()
	attr, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	attr.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	attr.Oflag &^= unix.OPOST
	attr.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	attr.Cflag = attr.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, attr); err != nil {
		t.Fatal(err)
	}
}
