package main

import (
	"log/slog"
	"strings"
	"testing"

	"fieldbridge/bridge/config"
)

// Loggers that were derived before a change follow it, with what they carry.
func TestChangingLogger(t *testing.T) {
	var out logBuffer
	log, set := newChangingLogger(&out, config.Log{Level: slog.LevelInfo, Format: "text"})
	child := log.With("port", "scale").WithGroup("g").With("a", 1)
	other := log.With("port", "other")
	child.Debug("not yet")
	child.Info("first", "b", 2)
	set(config.Log{Level: slog.LevelDebug, Format: "json"})
	child.Debug("second", "b", 3)
	other.Warn("third")
	set(config.Log{Level: slog.LevelError, Format: "json"})
	child.Warn("no more")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	want := []string{
		`level=INFO msg=first port=scale g.a=1 g.b=2`,
		`"level":"DEBUG","msg":"second","port":"scale","g":{"a":1,"b":3}}`,
		`"level":"WARN","msg":"third","port":"other"}`,
	}
	if len(lines) != len(want) {
		t.Fatalf("log: %q", lines)
	}
	for i, w := range want {
		if !strings.HasSuffix(lines[i], w) {
			t.Errorf("line %q, want it to end in %q", lines[i], w)
		}
	}
}
