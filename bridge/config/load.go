package config

import (
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Load reads the configuration file at path and the files that it includes,
// with the secrets that they name. It opens no port and no connection. The error
// is an *Errors with every mistake that was found; the Config is nil then.
func Load(path string) (*Config, error) {
	data, f := readRegular(path, maxConfigFile)
	if f != nil {
		return nil, &Errors{Mistakes: []Mistake{{File: path, Problem: f.problem, Hint: f.hint}}}
	}
	return load(path, string(data))
}

// load is Load with the text of the main file at hand.
func load(path, text string) (*Config, error) {
	out := &collector{}
	src := out.newSource(path)
	var raw rawConfig
	if !src.decode(text, &raw) {
		return nil, out.err()
	}
	complete := src.includes(&raw)
	v := &validator{
		raw:        &raw,
		cfg:        &Config{File: path, lines: make(map[string]map[string]int)},
		incomplete: !complete,
	}
	for _, s := range out.sources {
		v.cfg.lines[s.name] = s.lines
	}
	v.general()
	v.spool()
	v.http()
	v.connectors()
	v.serialNames()
	v.devices()
	v.serials()
	if err := out.err(); err != nil {
		return nil, err
	}
	return v.cfg, nil
}

// validator turns raw structs into a Config and records what is wrong with the
// values. Its methods run in the order of load: later ones look up what earlier
// ones found.
type validator struct {
	raw *rawConfig
	cfg *Config
	// incomplete: a file could not be read, so that a name which is not found
	// may well exist.
	incomplete bool

	connectorNames map[string]int // index in raw.Connectors
	serialPorts    map[string]Position
	deviceIDs      map[string]Position
	webhooks       map[string]Downlink // by URL, the first block with it
}

func (v *validator) general() {
	raw, in := v.raw, v.raw.In
	v.cfg.Gateway = raw.Gateway
	if raw.Gateway == "" {
		host, err := os.Hostname()
		if err != nil || host == "" {
			in.missing("gateway", "this machine has no host name: give one here")
		}
		v.cfg.Gateway = host
	} else {
		in.flawed("gateway", checkText(raw.Gateway))
	}
	v.cfg.Durability = raw.Durability
	oneOf(in, "durability", raw.Durability, durabilities)
	v.cfg.AckTimeout = raw.AckTimeout
	checkDuration(in, "ack_timeout", raw.AckTimeout, durationRange{min: time.Nanosecond, max: time.Minute, minText: "more than 0s"})

	levels := []string{"debug", "info", "warn", "error"}
	if oneOf(raw.Log.In, "level", raw.Log.Level, levels) {
		// The names are those of slog.
		if err := v.cfg.Log.Level.UnmarshalText([]byte(raw.Log.Level)); err != nil {
			v.cfg.Log.Level = slog.LevelInfo
		}
	}
	v.cfg.Log.Format = raw.Log.Format
	oneOf(raw.Log.In, "format", raw.Log.Format, []string{"auto", "text", "json"})
}

var durabilities = []string{DurabilityAuto, DurabilityAlways}

// maxMQTTPayload is the most that any packet can carry (MQTT v5 section 1.5.5).
const maxMQTTPayload = 256 << 20

// maxText bounds ids and templates in bytes, far below the 65,535 of MQTT v5
// section 1.5.4.
const maxText = 1024

// checkText accepts what MQTT allows in a string (MQTT v5 section 1.5.4). The
// flaw does not show s.
func checkText(s string) *flaw {
	switch {
	case !utf8.ValidString(s):
		return &flaw{problem: "is not valid UTF-8"}
	case len(s) > maxText:
		return &flaw{problem: fmt.Sprintf("has %d bytes, at most %d are allowed", len(s), maxText)}
	case strings.ContainsFunc(s, unicode.IsControl):
		return &flaw{problem: "contains a control character"}
	}
	return nil
}

// maxName bounds the names of connectors and serial ports in bytes.
const maxName = 64

// checkName accepts a name that can stand in a log line, a metric and a path.
func checkName(s string) *flaw {
	if len(s) > maxName {
		return &flaw{problem: fmt.Sprintf("has %d bytes, at most %d are allowed", len(s), maxName)}
	}
	for i := range len(s) {
		if !isBare(s[i]) {
			return &flaw{problem: fmt.Sprintf("%q is not a name", s), hint: "letters A to Z, digits, _ and - are allowed"}
		}
	}
	return nil
}

// oneOf checks a key with a fixed set of values and reports whether it holds one
// of them.
func oneOf(in place, key, value string, values []string) bool {
	if !in.ok(key) {
		return false
	}
	if slices.Contains(values, value) {
		return true
	}
	hint := didYouMean(value, values)
	if hint == "" {
		hint = "one of " + quoted(values)
	}
	in.wrong(key, fmt.Sprintf("%q is not a value of this key", value), hint)
	return false
}

// quoted lists texts as they are written in the file.
func quoted(texts []string) string {
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = strconv.Quote(t)
	}
	return strings.Join(out, ", ")
}

type durationRange struct {
	min, max time.Duration
	// minText replaces min in the message if not empty.
	minText string
	// whole: MQTT carries it in seconds.
	whole bool
}

func checkDuration(in place, key string, d time.Duration, r durationRange) {
	if !in.ok(key) {
		return
	}
	low := "at least " + shortDuration(r.min)
	if r.minText != "" {
		low = r.minText
	}
	switch {
	case d < r.min:
		in.wrong(key, fmt.Sprintf("must be %s (got %s)", low, shortDuration(d)), "")
	case d > r.max:
		in.wrong(key, fmt.Sprintf("must be at most %s (got %s)", shortDuration(r.max), shortDuration(d)), "")
	case r.whole && d%time.Second != 0:
		in.wrong(key, fmt.Sprintf("must be whole seconds (got %s)", shortDuration(d)), "")
	}
}

// shortDuration writes "24h" where Duration.String writes "24h0m0s".
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// checkSize accepts 1 byte to most.
func checkSize(in place, key string, n, most Size) {
	checkSizeRange(in, key, n, sizeRange{1, most})
}

type sizeRange struct{ min, max Size }

func checkSizeRange(in place, key string, n Size, r sizeRange) {
	if in.ok(key) && (n < r.min || n > r.max) {
		in.wrong(key, fmt.Sprintf("must be %s to %s (got %s)", r.min, r.max, n), "")
	}
}

// checkInt accepts low to high.
func checkInt(in place, key string, n, low, high int64) {
	if in.ok(key) && (n < low || n > high) {
		in.wrong(key, fmt.Sprintf("must be %d to %d (got %d)", low, high, n), "")
	}
}
