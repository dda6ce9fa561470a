package serial

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"
)

// FuzzRecording reads anything as a recording. What can be read must come out
// the same after it was recorded again.
func FuzzRecording(f *testing.F) {
	for _, s := range []string{
		"",
		"{\"at\":0,\"in\":\"313233\"}\n{\"at\":0.5,\"out\":\"06\"}\n{\"at\":1.25,\"in\":\"0a\"}\n",
		"{\"at\":-1,\"in\":\"31\"}\n",
		"{\"at\":1e300,\"in\":\"31\"}\n",
		"{\"at\":31536000,\"in\":\"31\"}",
		"{\"at\":0,\"in\":\"3\"}\n",
		"{\"at\":0,\"in\":\"zz\"}\n",
		"{\"at\":\"0\"}\n",
		"null\n\n",
	} {
		f.Add([]byte(s))
	}
	type step struct {
		at time.Duration
		in []byte
	}
	play := func(b []byte) (steps []step, err error) {
		for r := newRecording(bytes.NewReader(b)); ; {
			at, in, err := r.next()
			if err != nil {
				return steps, err
			}
			steps = append(steps, step{at, in})
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		steps, err := play(b)
		if errors.Is(err, io.EOF) != (err == io.EOF) {
			t.Errorf("the end is wrapped: %v", err)
		}
		if len(steps) == 0 {
			return
		}
		began := time.Now()
		var again bytes.Buffer
		rec := NewRecorder(&again)
		for _, s := range steps {
			if s.at < 0 || len(s.in) == 0 || len(s.in) > maxReplayLine {
				t.Errorf("%d bytes at %s", len(s.in), s.at)
			}
			rec.Record(Event{Kind: BytesIn, At: began.Add(s.at), Bytes: s.in})
		}
		if rec.Err() != nil {
			t.Fatal(rec.Err())
		}
		first := steps[0].at
		for _, s := range steps {
			if s.at < first {
				return // a recording of ours does not go back
			}
		}
		played, err := play(again.Bytes())
		if err != io.EOF || len(played) != len(steps) {
			t.Fatalf("%d of %d steps, %v", len(played), len(steps), err)
		}
		for i, s := range steps {
			if d := played[i].at - (s.at - first); d.Abs() > 2*time.Microsecond || !bytes.Equal(played[i].in, s.in) {
				t.Errorf("step %d: %x at %s, was %x at %s", i, played[i].in, played[i].at, s.in, s.at-first)
			}
		}
	})
}
