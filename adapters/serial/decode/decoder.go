package decode

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"fieldbridge/adapters/serial/frame"
	"fieldbridge/bridge"
)

// The reasons why a frame is refused, beside those of package frame.
const (
	// InvalidText: not valid UTF-8, or with NUL, where text is expected.
	InvalidText frame.Refusal = "invalid_text"
	// NotJSON: not valid JSON.
	NotJSON frame.Refusal = "not_json"
	// NoMatch: the pattern does not match, or it is no NMEA sentence.
	NoMatch frame.Refusal = "no_match"
	// BadFields: the cells, pairs or fields are not those that were declared.
	BadFields frame.Refusal = "bad_fields"
	// BadNumber: text where a number was declared.
	BadNumber frame.Refusal = "bad_number"
	// TooShort: a binary frame ends before its fields do.
	TooShort frame.Refusal = "too_short"
	// TooLarge: the object would be longer than MaxPayload.
	TooLarge frame.Refusal = "too_large"
	// BadDevice: device_from gives no valid device id.
	BadDevice frame.Refusal = "bad_device"
	// BadSubtopic: subtopic_from gives no valid sub topic.
	BadSubtopic frame.Refusal = "bad_subtopic"
)

// Refusals are all the reasons that Decode can give.
var Refusals = []frame.Refusal{
	InvalidText, NotJSON, NoMatch, BadFields, BadNumber, TooShort, TooLarge, BadDevice, BadSubtopic, frame.BadCheck,
}

// Error is why a frame was refused.
type Error struct {
	// Reason is one of Refusals, fit for a metric's label.
	Reason frame.Refusal
	// Detail is for people: what is wrong, and where. It shows a few bytes of
	// the frame at most.
	Detail string
}

// Error implements error.
func (e *Error) Error() string { return e.Detail }

func refuse(why frame.Refusal, format string, args ...any) *Error {
	return &Error{Reason: why, Detail: fmt.Sprintf(format, args...)}
}

// excerpt is how much of a value an error shows.
type excerpt []byte

func (e excerpt) String() string {
	const limit = 24
	if len(e) > limit {
		return fmt.Sprintf("%q and %d bytes more", []byte(e[:limit]), len(e)-limit)
	}
	return fmt.Sprintf("%q", []byte(e))
}

// Result is what became of a frame.
type Result struct {
	// Payload is the caller's. It does not share the frame's memory.
	Payload []byte
	// ContentType of the payload.
	ContentType string
	// Device and Subtopic are what DeviceFrom and SubtopicFrom gave; empty if
	// they are not set, and for a frame that is forwarded: then the port's own
	// hold.
	Device   bridge.DeviceID
	Subtopic bridge.Subtopic
}

// Decoder decodes the frames of one port. It is used by one goroutine.
type Decoder struct {
	opts        Options
	contentType string
	stampKey    string // as JSON
	format      format // nil for what is passed on
	object      object // of the frame at hand
}

// format fills an object from a frame, or says why not.
type format interface {
	decode(b []byte, o *object) *Error
}

// Decode turns a frame, which stays the caller's, into a payload. at is when it
// was measured; zero if that is not known, and then nothing is stamped.
//
// The error is nil or an *Error. With OnError = Forward the Result beside an
// error holds the frame as it is, to be passed on; otherwise it is empty.
func (d *Decoder) Decode(b []byte, at time.Time) (Result, error) {
	r, refused := d.decode(b, at)
	if refused == nil {
		return r, nil
	}
	if d.opts.OnError != Forward {
		return Result{}, refused
	}
	r = Result{Payload: bytes.Clone(b), ContentType: DefaultContentType(Raw)}
	if d.opts.Kind != Fields && checkText(b) == nil {
		r.ContentType = DefaultContentType(Text)
	}
	return r, refused
}

func (d *Decoder) decode(b []byte, at time.Time) (Result, *Error) {
	r := Result{ContentType: d.contentType}
	switch d.opts.Kind {
	case Raw:
		r.Payload = bytes.Clone(b)
		return r, nil
	case Text:
		if err := checkText(b); err != nil {
			return r, err
		}
		r.Payload = bytes.Clone(b)
		return r, nil
	case JSON:
		if err := checkJSON(b); err != nil {
			return r, err
		}
		if d.opts.Stamp == "" && d.opts.DeviceFrom == "" && d.opts.SubtopicFrom == "" {
			r.Payload = bytes.Clone(b)
			return r, nil
		}
		members, isObject := scanMembers(b, d.object.members[:0])
		d.object.members = members
		if !isObject {
			return d.notAnObject(b)
		}
		err := d.finish(b, members, at, &r)
		return r, err
	default:
		o := &d.object
		o.reset()
		if err := d.format.decode(b, o); err != nil {
			return r, err
		}
		if err := o.close(); err != nil {
			return r, err
		}
		err := d.finish(o.buf, o.members, at, &r)
		return r, err
	}
}

// notAnObject passes on JSON that has no keys: it cannot be stamped.
func (d *Decoder) notAnObject(b []byte) (Result, *Error) {
	switch {
	case d.opts.DeviceFrom != "":
		return Result{}, refuse(BadDevice, "device_from: the JSON is not an object and has no key %q", d.opts.DeviceFrom)
	case d.opts.SubtopicFrom != "":
		return Result{}, refuse(BadSubtopic, "subtopic_from: the JSON is not an object and has no key %q", d.opts.SubtopicFrom)
	}
	return Result{Payload: bytes.Clone(b), ContentType: d.contentType}, nil
}

func checkText(b []byte) *Error {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return refuse(InvalidText, `NUL at byte %d: check baud and mode; for another encoding use decode = "raw"`, i)
	}
	if utf8.Valid(b) {
		return nil
	}
	i := 0
	for i < len(b) {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		i += n
	}
	return refuse(InvalidText, `not valid UTF-8 at byte %d: check baud and mode; for another encoding use decode = "raw"`, i)
}

// checkJSON looks at the encoding as well: json.Valid lets invalid UTF-8 in
// strings pass; RFC 8259 section 8.1 does not, and the payload is declared as
// text to the broker.
func checkJSON(b []byte) *Error {
	if json.Valid(b) && utf8.Valid(b) {
		return nil
	}
	const hint = "check baud and mode, and what the device sends"
	var raw json.RawMessage
	var syntax *json.SyntaxError
	if err := json.Unmarshal(b, &raw); errors.As(err, &syntax) {
		return refuse(NotJSON, "not valid JSON at byte %d, %v: %s", syntax.Offset, syntax, hint)
	}
	return refuse(NotJSON, "JSON that is not valid UTF-8: %s", hint)
}
