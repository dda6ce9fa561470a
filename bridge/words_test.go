package bridge_test

import (
	"errors"
	"strings"
	"testing"

	"fieldbridge/bridge"
)

func TestParseDeviceID(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{ // want: part of the error; "" if valid
		{"hex", "0004A30B001C1B03", ""},
		{"one byte", "x", ""},
		{"longest", strings.Repeat("a", bridge.MaxDeviceID), ""},
		{"space and punctuation", "hall a, scale:1 (left)", ""},
		{"more than ASCII", "Waage-Übergröße-秤", ""},
		{"dollar inside", "a$b", ""},
		{"three dots", "...", ""},
		{"a byte too long", strings.Repeat("a", bridge.MaxDeviceID+1), "at most 256"},
		{"empty", "", "is empty"},
		{"slash", "a/b", "separates MQTT topic levels"},
		{"plus", "a+b", "an MQTT wildcard"},
		{"hash", "#", "an MQTT wildcard"},
		{"NUL", "a\x00", "control character U+0000"},
		{"newline", "a\nb", "control character U+000A"},
		{"DEL", "a\x7f", "control character U+007F"},
		{"C1", "a\u0085", "control character U+0085"},
		{"not UTF-8", "a\xff", "not valid UTF-8"},
		{"surrogate", "\xed\xa0\x80", "not valid UTF-8"},
		{"replacement character", "a\ufffd", "not a character"},
		{"noncharacter", "a\ufdd0", "not a character"},
		{"noncharacter of a high plane", "a\U0001ffff", "not a character"},
		{"reserved", "$SYS", "MQTT reserves"},
		{"dot", ".", "directory"},
		{"dot dot", "..", "directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, err := bridge.ParseDeviceID(tt.in)
			checkInvalid(t, err, tt.want)
			if err == nil && string(id) != tt.in {
				t.Errorf("got %q, want it unchanged", id)
			}
		})
	}
}

func checkInvalid(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("error %v, want none", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("error %v, want one with %q", err, want)
	case want != "" && !errors.Is(err, bridge.ErrInvalid):
		t.Errorf("error %v is not ErrInvalid", err)
	}
}

func TestParseSubtopic(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"none", "", ""},
		{"one level", "alerts", ""},
		{"two levels", "alerts/critical", ""},
		{"longest", strings.Repeat("a", bridge.MaxSubtopic), ""},
		{"dollar", "$a/$b", ""},
		{"a byte too long", strings.Repeat("a", bridge.MaxSubtopic+1), "at most 1024"},
		{"leading slash", "/a", "is empty"},
		{"trailing slash", "a/", "is empty"},
		{"empty level", "a//b", "is empty"},
		{"slash", "/", "is empty"},
		{"plus", "a/+", "an MQTT wildcard"},
		{"hash", "a/#", "an MQTT wildcard"},
		{"NUL", "a/b\x00", "control character"},
		{"not UTF-8", "a/\xc3\x28", "not valid UTF-8"},
		{"up", "a/../b", "directory"},
		{"here", "./b", "directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := bridge.ParseSubtopic(tt.in)
			checkInvalid(t, err, tt.want)
			if err == nil && string(s) != tt.in {
				t.Errorf("got %q, want it unchanged", s)
			}
		})
	}
}

func TestParseContentType(t *testing.T) {
	for _, tt := range []struct{ in, want string }{ // want "": refused
		{"application/json", "application/json"},
		{"text/plain", "text/plain"},
		{"application/octet-stream", "application/octet-stream"},
		{"application/xml", "application/xml"},
		{"text/csv", "text/csv"},
		{"  Application/JSON ", "application/json"},
		{"text/plain;charset=utf-8", "text/plain; charset=utf-8"},
		{"text/plain; CHARSET=UTF-8", "text/plain; charset=UTF-8"},
		{`text/csv; header="present"; charset="utf-8"`, "text/csv; charset=utf-8; header=present"},
		{`text/plain; x="a b"`, `text/plain; x="a b"`},
		{"text/plain;", "text/plain"},
		{"", ""},
		{"json", ""},
		{"application/jsonx", ""},
		{"application/x-www-form-urlencoded", ""},
		{"text/*", ""},
		{"text/plain; charset", ""},
		{"text/plain; charset=utf-8; charset=latin1", ""},
		{"text/plain\x00", ""},
	} {
		t.Run(tt.in, func(t *testing.T) {
			got, err := bridge.ParseContentType(tt.in)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Fatalf("got %q, %v; want %q", got, err, tt.want)
			}
			if err != nil && !errors.Is(err, bridge.ErrContentType) {
				t.Errorf("error %v is not ErrContentType", err)
			}
		})
	}
}

func TestMediaType(t *testing.T) {
	for _, tt := range []struct {
		in, media string
		text      bool
	}{
		{"text/plain; charset=utf-8", "text/plain", true},
		{" Text/CSV ;x", "text/csv", true},
		{"application/json", "application/json", true},
		{"application/xml", "application/xml", true},
		{"Application/Octet-Stream; x=y", "application/octet-stream", false},
	} {
		if got := bridge.MediaType(tt.in); got != tt.media {
			t.Errorf("MediaType(%q) = %q, want %q", tt.in, got, tt.media)
		}
		if got := bridge.IsText(tt.in); got != tt.text {
			t.Errorf("IsText(%q) = %t", tt.in, got)
		}
	}
}

// The examples are those of MQTT v5 section 4.7.1 and what follows from it.
func TestMatchFilter(t *testing.T) {
	for _, tt := range []struct {
		filter, topic string
		want          bool
	}{
		{"sport/tennis/player1/#", "sport/tennis/player1", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/ranking", true},
		{"sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true},
		{"sport/tennis/player1/#", "sport/tennis/player12", false},
		{"sport/#", "sport", true},
		{"#", "sport", true},
		{"#", "a/b/c", true},
		{"#", "", true},
		{"", "", true},
		{"", "a/b", true},
		{"sport/tennis/+", "sport/tennis/player1", true},
		{"sport/tennis/+", "sport/tennis/player1/ranking", false},
		{"sport/+", "sport", false},
		{"sport/+", "sport/", true},
		{"+", "sport", true},
		{"+", "", false}, // no sub topic is no level
		{"+/#", "", false},
		{"+/#", "sport", true},
		{"+/tennis/#", "sport/tennis", true},
		{"+/+", "/finance", true},
		{"/+", "/finance", true},
		{"+", "/finance", false},
		{"+/b", "a/b", true},
		{"+/b", "a/c", false},
		{"a/+/c", "a//c", true},
		{"a/#", "ab", false},
		{"a/b", "a", false},
		{"a", "a/b", false},
		{"a", "a/", false},
		{"a/+/#", "a", false},
		{"a/+/#", "a/b", true},
		{"valve", "Valve", false},
	} {
		if got := bridge.MatchFilter(tt.filter, tt.topic); got != tt.want {
			t.Errorf("MatchFilter(%q, %q) = %t", tt.filter, tt.topic, got)
		}
	}
}

func TestCheckFilter(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"#", ""},
		{"+", ""},
		{"a/+/b/#", ""},
		{"+/+", ""},
		{"#/a", "last level"},
		{"a/#/b", "last level"},
		{"a#", "whole level"},
		{"a/b+", "whole level"},
		{"+#", "whole level"},
		{"a//b", "is empty"},
		{"/", "is empty"},
		{"a/\x00", "control character"},
	} {
		t.Run(tt.in, func(t *testing.T) { checkInvalid(t, bridge.CheckFilter(tt.in), tt.want) })
	}
}
