package serial

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"fieldbridge/adapters/serial/decode"
	"fieldbridge/bridge"
)

func asking(payload string) bridge.Downlink {
	return bridge.Downlink{Device: "d", Payload: []byte(payload), ResponseTopic: "answers"}
}

// wantAnswer delivers and checks what comes back.
func (r *rig) wantAnswer(t *testing.T, d bridge.Downlink, want, contentType string) {
	t.Helper()
	got, err := r.Deliver(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if got == nil || string(got.Payload) != want || got.ContentType != contentType {
		t.Fatalf("answer %+v, want %q as %s", got, want, contentType)
	}
}

// noReading checks that what has come until now made no reading.
func (r *rig) noReading(t *testing.T) {
	t.Helper()
	select {
	case x := <-r.tray.readings:
		t.Errorf("reading %q", x.Payload)
	default:
	}
}

// The frame behind a downlink with a response topic is its answer and no reading.
func TestAnswer(t *testing.T) {
	far := openPTY(t)
	far.sensor(t, func(line string) string { return "re " + line + "\n" })
	r := start(t, Options{Port: far.path})
	r.awaitOpen(t, 1)
	for range 20 {
		r.wantAnswer(t, asking("SET 1"), "re SET 1", "text/plain")
	}
	r.noReading(t)
	// Nobody wants to know: it is a reading like any other.
	if got, err := r.Deliver(t.Context(), bridge.Downlink{Device: "d", Payload: []byte("SET 2")}); got != nil || err != nil {
		t.Errorf("answer %v, %v", got, err)
	}
	r.tray.expect(t, "re SET 2")
	if s := r.Stats(); s.Delivered != 21 || s.FramesGood != 21 {
		t.Errorf("stats %+v", s)
	}
}

// The answer is decoded as a reading is; what cannot be decoded is none.
func TestAnswerIsDecoded(t *testing.T) {
	far := openPTY(t)
	far.sensor(t, func(string) string { return "noise\nw=21.5,unit=kg\n" })
	r := start(t, Options{Port: far.path, Decode: decode.Options{Kind: decode.KeyValue, Separator: ","}})
	r.awaitOpen(t, 1)
	r.wantAnswer(t, asking("W?"), `{"w":21.5,"unit":"kg"}`, "application/json")
	if s := r.Stats(); len(s.FramesRefused) != 1 || s.FramesGood != 1 {
		t.Errorf("stats %+v", s)
	}
}

// A device that says nothing has the downlink all the same.
func TestNoAnswerInTime(t *testing.T) {
	far := openPTY(t)
	far.sensor(t, func(line string) string {
		if line == "PING" {
			return "pong\n"
		}
		return ""
	})
	r := start(t, Options{Port: far.path, AnswerTimeout: 50 * time.Millisecond})
	r.awaitOpen(t, 1)
	began := time.Now()
	got, err := r.Deliver(t.Context(), asking("SET 1"))
	if got != nil || err != nil {
		t.Errorf("answer %v, %v", got, err)
	}
	if d := time.Since(began); d < 50*time.Millisecond {
		t.Errorf("waited %s only", d)
	}
	r.log.await(t, 1, "DEBUG downlink written, the device did not answer")
	far.send(t, "late\n")
	r.tray.expect(t, "late")
	r.wantAnswer(t, asking("PING"), "pong", "text/plain")
	if s := r.Stats(); s.Delivered != 2 {
		t.Errorf("stats %+v", s)
	}
}

// With ExpectAnswer a downlink without the right answer is not delivered, and all
// other frames stay readings.
func TestExpectAnswer(t *testing.T) {
	far := openPTY(t)
	said := map[string]string{"SET 1": "21.5\nOK 1\n", "SET 2": "21.6\n", "SET 3": "OK 3\n"}
	far.sensor(t, func(line string) string { return said[line] })
	r := start(t, Options{Port: far.path, AnswerTimeout: 100 * time.Millisecond, ExpectAnswer: regexp.MustCompile(`^OK`)})
	r.awaitOpen(t, 1)
	r.wantAnswer(t, asking("SET 1"), "OK 1", "text/plain")
	r.tray.expect(t, "21.5")

	got, err := r.Deliver(t.Context(), asking("SET 2"))
	var de *bridge.DeliveryError
	if got != nil || !errors.As(err, &de) || de.Permanent || !strings.Contains(err.Error(), "did not answer in time") || !strings.Contains(err.Error(), "^OK") {
		t.Errorf("answer %v, %v", got, err)
	}
	r.tray.expect(t, "21.6")

	// Without a response topic the answer counts as well, and is a reading.
	if got, err := r.Deliver(t.Context(), bridge.Downlink{Device: "d", Payload: []byte("SET 3")}); got != nil || err != nil {
		t.Errorf("answer %v, %v", got, err)
	}
	r.tray.expect(t, "OK 3")
	if _, err := r.Deliver(t.Context(), bridge.Downlink{Device: "d", Payload: []byte("SET 4")}); !errors.As(err, &de) {
		t.Errorf("delivered without an answer: %v", err)
	}
	if s := r.Stats(); s.Delivered != 2 || len(s.FramesRefused) != 0 {
		t.Errorf("stats %+v", s)
	}
	r.noReading(t)
}

// On a line with several devices only the one that was asked answers.
func TestAnswerOfItsDevice(t *testing.T) {
	far := openPTY(t)
	far.sensor(t, func(string) string { return "id=other,v=1\nid=d,v=2\n" })
	r := start(t, Options{Port: far.path, Decode: decode.Options{Kind: decode.KeyValue, Separator: ",", DeviceFrom: "id"}})
	r.awaitOpen(t, 1)
	r.wantAnswer(t, asking("V?"), `{"id":"d","v":2}`, "application/json")
	if x := r.tray.next(t); x.Device != "other" {
		t.Errorf("reading %+v", x)
	}
}

// A port that is lost, or a gateway that stops, while the answer is waited for:
// another attempt gets it.
func TestAnswerInterrupted(t *testing.T) {
	for _, lost := range []bool{false, true} {
		far := openPTY(t)
		ctx, cancel := context.WithCancel(t.Context())
		far.sensor(t, func(string) string {
			if lost {
				_ = far.slave.Close()
				_ = far.Close()
			} else {
				cancel()
			}
			return ""
		})
		r := start(t, Options{Port: far.path, AnswerTimeout: time.Minute})
		r.awaitOpen(t, 1)
		began := time.Now()
		got, err := r.Deliver(ctx, asking("SET 1"))
		var de *bridge.DeliveryError
		if got != nil || !errors.As(err, &de) || de.Permanent {
			t.Errorf("lost %v: answer %v, %v", lost, got, err)
		}
		if time.Since(began) > 30*time.Second {
			t.Error("waited for the answer all the same")
		}
		if !lost && !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		cancel()
	}
}

// Polls and downlinks with answers share the line without mixing up who is
// answered.
func TestAnswersAndPolls(t *testing.T) {
	far := openPTY(t)
	far.sensor(t, func(line string) string { return "re " + line + "\n" })
	r := start(t, Options{Port: far.path, Polls: []Poll{{Send: []byte("T?"), Every: 10 * time.Millisecond}}})
	r.awaitOpen(t, 1)
	for range 30 {
		r.wantAnswer(t, asking("SET"), "re SET", "text/plain")
	}
	for range 5 {
		r.tray.expect(t, "re T?")
	}
}

func TestAnswerOptions(t *testing.T) {
	if _, err := New(Options{Name: "p", Port: "/dev/null", Device: "d", AnswerTimeout: -1}, newTray(t)); err == nil || !strings.Contains(err.Error(), "answer timeout must be above zero") {
		t.Errorf("error %v", err)
	}
}
