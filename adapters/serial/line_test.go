package serial

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"fieldbridge/adapters/serial/decode"
	"fieldbridge/adapters/serial/frame"
	"fieldbridge/bridge"
)

var replugs = flag.Int("serial.replugs", 15, "how often the adapter is pulled")

// sensor answers each line that it gets, until the far end is closed.
func (f *farEnd) sensor(t *testing.T, answer func(line string) string) {
	t.Helper()
	done := make(chan struct{})
	t.Cleanup(func() { f.hangUp(); <-done })
	go func() {
		defer close(done)
		var got []byte
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			got = append(got, buf[:n]...)
			for {
				line, rest, ok := bytes.Cut(got, []byte("\n"))
				if !ok {
					break
				}
				got = rest
				if a := answer(string(line)); a != "" {
					_, _ = f.WriteString(a)
				}
			}
		}
	}()
}

func TestPoll(t *testing.T) {
	far := openPTY(t)
	n := 0
	far.sensor(t, func(line string) string { n++; return fmt.Sprintf("%s %d\n", line, n) })
	r := start(t, Options{Port: far.path, Polls: []Poll{{Send: []byte("T?"), Every: 20 * time.Millisecond}}})
	r.tray.expect(t, "T? 1", "T? 2", "T? 3")
	if s := r.Stats(); s.Polls[PollAnswered] < 2 {
		t.Errorf("polls %v", s.Polls)
	}
}

// Several questions share the line, and none goes before the answer to the last.
func TestPollsTakeTurns(t *testing.T) {
	far := openPTY(t)
	lines := make(chan string, 1000)
	far.sensor(t, func(line string) string { lines <- line; return line + " ok\n" })
	r := start(t, Options{Port: far.path, Polls: []Poll{
		{Send: []byte("A"), Every: 10 * time.Millisecond},
		{Send: []byte("B"), Every: 10 * time.Millisecond},
	}})
	for seen := map[string]int{}; seen["A ok"] < 5 || seen["B ok"] < 5; {
		seen[string(r.tray.next(t).Payload)]++
	}
	for i := range 10 {
		if _, err := r.Deliver(t.Context(), bridge.Downlink{Payload: fmt.Appendf(nil, "SET %d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if s := r.Stats(); s.Polls[PollTimeout] != 0 || s.Polls[PollNotSent] != 0 {
		t.Errorf("polls %v", s.Polls)
	}
	sets := 0
	for sets < 10 {
		if l := <-lines; strings.HasPrefix(l, "SET ") {
			if want := fmt.Sprintf("SET %d", sets); l != want {
				t.Fatalf("got %q, want %q", l, want)
			}
			sets++
		}
	}
}

func TestPollWithoutAnswer(t *testing.T) {
	far := openPTY(t)
	asked := 0
	far.sensor(t, func(string) string {
		if asked++; asked <= 6 {
			return ""
		}
		return "21.5\n"
	})
	r := start(t, Options{Port: far.path, Polls: []Poll{
		{Send: []byte("T?"), Every: 50 * time.Millisecond, Timeout: 20 * time.Millisecond, Retries: 2},
	}})
	r.log.await(t, 1, "WARN sensor does not answer", "T?")
	r.tray.expect(t, "21.5")
	r.log.await(t, 1, "INFO sensor answers again")
	if found, _ := r.log.find("sensor does not answer"); len(found) != 1 {
		t.Errorf("said %d times that it is silent", len(found))
	}
	if s := r.Stats(); s.Polls[PollTimeout] < 6 {
		t.Errorf("polls %v, want at least 6 time-outs", s.Polls)
	}
}

func TestPollExpects(t *testing.T) {
	far := openPTY(t)
	far.sensor(t, func(string) string { return "ERR 3\nM 21.5\n" })
	r := start(t, Options{Port: far.path, Polls: []Poll{
		{Send: []byte("T?"), Every: time.Hour, Expect: regexp.MustCompile(`^M `)},
	}})
	r.tray.expect(t, "M 21.5")
	for end := time.Now().Add(patience); r.Stats().Polls[PollAnswered] == 0 && time.Now().Before(end); {
		runtime.Gosched() // it is a reading before it is counted
	}
	if s := r.Stats(); s.FramesRefused[RefusedUnexpected] != 1 || s.Polls[PollAnswered] != 1 {
		t.Errorf("stats %+v", s)
	}
	far.send(t, "ERR 4\n") // nothing is waited for: any frame will do
	r.tray.expect(t, "ERR 4")
}

func TestEchoIsTakenOut(t *testing.T) {
	far := openPTY(t)
	far.sensor(t, func(line string) string { return line + "\n" + "answer to " + line + "\n" })
	r := start(t, Options{Port: far.path, Echo: true, Polls: []Poll{{Send: []byte("T?"), Every: time.Hour}}})
	r.tray.expect(t, "answer to T?")
	if _, err := r.Deliver(t.Context(), bridge.Downlink{Payload: []byte("SET 1")}); err != nil {
		t.Fatal(err)
	}
	r.tray.expect(t, "answer to SET 1")
}

// A frame that has begun is not written into, and a line that never falls silent
// holds a downlink up for a second only.
func TestDownlinkWaitsForQuiet(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path, Turnaround: 100 * time.Millisecond})
	r.awaitOpen(t, 1)
	far.send(t, "half")
	for r.getOpen() == nil || r.Stats().FramesGood == 0 {
		far.send(t, "\nhalf")
	}
	sent := time.Now()
	if _, err := r.Deliver(t.Context(), bridge.Downlink{Payload: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if waited := time.Since(sent); waited < 50*time.Millisecond {
		t.Errorf("written after %s, within a frame", waited)
	}
	stop := make(chan struct{})
	chatter := make(chan struct{})
	go func() {
		defer close(chatter)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = far.WriteString("1\n")
			case <-stop:
				return
			}
		}
	}()
	defer func() { close(stop); <-chatter }()
	if _, err := r.Deliver(t.Context(), bridge.Downlink{Payload: []byte("x")}); err != nil {
		t.Errorf("on a line that is never quiet: %v", err)
	}
}

func TestSilentPortIsOpenedAgain(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path, IdleTimeout: 50 * time.Millisecond})
	r.log.await(t, 1, "serial port lost", "idle_timeout")
	r.awaitOpen(t, 2)
	// It goes on being closed and opened until something comes; what comes just
	// then is lost, as on any closed port.
	for tick := time.NewTicker(10 * time.Millisecond); r.Stats().FramesGood == 0; <-tick.C {
		far.send(t, "1\n")
	}
	r.tray.next(t)
}

func TestBinaryFraming(t *testing.T) {
	check, err := frame.ParseCheck("crc16-modbus")
	if err != nil {
		t.Fatal(err)
	}
	far := openPTY(t)
	r := start(t, Options{
		Port:   far.path,
		Frame:  frame.Options{Kind: frame.Delimited, Start: []byte{2}, End: []byte{3}, Check: check},
		Decode: decode.Options{Kind: decode.Raw},
	})
	r.awaitOpen(t, 1)
	wire, err := (&frame.Options{Kind: frame.Delimited, Start: []byte{2}, End: []byte{3}, MaxFrame: 100, Check: check}).Encode([]byte("\x02\x03\x00"))
	if err != nil {
		t.Fatal(err)
	}
	far.send(t, "noise\x02", string(wire))
	r.tray.expect(t, "\x02\x03\x00")
	if _, err := r.Deliver(t.Context(), bridge.Downlink{Payload: []byte("\x02\x03\x00")}); err != nil {
		t.Fatal(err)
	}
	far.expect(t, string(wire))
	s := r.Stats()
	if len(s.LastRefused) != 1 || !strings.HasPrefix(s.LastRefused[0].Hex, "6e6f697365") || s.LastRefused[0].Reason != frame.Garbage {
		t.Errorf("last refused %+v", s.LastRefused)
	}
}

func TestPayloadThatDoesNotFit(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path, Frame: frame.Options{Kind: frame.Fixed, Length: 4}, Decode: decode.Options{Kind: decode.Raw}})
	r.awaitOpen(t, 1)
	_, err := r.Deliver(t.Context(), bridge.Downlink{Payload: []byte("12345")})
	var de *bridge.DeliveryError
	if !errors.As(err, &de) || !de.Permanent || !strings.Contains(err.Error(), "5 bytes") {
		t.Errorf("got %v, want a refusal for good", err)
	}
}

// Silence ends a frame although nothing follows.
func TestGapFraming(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{
		Port: far.path, Frame: frame.Options{Kind: frame.Gap, Gap: 30 * time.Millisecond},
		Decode: decode.Options{Kind: decode.Raw},
	})
	r.awaitOpen(t, 1)
	for _, p := range []string{"one", "two"} {
		far.send(t, p)
		r.tray.expect(t, p)
	}
}

func TestRecordAndReplay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "line.jsonl")
	w, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	rec := NewRecorder(w)
	far := openPTY(t)
	far.sensor(t, func(line string) string { return "answer to " + line + "\nbad \xff\n" })
	r := start(t, Options{Port: far.path, Observe: func(e Event) {
		if e.Kind == BytesIn {
			rec.Record(e)
		}
	}})
	r.awaitOpen(t, 1)
	for i := range 3 {
		if _, err := r.Deliver(t.Context(), bridge.Downlink{Payload: fmt.Appendf(nil, "%d", i)}); err != nil {
			t.Fatal(err)
		}
		r.tray.expect(t, fmt.Sprintf("answer to %d", i))
	}
	for r.Stats().FramesRefused[decode.InvalidText] < 3 {
		time.Sleep(time.Millisecond)
	}
	r.stop()
	if rec.Err() != nil || w.Close() != nil {
		t.Fatal(rec.Err())
	}

	again := start(t, Options{Port: "replay:" + file})
	again.tray.expect(t, "answer to 0", "answer to 1", "answer to 2")
	for again.Stats().FramesRefused[decode.InvalidText] < 3 {
		time.Sleep(time.Millisecond)
	}
	if _, err := again.Deliver(t.Context(), bridge.Downlink{Payload: []byte("x")}); err != nil {
		t.Errorf("a downlink to a recording: %v", err)
	}
	again.stop()

	for text, want := range map[string]string{
		"":                           "",
		"{\"at\":0,\"in\":\"zz\"}\n": "line 1: in",
		"{}\nno json\n":              "line 2",
		"{\"at\":-1}\n":              "at must be",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		bad := start(t, Options{Port: "replay:" + file})
		if want != "" {
			bad.log.await(t, 1, "serial port lost", want)
		}
		bad.stop()
	}
	missing := start(t, Options{Port: "replay:" + file + "x"})
	missing.log.await(t, 1, "cannot be opened", "no such file")
	missing.stop()
}

// The adapter is pulled and comes back, each time under another name, while
// frames come in: what was framed before the pull arrives, in order.
func TestReplugging(t *testing.T) {
	dir := t.TempDir()
	rounds := *replugs
	var path string
	at := make(chan string, 1)
	locate := func() (string, error) {
		select {
		case path = <-at:
		default:
		}
		if path == "" {
			return "", os.ErrNotExist
		}
		return path, nil
	}
	r := start(t, Options{Locate: locate})
	n := 0
	var slowest time.Duration
	for round := range rounds {
		name := filepath.Join(dir, fmt.Sprintf("ttyUSB%d", round%7))
		far := openPTYAt(t, name)
		at <- name
		plugged := time.Now()
		r.awaitOpen(t, round+1)
		slowest = max(slowest, time.Since(plugged))
		for range 20 {
			far.send(t, fmt.Sprintf("%d\n", n))
			r.tray.expect(t, fmt.Sprint(n))
			n++
		}
		far.send(t, "cut o")
		far.hangUp()
		r.log.await(t, round+1, "serial port lost")
	}
	if slowest > 2*time.Second {
		t.Errorf("open again after %s", slowest)
	}
	t.Logf("%d times, open again after at most %s", rounds, slowest.Round(time.Millisecond))
}

func TestOpeningEndsUnderPolls(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{Port: far.path, Polls: []Poll{{Send: []byte("x"), Every: MinEvery, Timeout: time.Hour}}})
	far.expect(t, "x\n") // it waits for the answer now
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := r.Deliver(ctx, bridge.Downlink{Payload: []byte("y")}); done <- err }()
	cancel()
	if err := wait(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("a downlink behind the poll: %v", err)
	}
	go func() { _, err := r.Deliver(t.Context(), bridge.Downlink{Payload: []byte("y")}); done <- err }()
	r.stop()
	if err := wait(t, done); !errors.Is(err, errNotOpen) {
		t.Errorf("a downlink when the port was closed: %v", err)
	}
}
