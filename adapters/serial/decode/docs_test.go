package decode_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"

	"fieldbridge/adapters/serial/decode"
)

// settings are the keys of a [[serial]] block that say how its frames are
// decoded.
type settings struct {
	Decode       string            `toml:"decode"`
	ContentType  string            `toml:"content_type"`
	Columns      []string          `toml:"columns"`
	Separator    string            `toml:"separator"`
	Assign       string            `toml:"assign"`
	Pattern      string            `toml:"pattern"`
	Types        map[string]string `toml:"types"`
	Fields       []fieldSettings   `toml:"fields"`
	Stamp        string            `toml:"stamp"`
	DeviceFrom   string            `toml:"device_from"`
	SubtopicFrom string            `toml:"subtopic_from"`
	DropFrom     bool              `toml:"drop_from"`
	OnError      string            `toml:"on_error"`
}

type fieldSettings struct {
	Name   string `toml:"name"`
	Offset int    `toml:"offset"`
	Type   string `toml:"type"`
	Length int    `toml:"length"`
	Endian string `toml:"endian"`
	Scale  string `toml:"scale"`
	Add    string `toml:"add"`
	Bit    *int   `toml:"bit"`
	Bits   int    `toml:"bits"`
}

func (s settings) options(t *testing.T) decode.Options {
	o := decode.Options{
		Kind: s.Decode, ContentType: s.ContentType, Columns: s.Columns, Separator: s.Separator, Assign: s.Assign,
		Pattern: s.Pattern, Types: s.Types, Stamp: s.Stamp, DeviceFrom: s.DeviceFrom, SubtopicFrom: s.SubtopicFrom,
		Drop: s.DropFrom, OnError: s.OnError,
	}
	for _, f := range s.Fields {
		if f.Endian != "" && f.Endian != "big" && f.Endian != "little" {
			t.Fatalf("endian %q", f.Endian)
		}
		o.Fields = append(o.Fields, decode.Field{
			Name: f.Name, Offset: f.Offset, Type: f.Type, Length: f.Length, LittleEndian: f.Endian == "little",
			Scale: f.Scale, Add: f.Add, Bit: f.Bit, Bits: f.Bits,
		})
	}
	return o
}

const guide = "../../../docs/decoding.md"

// block is a fenced block of the guide.
type block struct {
	line       int
	kind, info string
	text       string
}

func blocks(t *testing.T) (found []block) {
	t.Helper()
	b, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	var open *block
	for i, line := range strings.Split(string(b), "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && open == nil:
			kind, info, _ := strings.Cut(fence, " ")
			open = &block{line: i + 1, kind: kind, info: info}
		case isFence:
			open.text = strings.TrimSuffix(open.text, "\n")
			found = append(found, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	return found
}

// Every example of the guide is decoded as it stands there.
func TestGuide(t *testing.T) {
	var opts decode.Options
	var frame []byte
	seen := map[string]bool{}
	examples := 0
	for _, b := range blocks(t) {
		t.Run(fmt.Sprintf("line %d", b.line), func(t *testing.T) {
			switch b.kind {
			case "toml":
				var s settings
				meta, err := toml.Decode(b.text, &s)
				if err != nil || len(meta.Undecoded()) > 0 {
					t.Fatalf("%v, unknown keys %v", err, meta.Undecoded())
				}
				opts = s.options(t)
				decoder(t, opts)
				seen[opts.Kind] = true
			case "text":
				frame = []byte(b.text)
			case "hex":
				var err error
				if frame, err = hex.DecodeString(strings.ReplaceAll(b.text, " ", "")); err != nil {
					t.Fatal(err)
				}
			case "json", "refused", "forwarded":
				examples++
				example(t, opts, frame, b)
			case "js":
			default:
				t.Fatalf("a block of %q is not run", b.kind)
			}
		})
	}
	for _, kind := range decode.Kinds[3:] {
		if !seen[kind] {
			t.Errorf("the guide has no example of %s", kind)
		}
	}
	if examples < 15 {
		t.Errorf("%d examples were run", examples)
	}
}

func example(t *testing.T, opts decode.Options, frame []byte, b block) {
	d := decoder(t, opts)
	r, err := d.Decode(frame, measured)
	var refused *decode.Error
	errors.As(err, &refused)
	switch b.kind {
	case "json":
		info := ""
		if r.Device != "" {
			info = "device=" + string(r.Device)
		}
		if r.Subtopic != "" {
			info += " subtopic=" + string(r.Subtopic)
		}
		if err != nil || string(r.Payload) != b.text || info != b.info {
			t.Errorf("%q becomes %s %s, %v", frame, r.Payload, info, err)
		}
	case "refused":
		if refused == nil || string(refused.Reason) != b.text || r.Payload != nil {
			t.Errorf("%q becomes %s, %v", frame, r.Payload, err)
		}
	case "forwarded":
		if refused == nil || string(refused.Reason) != b.info || string(r.Payload) != b.text || r.ContentType != "text/plain" {
			t.Errorf("%q becomes %s, %v", frame, r.Payload, err)
		}
	}
}

// The guide's decoder script for akenza makes the same sample of a reading that
// comes twice, with the time at which it was measured.
func TestGuideScript(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("node is not installed")
		}
		t.Skip("node is not installed")
	}
	var script string
	for _, b := range blocks(t) {
		if b.kind == "js" {
			script += b.text + "\n"
		}
	}
	r, err := decoder(t, decode.Options{Kind: decode.KeyValue, Stamp: "timestamp"}).Decode([]byte("T=21.50"), measured)
	if err != nil {
		t.Fatal(err)
	}
	script += `const emit = (kind, sample) => console.log(JSON.stringify([kind, sample]));
for (const data of ['` + string(r.Payload) + `', '` + string(r.Payload) + `', '{"T":1}'])
  consume({ data: JSON.parse(data), topic: "climate", device: {}, uplinkMetrics: {} });`
	out, err := exec.CommandContext(t.Context(), node, "-e", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	sample := `["sample",{"data":{"T":21.5},"topic":"climate","timestamp":` + stamped + `}]`
	want := []string{sample, sample, `["sample",{"data":{"T":1},"topic":"climate"}]`}
	if len(lines) != len(want) {
		t.Fatalf("%q", lines)
	}
	for i, line := range lines {
		if line != want[i] || !json.Valid([]byte(line)) {
			t.Errorf("%s\nwant %s", line, want[i])
		}
	}
}
