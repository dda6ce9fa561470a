package frame

import "time"

// window is the splitter of frames whose length is known from the outset or from
// a field. It looks for a frame at the oldest byte held; where there can be none
// it gives up that byte and looks at the next. So with a check, the first good
// frame behind any garbage is found as soon as its last byte is there and what
// the garbage pretends to be has turned out wrong. Without a check only silence
// brings it back into step.
type window struct {
	opts *Options
	silence
	buf []byte
	skipped
}

func newWindow(o *Options) *window {
	return &window{opts: o, silence: silence{gap: o.Gap}}
}

// skipped is a run of bytes that were given up, as one refusal.
type skipped struct {
	run []byte // shown of it
	n   int
	why Refusal // of its first byte
}

// maxRun ends a run, so that garbage without an end is told of.
const maxRun = 16 << 10

func (s *skipped) skip(b byte, why Refusal) {
	if s.n == 0 {
		s.why = why
	}
	s.n++
	if len(s.run) < maxShown {
		s.run = append(s.run, b)
	}
}

func (s *skipped) flush(emit Emit) {
	if s.n > 0 {
		emit(s.run, s.why)
	}
	s.run, s.n = s.run[:0], 0
}

// Feed implements Splitter.
func (w *window) Feed(p []byte, at time.Time, emit Emit) {
	w.Silence(at, emit)
	w.came(at)
	for len(p) > 0 {
		// In pieces, so that memory is bounded by the longest frame.
		n := min(len(p), 2*w.opts.MaxFrame-len(w.buf))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		w.scan(emit, false)
	}
}

// scan takes the frames out of the buffer. last: nothing will follow what is in
// there.
func (w *window) scan(emit Emit, last bool) {
	rest := w.buf
	for len(rest) > 0 {
		n, why := w.look(rest, last)
		if n == 0 && why == "" {
			break // more bytes must come
		}
		if n == 0 {
			if w.skip(rest[0], why); w.n >= maxRun {
				w.skipped.flush(emit)
			}
			rest = rest[1:]
			continue
		}
		w.skipped.flush(emit)
		content, _ := w.opts.Check.Strip(rest[:n])
		emit(w.opts.unfield(content), "")
		rest = rest[n:]
	}
	if last {
		w.skipped.flush(emit)
	}
	w.buf = append(w.buf[:0], rest...)
}

// look returns the length of the good frame at the beginning of b, or why there
// is none, or neither while that is open.
func (w *window) look(b []byte, last bool) (n int, why Refusal) {
	o := w.opts
	n = o.Length
	if o.Kind == Length {
		n = o.Field.total(b, o.Check.Size())
		least := o.Field.Offset + o.Field.Size + o.Check.Size()
		switch {
		case n == 0 && len(b) < o.Field.Offset+o.Field.Size: // open
		case n > o.MaxFrame:
			return 0, TooLong
		case n < least:
			return 0, Garbage
		}
	}
	switch {
	case n > 0 && len(b) >= n:
		if _, ok := o.Check.Strip(b[:n]); !ok {
			return 0, BadCheck
		}
		return n, ""
	case last:
		return 0, Incomplete
	}
	return 0, ""
}

// unfield takes the length field out of a frame, in place.
func (o *Options) unfield(frame []byte) []byte {
	if o.Kind != Length {
		return frame
	}
	f := o.Field
	if f.Offset == 0 {
		return frame[f.Size:]
	}
	copy(frame[f.Size:], frame[:f.Offset])
	return frame[f.Size:]
}

// Silence implements Splitter.
func (w *window) Silence(at time.Time, emit Emit) {
	if w.over(at) {
		w.Flush(emit)
	}
}

// Flush implements Splitter.
func (w *window) Flush(emit Emit) { w.scan(emit, true) }

// Pending implements Splitter.
func (w *window) Pending() int { return len(w.buf) + w.n }
