package serial

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// split feeds the chunks and lists what comes out, refusals in brackets.
func split(delim string, maxFrame int, chunks ...[]byte) (out []string, s *lineSplitter) {
	s = newLineSplitter([]byte(delim), maxFrame)
	for _, c := range chunks {
		c = bytes.Clone(c)
		s.feed(c, func(frame []byte, why Refusal) {
			if why != "" {
				out = append(out, "<"+string(why)+">")
			} else {
				out = append(out, "="+string(frame))
			}
		})
		clear(c) // it was ours again
	}
	return out, s
}

func TestLineSplitter(t *testing.T) {
	tests := []struct {
		name, delim, in string
		want            []string
		pending         int
	}{
		{"lines", "\n", "a\nbc\n", []string{"=a", "=bc"}, 0},
		{"carriage returns", "\n", "a\r\nb\r\r\n\r\n", []string{"=a", "=b\r"}, 0},
		{"carriage return kept", ";", "a\r;", []string{"=a\r"}, 0},
		{"empty", "\n", "\n\n\r\n", nil, 0},
		{"unfinished", "\n", "a\nbc", []string{"=a"}, 2},
		{"longest", "\n", "12345678\n", []string{"=12345678"}, 0},
		{"longest with carriage return", "\n", "12345678\r\n", []string{"=12345678"}, 0},
		{"too long", "\n", "123456789\nok\n", []string{"<too_long>", "=ok"}, 0},
		{"too long, counted once", "\n", strings.Repeat("x", 100) + "\nok\n", []string{"<too_long>", "=ok"}, 0},
		{"too long, never ends", "\n", strings.Repeat("x", 100), []string{"<too_long>"}, 0},
		{"too long twice", "\n", strings.Repeat("x", 20) + "\n" + strings.Repeat("y", 20) + "\n", []string{"<too_long>", "<too_long>"}, 0},
		{"two bytes", "\r\n", "a\rb\r\n\n\r\r\n", []string{"=a\rb", "=\n\r"}, 0},
		{"delimiter with a border", "aab", "xaaabyaab", []string{"=xa", "=y"}, 0},
		{"three equal bytes", "+++", "a+++++++b+++", []string{"=a", "=+b"}, 0},
		{"longest, three bytes", "+++", "12345678+++", []string{"=12345678"}, 0},
		{"too long, three bytes", "+++", "123456789+++1+++", []string{"<too_long>", "=1"}, 0},
		{"NUL", "\x00", "a\x00\x00b\x00", []string{"=a", "=b"}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := []byte(tt.in)
			check := func(how string, chunks ...[]byte) {
				got, s := split(tt.delim, 8, chunks...)
				if !slices.Equal(got, tt.want) {
					t.Errorf("%s: got %q, want %q", how, got, tt.want)
				}
				if s.pending() != tt.pending {
					t.Errorf("%s: %d bytes pending, want %d", how, s.pending(), tt.pending)
				}
			}
			check("whole", in)
			for i := range in {
				for j := i; j <= len(in); j++ {
					check(fmt.Sprintf("cut at %d and %d", i, j), in[:i], in[i:j], in[j:])
				}
			}
			check("byte by byte", slices.Collect(slices.Chunk(in, 1))...)
		})
	}
}

// What a splitter holds stays bounded whatever comes.
func TestLineSplitterMemory(t *testing.T) {
	s := newLineSplitter([]byte("\r\n"), 100)
	chunk := bytes.Repeat([]byte("\r"), 4096)
	for range 1000 {
		s.feed(chunk, func([]byte, Refusal) {})
	}
	if held := cap(s.buf); held > 4*4096 {
		t.Errorf("holds %d bytes", held)
	}
}

// model is the splitter without its difficulty: all bytes at once.
func model(delim string, maxFrame int, in []byte) (out []string) {
	frames := strings.Split(string(in), delim)
	for i, f := range frames {
		last := i == len(frames)-1
		spare := 0
		if last { // nobody knows yet which of its bytes are a delimiter's beginning
			spare = len(delim) - 1
		}
		if delim == "\n" {
			if last {
				spare = 1
			} else {
				f = strings.TrimSuffix(f, "\r")
			}
		}
		switch {
		case len(f) > maxFrame+spare:
			out = append(out, "<too_long>")
		case len(f) > 0 && !last:
			out = append(out, "="+f)
		}
	}
	return out
}

func FuzzLineSplitter(f *testing.F) {
	f.Add([]byte("12.5\r\n13.0\n"), []byte("\n"), uint16(64), []byte{1, 2})
	f.Add([]byte("$GPGGA,1*00\r\n$GP"), []byte("\r\n"), uint16(8), []byte{1})
	f.Add(bytes.Repeat([]byte("x"), 300), []byte("\n"), uint16(16), []byte{7})
	f.Fuzz(func(t *testing.T, in, delim []byte, maxFrame uint16, cuts []byte) {
		if len(delim) == 0 || len(delim) > maxDelimiter || maxFrame == 0 {
			return
		}
		whole, _ := split(string(delim), int(maxFrame), in)
		var chunks [][]byte
		for rest, i := in, 0; len(rest) > 0; i++ {
			n := len(rest)
			if i < len(cuts) {
				n = min(n, int(cuts[i]))
			} else if len(cuts) > 0 {
				n = min(n, 1+int(cuts[i%len(cuts)]))
			}
			chunks = append(chunks, rest[:n])
			rest = rest[n:]
		}
		got, s := split(string(delim), int(maxFrame), chunks...)
		if !slices.Equal(got, whole) {
			t.Fatalf("cut up %q, whole %q", got, whole)
		}
		if want := model(string(delim), int(maxFrame), in); !slices.Equal(whole, want) {
			t.Fatalf("got %q, want %q", whole, want)
		}
		for _, frame := range got {
			if frame[0] == '=' && len(frame)-1 > int(maxFrame) {
				t.Fatalf("frame of %d bytes, at most %d are allowed", len(frame)-1, maxFrame)
			}
		}
		if len(s.buf) > int(maxFrame)+len(delim) {
			t.Fatalf("holds %d bytes", len(s.buf))
		}
	})
}

func TestDecode(t *testing.T) {
	tests := []struct {
		how, in string
		why     Refusal
	}{
		{DecodeRaw, "\x00\xff", ""},
		{DecodeText, "21.5 °C", ""},
		{DecodeText, "\x02 21.5 \x03", ""},
		{DecodeText, "21.5 \xb0C", RefusedText},
		{DecodeText, "a\x00", RefusedText},
		{DecodeText, "\xed\xa0\x80", RefusedText}, // a surrogate
		{DecodeJSON, ` {"n": 1.000000000000000000001e400} `, ""},
		{DecodeJSON, `"°"`, ""},
		{DecodeJSON, `{"a":1}{"b":2}`, RefusedJSON},
		{DecodeJSON, `NaN`, RefusedJSON},
		{DecodeJSON, "\"\xb0\"", RefusedJSON},
		{DecodeJSON, `5"}`, RefusedJSON}, // the tail of an object
		{DecodeJSON, "\xef\xbb\xbf{}", RefusedJSON},
	}
	for _, tt := range tests {
		frame := []byte(tt.in)
		got, why := decode(tt.how, frame)
		if why != tt.why || (why == "" && string(got) != tt.in) {
			t.Errorf("decode %s %q: got %q, %q, want %q", tt.how, tt.in, got, why, tt.why)
		}
		clear(frame)
		if why == "" && string(got) != tt.in {
			t.Errorf("decode %s %q: the payload shares the frame's memory", tt.how, tt.in)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"t":21.50}`))
	f.Add([]byte("21.5 \xb0C"))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := string(frame)
		for _, how := range decodings {
			got, why := decode(how, frame)
			if string(frame) != before {
				t.Fatalf("decode %s changed the frame", how)
			}
			if why != "" {
				if got != nil || hints[why] == "" {
					t.Fatalf("decode %s: refused as %q with payload %q", how, why, got)
				}
				continue
			}
			if string(got) != before {
				t.Fatalf("decode %s: payload %q of frame %q", how, got, before)
			}
			if how != DecodeRaw && !utf8.Valid(got) {
				t.Fatalf("decode %s let %q pass, which is not UTF-8", how, got)
			}
			var v any
			if how == DecodeJSON && json.Unmarshal(got, &v) != nil && !strings.Contains(string(got), "e") && !strings.Contains(string(got), "E") {
				t.Fatalf("decode json let %q pass", got)
			}
		}
	})
}

func BenchmarkLineSplitter(b *testing.B) {
	line := []byte(strings.Repeat("x", 60) + "\r\n")
	for _, bench := range []struct {
		name  string
		chunk []byte
	}{
		{"one line a read", line},
		{"64 lines a read", bytes.Repeat(line, 64)},
		{"noise without end", bytes.Repeat([]byte("x"), 4096)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s := newLineSplitter([]byte("\n"), 4096)
			b.SetBytes(int64(len(bench.chunk)))
			b.ReportAllocs()
			for b.Loop() {
				s.feed(bench.chunk, func([]byte, Refusal) {})
			}
		})
	}
	b.Run("byte by byte", func(b *testing.B) {
		s := newLineSplitter([]byte("\n"), 4096)
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		for b.Loop() {
			for i := range line {
				s.feed(line[i:i+1], func([]byte, Refusal) {})
			}
		}
	})
}
