package frame_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"fieldbridge/adapters/serial/frame"
)

func TestSplit(t *testing.T) {
	v := variants(t)
	x := func(b ...byte) string { return string(check(t, "xor").Append(b)) }
	for _, row := range []struct {
		name, variant, in string
		want              []string
	}{
		{"lines", "line", "a\r\n\nb\nrest", []string{"a", "b", "!incomplete"}},
		{"line too long", "line", strings.Repeat("x", 70) + "\nok\n", []string{"!too_long", "ok"}},
		{"nmea", "line nmea", "$GPRMC,,V,,,,,,,,,,N*53\r\n$GPRMC,,A,,,,,,,,,,N*53\r\n", []string{"$GPRMC,,V,,,,,,,,,,N", "!bad_check"}},
		{"fixed", "fixed", "0123456789abcdefgh", []string{"01234567", "89abcdef", "!incomplete"}},
		{"delimited", "delimited", "noise\x02one\x03\x02two\x03", []string{"!garbage", "one", "two"}},
		{"delimited, one cut off", "delimited", "\x02on\x02two\x03", []string{"!incomplete", "two"}},
		{"delimited, empty", "delimited", "\x02\x03\x02a\x03", []string{"a"}},
		{"delimited, no end", "delimited", "\x02" + strings.Repeat("x", 80) + "\x02ok\x03", []string{"!too_long", "ok"}},
		{"block check", "delimited block", "\x02a" + x('b', 3)[:2], []string{"!bad_check"}},
		{"block check right", "delimited block", "\x02" + x('a', 'b', 3), []string{"ab"}},
		{"one flag", "delimited one flag", "\x7e" + crc(t, "ab") + "\x7e\x7e" + crc(t, "cd") + "\x7e", []string{"ab", "cd"}},
		{"length", "length", "\x03abc\x00\x01d\x05ab", []string{"abc", "", "d", "!incomplete"}},
		{"length too long", "length", "\xff\x02ab", []string{"!too_long", "ab"}},
		{"slip, bad escape", "slip", "\xc0ab\xdbc\xc0", []string{"!garbage"}},
		{"slip, cut-off escape", "slip", "\xc0ab\xdb\xc0", []string{"!garbage"}},
		{"cobs, length over the end", "cobs", "\x09ab\x00", []string{"!garbage"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			for n := 1; n <= len(row.in); n++ {
				g := split(t, v[row.variant], []byte(row.in), n)
				same(t, g.all, row.want, "in pieces of "+string(rune('0'+n%10)))
			}
		})
	}
}

func crc(t testing.TB, s string) string {
	return string(check(t, "crc16-modbus").Append([]byte(s)))
}

// RFC 1055 gives no vectors; those of COBS are of the paper that describes it
// (S. Cheshire, M. Baker: Consistent Overhead Byte Stuffing, 1999) and of
// Wikipedia's article on it.
func TestStuffing(t *testing.T) {
	run := func(from, to int) string {
		var b []byte
		for i := from; i <= to; i++ {
			b = append(b, byte(i))
		}
		return string(b)
	}
	for _, row := range []struct{ kind, plain, wire string }{
		{frame.SLIP, "a\xc0b\xdbc", "\xc0a\xdb\xdcb\xdb\xddc\xc0"},
		{frame.COBS, "\x00", "\x01\x01\x00"},
		{frame.COBS, "\x00\x00", "\x01\x01\x01\x00"},
		{frame.COBS, "\x00\x11\x00", "\x01\x02\x11\x01\x00"},
		{frame.COBS, "\x11\x22\x00\x33", "\x03\x11\x22\x02\x33\x00"},
		{frame.COBS, "\x11\x22\x33\x44", "\x05\x11\x22\x33\x44\x00"},
		{frame.COBS, "\x11\x00\x00\x00", "\x02\x11\x01\x01\x01\x00"},
		{frame.COBS, run(1, 254), "\xff" + run(1, 254) + "\x00"},
		{frame.COBS, run(0, 254), "\x01\xff" + run(1, 254) + "\x00"},
		{frame.COBS, run(1, 255), "\xff" + run(1, 254) + "\x02\xff\x00"},
		{frame.COBS, run(2, 255) + "\x00", "\xff" + run(2, 255) + "\x01\x01\x00"},
		{frame.COBS, run(3, 255) + "\x00\x01", "\xfe" + run(3, 255) + "\x02\x01\x00"},
	} {
		o := frame.Options{Kind: row.kind, MaxFrame: 300}
		wire, err := o.Encode([]byte(row.plain))
		if err != nil || string(wire) != row.wire {
			t.Errorf("%s: % x becomes % x, want % x (%v)", row.kind, row.plain, wire, row.wire, err)
		}
		same(t, hexes(split(t, o, []byte(row.wire), 1).all), hexes([]string{row.plain}), row.kind)
	}
}

// payload draws a payload that the variant can carry.
func payload(t *rapid.T, o frame.Options) []byte {
	n := rapid.IntRange(max(1, o.Field.Offset), 40).Draw(t, "n")
	if o.Kind == frame.Fixed {
		n = o.Length - o.Check.Size()
	}
	b := rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "payload")
	switch {
	case o.Kind == frame.Line:
		for i := range b {
			b[i] = ' ' + b[i]%0x5f
		}
		if b[0] == '$' || b[0] == '!' {
			b[0] = 'G'
		}
	case o.Kind == frame.Delimited && o.Check.Size() < 2: // one byte of check does not tell much
		for i := range b {
			b[i] |= 0x20
		}
	case o.Kind == frame.Delimited && bytes.Equal(o.Start, o.End):
		b = bytes.ReplaceAll(b, o.Start, []byte{0})
	}
	return b
}

// Whatever is encoded is what comes out, in whatever pieces it comes.
func TestEncodedIsSplit(t *testing.T) {
	for name, o := range variants(t) {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			s := o.New()
			var g got
			var want []string
			at := epoch
			for range rapid.IntRange(1, 4).Draw(t, "frames") {
				p := payload(t, o)
				wire, err := o.Encode(p)
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Equal(o.Start, o.End) && o.Kind == frame.Delimited && bytes.Contains(wire[1:len(wire)-1], o.Start) {
					t.Skip("the flag is in the check")
				}
				want = append(want, string(p))
				for len(wire) > 0 {
					n := rapid.IntRange(1, len(wire)).Draw(t, "piece")
					s.Feed(wire[:n], at, g.emit)
					wire = wire[n:]
				}
				if o.Kind == frame.Gap {
					at = at.Add(o.Gap)
					s.Silence(at, g.emit)
				}
			}
			s.Flush(g.emit)
			if len(g.all) != len(want) {
				t.Fatalf("got %q, want %q", g.all, want)
			}
			for i := range want {
				if g.all[i] != want[i] {
					t.Fatalf("frame %d is % x, want % x", i, g.all[i], want[i])
				}
			}
		}))
	}
}

// after is how many frames behind noise may be lost: the one that the noise
// touches, where only the end of a frame can be told.
var after = map[string]int{"line": 1, "line check": 1, "line nmea": 1, "cobs": 1, "delimited one flag": 1, "gap": 0}

// Behind noise, between frames and inside one, each good frame is found.
func TestNoise(t *testing.T) {
	for name, o := range variants(t) {
		if o.Check == nil && (o.Kind == frame.Fixed || o.Kind == frame.Length) {
			continue // only silence brings these into step: see TestSilence
		}
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			var in [][]byte
			good := map[string]bool{}
			var want []string
			frames := func(n int) {
				for range n {
					p := payload(t, o)
					wire, err := o.Encode(p)
					if err != nil {
						t.Fatal(err)
					}
					if name == "delimited one flag" && bytes.Contains(wire[1:len(wire)-1], o.Start) {
						t.Skip("the flag is in the check")
					}
					in = append(in, wire)
					good[string(p)] = true
					want = append(want, string(p))
				}
			}
			frames(1)
			// A frame with a hole, then noise.
			torn, err := o.Encode(payload(t, o))
			if err != nil {
				t.Fatal(err)
			}
			cut := rapid.IntRange(0, len(torn)-1).Draw(t, "cut")
			in = append(in, torn[:cut], torn[min(len(torn), cut+1+rapid.IntRange(0, 3).Draw(t, "hole")):])
			in = append(in, rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "noise"))
			frames(4)

			s := o.New()
			var g got
			at := epoch
			for _, b := range in {
				if o.Kind == frame.Gap {
					at = at.Add(o.Gap)
				}
				s.Feed(b, at, g.emit)
			}
			s.Silence(at.Add(o.Gap), g.emit)
			s.Flush(g.emit)
			var found []string
			for _, f := range g.frames {
				if !good[f] {
					if o.Check != nil {
						t.Skip("the noise made a good frame by chance")
					}
					continue
				}
				found = append(found, f)
			}
			want = append(want[:1:1], want[1+after[name]:]...)
			for len(want) > 0 && len(found) > 0 {
				if want[0] == found[0] {
					want = want[1:]
				}
				found = found[1:]
			}
			if len(want) > 0 {
				t.Fatalf("not found: % x\nin % x", want, bytes.Join(in, []byte("|")))
			}
		}))
	}
}

func TestSilence(t *testing.T) {
	const gap = 10 * time.Millisecond
	for _, name := range []string{"fixed", "length", "line", "delimited", "slip", "cobs", "fixed check"} {
		t.Run(name, func(t *testing.T) {
			o := variants(t)[name]
			o.Gap = gap
			s := splitter(t, o)
			if s.Wait() != gap {
				t.Errorf("Wait is %s", s.Wait())
			}
			p := []byte("12345678")
			wire, err := o.Encode(p)
			if err != nil {
				t.Fatal(err)
			}
			var g got
			s.Feed(wire[:len(wire)-2], epoch, g.emit)
			s.Silence(epoch.Add(gap-1), g.emit)
			if len(g.all) != 0 {
				t.Fatalf("too early: %q", g.all)
			}
			s.Silence(epoch.Add(gap), g.emit)
			same(t, g.all, []string{"!incomplete"}, "after the silence")
			s.Feed(wire[:3], epoch.Add(20*gap), g.emit)
			s.Feed(wire, epoch.Add(30*gap), g.emit) // noticed without a call of Silence
			same(t, g.frames, []string{string(p)}, "the frame behind it")
		})
	}
}

func TestGap(t *testing.T) {
	o := frame.Options{Kind: frame.Gap, Gap: 5 * time.Millisecond, MaxFrame: 8}
	s := splitter(t, o)
	var g got
	ms := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Millisecond) }
	s.Feed([]byte("ab"), ms(0), g.emit)
	s.Feed([]byte("cd"), ms(4), g.emit)
	s.Feed([]byte("ef"), ms(9), g.emit)
	s.Feed([]byte("123456789"), ms(20), g.emit)
	s.Feed([]byte("more"), ms(21), g.emit)
	s.Silence(ms(26), g.emit)
	s.Feed([]byte("gh"), ms(30), g.emit)
	s.Flush(g.emit)
	same(t, g.all, []string{"abcd", "ef", "!too_long", "!incomplete"}, "frames by silence")
}

func TestEcho(t *testing.T) {
	var e frame.Echo
	now := epoch
	feed := func(s string) string { return string(e.Filter([]byte(s), now)) }
	if got := feed("abc"); got != "abc" {
		t.Errorf("without an echo: %q", got)
	}
	e.Sent([]byte("ping"), now.Add(time.Second))
	if got := feed("pi") + feed("ngpo") + feed("ng"); got != "pong" {
		t.Errorf("behind an echo: %q", got)
	}
	e.Sent([]byte("ping"), now.Add(time.Second))
	if got := feed("pxng") + feed("ping"); got != "xngping" {
		t.Errorf("behind a disturbed echo: %q", got)
	}
	e.Sent([]byte("ping"), now.Add(time.Second))
	now = now.Add(2 * time.Second)
	if got := feed("ping"); got != "ping" {
		t.Errorf("after the time of the echo: %q", got)
	}
}

func TestEncodeRefuses(t *testing.T) {
	v := variants(t)
	for _, row := range []struct{ variant, payload, want string }{
		{"fixed", "short", "5 bytes, and a frame of this port 8"},
		{"fixed check", "too long for it", "15 bytes, and a frame of this port 8"},
		{"delimited", "a\x03b", "start or end bytes"},
		{"length header", "a", "stands behind 2"},
		{"length", strings.Repeat("x", 64), "would have 65 bytes"},
		{"slip", strings.Repeat("x", 64), "a frame at most 64"},
		{"line", strings.Repeat("x", 65), "a frame at most 64"},
	} {
		o := v[row.variant]
		if b, err := o.Encode([]byte(row.payload)); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: % x, %v", row.variant, b, err)
		}
	}
	o := frame.Options{Kind: frame.Length, Field: frame.LengthField{Size: 1}, MaxFrame: 1000}
	if _, err := o.Encode(make([]byte, 256)); err == nil || !strings.Contains(err.Error(), "does not fit") {
		t.Errorf("256 bytes in a field of one byte: %v", err)
	}
}

func TestValid(t *testing.T) {
	for want, o := range map[string]frame.Options{
		"max frame":       {Kind: frame.SLIP},
		"framing must":    {Kind: "lines", MaxFrame: 1},
		"delimiter must":  {Kind: frame.Line, MaxFrame: 1},
		"length must":     {Kind: frame.Fixed, MaxFrame: 9, Length: 10},
		"start must":      {Kind: frame.Delimited, MaxFrame: 9, End: []byte("x")},
		"end must":        {Kind: frame.Delimited, MaxFrame: 9, Start: []byte("x")},
		"1 to 4 bytes":    {Kind: frame.Length, MaxFrame: 9, Field: frame.LengthField{Size: 5}},
		"leave room":      {Kind: frame.Length, MaxFrame: 9, Field: frame.LengthField{Size: 1, Offset: 8}},
		"length counts":   {Kind: frame.Length, MaxFrame: 9, Field: frame.LengthField{Size: 1, Counts: "all"}},
		"gap is missing":  {Kind: frame.Gap, MaxFrame: 9},
		"gap must not be": {Kind: frame.COBS, MaxFrame: 9, Gap: -1},
	} {
		if err := o.Valid(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	for name, o := range variants(t) {
		if err := o.Valid(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func BenchmarkSplit(b *testing.B) {
	for name, o := range variants(b) {
		b.Run(name, func(b *testing.B) {
			var in []byte
			for in = nil; len(in) < 4000; {
				p := []byte("t=21.5 h")
				wire, err := o.Encode(p)
				if err != nil {
					b.Fatal(err)
				}
				in = append(in, wire...)
			}
			s := o.New()
			b.SetBytes(int64(len(in)))
			b.ReportAllocs()
			for b.Loop() {
				s.Feed(in, epoch, func([]byte, frame.Refusal) {})
			}
		})
	}
	b.Run("noise of starts", func(b *testing.B) {
		o := variants(b)["delimited check"]
		o.MaxFrame = 4096
		in := make([]byte, 4096)
		for i := range in {
			in[i] = byte(2 + rand.N(2))
		}
		s := o.New()
		b.SetBytes(int64(len(in)))
		for b.Loop() {
			s.Feed(in, epoch, func([]byte, frame.Refusal) {})
		}
	})
}
