package frame

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The kinds of framing.
const (
	Line      = "line"      // frames end with a delimiter
	Fixed     = "fixed"     // all frames have one length
	Delimited = "delimited" // frames stand between start and end bytes
	Length    = "length"    // a field in each frame tells its length
	Gap       = "gap"       // frames end with silence
	SLIP      = "slip"      // RFC 1055
	COBS      = "cobs"      // consistent overhead byte stuffing, frames end with 0x00
)

// Kinds are the kinds of framing in the order in which people are told of them.
var Kinds = []string{Line, Fixed, Delimited, Length, Gap, SLIP, COBS}

// Refusal is why bytes did not become a frame. It is one of the constants below,
// fit for a metric's label.
type Refusal string

// The reasons.
const (
	// TooLong: more bytes than the longest frame has, without an end.
	TooLong Refusal = "too_long"
	// Incomplete: the line fell silent, or went away, in the middle of a frame,
	// or the next frame began there.
	Incomplete Refusal = "incomplete"
	// BadCheck: the check does not fit the frame.
	BadCheck Refusal = "bad_check"
	// Garbage: bytes that belong to no frame, or that break the rules of SLIP
	// or COBS.
	Garbage Refusal = "garbage"
)

// Emit gets a frame, or, if why is not empty, bytes that were given up, of which
// a long run is shown in part. Its bytes are valid until it returns.
type Emit func(frame []byte, why Refusal)

// A Splitter cuts a line's bytes into frames. What it emits depends on the bytes
// and, for silence, on their times, never on how they were cut up. It is used by
// one goroutine.
type Splitter interface {
	// Feed takes the next bytes, which came at the time at. p stays the
	// caller's.
	Feed(p []byte, at time.Time, emit Emit)
	// Silence says that nothing more has come until at.
	Silence(at time.Time, emit Emit)
	// Wait is after how much silence behind the last bytes Silence should be
	// called while something is pending; 0 means never.
	Wait() time.Duration
	// Pending is how many bytes of an unfinished frame are held.
	Pending() int
	// Flush gives up what is pending: the line is gone.
	Flush(emit Emit)
}

// LengthField says where a frame's length stands (framing Length).
type LengthField struct {
	// Offset is how many bytes come before it, Size how many it has: 1 to 4.
	Offset, Size int
	// LittleEndian: its first byte is the lowest. Default: the highest.
	LittleEndian bool
	// Counts is what the length counts: CountsRest (default), CountsPayload or
	// CountsFrame.
	Counts string
}

// What a length field counts.
const (
	CountsRest    = "rest"    // all that follows the field
	CountsPayload = "payload" // all that follows the field but the check
	CountsFrame   = "frame"   // the whole frame, with the field and what is before it
)

// Options say how a line is framed. Use them once Valid is nil.
type Options struct {
	Kind string
	// Delimiter ends a frame (Line).
	Delimiter []byte
	// Length is the whole frame's, in bytes, with its check (Fixed).
	Length int
	// Start and End stand around a frame (Delimited).
	Start, End []byte
	// Field tells a frame's length (Length). It is not part of what is emitted.
	Field LengthField
	// Gap is the silence that ends a frame (Gap); for the other kinds, the one
	// after which an unfinished frame is given up, 0 for none.
	Gap time.Duration
	// MaxFrame is the longest frame in bytes, without delimiters.
	MaxFrame int
	// Check is at the end of each frame and is not part of what is emitted.
	// Nil means none.
	Check *Check
	// CheckAfterEnd: the check stands behind End and covers it, as the block
	// check character of ISO 1745 does (Delimited).
	CheckAfterEnd bool
}

// DefaultGap gives up an unfinished frame of the kinds that could otherwise
// wait for its end in the next one.
const DefaultGap = time.Second

// Valid says what is wrong with the options, or nil.
func (o *Options) Valid() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.MaxFrame < 1 {
		wrong("max frame must be at least 1 byte (got %d)", o.MaxFrame)
	}
	if o.Gap < 0 {
		wrong("gap must not be below zero (got %s)", o.Gap)
	}
	sum := o.Check.Size()
	switch o.Kind {
	case Line:
		if len(o.Delimiter) == 0 || len(o.Delimiter) > maxMarker {
			wrong("delimiter must have 1 to %d bytes (got %d)", maxMarker, len(o.Delimiter))
		}
	case Fixed:
		if o.Length <= sum || o.Length > o.MaxFrame {
			wrong("length must be more than the %d bytes of the check and at most max frame, %d (got %d)", sum, o.MaxFrame, o.Length)
		}
	case Delimited:
		for _, m := range []struct {
			name string
			b    []byte
		}{{"start", o.Start}, {"end", o.End}} {
			if len(m.b) == 0 || len(m.b) > maxMarker {
				wrong("%s must have 1 to %d bytes (got %d)", m.name, maxMarker, len(m.b))
			}
		}
	case Length:
		f := o.Field
		if f.Size < 1 || f.Size > 4 {
			wrong("the length field must have 1 to 4 bytes (got %d)", f.Size)
		}
		if f.Offset < 0 || f.Offset+f.Size+sum >= o.MaxFrame {
			wrong("the length field must leave room for a payload within max frame, %d bytes (it is at offset %d)", o.MaxFrame, f.Offset)
		}
		if !slices.Contains([]string{"", CountsRest, CountsPayload, CountsFrame}, f.Counts) {
			wrong("the length counts %q, which is none of %s, %s, %s", f.Counts, CountsRest, CountsPayload, CountsFrame)
		}
	case Gap:
		if o.Gap == 0 {
			wrong("gap is missing: give the silence that ends a frame")
		}
	case SLIP, COBS:
	default:
		wrong("framing must be one of %s (got %q)", strings.Join(Kinds, ", "), o.Kind)
	}
	return errors.Join(errs...)
}

// maxMarker is the longest delimiter, start or end in bytes.
const maxMarker = 8

// New makes a splitter of valid options.
func (o *Options) New() Splitter {
	switch o.Kind {
	case Fixed, Length:
		return newWindow(o)
	case Delimited:
		if bytes.Equal(o.Start, o.End) {
			// The end of one frame is the start of the next.
			return newLine(o, o.End)
		}
		return newDelimited(o)
	case Gap:
		return &gap{opts: o}
	case SLIP:
		return &stuffed{opts: o, end: slipEnd, unstuff: unslip}
	case COBS:
		return &stuffed{opts: o, end: cobsEnd, unstuff: uncobs}
	default:
		return newLine(o, o.Delimiter)
	}
}

// Encode puts a frame around a payload, for the other direction. An error says
// that the payload cannot be told apart from the framing, or is too long.
func (o *Options) Encode(payload []byte) ([]byte, error) {
	if o.Kind == Line && bytes.HasSuffix(payload, o.Delimiter) {
		payload = payload[:len(payload)-len(o.Delimiter)] // it came framed
	}
	body := payload
	if !o.CheckAfterEnd || o.Kind != Delimited {
		body = o.Check.Append(slices.Clone(payload))
	}
	if limit := o.MaxFrame; o.Kind != Length && len(body) > limit {
		return nil, fmt.Errorf("the payload has %d bytes, with its check %d, and a frame at most %d", len(payload), len(body), limit)
	}
	switch o.Kind {
	case Fixed:
		if len(body) != o.Length {
			return nil, fmt.Errorf("the payload has %d bytes, and a frame of this port %d", len(payload), o.Length-o.Check.Size())
		}
		return body, nil
	case Delimited:
		return o.encodeDelimited(payload, body)
	case Length:
		return o.encodeLength(payload)
	case Gap:
		return body, nil
	case SLIP:
		return slip(body), nil
	case COBS:
		return cobs(body), nil
	default:
		return append(slices.Clip(body), o.Delimiter...), nil
	}
}

func (o *Options) encodeDelimited(payload, body []byte) ([]byte, error) {
	if o.Check == nil && (bytes.Contains(payload, o.End) || bytes.Contains(payload, o.Start)) {
		return nil, errors.New("the payload contains the start or end bytes of a frame, and without a check nothing tells them apart")
	}
	out := slices.Concat(o.Start, body, o.End)
	if o.CheckAfterEnd {
		out = append(slices.Clip(o.Start), o.Check.Append(slices.Concat(payload, o.End))...)
	}
	return out, nil
}

func (o *Options) encodeLength(payload []byte) ([]byte, error) {
	f := o.Field
	if len(payload) < f.Offset {
		return nil, fmt.Errorf("the payload has %d bytes, and the length field of this port stands behind %d", len(payload), f.Offset)
	}
	total := len(payload) + f.Size + o.Check.Size()
	if total > o.MaxFrame {
		return nil, fmt.Errorf("the frame would have %d bytes, at most %d are allowed", total, o.MaxFrame)
	}
	n := uint64(total - f.around(o.Check.Size()))
	if n >= 1<<(8*f.Size) {
		return nil, fmt.Errorf("a length of %d does not fit into a field of %d bytes", n, f.Size)
	}
	field := make([]byte, f.Size)
	for i := range field {
		shift := 8 * (f.Size - 1 - i)
		if f.LittleEndian {
			shift = 8 * i
		}
		field[i] = byte(n >> shift)
	}
	return o.Check.Append(slices.Concat(payload[:f.Offset], field, payload[f.Offset:])), nil
}

// around is how many bytes of a frame the length does not count.
func (f LengthField) around(check int) int {
	switch f.Counts {
	case CountsFrame:
		return 0
	case CountsPayload:
		return f.Offset + f.Size + check
	default:
		return f.Offset + f.Size
	}
}

// total is the length of the frame that begins with b, or 0 while that cannot be
// told.
func (f LengthField) total(b []byte, check int) int {
	if len(b) < f.Offset+f.Size {
		return 0
	}
	var n uint32
	for i, digit := range b[f.Offset : f.Offset+f.Size] {
		if f.LittleEndian {
			n |= uint32(digit) << (8 * i)
		} else {
			n = n<<8 | uint32(digit)
		}
	}
	return int(min(int64(n)+int64(f.around(check)), 1<<30))
}
