package serial

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// How a frame becomes a payload. All of them pass on the frame's bytes as they
// are; they differ in what they refuse.
const (
	// DecodeRaw takes any bytes.
	DecodeRaw = "raw"
	// DecodeText takes valid UTF-8 without NUL, which is what MQTT calls
	// character data (MQTT v5 section 1.5.4). A parity error or a break arrives
	// as NUL (termios(3), INPCK without PARMRK) and is refused with its frame. A
	// device that speaks another encoding needs DecodeRaw and a content type
	// with a charset.
	DecodeText = "text"
	// DecodeJSON takes one valid JSON text (RFC 8259). It is passed on
	// unchanged, so that numbers keep every digit.
	DecodeJSON = "json"
)

var decodings = []string{DecodeRaw, DecodeText, DecodeJSON}

// Refusal is the reason why a frame was not submitted. It is one of the
// constants below, fit for a metric's label.
type Refusal string

// The reasons.
const (
	// RefusedTooLong: more than MaxFrame bytes without a delimiter.
	RefusedTooLong Refusal = "too_long"
	// RefusedText: not valid UTF-8, or with NUL, where text was declared.
	RefusedText Refusal = "invalid_text"
	// RefusedJSON: not valid JSON where JSON was declared.
	RefusedJSON Refusal = "not_json"
	// RefusedIncomplete: the port went away, or was closed, before the
	// delimiter came.
	RefusedIncomplete Refusal = "incomplete"
)

// hints tell people what usually is behind a refusal.
var hints = map[Refusal]string{
	RefusedTooLong:    "no delimiter within max_frame bytes: check delimiter, baud and mode, or raise max_frame",
	RefusedText:       `not valid UTF-8 text: check baud and mode; for another encoding use decode = "raw"`,
	RefusedJSON:       "not valid JSON: check baud and mode, and what the device sends",
	RefusedIncomplete: "the port went away in the middle of a frame",
}

func defaultContentType(decode string) string {
	switch decode {
	case DecodeText:
		return "text/plain"
	case DecodeJSON:
		return "application/json"
	default:
		return "application/octet-stream"
	}
}

// decode returns a copy of the frame as payload, or why it is refused.
func decode(how string, frame []byte) (payload []byte, why Refusal) {
	switch how {
	case DecodeText:
		if !utf8.Valid(frame) || bytes.IndexByte(frame, 0) >= 0 {
			return nil, RefusedText
		}
	case DecodeJSON:
		// json.Valid lets invalid UTF-8 in strings pass; RFC 8259 section 8.1
		// does not, and the payload is declared as text to the broker.
		if !json.Valid(frame) || !utf8.Valid(frame) {
			return nil, RefusedJSON
		}
	}
	return bytes.Clone(frame), ""
}
