package serial

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"fieldbridge/adapters/serial/decode"
	"fieldbridge/adapters/serial/frame"
	"fieldbridge/bridge"
)

func TestLinesBecomeReadings(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path, Subtopic: "weight", Decode: decode.Options{ContentType: "text/csv; charset=utf-8"}})
	r.awaitOpen(t, 1)
	before := time.Now()
	far.send(t, "12.5\r\n13.0\n")
	got := r.tray.next(t)
	after := time.Now()
	if got.Time.Before(before) || got.Time.After(after) {
		t.Errorf("time %v is not between %v and %v", got.Time, before, after)
	}
	if string(got.Payload) != "12.5" || got.Device != "dev-1" || got.Subtopic != "weight" || got.ContentType != "text/csv; charset=utf-8" {
		t.Errorf("got %+v", got)
	}
	r.tray.expect(t, "13.0")
	if string(got.Payload) != "12.5" {
		t.Errorf("payload of the first reading became %q", got.Payload)
	}
	s := r.Stats()
	if !s.Up || s.Opens != 1 || s.FramesGood != 2 || s.LastFrame.IsZero() || s.LastError != nil {
		t.Errorf("stats %+v", s)
	}
	r.stop()
	if s := r.Stats(); s.Up || s.LastError != nil {
		t.Errorf("stats after the end %+v", s)
	}
}

func TestFramesCutAtEveryPoint(t *testing.T) {
	const text = "ab\r\n\r\ncde\nf\n"
	far := openPTY(t)
	r := start(t, Options{Port: far.path})
	r.awaitOpen(t, 1)
	for i := range len(text) + 1 {
		far.send(t, text[:i], text[i:])
		r.tray.expect(t, "ab", "cde", "f")
	}
	far.send(t, strings.Split(text, "")...)
	r.tray.expect(t, "ab", "cde", "f")
}

func TestRefusedFrames(t *testing.T) {
	tests := []struct {
		name, decode, bad string
		want              Refusal
	}{
		{"not UTF-8", decode.Text, "\xff\xfe\n", decode.InvalidText},
		{"NUL", decode.Text, "1\x002\n", decode.InvalidText},
		{"half JSON", decode.JSON, `{"a":` + "\n", decode.NotJSON},
		{"JSON that is not UTF-8", decode.JSON, "\"\xff\"\n", decode.NotJSON},
		{"too long", decode.Raw, strings.Repeat("x", 101) + "\n", frame.TooLong},
		{"much too long", decode.Raw, strings.Repeat("x", 3000) + "\n", frame.TooLong},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			far := openPTY(t)
			r := start(t, Options{Port: far.path, Decode: decode.Options{Kind: tt.decode}, Frame: frame.Options{MaxFrame: 100}})
			r.awaitOpen(t, 1)
			far.send(t, "1\n", tt.bad, "2\n", tt.bad, "3.140000000000000001\n")
			r.tray.expect(t, "1", "2", "3.140000000000000001")
			if s := r.Stats(); s.FramesRefused[tt.want] != 2 || s.FramesGood != 3 || len(s.FramesRefused) != 1 {
				t.Errorf("stats %+v, want two frames refused as %s", s, tt.want)
			}
			if found, _ := r.log.find("WARN frame refused", string(tt.want)); len(found) != 1 {
				t.Errorf("%d warnings, want one:\n%s", len(found), strings.Join(found, "\n"))
			}
		})
	}
}

func TestRawPassesEverything(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path, Decode: decode.Options{Kind: decode.Raw}, Frame: frame.Options{Delimiter: []byte("\r\n")}})
	r.awaitOpen(t, 1)
	var all []byte
	for b := range 256 {
		all = append(all, byte(b))
	}
	far.send(t, string(all)+"\r\n")
	got := r.tray.next(t)
	if string(got.Payload) != string(all) || got.ContentType != "application/octet-stream" {
		t.Errorf("got %q as %s", got.Payload, got.ContentType)
	}
}

func TestReadingsWithoutRoomAreDropped(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path})
	r.awaitOpen(t, 1)
	r.tray.setRefuse(&bridge.UnavailableError{Reason: "memory is full"})
	far.send(t, "1\n2\n")
	r.log.await(t, 2, "reading dropped, no room")
	r.tray.setRefuse(nil)
	far.send(t, "3\n")
	r.tray.expect(t, "3")
	r.log.await(t, 1, "INFO readings are taken again")
	r.tray.setRefuse(bridge.ErrTooLarge)
	far.send(t, "4\n")
	r.log.await(t, 1, "WARN reading dropped ")
	if found, _ := r.log.find("WARN reading dropped, no room"); len(found) != 1 {
		t.Errorf("warnings %q, want one for the change of state", found)
	}
	if s := r.Stats(); s.Dropped != 3 || s.FramesGood != 4 {
		t.Errorf("stats %+v, want 3 of 4 dropped", s)
	}
}

func TestOpensAgainAfterHangUp(t *testing.T) {
	first := openPTY(t)
	r := start(t, Options{Port: first.path})
	r.awaitOpen(t, 1)
	first.send(t, "1\nhal")
	r.tray.expect(t, "1")
	first.hangUp()
	r.log.await(t, 1, "WARN serial port lost", "the device is gone", "retry_in")
	r.log.await(t, 1, "WARN serial port cannot be opened", "no such file", "retry_in")
	if s := r.Stats(); s.Up || s.FramesRefused[frame.Incomplete] != 1 || s.OpenFailures == 0 || s.LastError == nil {
		t.Errorf("stats while unplugged %+v", s)
	}
	if _, err := r.Deliver(t.Context(), bridge.Downlink{}); !errors.Is(err, errNotOpen) {
		t.Errorf("Deliver while unplugged: %v", err)
	}

	second := openPTYAt(t, first.path)
	r.awaitOpen(t, 2)
	second.send(t, "f\n2\n")
	r.tray.expect(t, "f", "2") // nothing of the frame before the hang-up
	if _, err := r.Deliver(t.Context(), bridge.Downlink{Payload: []byte("go")}); err != nil {
		t.Error(err)
	}
	second.expect(t, "go\n")
	if s := r.Stats(); !s.Up || s.Opens != 2 {
		t.Errorf("stats %+v", s)
	}
}

func TestOneBadPortStopsNothing(t *testing.T) {
	far := openPTY(t)
	bad := start(t, Options{Name: "bad", Port: filepath.Join(t.TempDir(), "missing")})
	good := start(t, Options{Name: "good", Port: far.path})
	good.awaitOpen(t, 1)
	bad.log.await(t, 1, "WARN serial port cannot be opened")
	bad.log.await(t, 2, "DEBUG serial port cannot be opened") // goes on, and says so once
	far.send(t, "1\n")
	good.tray.expect(t, "1")
	bad.stop()
	far.send(t, "2\n")
	good.tray.expect(t, "2")
	if found, _ := bad.log.find("WARN"); len(found) != 1 {
		t.Errorf("warnings %q, want one", found)
	}
}

func TestNotASerialPort(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/dev/null", dir, file} {
		r := start(t, Options{Port: path})
		r.log.await(t, 1, "WARN serial port cannot be opened", "not usable as a serial port")
		r.stop()
	}
}

func TestRunTwice(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path})
	r.awaitOpen(t, 1)
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Errorf("second Run: %v", err)
	}
	r.stop()
	// One after the other is fine.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Errorf("Run after Run: %v", err)
	}
}

func TestNoDescriptorIsLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "port")
	round := func() {
		r := start(t, Options{Port: path})
		for n := range 2 {
			far := openPTYAt(t, path)
			r.awaitOpen(t, n+1)
			far.hangUp()
			r.log.await(t, n+1, "serial port lost")
		}
		// Openings that fail must not cost any, either.
		r.log.await(t, 1, "cannot be opened") // the link is gone now
		r.stop()
		notTTY := start(t, Options{Port: "/dev/null"})
		notTTY.log.await(t, 2, "cannot be opened")
		notTTY.stop()
	}
	// A forgotten file would be closed by the garbage collector.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	round() // lets the runtime make its poller's descriptors
	before := descriptors(t)
	for range 3 {
		round()
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors became %d", before, after)
	}
}

func TestEndsPromptlyWhileIdle(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path})
	r.awaitOpen(t, 1)
	r.stop() // fails after patience
	missing := start(t, Options{Port: filepath.Join(t.TempDir(), "missing")})
	missing.log.await(t, 1, "cannot be opened")
	missing.stop()
}

func TestEveryModeAndSpeed(t *testing.T) {
	for _, mode := range []string{"8N1", "7E1", "7O2", "8M1", "8S2", "5N1"} {
		for _, baud := range []int{50, 9600, 115200, 250000, 12345} {
			far := openPTY(t)
			r := start(t, Options{Port: far.path, Mode: mode, Baud: baud})
			r.awaitOpen(t, 1)
			r.stop()
		}
	}
}

func TestStatsMapIsACopy(t *testing.T) {
	var c counters
	c.update(func(s *Stats) { s.FramesRefused = map[Refusal]uint64{decode.NotJSON: 1} })
	c.snapshot().FramesRefused[decode.NotJSON] = 9
	if n := c.snapshot().FramesRefused[decode.NotJSON]; n != 1 {
		t.Errorf("snapshot shares its map: %d", n)
	}
}

func TestBackoff(t *testing.T) {
	var b backoff
	bounds := []time.Duration{100, 200, 400, 800, 1500, 1500}
	var pauses []time.Duration
	for range 200 {
		b = backoff{}
		for i, bound := range bounds {
			d := b.pause()
			if d < 0 || d > bound*time.Millisecond {
				t.Fatalf("pause %d is %v, want 0 to %d ms", i, d, bound)
			}
			pauses = append(pauses, d)
		}
	}
	if most := slices.Max(pauses); most < backoffMost/2 {
		t.Errorf("longest of %d pauses is %v, the bound is %v", len(pauses), most, backoffMost)
	}
	b.worked(backoffGood - 1)
	if b.bound != backoffMost {
		t.Errorf("bound %v after a short time of working", b.bound)
	}
	b.worked(backoffGood)
	if d := b.pause(); d > backoffFirst {
		t.Errorf("first pause after a long time of working is %v", d)
	}
}
