package decode

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"fieldbridge/bridge"
)

// The kinds of decoding.
const (
	// Raw takes any bytes and passes them on.
	Raw = "raw"
	// Text takes valid UTF-8 without NUL, which is what MQTT calls character
	// data (MQTT v5 section 1.5.4), and passes it on. A parity error or a break
	// arrives as NUL (termios(3), INPCK without PARMRK) and is refused with its
	// frame. A device that speaks another encoding needs Raw and a content type
	// with a charset.
	Text = "text"
	// JSON takes one valid JSON text (RFC 8259) and passes it on unchanged but
	// for what Stamp and Drop do to an object.
	JSON = "json"
	// CSV takes the cells of one line by position (RFC 4180).
	CSV = "csv"
	// KeyValue takes pairs such as "T=21.5;H=40".
	KeyValue = "keyvalue"
	// Regex takes the named groups of a regular expression.
	Regex = "regex"
	// Fields takes binary values at fixed places.
	Fields = "fields"
	// NMEA takes NMEA 0183 sentences.
	NMEA = "nmea"
)

// Kinds are the kinds of decoding in the order in which people are told of them.
var Kinds = []string{Raw, Text, JSON, CSV, KeyValue, Regex, Fields, NMEA}

// The types that a value given as text can be declared to have. Without one, a
// value is a number if it is written as JSON writes numbers, but for a plus sign
// in front, and text otherwise.
const (
	TypeText   = "text"
	TypeNumber = "number"
)

// Forward, as Options.OnError, passes on as it is what cannot be decoded.
const Forward = "forward"

// Bounds of the options.
const (
	maxNames     = 256 // columns, keys, groups or fields
	maxName      = 128 // bytes of each
	maxSeparator = 8   // bytes
)

// DefaultMaxPayload is Options.MaxPayload unless set, in bytes.
const DefaultMaxPayload = 64 << 10

// Options say how frames are decoded. What belongs to another kind than the
// chosen one is a mistake.
type Options struct {
	// Kind is one of Kinds.
	Kind string
	// ContentType of the payloads. Empty is the kind's own, DefaultContentType.
	ContentType string

	// Columns are the cells' names in order; an empty one is a cell that is not
	// passed on (CSV).
	Columns []string
	// Separator stands between cells (CSV, default ",") or pairs (KeyValue,
	// default ";"). " " is any run of spaces and tabs.
	Separator string
	// Assign stands between a key and its value (KeyValue, default "=").
	Assign string
	// Pattern is a regular expression in Go's syntax, RE2 (Regex). It may match
	// anywhere in the frame unless it is anchored.
	Pattern string
	// Types declare values by name as TypeText or TypeNumber (CSV, KeyValue,
	// Regex).
	Types map[string]string
	// Fields are the values of a binary frame in the order of the object's keys
	// (Fields).
	Fields []Field

	// Stamp is the key under which the time of measurement is added to an
	// object: RFC 3339, UTC, with milliseconds. Empty adds none. If the device
	// has sent such a key itself, its value is kept.
	Stamp string
	// DeviceFrom and SubtopicFrom are the keys of values that name the device
	// and the sub topic. Empty takes none.
	DeviceFrom, SubtopicFrom string
	// Drop takes these two out of the object.
	Drop bool
	// OnError is empty, or Forward.
	OnError string
	// MaxPayload is the longest object in bytes, without the stamp; longer ones
	// are refused. What is passed on is as long as its frame, and not measured.
	MaxPayload int
}

// DefaultContentType is a kind's content type.
func DefaultContentType(kind string) string {
	switch kind {
	case Raw:
		return "application/octet-stream"
	case Text:
		return "text/plain"
	default:
		return "application/json"
	}
}

// Valid says everything that is wrong with the options, or nil. It does not
// change them.
func (o *Options) Valid() error {
	_, err := New(*o)
	return err
}

// New makes a decoder. Its error names every mistake in o, one a line.
func New(o Options) (*Decoder, error) {
	o.Columns, o.Fields, o.Types = slices.Clone(o.Columns), slices.Clone(o.Fields), maps.Clone(o.Types)
	p := problems{}
	o.checkBelonging(&p)
	o.checkCommon(&p)
	d := &Decoder{opts: o, contentType: o.ContentType, object: object{max: o.MaxPayload}}
	if d.object.max == 0 {
		d.object.max = DefaultMaxPayload
	}
	if d.contentType == "" {
		d.contentType = DefaultContentType(o.Kind)
	} else if ct, err := bridge.ParseContentType(o.ContentType); err != nil {
		p.errs = append(p.errs, err)
	} else {
		d.contentType = ct
	}
	if o.Stamp != "" {
		d.stampKey = quote(o.Stamp)
	}
	switch o.Kind {
	case CSV:
		d.format = newCSV(&o, &p)
	case KeyValue:
		d.format = newKeyValue(&o, &p)
	case Regex:
		d.format = newRegex(&o, &p)
	case Fields:
		d.format = newFields(&o, &p)
	case NMEA:
		d.format = newNMEA()
	case Raw, Text, JSON:
	default:
		p.add("decode must be one of %s (got %q)", strings.Join(Kinds, ", "), o.Kind)
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return d, nil
}

// problems gathers mistakes.
type problems struct{ errs []error }

func (p *problems) add(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

// checkBelonging finds options that the kind has no use for.
func (o *Options) checkBelonging(p *problems) {
	if !slices.Contains(Kinds, o.Kind) {
		return
	}
	objects := Kinds[slices.Index(Kinds, JSON):]
	for _, row := range []struct {
		name  string
		set   bool
		kinds []string
	}{
		{"columns", len(o.Columns) > 0, []string{CSV}},
		{"separator", o.Separator != "", []string{CSV, KeyValue}},
		{"assign", o.Assign != "", []string{KeyValue}},
		{"pattern", o.Pattern != "", []string{Regex}},
		{"types", len(o.Types) > 0, []string{CSV, KeyValue, Regex}},
		{"fields", len(o.Fields) > 0, []string{Fields}},
		{"stamp", o.Stamp != "", objects},
		{"device_from", o.DeviceFrom != "", objects},
		{"subtopic_from", o.SubtopicFrom != "", objects},
		{"on_error", o.OnError != "", Kinds[1:]},
	} {
		if row.set && !slices.Contains(row.kinds, o.Kind) {
			p.add("%s has no meaning with decode = %q: it belongs to %s", row.name, o.Kind, strings.Join(row.kinds, ", "))
		}
	}
}

func (o *Options) checkCommon(p *problems) {
	for _, row := range []struct{ name, value string }{
		{"stamp", o.Stamp}, {"device_from", o.DeviceFrom}, {"subtopic_from", o.SubtopicFrom},
	} {
		if row.value != "" {
			checkName(row.name, row.value, p)
		}
	}
	if o.DeviceFrom != "" && o.DeviceFrom == o.SubtopicFrom {
		p.add("device_from and subtopic_from are both %q: one value cannot be both", o.DeviceFrom)
	}
	if o.Drop && o.DeviceFrom == "" && o.SubtopicFrom == "" {
		p.add("drop_from takes out what device_from and subtopic_from name: set one of them, or leave it out")
	}
	if o.OnError != "" && o.OnError != Forward {
		p.add("on_error must be %q or empty (got %q)", Forward, o.OnError)
	}
	if o.MaxPayload < 0 {
		p.add("max payload must not be below zero (got %d)", o.MaxPayload)
	}
	if len(o.Separator) > maxSeparator || len(o.Assign) > maxSeparator {
		p.add("separator and assign have at most %d bytes", maxSeparator)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Types)) {
		if t := o.Types[name]; t != TypeText && t != TypeNumber {
			p.add("types: %q must be %q or %q (got %q)", name, TypeText, TypeNumber, t)
		}
	}
}

func checkName(what, name string, p *problems) {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) {
		p.add("%s must be a name of 1 to %d bytes of UTF-8 (got %.40q)", what, maxName, name)
	}
}

// checkNames checks the names of all values of a kind: what they are called, and
// that device_from, subtopic_from and types speak of one of them.
func (o *Options) checkNames(what string, names []string, p *problems) {
	if len(names) > maxNames {
		p.add("%s has %d names, at most %d are allowed", what, len(names), maxNames)
		return
	}
	seen := make(map[string]bool)
	for _, name := range names {
		checkName(what, name, p)
		if seen[name] {
			p.add("%s has the name %q twice", what, name)
		}
		seen[name] = true
	}
	known := func(option, name string) {
		if name != "" && !seen[name] {
			p.add("%s names %q, which is not in %s", option, name, what)
		}
	}
	known("device_from", o.DeviceFrom)
	known("subtopic_from", o.SubtopicFrom)
	for _, name := range slices.Sorted(maps.Keys(o.Types)) {
		known("types", name)
	}
}

// values makes the values of these names; an empty name is skipped.
func (o *Options) values(names []string) []value {
	vs := make([]value, len(names))
	for i, name := range names {
		if name != "" {
			vs[i] = value{name: name, key: quote(name), kind: o.Types[name]}
		}
	}
	return vs
}

func newCSV(o *Options, p *problems) *csv {
	var names []string
	for _, c := range o.Columns {
		if c != "" {
			names = append(names, c)
		}
	}
	if len(names) == 0 {
		p.add(`columns is missing: name the cells in order, such as columns = ["id", "temperature"]`)
	}
	if len(o.Columns) > maxNames {
		p.add("columns has %d entries, at most %d are allowed", len(o.Columns), maxNames)
	}
	o.checkNames("columns", names, p)
	c := &csv{columns: o.values(o.Columns), separator: orDefault(o.Separator, ",")}
	if strings.ContainsAny(c.separator, "\"\r\n") {
		p.add("separator %q must not contain a quote or an end of line", c.separator)
	}
	c.run = c.separator == " "
	for _, b := range " \t" {
		if !strings.ContainsRune(c.separator, b) {
			c.blanks += string(b)
		}
	}
	return c
}

func newKeyValue(o *Options, p *problems) *keyValue {
	k := &keyValue{separator: orDefault(o.Separator, ";"), assign: orDefault(o.Assign, "="), types: o.Types}
	if strings.Contains(k.separator, k.assign) || strings.Contains(k.assign, k.separator) {
		p.add("separator %q and assign %q must not contain one another", k.separator, k.assign)
	}
	return k
}

func newRegex(o *Options, p *problems) *pattern {
	if o.Pattern == "" {
		p.add("pattern is missing: give a regular expression with named groups, such as ^T=(?P<temperature>[-0-9.]+)$")
		return nil
	}
	re, err := regexp.Compile(o.Pattern)
	if err != nil {
		p.add("pattern: %w", err)
		return nil
	}
	var names []string
	for _, n := range re.SubexpNames() {
		if n != "" {
			names = append(names, n)
		}
	}
	if len(names) == 0 {
		p.add("pattern %q has no named group: write (?P<name>…) around each value", o.Pattern)
	}
	o.checkNames("the groups of pattern", names, p)
	return &pattern{re: re, groups: o.values(re.SubexpNames())}
}

func orDefault(s, d string) string {
	if s == "" {
		return d
	}
	return s
}
