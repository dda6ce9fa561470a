package frame_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/adapters/serial/frame"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// got is what a splitter emitted: frames as they are, refusals as "!reason".
type got struct {
	frames []string
	all    []string
}

func (g *got) emit(b []byte, why frame.Refusal) {
	if why == "" {
		g.frames = append(g.frames, string(b))
		g.all = append(g.all, string(b))
		return
	}
	g.all = append(g.all, "!"+string(why))
}

func check(t testing.TB, name string) *frame.Check {
	t.Helper()
	c, err := frame.ParseCheck(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func splitter(t testing.TB, o frame.Options) frame.Splitter {
	t.Helper()
	if err := o.Valid(); err != nil {
		t.Fatal(err)
	}
	return o.New()
}

// split feeds b in pieces of n bytes, without silence, and flushes.
func split(t testing.TB, o frame.Options, b []byte, n int) got {
	t.Helper()
	s := splitter(t, o)
	var g got
	for len(b) > 0 {
		k := min(n, len(b))
		s.Feed(b[:k], epoch, g.emit)
		b = b[k:]
	}
	s.Flush(g.emit)
	if s.Pending() != 0 {
		t.Errorf("%d bytes pending after Flush", s.Pending())
	}
	return g
}

func same(t testing.TB, got, want []string, what string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// variants are one set of options for each kind, with a check where the kind
// needs one to get back into step.
func variants(t testing.TB) map[string]frame.Options {
	crc, ccitt, xor := check(t, "crc16-modbus"), check(t, "crc16-ccitt"), check(t, "xor")
	return map[string]frame.Options{
		"line":                {Kind: frame.Line, Delimiter: []byte("\n"), MaxFrame: 64},
		"line check":          {Kind: frame.Line, Delimiter: []byte("\r\n"), MaxFrame: 64, Check: check(t, "crc16-ccitt-hex")},
		"line nmea":           {Kind: frame.Line, Delimiter: []byte("\n"), MaxFrame: 64, Check: check(t, "nmea")},
		"fixed":               {Kind: frame.Fixed, Length: 8, MaxFrame: 64},
		"fixed check":         {Kind: frame.Fixed, Length: 10, MaxFrame: 64, Check: crc},
		"delimited":           {Kind: frame.Delimited, Start: []byte{2}, End: []byte{3}, MaxFrame: 64},
		"delimited check":     {Kind: frame.Delimited, Start: []byte{2}, End: []byte{3}, MaxFrame: 64, Check: ccitt},
		"delimited block":     {Kind: frame.Delimited, Start: []byte{2}, End: []byte{3}, MaxFrame: 64, Check: xor, CheckAfterEnd: true},
		"delimited long":      {Kind: frame.Delimited, Start: []byte("<<"), End: []byte(">>"), MaxFrame: 64, Check: crc},
		"delimited one flag":  {Kind: frame.Delimited, Start: []byte{0x7E}, End: []byte{0x7E}, MaxFrame: 64, Check: crc},
		"length":              {Kind: frame.Length, Field: frame.LengthField{Size: 1}, MaxFrame: 64},
		"length check":        {Kind: frame.Length, Field: frame.LengthField{Size: 1}, MaxFrame: 64, Check: crc},
		"length header":       {Kind: frame.Length, Field: frame.LengthField{Offset: 2, Size: 2, LittleEndian: true, Counts: frame.CountsFrame}, MaxFrame: 64, Check: ccitt},
		"length payload only": {Kind: frame.Length, Field: frame.LengthField{Offset: 1, Size: 2, Counts: frame.CountsPayload}, MaxFrame: 64, Check: crc},
		"gap":                 {Kind: frame.Gap, Gap: 5 * time.Millisecond, MaxFrame: 64, Check: crc},
		"slip":                {Kind: frame.SLIP, MaxFrame: 64, Check: ccitt},
		"cobs":                {Kind: frame.COBS, MaxFrame: 64, Check: ccitt},
	}
}

func hexes(frames []string) (out []string) {
	for _, f := range frames {
		out = append(out, fmt.Sprintf("% x", f))
	}
	return out
}
