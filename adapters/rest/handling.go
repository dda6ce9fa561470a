package rest

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"strings"
	"time"

	"fieldbridge/bridge"
)

// respondAsync is the preference for an answer before the broker has the
// reading (RFC 7240, section 4.1).
const respondAsync = "respond-async"

// maxKey is the longest idempotency key in bytes. UUIDs, which the draft
// recommends, have 36.
const maxKey = 255

// parseHandling reads from the headers how the sender wants the reading taken.
// The digest of the key is still missing: it is over the body, too.
func parseHandling(h http.Header) (bridge.Handling, error) {
	key, err := parseIdempotencyKey(h["Idempotency-Key"])
	if err != nil {
		return bridge.Handling{}, err
	}
	return bridge.Handling{
		Async: prefersAsync(h["Prefer"]),
		Key:   bridge.Key{Value: key},
	}, nil
}

// parseIdempotencyKey returns the key of the Idempotency-Key headers of a
// request, or "" if there is none. The draft
// (draft-ietf-httpapi-idempotency-key-header-07, section 2.1) wants a string in
// quotes, an sf-string of RFC 8941, section 3.3.3; most senders write the bare
// key. Both are the same key here.
//
// What is wrong is refused, not ignored: the sender relies on it.
func parseIdempotencyKey(values []string) (string, error) {
	const header = "the Idempotency-Key header"
	switch len(values) {
	case 0:
		return "", nil
	case 1:
	default:
		return "", badRequest("the request has %d Idempotency-Key headers; send one", len(values))
	}
	key := strings.Trim(values[0], " \t")
	if strings.HasPrefix(key, `"`) {
		var ok bool
		if key, ok = unquote(key); !ok {
			return "", badRequest(`%s is not one whole string in quotes; write \" and \\ for quotes and backslashes in it, or write the key without quotes`, header)
		}
	}
	if err := checkKey(header, key); err != nil {
		return "", err
	}
	return key, nil
}

// checkKey checks the key that came in a header or in the line of a batch.
func checkKey(where, key string) error {
	switch {
	case key == "":
		return badRequest("%s is empty; give each reading a key of its own, such as a UUID, or leave it out", where)
	case len(key) > maxKey:
		return badRequest("%s has %d characters, at most %d are allowed; a UUID will do", where, len(key), maxKey)
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return badRequest("%s contains a space or a character that is not visible ASCII at place %d; a UUID will do", where, i+1)
		}
	}
	return nil
}

// unquote reads s, which begins with a quote, as one sf-string (RFC 8941,
// section 4.2.5) that nothing follows.
func unquote(s string) (value string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			return b.String(), i == len(s)-1
		case '\\':
			i++
			if i == len(s) || s[i] != '"' && s[i] != '\\' {
				return "", false
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// prefersAsync reports whether the Prefer headers of a request ask for an answer
// at once. Several headers are one list (RFC 9110, section 5.3). Of a preference
// that is there more than once the first counts, and what is unknown or
// malformed is ignored (RFC 7240, section 2): a preference is never a reason to
// refuse. So is "wait" (section 4.3): at once is sooner than any wait.
func prefersAsync(values []string) bool {
	for _, value := range values {
		for rest := value; rest != ""; {
			var element string
			element, rest = cutOutsideQuotes(rest, ',')
			preference, _ := cutOutsideQuotes(element, ';') // parameters mean nothing here
			token, word, _ := strings.Cut(preference, "=")
			// EqualFold alone would take "ſ" for "s".
			if token = strings.Trim(token, " \t"); len(token) == len(respondAsync) && strings.EqualFold(token, respondAsync) {
				// An empty value is no value, any other is none of this preference's.
				word = strings.Trim(word, " \t")
				return word == "" || word == `""`
			}
		}
	}
	return false
}

// cutOutsideQuotes is strings.Cut for a separator that can stand in a
// quoted-string (RFC 9110, section 5.6.4), where it separates nothing. A string
// without its closing quote goes to the end.
func cutOutsideQuotes(s string, sep byte) (before, after string) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
		case c == '\\' && quoted:
			i++ // whatever is next is escaped
		case c == sep && !quoted:
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// digest is over all that a request with the same idempotency key must have in
// common with the first one: where the reading goes, what it is, and the time
// that the sender gave for it, if it gave one. Each part comes after its length
// in 8 bytes, so that nothing can move from one to the next. Digests are kept on
// disk: another way to make them would refuse what was sent before it.
//
// It is taken of a reading whose Time is still zero if the sender gave none.
func digest(r *bridge.Reading) [32]byte {
	given := ""
	if !r.Time.IsZero() {
		given = r.Time.UTC().Format(time.RFC3339Nano) // the same time in any zone
	}
	h := sha256.New()
	var length [8]byte
	for _, part := range []string{string(r.Device), string(r.Subtopic), r.ContentType, given} {
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		_, _ = h.Write(length[:]) // never fails (package hash)
		_, _ = h.Write([]byte(part))
	}
	binary.BigEndian.PutUint64(length[:], uint64(len(r.Payload)))
	_, _ = h.Write(length[:])
	_, _ = h.Write(r.Payload)
	var sum [32]byte
	h.Sum(sum[:0])
	return sum
}
