package webhook

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what a target can ask for: a wrong date must not hold a
// device's downlinks for days.
const maxRetryAfter = time.Hour

// retryAfter reads a Retry-After field (RFC 9110, section 10.2.3): seconds, or a
// date. A date is compared with the answer's own Date if it has one, so that a
// wrong clock here does no harm, else with now. What cannot be read, or is past,
// is 0.
func retryAfter(field, date string, now time.Time) time.Duration {
	field = strings.TrimSpace(field)
	if field != "" && strings.Trim(field, "0123456789") == "" {
		// Digits only: the one possible error is a number that is too large.
		seconds, err := strconv.ParseInt(field, 10, 64)
		if err != nil || seconds > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter
		}
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(field)
	if err != nil {
		return 0
	}
	if sent, err := http.ParseTime(date); err == nil {
		now = sent
	}
	return min(max(at.Sub(now), 0), maxRetryAfter)
}

// encodeHeader makes a field value of any bytes (RFC 9110, section 5.5 allows
// less): all but visible ASCII, and "%", becomes %XX (RFC 3986, section 2.1).
func encodeHeader(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c > 0x20 && c < 0x7f && c != '%' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// contentType passes on what the publisher declared, as it is, if a header can
// carry it. The type of a payload without one is unknown, for which RFC 9110
// (section 8.3) has application/octet-stream.
func contentType(declared string) string {
	declared = strings.Trim(declared, " \t")
	for i := range len(declared) {
		if c := declared[i]; c != '\t' && (c < 0x20 || c > 0x7e) {
			declared = ""
			break
		}
	}
	if declared == "" {
		return "application/octet-stream"
	}
	return declared
}
