package serial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	bugst "go.bug.st/serial"
	"golang.org/x/sys/unix"
)

// conn is one opening of a port. One goroutine reads, one at a time writes, and
// anyone may call fail; close ends both.
type conn struct {
	file *os.File   // carries the bytes; non-blocking, under the runtime's poller
	line bugst.Port // speed, mode, exclusive access, draining; never read or written

	gone chan struct{} // closed by close, before what is unsent is discarded

	mu    sync.Mutex // guards cause, and line's calls against its Close
	cause error      // the first fail
}

// errMoved: the path led to another device while it was being opened.
var errMoved = errors.New("the device behind the path changed while it was opened")

func openConn(path string, mode bugst.Mode) (*conn, error) {
	// Before the library, which asks for exclusive access.
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	line, err := bugst.Open(path, &mode)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	c := &conn{file: file, line: line, gone: make(chan struct{})}
	mine, err := file.Stat()
	if err == nil {
		var now os.FileInfo
		if now, err = os.Stat(path); err == nil && !os.SameFile(mine, now) {
			err = errMoved
		}
	}
	if err == nil {
		// A file that the poller does not know cannot be interrupted.
		err = file.SetReadDeadline(time.Time{})
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// read returns at least one byte or an error. It returns soon after interrupt
// has been called.
func (c *conn) read(p []byte) (int, error) {
	n, err := c.file.Read(p)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.cause != nil {
			err = c.cause
		}
	}
	return n, err
}

// interrupt ends the current and every later read.
func (c *conn) interrupt() { _ = c.file.SetReadDeadline(time.Unix(1, 0)) }

// fail makes the reader return err, so that the port is opened again.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.cause == nil {
		c.cause = err
	}
	c.mu.Unlock()
	c.interrupt()
}

// write sends p and returns when the line has sent its last byte. If ctx ends
// first, what is unsent is discarded and ctx's cause returned; touched then
// tells whether a part of p may have reached the device.
func (c *conn) write(ctx context.Context, p []byte, perByte time.Duration) (touched bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	_ = c.file.SetWriteDeadline(time.Time{})
	release := onDone(ctx, func() { _ = c.file.SetWriteDeadline(time.Unix(1, 0)) })
	n, err := c.file.Write(p)
	release()
	if err == nil {
		err = c.drain(ctx, perByte)
	}
	if err == nil {
		return false, nil
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = context.Cause(ctx)
	}
	_ = c.whileOpen(c.line.ResetOutputBuffer)
	return n > 0, err
}

// drain waits until everything written has been sent. The library's Drain
// (tcdrain) cannot be interrupted, and waits for ever for a device that takes no
// more bytes, as a USB one may: so the driver's queue is watched until it is
// empty, and only the last bytes, in the hardware, are left to tcdrain.
func (c *conn) drain(ctx context.Context, perByte time.Duration) error {
	for {
		n, err := c.unsent()
		if err != nil {
			return err
		}
		if n == 0 {
			return c.whileOpen(c.line.Drain)
		}
		wait := min(max(time.Duration(n)*perByte, time.Millisecond), 50*time.Millisecond)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.gone:
			timer.Stop()
			return os.ErrClosed
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// unsent is how many bytes wait in the driver (TIOCOUTQ, tty_ioctl(4)).
func (c *conn) unsent() (n int, err error) {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var ioctlErr error
	err = raw.Control(func(fd uintptr) { n, ioctlErr = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
	return n, errors.Join(err, ioctlErr)
}

// whileOpen calls f, a method of line, unless close has been called. An empty
// queue seen after close does not mean that its bytes were sent, which is why
// this comes after each look at it.
func (c *conn) whileOpen(f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.gone:
		return os.ErrClosed
	default:
		return f()
	}
}

// close ends reads and writes with an error. It is called once.
func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.gone)
	// Bytes of a write that has been cut off. The kernel would wait for a device
	// that takes none, 30 s with most drivers (closing_wait, setserial(8)).
	_ = c.line.ResetOutputBuffer()
	_ = c.file.Close()
	_ = c.line.Close()
}

// onDone calls f if ctx ends before release is called. After release returns, f
// is neither running nor will it run.
func onDone(ctx context.Context, f func()) (release func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		f()
	})
	return func() {
		if !stop() {
			<-done
		}
	}
}

// describeLoss says in people's words why an open port was lost. A vanished device
// or far end shows as the end of the file or as one of three errors.
func describeLoss(err error) error {
	for _, gone := range []error{io.EOF, syscall.EIO, syscall.ENXIO, syscall.ENODEV} {
		if errors.Is(err, gone) {
			return fmt.Errorf("the device is gone (unplugged, or its far end closed): %w", err)
		}
	}
	return err
}
