package rest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const unixPrefix = "unix:"

// socketFile is the file of a Unix socket. A server and its successors have it
// together, and the last one to end removes it.
type socketFile struct {
	path  string
	made  fs.FileInfo
	users atomic.Int32
}

// listenUnix makes a socket at a path where none is, or one that nobody listens
// on any more.
func listenUnix(path string, mode fs.FileMode) (net.Listener, *socketFile, error) {
	if err := clearPath(path); err != nil {
		return nil, nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: make the directory %s", err, filepath.Dir(path))
	}
	if err != nil {
		return nil, nil, err
	}
	ln.SetUnlinkOnClose(false) // a successor may have it
	f := &socketFile{path: path}
	f.users.Store(1)
	if f.made, err = os.Lstat(path); err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		_ = ln.Close()
		return nil, nil, errors.Join(err, os.Remove(path))
	}
	return ln, f, nil
}

// clearPath removes the socket that a process left behind, and nothing else.
func clearPath(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and no socket: remove it, or choose another path", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		_ = conn.Close()
		return fmt.Errorf("a process listens on %s already: stop it, or choose another path", path)
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("whether a process listens on %s is not known: %w", path, err)
}

// release gives up one use. What is at the path by then may be another's.
func (f *socketFile) release() {
	if f == nil || f.users.Add(-1) > 0 {
		return
	}
	if now, err := os.Lstat(f.path); err == nil && os.SameFile(now, f.made) {
		_ = os.Remove(f.path)
	}
}

// unixPath returns the path of an address "unix:/path".
func unixPath(listen string) (string, bool) { return strings.CutPrefix(listen, unixPrefix) }
