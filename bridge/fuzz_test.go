package bridge_test

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"fieldbridge/bridge"
)

func FuzzParseDeviceID(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		id, err := bridge.ParseDeviceID(s)
		if err != nil {
			return
		}
		if string(id) != s || s == "" || len(s) > bridge.MaxDeviceID || !utf8.ValidString(s) || strings.ContainsAny(s, "/+#\x00\n") {
			t.Errorf("%q is taken for a device id", s)
		}
		if _, err := bridge.ParseSubtopic(s); err != nil {
			t.Errorf("device id %q is no topic level: %v", s, err)
		}
	})
}

func FuzzParseSubtopic(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		sub, err := bridge.ParseSubtopic(s)
		if err != nil {
			return
		}
		if string(sub) != s || len(s) > bridge.MaxSubtopic || !utf8.ValidString(s) || strings.ContainsAny(s, "+#\x00\n") {
			t.Errorf("%q is taken for a sub topic", s)
		}
		if s != "" && strings.Contains("/"+s+"/", "//") {
			t.Errorf("%q has an empty level", s)
		}
		// What can be published can be routed, literally.
		if err := bridge.CheckFilter(s); err != nil {
			t.Errorf("sub topic %q is no filter: %v", s, err)
		}
		if !bridge.MatchFilter(s, s) {
			t.Errorf("%q does not match itself", s)
		}
	})
}

func FuzzParseContentType(f *testing.F) {
	f.Fuzz(func(t *testing.T, s string) {
		c, err := bridge.ParseContentType(s)
		if err != nil {
			return
		}
		for _, r := range c {
			if r < 0x20 || r > 0x7e {
				t.Fatalf("%q came out of %q: %U is not fit for an MQTT string or an HTTP header", c, s, r)
			}
		}
		again, err := bridge.ParseContentType(c)
		if err != nil || again != c {
			t.Errorf("%q is not canonical: it gives %q, %v", c, again, err)
		}
		found := false
		for _, k := range bridge.ContentTypes {
			found = found || bridge.MediaType(c) == k
		}
		if !found {
			t.Errorf("%q is not one of the content types", c)
		}
	})
}

// matcher is a filter as a regular expression.
func matcher(filter string) *regexp.Regexp {
	if filter == "" || filter == "#" {
		return regexp.MustCompile(`(?s)^`)
	}
	expr := ""
	for i, level := range strings.Split(filter, "/") {
		sep := "/"
		if i == 0 {
			sep = ""
		}
		switch level {
		case "#":
			expr += `(` + sep + `.*)?`
		case "+":
			expr += sep + `[^/]*`
		default:
			expr += sep + regexp.QuoteMeta(level)
		}
	}
	return regexp.MustCompile(`(?s)^` + expr + `$`)
}

func FuzzMatchFilter(f *testing.F) {
	f.Fuzz(func(t *testing.T, filter, topic string) {
		got := bridge.MatchFilter(filter, topic) // must not panic or hang, whatever it is
		if bridge.CheckFilter(filter) != nil || !utf8.ValidString(topic) {
			return
		}
		want := matcher(filter).MatchString(topic)
		if topic == "" {
			want = filter == "" || filter == "#" // no sub topic has no level
		}
		if got != want {
			t.Errorf("MatchFilter(%q, %q) = %t", filter, topic, got)
		}
	})
}
