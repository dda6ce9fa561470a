package webhook

import (
	"net/http"
	"net/url"
	"testing"
	"time"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2020, 2, 2, 2, 2, 2, 0, time.UTC)
	in := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	tests := []struct {
		field, date string
		want        time.Duration
	}{
		{"", "", 0},
		{"0", "", 0},
		{"120", "", 2 * time.Minute},
		{" 5 ", "", 5 * time.Second},
		{"3600", "", time.Hour},
		{"3601", "", time.Hour},
		{"99999999999999999999999999", "", time.Hour},
		{"-5", "", 0},
		{"+5", "", 0},
		{"1.5", "", 0},
		{"5s", "", 0},
		{"٥", "", 0}, // a digit, but not of this kind
		{in(time.Minute), "", time.Minute},
		{in(-time.Minute), "", 0},
		{in(100 * time.Hour), "", time.Hour},
		{in(time.Minute), in(-time.Minute), 2 * time.Minute},
		{in(time.Minute), "nonsense", time.Minute},
		{now.Add(time.Minute).Format(time.RFC850), "", time.Minute},
		{now.Add(time.Minute).Format(time.ANSIC), "", time.Minute},
	}
	for _, tt := range tests {
		if got := retryAfter(tt.field, tt.date, now); got != tt.want {
			t.Errorf("retryAfter(%q, %q) = %v, want %v", tt.field, tt.date, got, tt.want)
		}
	}
}

func TestContentType(t *testing.T) {
	for declared, want := range map[string]string{
		"":                          "application/octet-stream",
		" \t":                       "application/octet-stream",
		"application/json":          "application/json",
		" text/plain;\tcharset=x ":  "text/plain;\tcharset=x",
		"vendor nonsense":           "vendor nonsense",
		"text/plain\r\nX-Evil: 1":   "application/octet-stream",
		"text/plain; title=\"°\"":   "application/octet-stream",
		"application/json\x00":      "application/octet-stream",
		"application/json; a=\x7f1": "application/octet-stream",
	} {
		if got := contentType(declared); got != want {
			t.Errorf("contentType(%q) = %q, want %q", declared, got, want)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120", "", int64(0))
	f.Add("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:30 GMT", int64(784111777))
	f.Add("18446744073709551616", "x", int64(-1))
	f.Fuzz(func(t *testing.T, field, date string, now int64) {
		got := retryAfter(field, date, time.Unix(now, 0))
		if got < 0 || got > maxRetryAfter {
			t.Fatalf("retryAfter(%q, %q) = %v", field, date, got)
		}
	})
}

func FuzzEncodeHeader(f *testing.F) {
	f.Add("alerts/critical", "text/plain")
	f.Add("a b%20\r\nX: y", "a\r\nb")
	f.Add("\xff\x00ü", "\x00")
	f.Fuzz(func(t *testing.T, s, ct string) {
		e := encodeHeader(s)
		for _, c := range []byte(e) {
			if c <= 0x20 || c >= 0x7f {
				t.Fatalf("encodeHeader(%q) = %q", s, e)
			}
		}
		if back, err := url.PathUnescape(e); err != nil || back != s {
			t.Fatalf("encodeHeader(%q) = %q, which decodes to %q, %v", s, e, back, err)
		}
		for _, c := range []byte(contentType(ct)) {
			if (c < 0x20 && c != '\t') || c >= 0x7f {
				t.Fatalf("contentType(%q) = %q", ct, contentType(ct))
			}
		}
	})
}
