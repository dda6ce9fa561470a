package frame

import (
	"bytes"
	"time"
)

// Bytes with a meaning in SLIP (RFC 1055) and COBS.
const (
	slipEnd    = 0xC0
	slipEsc    = 0xDB
	slipEscEnd = 0xDC
	slipEscEsc = 0xDD
	cobsEnd    = 0x00
)

// stuffed is the splitter of frames that end with a byte which stuffing keeps
// out of their content: SLIP and COBS. Empty frames are skipped, since senders
// begin a frame with its end byte, too, to end what noise has left.
type stuffed struct {
	opts     *Options
	end      byte
	unstuff  func(to, b []byte) ([]byte, bool)
	buf      []byte // of the unfinished frame, as it came
	plain    []byte // the last frame
	skipping bool
	last     time.Time
}

// limit is how long a frame can be while it is stuffed: SLIP at most doubles it.
func (s *stuffed) limit() int { return 2*s.opts.MaxFrame + 2 }

// Feed implements Splitter.
func (s *stuffed) Feed(p []byte, at time.Time, emit Emit) {
	s.Silence(at, emit)
	s.last = at
	for {
		i := bytes.IndexByte(p, s.end)
		if i < 0 {
			s.hold(p, emit)
			return
		}
		s.hold(p[:i], emit)
		if !s.skipping && len(s.buf) > 0 {
			s.frame(emit)
		}
		s.buf, s.skipping = s.buf[:0], false
		p = p[i+1:]
	}
}

// hold keeps bytes of the unfinished frame, as far as it can still be one.
func (s *stuffed) hold(p []byte, emit Emit) {
	if s.skipping {
		return
	}
	n := min(len(p), s.limit()+1-len(s.buf))
	s.buf = append(s.buf, p[:n]...)
	if len(s.buf) > s.limit() {
		emit(s.opts.long(s.buf), TooLong)
		s.buf, s.skipping = s.buf[:0], true
	}
}

func (s *stuffed) frame(emit Emit) {
	var ok bool
	if s.plain, ok = s.unstuff(s.plain[:0], s.buf); !ok {
		emit(shown(s.buf), Garbage)
		return
	}
	if len(s.plain) > 0 {
		s.opts.pass(s.plain, emit)
	}
}

// Wait implements Splitter.
func (s *stuffed) Wait() time.Duration { return s.opts.Gap }

// Silence implements Splitter.
func (s *stuffed) Silence(at time.Time, emit Emit) {
	if s.opts.Gap > 0 && !s.last.IsZero() && at.Sub(s.last) >= s.opts.Gap {
		s.Flush(emit)
	}
}

// Flush implements Splitter.
func (s *stuffed) Flush(emit Emit) {
	if len(s.buf) > 0 {
		emit(shown(s.buf), Incomplete)
	}
	s.buf, s.skipping = s.buf[:0], false
}

// Pending implements Splitter.
func (s *stuffed) Pending() int { return len(s.buf) }

// unslip takes the escapes out.
func unslip(out, b []byte) ([]byte, bool) {
	for i := 0; i < len(b); i++ {
		v := b[i]
		if v == slipEsc {
			i++
			if i == len(b) {
				return out, false
			}
			switch b[i] {
			case slipEscEnd:
				v = slipEnd
			case slipEscEsc:
				v = slipEsc
			default:
				return out, false
			}
		}
		out = append(out, v)
	}
	return out, true
}

// slip frames a payload, with an end byte on both sides as RFC 1055 advises.
func slip(payload []byte) []byte {
	out := append(make([]byte, 0, len(payload)+8), slipEnd)
	for _, v := range payload {
		switch v {
		case slipEnd:
			out = append(out, slipEsc, slipEscEnd)
		case slipEsc:
			out = append(out, slipEsc, slipEscEsc)
		default:
			out = append(out, v)
		}
	}
	return append(out, slipEnd)
}

// uncobs puts the zeros back: each group begins with its length plus one, and
// a zero follows it unless it has 254 bytes or is the last.
func uncobs(out, b []byte) ([]byte, bool) {
	for len(b) > 0 {
		n := int(b[0])
		if n == 0 || n > len(b) {
			return out, false
		}
		group := b[1:n]
		b = b[n:]
		out = append(out, group...)
		if n < 0xFF && len(b) > 0 {
			out = append(out, 0)
		}
	}
	return out, true
}

// cobs frames a payload.
func cobs(payload []byte) []byte {
	out := make([]byte, 1, len(payload)+len(payload)/254+2)
	code := 0 // where the group's length goes
	for i, v := range payload {
		if v != 0 {
			out = append(out, v)
		}
		full := len(out)-code == 0xFF
		if v == 0 || full && i < len(payload)-1 {
			out[code] = byte(len(out) - code)
			code = len(out)
			out = append(out, 0)
		}
	}
	out[code] = byte(len(out) - code)
	return append(out, cobsEnd)
}
