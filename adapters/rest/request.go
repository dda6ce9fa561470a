package rest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"fieldbridge/bridge"
)

func badRequest(format string, args ...any) *problem {
	return &problem{status: http.StatusBadRequest, detail: fmt.Sprintf(format, args...)}
}

func unsupported(format string, args ...any) *problem {
	return &problem{status: http.StatusUnsupportedMediaType, detail: fmt.Sprintf(format, args...),
		header: http.Header{"Accept-Post": {strings.Join(bridge.ContentTypes, ", ")}}}
}

// parseDevice decodes a path segment that names a device.
func parseDevice(segment string) (bridge.DeviceID, error) {
	s, err := url.PathUnescape(segment)
	if err != nil {
		return "", badRequest("device id: %v", err)
	}
	return bridge.ParseDeviceID(s)
}

// parseSubtopic decodes the path segments behind ".../uplink/", each by itself:
// an encoded "/" in a segment is no separator and cannot be part of a level.
func parseSubtopic(path string) (bridge.Subtopic, error) {
	switch {
	case path == "":
		return "", badRequest("the path ends with %q; remove it, or put a sub topic behind it", "/")
	case !strings.Contains(path, "%") && !strings.Contains(path, "//") && path[0] != '/' && path[len(path)-1] != '/':
		return bridge.ParseSubtopic(path) // nothing to decode
	}
	levels := strings.Split(path, "/")
	for i, segment := range levels {
		if segment == "" {
			return "", badRequest("sub topic level %d is empty; write one %q between levels and none at the end", i+1, "/")
		}
		level, err := url.PathUnescape(segment)
		if err != nil {
			return "", badRequest("sub topic level %d: %v", i+1, err)
		}
		if strings.Contains(level, "/") {
			return "", badRequest("sub topic level %d contains an encoded %q, which separates MQTT topic levels; write it unencoded if two levels are meant", i+1, "/")
		}
		levels[i] = level
	}
	return bridge.ParseSubtopic(strings.Join(levels, "/"))
}

// parseQuery returns the time of the timestamp parameter, or the zero time. An
// unknown parameter is refused: it may be a misspelt timestamp, and the reading
// would get a wrong time without a word.
func parseQuery(query string) (t time.Time, err error) {
	err = eachParameter(query, []string{"timestamp"}, func(_, value string) error {
		if value, err = url.PathUnescape(value); err != nil {
			return badRequest("query parameter timestamp: %v", err)
		}
		t, err = parseTimestamp(value)
		return err
	})
	return t, err
}

// eachParameter calls f with those of a query, their values as they were sent,
// until it returns an error. Each is there once at most, and known.
//
// A "+" is left to f: it stands for itself (RFC 3986), as in a time's offset, and
// for a space in forms (URL Standard, section 5).
func eachParameter(query string, known []string, f func(key, value string) error) error {
	seen := 0 // a bit for each of known
	for query != "" {
		var pair string
		if pair, query, _ = strings.Cut(query, "&"); pair == "" {
			continue
		}
		key, value, _ := strings.Cut(pair, "=")
		key, err := url.PathUnescape(key)
		if err != nil {
			return badRequest("query parameter: %v", err)
		}
		i := slices.Index(known, key)
		switch {
		case i < 0:
			return badRequest("query parameter %q is unknown; this path takes %s", clip(key), strings.Join(known, ", "))
		case seen&(1<<i) != 0:
			return badRequest("query parameter %q is there more than once; send one", key)
		}
		seen |= 1 << i
		if err := f(key, value); err != nil {
			return err
		}
	}
	return nil
}

// parseTimestamp reads the profile of ISO 8601 that RFC 3339 defines. Years are
// bound to 1970 to 9999 in UTC: below is no measurement but a clock that was
// not set, above cannot be written in the format.
func parseTimestamp(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || !strictRFC3339(s) {
		return time.Time{}, badRequest("timestamp %q is not ISO 8601 with date, time and zone; write it as 2006-01-02T15:04:05.000Z or 2006-01-02T15:04:05+01:00", clip(s))
	}
	if y := t.UTC().Year(); y < 1970 || y > 9999 {
		return time.Time{}, badRequest("timestamp %q is not between the years 1970 and 9999; check the sender's clock, or send none", clip(s))
	}
	return t, nil
}

// strictRFC3339 refuses what time.Parse lets through: one-digit hours, commas
// before fractions, and offsets of 24 hours or 60 minutes and more.
func strictRFC3339(s string) bool {
	if strings.Contains(s, ",") || len(s) < len("2006-01-02T15:04:05Z") || s[13] != ':' {
		return false
	}
	if strings.HasSuffix(s, "Z") {
		return true
	}
	zone := s[len(s)-len("+01:00"):]
	return zone[1:3] <= "23" && zone[4:6] <= "59"
}

// clip keeps foreign text in an answer short.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// parseContentType returns the content type in canonical form, or "" if the
// request has none.
func parseContentType(h http.Header) (string, error) {
	if err := refuseCoding(h); err != nil {
		return "", err
	}
	values := h["Content-Type"]
	if len(values) > 1 {
		return "", badRequest("the request has %d Content-Type headers; send one", len(values))
	}
	if len(values) == 0 || values[0] == "" {
		return "", nil
	}
	if slices.Contains(bridge.ContentTypes, values[0]) {
		return values[0], nil // canonical as it is; spares the parser
	}
	ct, err := bridge.ParseContentType(values[0])
	switch {
	case err == nil:
		return ct, nil
	case bridge.MediaType(values[0]) == "application/x-www-form-urlencoded":
		return "", unsupported("curl -d sends a form type: add -H 'Content-Type: application/json', or another of %s", strings.Join(bridge.ContentTypes, ", "))
	case isMediaType(values[0]):
		return "", unsupported("%v", err)
	default:
		return "", unsupported("the Content-Type header is malformed; send one of %s", strings.Join(bridge.ContentTypes, ", "))
	}
}

// refuseCoding refuses bodies that are compressed or the like.
func refuseCoding(h http.Header) error {
	for _, coding := range h["Content-Encoding"] {
		if coding != "" && !strings.EqualFold(coding, "identity") {
			return &problem{status: http.StatusUnsupportedMediaType, header: http.Header{"Accept-Encoding": {"identity"}},
				detail: fmt.Sprintf("content coding %q is not supported; send the body without Content-Encoding", clip(coding))}
		}
	}
	return nil
}

// isMediaType tells a type of somebody else's from a header that is broken.
func isMediaType(s string) bool {
	_, _, err := mime.ParseMediaType(s)
	return err == nil
}

// smallBody is what a payload may have to be read into its own memory at once.
const smallBody = 16 << 10

var bodyBuffers = sync.Pool{New: func() any { return new([]byte) }}

// readBody reads the payload, which is the caller's and no longer than it must
// be: it may wait long. Memory grows with what arrives, not with what
// Content-Length promises.
func (s *Server) readBody(r *http.Request) ([]byte, error) {
	limit := s.opts.MaxBody
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	if length := r.ContentLength; length >= 0 && length <= smallBody {
		body := make([]byte, length)
		if n, err := io.ReadFull(r.Body, body); err != nil && length > 0 {
			return nil, bodyError(err, n)
		}
		return gotBody(body)
	}
	buf := bodyBuffers.Get().(*[]byte)
	defer bodyBuffers.Put(buf)
	for body := slices.Grow((*buf)[:0], smallBody); ; {
		n, err := r.Body.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		*buf = body
		switch {
		case int64(len(body)) > limit:
			return nil, tooLarge(limit)
		case err == io.EOF:
			return gotBody(slices.Clone(body))
		case err != nil:
			return nil, bodyError(err, len(body))
		case len(body) == cap(body):
			body = slices.Grow(body, len(body)) // doubles
		}
	}
}

func gotBody(body []byte) ([]byte, error) {
	if len(body) == 0 {
		return nil, badRequest("the body is empty; send the payload in it")
	}
	return body, nil
}

func tooLarge(limit int64) *problem {
	return &problem{status: http.StatusRequestEntityTooLarge, hangUp: true,
		detail: fmt.Sprintf("the body is larger than %d bytes; send less at a time, or raise http.max_body", limit)}
}

// bodyError tells a slow client from one whose body is broken or cut short.
func bodyError(err error, got int) *problem {
	var p *problem // limit's
	if errors.As(err, &p) {
		return p
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return &problem{status: http.StatusRequestTimeout, hangUp: true,
			detail: fmt.Sprintf("the body did not arrive in time, only %d bytes of it; send it again", got)}
	}
	return &problem{status: http.StatusBadRequest, hangUp: true,
		detail: fmt.Sprintf("the body breaks off after %d bytes; send all of it, as long as Content-Length says", got)}
}

// checkBody checks JSON, and takes a body without a content type for JSON if it
// is. Other payloads are passed on as they are.
func checkBody(contentType string, body []byte) (string, error) {
	const jsonType = "application/json"
	if contentType != "" && bridge.MediaType(contentType) != jsonType {
		return contentType, nil
	}
	fault := jsonFault(body)
	switch {
	case fault == "" && contentType == "":
		return jsonType, nil
	case fault == "":
		return contentType, nil
	case contentType == "":
		return "", unsupported("there is no Content-Type and the body is not JSON (%s); name one of %s", fault, strings.Join(bridge.ContentTypes, ", "))
	default:
		return "", badRequest("the body is not one JSON value: %s; correct it, or send it as another Content-Type such as text/plain", fault)
	}
}

// jsonFault says why body is not one JSON value in UTF-8 (RFC 8259), with the
// place counted in bytes from 0; "" if it is.
func jsonFault(body []byte) string {
	valid := json.Valid(body)
	if valid && utf8.Valid(body) {
		return ""
	}
	if !valid {
		var raw json.RawMessage
		err := json.Unmarshal(body, &raw)
		var syntax *json.SyntaxError
		switch {
		case strings.HasPrefix(string(body[:min(len(body), 3)]), "\ufeff"):
			return "a byte order mark at byte 0"
		case errors.As(err, &syntax) && syntax.Offset >= int64(len(body)) && strings.HasPrefix(syntax.Error(), "unexpected end"):
			return fmt.Sprintf("it ends too early, at byte %d", len(body))
		case errors.As(err, &syntax):
			// Offset counts the bytes read, with the one that is wrong.
			return fmt.Sprintf("%v at byte %d", syntax, max(syntax.Offset-1, 0))
		default:
			return "it does not parse"
		}
	}
	at := 0
	for at < len(body) {
		r, n := utf8.DecodeRune(body[at:])
		if r == utf8.RuneError && n <= 1 {
			break
		}
		at += n
	}
	return fmt.Sprintf("invalid UTF-8 at byte %d", at)
}
