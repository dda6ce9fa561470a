package serial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fieldbridge/adapters/serial/frame"
	"fieldbridge/bridge"
)

func TestDeliverWritesWithDelimiter(t *testing.T) {
	tests := []struct{ name, delim, payload, want string }{
		{"added", "\n", "valve 1", "valve 1\n"},
		{"there already", "\n", "valve 1\n", "valve 1\n"},
		{"inside, too", "\n", "a\nb", "a\nb\n"},
		{"two bytes", "\r\n", "a", "a\r\n"},
		{"half of it there", "\r\n", "a\r", "a\r\r\n"},
		{"empty", "\n", "", "\n"},
		{"control bytes", "\n", "\x03\x04\x11\x13\x1a\r\x00\xff", "\x03\x04\x11\x13\x1a\r\x00\xff\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			far := openPTY(t)
			r := start(t, Options{Port: far.path, Frame: frame.Options{Delimiter: []byte(tt.delim)}})
			r.awaitOpen(t, 1)
			payload := []byte(tt.payload)
			if _, err := r.Deliver(t.Context(), bridge.Downlink{Payload: payload}); err != nil {
				t.Fatal(err)
			}
			far.expect(t, tt.want)
			if string(payload) != tt.payload {
				t.Errorf("payload became %q", payload)
			}
			if n := r.Stats().Delivered; n != 1 {
				t.Errorf("%d delivered", n)
			}
		})
	}
}

func TestDeliverWithoutPort(t *testing.T) {
	p, err := New(Options{Name: "scale", Port: "/dev/null", Device: "d"}, newTray(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Deliver(t.Context(), bridge.Downlink{Payload: []byte("x")})
	var de *bridge.DeliveryError
	if !errors.As(err, &de) || de.Permanent || !errors.Is(err, errNotOpen) {
		t.Errorf("got %v, want an error worth another attempt", err)
	}
	if !strings.Contains(err.Error(), `"scale"`) {
		t.Errorf("error %q does not name the port", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Deliver(ctx, bridge.Downlink{}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}

func TestDeliveriesDoNotMix(t *testing.T) {
	const writers, size = 8, 3000
	far := openPTY(t)
	r := start(t, Options{Port: far.path})
	r.awaitOpen(t, 1)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			payload := strings.Repeat(string(rune('a'+i)), size)
			if _, err := r.Deliver(t.Context(), bridge.Downlink{Payload: []byte(payload)}); err != nil {
				t.Error(err)
			}
		})
	}
	_ = far.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, writers*(size+1))
	if _, err := io.ReadFull(far, got); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	lines := strings.Split(strings.TrimSuffix(string(got), "\n"), "\n")
	if len(lines) != writers {
		t.Fatalf("%d lines, want %d", len(lines), writers)
	}
	for _, l := range lines {
		if l != strings.Repeat(l[:1], size) {
			t.Errorf("mixed line %.40q…", l)
		}
	}
}

// block starts a delivery that cannot end, because nobody reads the far end, and
// returns once the terminal is full.
func block(t *testing.T, ctx context.Context, r *rig, far *farEnd) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		_, err := r.Deliver(ctx, bridge.Downlink{Payload: []byte(strings.Repeat("x", 1<<20))})
		done <- err
	}()
	// The far end can be read when bytes have arrived: the write is under way,
	// and it is far longer than what a terminal holds.
	raw, err := far.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = far.SetReadDeadline(time.Now().Add(patience))
	err = raw.Read(func(fd uintptr) bool {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && ready == 1
	})
	if err != nil {
		t.Fatal("nothing is being written:", err)
	}
	return done
}

func wait(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatal("Deliver does not end")
		return nil
	}
}

func TestBlockedWriteEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(r *rig, far *farEnd, cancel func())
		want error
	}{
		{"by its context", func(_ *rig, _ *farEnd, cancel func()) { cancel() }, context.Canceled},
		{"by the end of Run", func(r *rig, _ *farEnd, _ func()) { r.stop() }, errNotOpen},
		{"by a hang-up", func(_ *rig, far *farEnd, _ func()) { far.hangUp() }, nil},
		{"by its own limit", func(*rig, *farEnd, func()) {}, errNotTaken},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			far := openPTY(t)
			o := Options{Port: far.path, Baud: maxBaud}
			if tt.want == errNotTaken {
				o.WriteTimeout = time.Millisecond
			}
			r := start(t, o)
			r.awaitOpen(t, 1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := block(t, ctx, r, far)
			tt.end(r, far, cancel)
			err := wait(t, done)
			var de *bridge.DeliveryError
			if !errors.As(err, &de) || de.Permanent {
				t.Fatalf("got %v, want an error worth another attempt", err)
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			r.stop()
		})
	}
}

func TestReadingsGoOnWhileWriteBlocks(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path})
	r.awaitOpen(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := block(t, ctx, r, far)
	far.send(t, "1\n")
	r.tray.expect(t, "1")

	waiting, stopWaiting := context.WithCancel(t.Context())
	stopWaiting()
	if _, err := r.Deliver(waiting, bridge.Downlink{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Deliver behind a blocked one: %v", err)
	}

	cancel()
	if err := wait(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("blocked Deliver: %v", err)
	}
	far.send(t, "2\n")
	r.tray.expect(t, "2")
	if s := r.Stats(); s.Opens != 1 || s.Delivered != 0 {
		t.Errorf("stats %+v", s)
	}
}

// After a frame that was cut off, the next one must arrive whole on a line of
// its own, and no line may be the beginning of the one that was cut off.
func TestFrameAfterTornFrame(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path})
	r.awaitOpen(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := block(t, ctx, r, far)
	cancel()
	if wait(t, done) == nil {
		t.Fatal("a write that was cut off counts as delivered")
	}
	got := make(chan string, 1)
	go func() {
		_ = far.SetReadDeadline(time.Now().Add(patience))
		var text []byte
		buf := make([]byte, 4096)
		for !strings.HasSuffix(string(text), "\nthird\n") {
			n, err := far.Read(buf)
			text = append(text, buf[:n]...)
			if err != nil {
				text = fmt.Appendf(text, "… %v", err)
				break
			}
		}
		got <- string(text)
	}()
	for _, p := range []string{"second", "third"} {
		if _, err := r.Deliver(t.Context(), bridge.Downlink{Payload: []byte(p)}); err != nil {
			t.Fatal(err)
		}
	}
	text := strings.TrimLeft(<-got, "x")
	if text != "second\nsecond\nthird\n" {
		t.Errorf("behind the torn frame came %q", text)
	}
}

func TestBrokenPortIsOpenedAgain(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path})
	r.awaitOpen(t, 1)
	r.getOpen().wire.fail(os.ErrPermission) // what Deliver does after a failed write
	r.log.await(t, 1, "serial port lost", os.ErrPermission.Error())
	r.awaitOpen(t, 2)
	far.send(t, "1\n")
	r.tray.expect(t, "1")
	if err := r.Stats().LastError; !errors.Is(err, os.ErrPermission) {
		t.Errorf("last error %v", err)
	}
}

// Bytes that close discards must never count as sent.
func TestNothingCountsAsSentAfterClose(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path})
	r.awaitOpen(t, 1)
	c := r.getOpen().wire.(*conn)
	r.stop()
	if _, err := c.write(t.Context(), []byte("x"), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	called := false
	if err := c.whileOpen(func() error { called = true; return nil }); !errors.Is(err, os.ErrClosed) || called {
		t.Errorf("whileOpen after close: %v, called: %v", err, called)
	}
}
