package rest

import (
	"context"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func unixClient(t testing.TB, path string) *http.Client {
	c := newClient(t)
	c.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return c
}

func checkMode(t testing.TB, path string, want fs.FileMode) {
	t.Helper()
	if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|want {
		t.Errorf("the socket is %v, %v, want mode %v", info, err, want)
	}
}

func gone(path string) bool {
	_, err := os.Lstat(path)
	return os.IsNotExist(err)
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	in := newIntake()
	s := start(t, Options{Listen: "unix:" + path}, in)
	if a := post(t, unixClient(t, path), "http://fieldbridge"+upD1, "text/plain", "1"); a.status != http.StatusOK || len(in.take()) != 1 {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	checkMode(t, path, 0o660)
	if _, err := New(Options{Listen: "unix:" + path}, in); err == nil || !strings.Contains(err.Error(), "listens on "+path+" already") {
		t.Errorf("a second server: %v", err)
	}
	checkMode(t, path, 0o660)
	// A successor that does not run takes nothing along.
	unused, err := s.Successor(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := unused.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, mode := range []fs.FileMode{0o600, 0o666} {
		next, err := s.Successor(Options{SocketMode: mode})
		if err != nil {
			t.Fatal(err)
		}
		before := s
		s = run(t, next)
		before.stop()
		if err := within(t, before.done); err != nil {
			t.Error(err)
		}
		if a := post(t, unixClient(t, path), "http://fieldbridge"+upD1, "text/plain", "1"); a.status != http.StatusOK {
			t.Errorf("status %d at a successor", a.status)
		}
		checkMode(t, path, mode)
	}
	s.stop()
	if err := within(t, s.done); err != nil {
		t.Error(err)
	}
	if !gone(path) {
		t.Error("the socket is left behind")
	}
}

func TestUnixSocketInTheWay(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	_ = ln.Close() // as after a crash
	checkSocket := func(path string) *Server {
		t.Helper()
		s, err := New(Options{Listen: "unix:" + path, SocketMode: 0o600}, newIntake())
		if err != nil {
			t.Fatal(err)
		}
		checkMode(t, path, 0o600)
		return s
	}
	s := checkSocket(stale)
	if err := s.Close(); err != nil || !gone(stale) {
		t.Errorf("close: %v, gone %t", err, gone(stale))
	}
	// What another process has put there is its own.
	s = checkSocket(stale)
	if err := os.Remove(stale); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stale, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil || gone(stale) {
		t.Errorf("close: %v, gone %t", err, gone(stale))
	}
	if _, err := New(Options{Listen: "unix:" + stale}, newIntake()); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("on a file: %v", err)
	}
	if gone(stale) {
		t.Error("a file was removed")
	}
}
