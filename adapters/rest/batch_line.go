package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"fieldbridge/bridge"
)

// batchLine is one line of a batch.
type batchLine struct {
	Device        string          `json:"device"`
	Subtopic      string          `json:"subtopic"`
	ContentType   string          `json:"contentType"`
	Timestamp     string          `json:"timestamp"`
	Key           *string         `json:"idempotencyKey"`
	Payload       json.RawMessage `json:"payload"`
	PayloadBase64 *[]byte         `json:"payloadBase64"`
}

// parseLine makes a reading of a line, with its key if it has one.
func (s *Server) parseLine(r *http.Request, text []byte) (reading bridge.Reading, key bridge.Key, err error) {
	l, err := decodeLine(text)
	if err != nil {
		return reading, key, err
	}
	if reading, err = s.readingOf(r, &l); err != nil {
		return reading, key, err
	}
	if l.Key != nil {
		if err = checkKey("idempotencyKey", *l.Key); err != nil {
			return reading, key, err
		}
		key = bridge.Key{Value: *l.Key, Digest: digest(&reading)}
	}
	if reading.Time.IsZero() {
		reading.Time = time.Now()
	}
	return reading, key, nil
}

// readingOf makes a reading of a line; its time is zero if there is none.
func (s *Server) readingOf(r *http.Request, l *batchLine) (reading bridge.Reading, err error) {
	if reading.Device, err = bridge.ParseDeviceID(l.Device); err != nil {
		return reading, err
	}
	if err = s.mayUse(r, reading.Device); err != nil {
		return reading, err
	}
	if !s.accepter.Known(reading.Device) {
		return reading, fmt.Errorf("%w: %q", bridge.ErrUnknownDevice, reading.Device)
	}
	if l.Subtopic != "" {
		if reading.Subtopic, err = bridge.ParseSubtopic(l.Subtopic); err != nil {
			return reading, err
		}
	}
	if l.Timestamp != "" {
		if reading.Time, err = parseTimestamp(l.Timestamp); err != nil {
			return reading, err
		}
	}
	if reading.ContentType, reading.Payload, err = l.content(); err != nil {
		return reading, err
	}
	if int64(len(reading.Payload)) > s.opts.MaxBody {
		return reading, &problem{status: http.StatusRequestEntityTooLarge,
			detail: fmt.Sprintf("the payload is larger than %d bytes; send less at a time, or raise http.max_body", s.opts.MaxBody)}
	}
	return reading, nil
}

func decodeLine(text []byte) (l batchLine, err error) {
	if fault := jsonFault(text); fault != "" {
		if strings.Contains(fault, "after top-level value") {
			fault += "; if curl has sent it: --data-binary keeps the line breaks, -d does not"
		}
		return l, badRequest("the line is not one JSON object: %s", fault)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields() // it may be a misspelt timestamp
	if err := d.Decode(&l); err != nil {
		return l, badRequest("the line does not fit: %s; it has device and payload or payloadBase64, and may have subtopic, contentType, timestamp and idempotencyKey", misfit(err))
	}
	return l, nil
}

// misfit says why a JSON text is no line, in the sender's words.
func misfit(err error) string {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		if kind.Field == "" {
			return "it is " + kind.Value + " and no object"
		}
		return fmt.Sprintf("%s must not be a %s", kind.Field, kind.Value)
	}
	return clip(strings.TrimPrefix(err.Error(), "json: "))
}

// content is what the line's reading is made of. As JSON the payload is taken as
// it stands; as another type it is a string, and its text is taken.
func (l *batchLine) content() (contentType string, payload []byte, err error) {
	const jsonType = "application/json"
	if contentType = l.ContentType; contentType == "" {
		contentType = jsonType
	} else if contentType, err = bridge.ParseContentType(contentType); err != nil {
		return "", nil, unsupported("%v", err)
	}
	isJSON := bridge.MediaType(contentType) == jsonType
	switch {
	case (len(l.Payload) > 0) == (l.PayloadBase64 != nil):
		return "", nil, badRequest("the line needs payload or payloadBase64, one of them")
	case l.PayloadBase64 != nil:
		payload = *l.PayloadBase64
	case isJSON:
		payload = l.Payload
	default:
		var text string
		if json.Unmarshal(l.Payload, &text) != nil {
			return "", nil, badRequest("as %s the payload must be a string; send it as one, or as payloadBase64, or without contentType as JSON", contentType)
		}
		payload = []byte(text)
	}
	if len(payload) == 0 {
		return "", nil, badRequest("the payload is empty")
	}
	if !isJSON || utf8.Valid(payload) && json.Valid(payload) {
		return contentType, payload, nil
	}
	contentType, err = checkBody(contentType, payload)
	return contentType, payload, err
}
