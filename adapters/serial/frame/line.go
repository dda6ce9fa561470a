package frame

import (
	"bytes"
	"time"
)

// line is the splitter of frames that end with a delimiter. If that is "\n", one
// "\r" in front of it is cut, too. Empty frames are skipped: devices send them
// as a keep-alive or in front of each line. A frame longer than max is given up
// once, and everything up to the next delimiter with it.
//
// The first bytes after an opening can be the tail of a frame that began before.
// It is taken like any other frame: dropping it would as often cost a whole one,
// which may be the only one for hours, and what is half a frame of a format that
// can be checked does not pass the check or the decoder.
type line struct {
	opts  *Options
	delim []byte
	cutCR bool

	buf      []byte // of the unfinished frame
	skipping bool   // the unfinished frame is too long and has been given up
	silence
}

func newLine(o *Options, delim []byte) *line {
	return &line{opts: o, delim: delim, cutCR: string(delim) == "\n", silence: silence{gap: o.Gap}}
}

// Feed implements Splitter.
func (s *line) Feed(p []byte, at time.Time, emit Emit) {
	if s.over(at) {
		s.Flush(emit)
	}
	s.came(at)
	tail := len(s.delim) - 1 // as many bytes may be the beginning of a delimiter
	from := max(0, len(s.buf)-tail)
	s.buf = append(s.buf, p...)
	rest := s.buf
	for {
		i := bytes.Index(rest[from:], s.delim)
		if i < 0 {
			break
		}
		if s.skipping {
			s.skipping = false
		} else {
			s.emit(rest[:from+i], emit)
		}
		rest = rest[from+i+len(s.delim):]
		from = 0
	}
	// Give up only what is too long wherever the delimiter comes: its beginning,
	// or the "\r" that will be cut, may be the last bytes held.
	spare := tail
	if s.cutCR {
		spare = 1
	}
	if !s.skipping && len(rest) > s.opts.MaxFrame+spare {
		s.skipping = true
		emit(s.opts.long(rest), TooLong)
	}
	if s.skipping {
		rest = rest[max(0, len(rest)-tail):]
	}
	s.buf = append(s.buf[:0], rest...)
}

func (s *line) emit(frame []byte, emit Emit) {
	if s.cutCR {
		frame = bytes.TrimSuffix(frame, []byte{'\r'})
	}
	if len(frame) > 0 {
		s.opts.pass(frame, emit)
	}
}

// pass emits a whole frame if its length and its check are right.
func (o *Options) pass(frame []byte, emit Emit) {
	if len(frame) > o.MaxFrame {
		emit(o.long(frame), TooLong)
		return
	}
	content, ok := o.Check.Strip(frame)
	if !ok {
		emit(shown(frame), BadCheck)
		return
	}
	emit(content, "")
}

// Silence implements Splitter.
func (s *line) Silence(at time.Time, emit Emit) {
	if s.over(at) {
		s.Flush(emit)
	}
}

// Flush implements Splitter.
func (s *line) Flush(emit Emit) {
	if s.Pending() > 0 {
		emit(shown(s.buf), Incomplete)
	}
	s.buf, s.skipping = s.buf[:0], false
}

// Pending implements Splitter.
func (s *line) Pending() int {
	if s.skipping {
		return 0 // counted when it was given up
	}
	return len(s.buf)
}

// silence notices that a line has fallen silent.
type silence struct {
	gap  time.Duration // 0: it never counts
	last time.Time     // when the last bytes came
}

func (s *silence) came(at time.Time)   { s.last = at }
func (s *silence) Wait() time.Duration { return s.gap }
func (s *silence) over(at time.Time) bool {
	return s.gap > 0 && !s.last.IsZero() && at.Sub(s.last) >= s.gap
}

// maxShown is how much of a run that was given up is shown.
const maxShown = 256

// long is what is shown of a frame that is too long, wherever it was cut off.
func (o *Options) long(b []byte) []byte { return shown(b[:min(len(b), o.MaxFrame)]) }

func shown(b []byte) []byte { return b[:min(len(b), maxShown)] }
