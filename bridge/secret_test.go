package bridge_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"fieldbridge/bridge"
)

const plain = "hunter2-Zq"

// shows reports whether the text has the secret in it, in any of fmt's spellings.
func shows(text string) bool {
	for _, s := range []string{
		plain, fmt.Sprintf("%x", plain), fmt.Sprintf("%X", plain), fmt.Sprintf("% x", plain),
		fmt.Sprint([]byte(plain)), strings.Trim(fmt.Sprint([]byte(plain)), "[]"), "aHVudGVyMi1ac", "68, 0x75",
	} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

type hidden struct {
	Name   string
	secret bridge.Secret
	inner  struct{ s *bridge.Secret }
}

type shown struct {
	Secret  bridge.Secret
	Pointer *bridge.Secret
	List    []bridge.Secret
	Map     map[string]bridge.Secret
	Keys    map[bridge.Secret]int
	Any     any
}

func values() map[string]any {
	s := bridge.NewSecret(plain)
	h := hidden{Name: "x", secret: s}
	h.inner.s = &s
	return map[string]any{
		"value":            s,
		"pointer":          &s,
		"slice":            []bridge.Secret{s},
		"map":              map[string]bridge.Secret{"k": s},
		"map key":          map[bridge.Secret]int{s: 1},
		"struct":           shown{s, &s, []bridge.Secret{s}, map[string]bridge.Secret{"k": s}, map[bridge.Secret]int{s: 1}, s},
		"struct pointer":   &shown{Secret: s, Any: &s},
		"unexported field": h,
		"pointer to it":    &h,
		"in an error":      fmt.Errorf("log in with %v: %w", s, errors.New("no")),
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	for name, v := range values() {
		for _, verb := range []string{
			"%v", "%+v", "%#v", "%s", "%q", "%+q", "%#q", "%x", "%X", "% x", "%#x", "%d", "%c", "%U",
			"%t", "%e", "%p", "%T", "%10s", "%-20v", "%.3s", "%b", "%o", "%w", "%!",
		} {
			if got := fmt.Sprintf(verb, v); shows(got) {
				t.Errorf("%s with %s shows the secret: %s", name, verb, got)
			}
		}
		if got := fmt.Sprint(v) + fmt.Sprintln(v); shows(got) {
			t.Errorf("%s with Print shows the secret: %s", name, got)
		}
	}
	for _, verb := range []string{"%v", "%s", "%q", "%x", "%d", "%#v"} {
		if got := fmt.Sprintf(verb, bridge.NewSecret(plain)); got != "[redacted]" {
			t.Errorf("%s gives %q", verb, got)
		}
	}
}

func TestSecretIsNotLogged(t *testing.T) {
	for _, kind := range []string{"text", "json"} {
		var out bytes.Buffer
		var h slog.Handler = slog.NewTextHandler(&out, nil)
		if kind == "json" {
			h = slog.NewJSONHandler(&out, nil)
		}
		log := slog.New(h)
		for name, v := range values() {
			out.Reset()
			log.With("with", v).WithGroup("g").Info("m", "v", v, slog.Group("h", "v", v), "any", slog.AnyValue(v))
			if shows(out.String()) {
				t.Errorf("%s in a %s log shows the secret: %s", name, kind, &out)
			}
		}
		out.Reset()
		log.Info("m", "secret", bridge.NewSecret(plain))
		if !strings.Contains(out.String(), "[redacted]") {
			t.Errorf("%s log: %s", kind, &out)
		}
	}
}

func TestSecretIsNotMarshalled(t *testing.T) {
	for name, v := range values() {
		got, err := json.MarshalIndent(v, "", " ")
		if err == nil && shows(string(got)) {
			t.Errorf("%s in JSON shows the secret: %s", name, got)
		}
		if got, err := xml.Marshal(v); err == nil && shows(string(got)) {
			t.Errorf("%s in XML shows the secret: %s", name, got)
		}
	}
	got, err := json.Marshal(struct{ S bridge.Secret }{bridge.NewSecret(plain)})
	if err != nil || string(got) != `{"S":"[redacted]"}` {
		t.Errorf("JSON %s, %v", got, err)
	}
}

func TestSecretValue(t *testing.T) {
	s, none := bridge.NewSecret(plain), bridge.Secret{}
	if s.Reveal() != plain || none.Reveal() != "" {
		t.Errorf("Reveal gives %q and %q", s.Reveal(), none.Reveal())
	}
	if s.IsZero() || !none.IsZero() || !bridge.NewSecret("").IsZero() {
		t.Error("IsZero is wrong")
	}
	if !s.Equal(plain) || s.Equal(plain+"x") || s.Equal("") || !none.Equal("") || none.Equal(plain) {
		t.Error("Equal is wrong")
	}
}
