package serial

import "bytes"

// A framer cuts what a port receives into frames. It is made anew each time the
// port is opened and used by one goroutine.
type framer interface {
	// feed takes the next bytes, cut up in any way, and calls emit for each
	// frame that ends in them and for each one that it gives up, in order. p
	// stays the caller's; a frame is valid until emit returns.
	feed(p []byte, emit emitFunc)
	// pending is how many bytes of an unfinished frame are held.
	pending() int
}

// emitFunc gets a frame, or, if why is not empty, the reason why there is none.
type emitFunc func(frame []byte, why Refusal)

// lineSplitter is the framer of frames that end with a delimiter. If that is
// "\n", one "\r" in front of it is cut, too. Empty frames are skipped: devices
// send them as a keep-alive or in front of each line. A frame longer than max is
// given up once, and everything up to the next delimiter with it.
//
// The first bytes after an opening can be the tail of a frame that began before.
// It is taken like any other frame: dropping it would as often cost a whole one,
// which may be the only one for hours, and what is half a frame of a format that
// can be checked does not pass the decoder.
//
// What is emitted depends on the bytes alone, never on how they were cut up.
// Memory is bounded by max and the longest p.
type lineSplitter struct {
	delim []byte
	max   int
	cutCR bool

	buf      []byte // of the unfinished frame
	skipping bool   // the unfinished frame is too long and has been given up
}

func newLineSplitter(delim []byte, maxFrame int) *lineSplitter {
	return &lineSplitter{delim: delim, max: maxFrame, cutCR: string(delim) == "\n"}
}

func (s *lineSplitter) feed(p []byte, emit emitFunc) {
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
	if !s.skipping && len(rest) > s.max+spare {
		s.skipping = true
		emit(nil, RefusedTooLong)
	}
	if s.skipping {
		rest = rest[max(0, len(rest)-tail):]
	}
	s.buf = append(s.buf[:0], rest...)
}

func (s *lineSplitter) emit(frame []byte, emit emitFunc) {
	if s.cutCR {
		frame = bytes.TrimSuffix(frame, []byte{'\r'})
	}
	switch {
	case len(frame) == 0:
	case len(frame) > s.max:
		emit(nil, RefusedTooLong)
	default:
		emit(frame, "")
	}
}

func (s *lineSplitter) pending() int {
	if s.skipping {
		return 0 // counted when it was given up
	}
	return len(s.buf)
}
