package serial

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// replayPrefix in front of a port's path asks for a recording.
const replayPrefix = "replay:"

func replayFile(port string) (file string, ok bool) { return strings.CutPrefix(port, replayPrefix) }

// recorded is one line of a recording: what came, or went out, and how long
// after the recording had begun.
type recorded struct {
	// At is in seconds.
	At float64 `json:"at"`
	// In and Out are hexadecimal.
	In  string `json:"in,omitempty"`
	Out string `json:"out,omitempty"`
}

// Recorder writes what passes on a port as a recording: one JSON object a line.
// It is used by one goroutine at a time.
type Recorder struct {
	to    *json.Encoder
	began time.Time
	err   error
}

// NewRecorder makes a Recorder that writes to w.
func NewRecorder(w io.Writer) *Recorder { return &Recorder{to: json.NewEncoder(w)} }

// Record adds an Event if it is one of bytes.
func (r *Recorder) Record(e Event) {
	if r.began.IsZero() {
		r.began = e.At
	}
	line := recorded{At: e.At.Sub(r.began).Round(time.Microsecond).Seconds()}
	switch e.Kind {
	case BytesIn:
		line.In = hex.EncodeToString(e.Bytes)
	case BytesOut:
		line.Out = hex.EncodeToString(e.Bytes)
	default:
		return
	}
	if err := r.to.Encode(line); err != nil && r.err == nil {
		r.err = err
	}
}

// Err is the first error of writing.
func (r *Recorder) Err() error { return r.err }

// recording reads what a Recorder has written.
type recording struct {
	lines *bufio.Scanner
	n     int // of the line
}

// maxReplayLine bounds a line of a recording: what one read takes, in
// hexadecimal.
const maxReplayLine = 4*readSize + 256

func newRecording(r io.Reader) *recording {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxReplayLine)
	return &recording{lines: s}
}

// next gives the next bytes that came in and when, counted from the beginning.
// At the end of the recording the error is io.EOF, unwrapped.
func (r *recording) next() (at time.Duration, in []byte, err error) {
	for {
		r.n++
		if !r.lines.Scan() {
			if err := r.lines.Err(); err != nil {
				return 0, nil, fmt.Errorf("recording, line %d: %w", r.n, err)
			}
			return 0, nil, io.EOF
		}
		var line recorded
		if err := json.Unmarshal(r.lines.Bytes(), &line); err != nil {
			return 0, nil, fmt.Errorf("recording, line %d: %w: it must be a line of listen --record", r.n, err)
		}
		const day = 24 * 60 * 60
		if line.At < 0 || line.At > 365*day {
			return 0, nil, fmt.Errorf("recording, line %d: at must be the seconds since its beginning (got %g)", r.n, line.At)
		}
		if in, err = hex.DecodeString(line.In); err != nil {
			return 0, nil, fmt.Errorf("recording, line %d: in: %w", r.n, err)
		}
		if len(in) > 0 {
			return time.Duration(line.At * float64(time.Second)), in, nil
		}
	}
}

// replay is a wire that gives what a recording has, in its time. At its end it
// is silent. What is written to it is taken and lost.
type replay struct {
	file      *os.File
	recording *recording
	began     time.Time
	rest      []byte

	stop  chan struct{}
	once  sync.Once
	mu    sync.Mutex // guards cause
	cause error
}

func openReplay(path string) (*replay, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open recording: %w", err)
	}
	return &replay{file: f, recording: newRecording(f), began: time.Now(), stop: make(chan struct{})}, nil
}

func (r *replay) read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		at, in, err := r.recording.next()
		if err == io.EOF {
			<-r.stop
		}
		if err != nil {
			return 0, errors.Join(r.failed(), err)
		}
		timer := time.NewTimer(time.Until(r.began.Add(at)))
		select {
		case <-timer.C:
		case <-r.stop:
			timer.Stop()
			return 0, r.failed()
		}
		r.rest = in
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *replay) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cause != nil {
		return r.cause
	}
	return os.ErrClosed
}

func (r *replay) write(ctx context.Context, p []byte, perByte time.Duration) (touched bool, err error) {
	timer := time.NewTimer(time.Duration(len(p)) * perByte)
	defer timer.Stop()
	select {
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return true, context.Cause(ctx)
	case <-r.stop:
		return true, os.ErrClosed
	}
}

func (r *replay) fail(err error) {
	r.mu.Lock()
	if r.cause == nil {
		r.cause = err
	}
	r.mu.Unlock()
	r.interrupt()
}

func (r *replay) interrupt() { r.once.Do(func() { close(r.stop) }) }

func (r *replay) close() {
	r.interrupt()
	_ = r.file.Close()
}
