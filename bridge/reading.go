package bridge

import (
	"fmt"
	"mime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// DeviceID names a device, towards the broker and in every path and file. It is
// one MQTT topic level; ParseDeviceID is the only way to make a valid one.
type DeviceID string

// MaxDeviceID is the longest device id in bytes. MQTT allows client ids and
// topics up to 65,535 bytes (section 1.5.4); the id appears in a topic beside
// other levels, in file names and in log lines, so a bound far below that is
// kept.
const MaxDeviceID = 256

// ParseDeviceID checks that s can be a device id: valid UTF-8, 1 to MaxDeviceID
// bytes, without "/", "+", "#" (MQTT v5 section 4.7.1), control characters
// (section 1.5.4) or a leading "$" (section 4.7.2), and not "." or "..", which
// HTTP clients and file systems would resolve.
func ParseDeviceID(s string) (DeviceID, error) {
	if len(s) > MaxDeviceID {
		return "", fmt.Errorf("%w: device id has %d bytes, at most %d are allowed", ErrInvalid, len(s), MaxDeviceID)
	}
	if strings.Contains(s, "/") {
		return "", fmt.Errorf("%w: device id %q contains %q, which separates MQTT topic levels", ErrInvalid, s, "/")
	}
	if err := checkLevel("device id", s); err != nil {
		return "", err
	}
	if strings.HasPrefix(s, "$") {
		return "", fmt.Errorf("%w: device id %q starts with %q, which MQTT reserves", ErrInvalid, s, "$")
	}
	if s == "." || s == ".." {
		return "", fmt.Errorf("%w: device id %q would be taken for a directory", ErrInvalid, s)
	}
	return DeviceID(s), nil
}

// Subtopic is the part of a topic behind the device: zero or more levels joined
// by "/", without a leading or trailing one. The zero value means none.
type Subtopic string

// MaxSubtopic is the longest sub topic in bytes.
const MaxSubtopic = 1024

// ParseSubtopic checks that every level of s is not empty and can be an MQTT
// topic level (see ParseDeviceID). The empty string is the empty sub topic.
func ParseSubtopic(s string) (Subtopic, error) {
	if s == "" {
		return "", nil
	}
	if len(s) > MaxSubtopic {
		return "", fmt.Errorf("%w: sub topic has %d bytes, at most %d are allowed", ErrInvalid, len(s), MaxSubtopic)
	}
	for level := range strings.SplitSeq(s, "/") {
		if err := checkLevel("sub topic level", level); err != nil {
			return "", err
		}
		if level == "." || level == ".." {
			return "", fmt.Errorf("%w: sub topic level %q would be taken for a directory", ErrInvalid, level)
		}
	}
	return Subtopic(s), nil
}

func checkLevel(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: %s is empty", ErrInvalid, what)
	case !utf8.ValidString(s):
		return fmt.Errorf("%w: %s %q is not valid UTF-8", ErrInvalid, what, s)
	}
	for _, r := range s {
		switch {
		case r == '+' || r == '#':
			return fmt.Errorf("%w: %s %q contains %q, an MQTT wildcard", ErrInvalid, what, s, r)
		case r < 0x20 || (r >= 0x7f && r <= 0x9f):
			return fmt.Errorf("%w: %s %q contains the control character %U", ErrInvalid, what, s, r)
		case r == utf8.RuneError || (r >= 0xfdd0 && r <= 0xfdef) || r&0xfffe == 0xfffe:
			return fmt.Errorf("%w: %s %q contains %U, which is not a character", ErrInvalid, what, s, r)
		}
	}
	return nil
}

// ContentTypes are the media types a reading can have, in the order in which
// they are shown to people.
var ContentTypes = []string{
	"application/json",
	"text/plain",
	"application/octet-stream",
	"application/xml",
	"text/csv",
}

// ParseContentType returns s in its canonical form (RFC 9110, section 8.3.1)
// with its parameters, such as charset, kept. The media type must be one of
// ContentTypes.
func ParseContentType(s string) (string, error) {
	mt, params, err := mime.ParseMediaType(s)
	if err != nil {
		return "", fmt.Errorf("%w: content type %q: %v", ErrContentType, s, err)
	}
	for _, known := range ContentTypes {
		if mt == known {
			if f := mime.FormatMediaType(mt, params); f != "" {
				return f, nil
			}
			return "", fmt.Errorf("%w: content type %q has a parameter that cannot be passed on", ErrContentType, s)
		}
	}
	return "", fmt.Errorf("%w: content type %q is not one of %s", ErrContentType, mt, strings.Join(ContentTypes, ", "))
}

// MediaType returns a content type without its parameters.
func MediaType(contentType string) string {
	mt, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(mt))
}

// IsText reports whether the content type's payloads are character data, for
// which the payload format indicator is set (MQTT v5 section 3.3.2.3.2).
func IsText(contentType string) bool {
	return MediaType(contentType) != "application/octet-stream"
}

// Reading is one payload that a sensor or an app sends up.
type Reading struct {
	// ID identifies the reading from here to the cloud, over every retry. It is
	// a UUIDv7 (RFC 9562); Bridge gives one to a reading that has none.
	ID uuid.UUID
	// Device is the device that the reading is of.
	Device DeviceID
	// Subtopic is appended to the device's topic.
	Subtopic Subtopic
	// ContentType is one of ContentTypes, with parameters.
	ContentType string
	// Payload is passed on as it is. It belongs to the Bridge from the moment
	// the reading is handed over: the caller must not change it any more.
	Payload []byte
	// Time is when the value was measured or, if the sender did not say, when
	// it was received here. It is zero if that happened while the wall clock
	// could not be trusted; then Boot and Mono say when.
	Time time.Time
	// Boot is the machine's boot id, and Mono the time since that boot.
	Boot string
	Mono time.Duration
	// ResponseTopic, if set, makes the reading the answer to a downlink: it is
	// sent there, as it is, and not to the device's topic, with CorrelationData
	// (MQTT v5 section 4.10). A topic may hold a secret: do not log it.
	ResponseTopic   string
	CorrelationData []byte
}

// size is what the reading counts against the memory budget.
func (r *Reading) size() int64 {
	const overhead = 320 // the entry, its reading and its strings' headers
	return overhead + int64(len(r.Payload)+len(r.Device)+len(r.Subtopic)+len(r.ContentType)+
		len(r.ResponseTopic)+len(r.CorrelationData))
}

// State tells where an accepted reading is.
type State string

// The states of an accepted reading.
const (
	// Delivered: the broker has acknowledged the reading (PUBACK).
	Delivered State = "delivered"
	// Spooled: the reading is fsync'd to the spool and will be delivered.
	Spooled State = "stored"
)

// Handling is how a sender wants its reading taken. The zero value is the
// gateway's way.
type Handling struct {
	// Async: the sender does not wait for the broker; the reading is spooled and
	// answered at once (Prefer: respond-async, RFC 7240 section 4.1).
	Async bool
	// Key makes a repetition of the request the same reading. Such a reading is
	// spooled first, with its key.
	Key Key
}

// Receipt is what the sender of an accepted reading gets back.
type Receipt struct {
	ID    uuid.UUID
	Time  time.Time
	State State
}
