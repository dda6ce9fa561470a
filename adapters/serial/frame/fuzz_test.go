package frame_test

import (
	"bytes"
	"slices"
	"testing"

	"fieldbridge/adapters/serial/frame"
)

// fuzz checks, for one kind, that pieces make no difference, that frames and
// memory are bounded, that no byte is emitted that did not come, and that a good
// frame is found behind whatever came.
func fuzz(f *testing.F, names ...string) {
	v := variants(f)
	for _, name := range names {
		o := v[name]
		p := []byte("12345678")
		wire, err := o.Encode(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, byte(3))
		f.Add(slices.Concat([]byte("noise"), wire, wire[1:], wire[:len(wire)-1], wire), byte(1))
		f.Add(bytes.Repeat(wire[:1], 200), byte(7))
	}
	f.Add([]byte{}, byte(0))
	f.Fuzz(func(t *testing.T, in []byte, piece byte) {
		for _, name := range names {
			o := v[name]
			whole := split(t, o, in, max(1, len(in)))
			same(t, split(t, o, in, int(piece)+1).all, whole.all, name+" in pieces")
			n := 0
			for _, fr := range whole.frames {
				n += len(fr)
				if len(fr) > o.MaxFrame {
					t.Errorf("%s: a frame of %d bytes", name, len(fr))
				}
			}
			if n > len(in) {
				t.Errorf("%s: %d bytes came out of %d", name, n, len(in))
			}
			found(t, name, o, in)
		}
	})
}

// found feeds a good frame, after silence, behind in.
func found(t *testing.T, name string, o frame.Options, in []byte) {
	if o.Gap == 0 {
		o.Gap = frame.DefaultGap
	}
	s := splitter(t, o)
	var g got
	s.Feed(in, epoch, g.emit)
	at := epoch.Add(o.Gap)
	s.Silence(at, g.emit)
	if s.Pending() != 0 {
		t.Errorf("%s: %d bytes pending after silence", name, s.Pending())
	}
	wire, err := o.Encode([]byte("12345678"))
	if err != nil {
		t.Fatal(err)
	}
	before := len(g.frames)
	s.Feed(wire, at, g.emit)
	s.Silence(at.Add(o.Gap), g.emit)
	if len(g.frames) == before || g.frames[len(g.frames)-1] != "12345678" {
		t.Errorf("%s: the good frame was not found behind % x: %q", name, in, g.all)
	}
}

func FuzzLine(f *testing.F)  { fuzz(f, "line", "line check", "line nmea") }
func FuzzFixed(f *testing.F) { fuzz(f, "fixed", "fixed check") }
func FuzzDelimited(f *testing.F) {
	fuzz(f, "delimited", "delimited check", "delimited block", "delimited long", "delimited one flag")
}
func FuzzLength(f *testing.F) {
	fuzz(f, "length", "length check", "length header", "length payload only")
}
func FuzzGap(f *testing.F)  { fuzz(f, "gap") }
func FuzzSLIP(f *testing.F) { fuzz(f, "slip") }
func FuzzCOBS(f *testing.F) { fuzz(f, "cobs") }
