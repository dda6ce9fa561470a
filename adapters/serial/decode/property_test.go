package decode_test

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"fieldbridge/adapters/serial/decode"
)

func pad(v, n int) string {
	s := strconv.Itoa(v)
	return strings.Repeat("0", max(0, n-len(s))) + s
}

func rational(t interface{ Fatalf(string, ...any) }, s string) *big.Rat {
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		t.Fatalf("%q is no number", s)
	}
	return r
}

func number(t interface{ Fatalf(string, ...any) }, v any) *big.Rat {
	n, ok := v.(json.Number)
	if !ok {
		t.Fatalf("%v (%T) is no number", v, v)
	}
	return rational(t, n.String())
}

// jsonNumber draws numbers as JSON writes them.
var jsonNumber = rapid.StringMatching(`-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][-+]?[0-9]{1,3})?`)

// text draws text that is no number, without NUL.
func text(t *rapid.T, label string) string {
	s := rapid.StringOf(rapid.OneOf(
		rapid.RuneFrom([]rune("\",;=:\\\r\n\tabü°0123.-+ \x01\x7f\u2028")),
		rapid.Rune().Filter(func(r rune) bool { return r != 0 }),
	)).Draw(t, label)
	return "x" + s + "x"
}

// cell is a value as it is sent, and as it must come out.
type cell struct {
	sent string
	want any
}

// TestCSVProperty writes cells by the rules of RFC 4180 and reads them.
func TestCSVProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		separator := rapid.SampledFrom([]string{",", ";", "\t", "|", " ", "::"}).Draw(t, "separator")
		var sent, names, keys []string
		want := map[string]any{}
		for i := range rapid.IntRange(1, 6).Draw(t, "cells") {
			name := "c" + strconv.Itoa(i)
			names = append(names, name)
			c := drawCell(t, separator)
			sent = append(sent, c.sent)
			if c.want != nil {
				keys = append(keys, name)
				want[name] = c.want
			}
		}
		d, err := decode.New(decode.Options{Kind: decode.CSV, Columns: names, Separator: separator})
		if err != nil {
			t.Fatal(err)
		}
		line := strings.Join(sent, separator)
		r, err := d.Decode([]byte(line), measured)
		if len(keys) == 0 {
			if err == nil {
				t.Fatalf("%q becomes %s", line, r.Payload)
			}
			return
		}
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		gotKeys, got := object(t, r.Payload)
		if diff := cmp.Diff(want, got); diff != "" || !slices.Equal(keys, gotKeys) {
			t.Fatalf("%q becomes %s, keys %q (-want +got):\n%s", line, r.Payload, gotKeys, diff)
		}
	})
}

func drawCell(t *rapid.T, separator string) cell {
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
		n := jsonNumber.Draw(t, "number")
		sent := n
		if n[0] != '-' && rapid.Bool().Draw(t, "plus") {
			sent = "+" + n
		}
		return cell{sent, json.Number(n)}
	case 1:
		s := text(t, "quoted")
		return cell{`"` + strings.ReplaceAll(s, `"`, `""`) + `"`, s}
	case 2:
		s := text(t, "plain")
		for _, special := range []string{separator, `"`, "\r", "\n", "\t", " ", ":"} {
			s = strings.ReplaceAll(s, special, "_")
		}
		return cell{s, s}
	default:
		if separator == " " {
			return cell{`""`, ""}
		}
		return cell{"", nil}
	}
}

func TestKeyValueProperty(t *testing.T) {
	d := decoder(t, decode.Options{Kind: decode.KeyValue})
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) string {
			return clean(text(t, "key"))
		}), 1, 8, rapid.ID).Draw(t, "keys")
		var sent strings.Builder
		want := map[string]any{}
		for _, k := range keys {
			if rapid.Bool().Draw(t, "number") {
				n := jsonNumber.Draw(t, "value")
				want[k] = json.Number(n)
				sent.WriteString(" " + k + " =" + n + ";")
				continue
			}
			s := clean(text(t, "value"))
			want[k] = s
			sent.WriteString(k + "= " + s + ";")
		}
		r, err := d.Decode([]byte(sent.String()), measured)
		if err != nil {
			t.Fatalf("%q: %v", sent.String(), err)
		}
		gotKeys, got := object(t, r.Payload)
		if diff := cmp.Diff(want, got); diff != "" || !slices.Equal(keys, gotKeys) {
			t.Fatalf("%q becomes %s (-want +got):\n%s", sent.String(), r.Payload, diff)
		}
	})
}

// clean makes text that is a key or a value of a pair.
func clean(s string) string {
	s = strings.NewReplacer(";", "_", "=", "-", "\r", "_", "\n", "_").Replace(s)
	for len(s) > 128 {
		r := []rune(s)
		s = string(r[:len(r)/2])
	}
	return s
}

func TestRegexProperty(t *testing.T) {
	d := decoder(t, decode.Options{Kind: decode.Regex, Pattern: `(?s)^<(?P<n>[^>]*)><(?P<s>.*)>$`})
	rapid.Check(t, func(t *rapid.T) {
		n, s := jsonNumber.Draw(t, "n"), text(t, "s")
		r, err := d.Decode([]byte("<"+n+"><"+s+">"), measured)
		if err != nil {
			t.Fatal(err)
		}
		_, got := object(t, r.Payload)
		if diff := cmp.Diff(map[string]any{"n": json.Number(n), "s": s}, got); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", r.Payload, diff)
		}
	})
}

// TestNumberProperty: what is declared as a number keeps its value.
func TestNumberProperty(t *testing.T) {
	d := decoder(t, decode.Options{Kind: decode.CSV, Columns: []string{"n"}, Types: map[string]string{"n": "number"}})
	rapid.Check(t, func(t *rapid.T) {
		sent := rapid.StringMatching(`[-+]?[ ]{0,3}([0-9]{1,30}\.?[0-9]{0,10}|\.[0-9]{1,10})([eE][-+]?[0-9]{1,2})?`).Draw(t, "sent")
		r, err := d.Decode([]byte(sent), measured)
		if err != nil {
			t.Fatalf("%q: %v", sent, err)
		}
		_, values := object(t, r.Payload)
		if want := rational(t, strings.ReplaceAll(sent, " ", "")); number(t, values["n"]).Cmp(want) != 0 {
			t.Fatalf("%q becomes %s", sent, r.Payload)
		}
	})
}

var integers = map[string]int{"u8": 1, "i8": 1, "u16": 2, "i16": 2, "u24": 3, "i24": 3, "u32": 4, "i32": 4, "u64": 8, "i64": 8}

// TestFieldsProperty encodes integers and compares raw × scale + add as rational
// numbers, without any rounding.
func TestFieldsProperty(t *testing.T) {
	decimals := rapid.StringMatching(`-?[0-9]{1,5}(\.[0-9]{1,5})?(e-?[0-3])?`)
	types := make([]string, 0, len(integers))
	for name := range integers {
		types = append(types, name)
	}
	slices.Sort(types)
	rapid.Check(t, func(t *rapid.T) {
		f := decode.Field{Name: "v", Type: rapid.SampledFrom(types).Draw(t, "type")}
		f.Scale = rapid.OneOf(rapid.Just(""), decimals.Filter(func(s string) bool { return rational(t, s).Sign() != 0 })).Draw(t, "scale")
		f.Add = rapid.OneOf(rapid.Just(""), decimals).Draw(t, "add")
		f.LittleEndian = rapid.Bool().Draw(t, "little")
		size := integers[f.Type]
		raw := rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "raw") // the highest byte first
		before := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "before")
		after := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "after")
		wire := slices.Clone(raw)
		if f.LittleEndian {
			slices.Reverse(wire)
		}
		f.Offset = len(before)
		if rapid.Bool().Draw(t, "from the end") {
			f.Offset = -len(after) - size
		}
		d, err := decode.New(decode.Options{Kind: decode.Fields, Fields: []decode.Field{f}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := d.Decode(slices.Concat(before, wire, after), measured)
		if err != nil {
			t.Fatal(err)
		}
		v := new(big.Int).SetBytes(raw)
		if f.Type[0] == 'i' && raw[0] >= 0x80 {
			v.Sub(v, new(big.Int).Lsh(big.NewInt(1), uint(8*size)))
		}
		want := new(big.Rat).SetInt(v)
		if f.Scale != "" {
			want.Mul(want, rational(t, f.Scale))
		}
		if f.Add != "" {
			want.Add(want, rational(t, f.Add))
		}
		_, values := object(t, r.Payload)
		if number(t, values["v"]).Cmp(want) != 0 {
			t.Fatalf("%+v: % x becomes %s, want %s", f, raw, r.Payload, want.RatString())
		}
	})
}

// TestFloatsProperty: a float comes out as the decimal that reads back as it, and
// its scaling is that of this decimal.
func TestFloatsProperty(t *testing.T) {
	fields := []decode.Field{
		{Name: "f32", Type: "f32"}, {Name: "f64", Type: "f64", Offset: 4},
		{Name: "s32", Type: "f32", Scale: "-0.01"}, {Name: "s64", Type: "f64", Offset: 4, Scale: "-0.01"},
	}
	d := decoder(t, decode.Options{Kind: decode.Fields, Fields: fields})
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	rapid.Check(t, func(t *rapid.T) {
		f32 := rapid.OneOf(rapid.Float32(), rapid.Map(rapid.Uint32(), math.Float32frombits)).Filter(func(v float32) bool { return finite(float64(v)) }).Draw(t, "f32")
		f64 := rapid.OneOf(rapid.Float64(), rapid.Map(rapid.Uint64(), math.Float64frombits)).Filter(finite).Draw(t, "f64")
		b := binary.BigEndian.AppendUint32(nil, math.Float32bits(f32))
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(f64))
		r, err := d.Decode(b, measured)
		if err != nil {
			t.Fatal(err)
		}
		_, values := object(t, r.Payload)
		for name, want := range map[string]float64{"f32": float64(f32), "f64": f64} {
			size := 64
			if name == "f32" {
				size = 32
			}
			n, ok := values[name].(json.Number)
			if !ok {
				t.Fatalf("%s has no %s", r.Payload, name)
			}
			if got, err := strconv.ParseFloat(n.String(), size); err != nil || got != want {
				t.Fatalf("%s: %v, %v", r.Payload, got, err)
			}
			scaled := number(t, values["s"+name[1:]])
			if scaled.Cmp(new(big.Rat).Mul(number(t, n), big.NewRat(-1, 100))) != 0 {
				t.Fatalf("%s: %s is scaled wrong", r.Payload, name)
			}
		}
	})
}

func TestBCDProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "bytes")
		digits := rapid.SliceOfN(rapid.IntRange(0, 9), 2*n, 2*n).Draw(t, "digits")
		var b []byte
		var s strings.Builder
		for i := 0; i < len(digits); i += 2 {
			b = append(b, byte(digits[i]<<4|digits[i+1]))
			s.WriteString(strconv.Itoa(digits[i]) + strconv.Itoa(digits[i+1]))
		}
		little := rapid.Bool().Draw(t, "little")
		if little {
			slices.Reverse(b)
		}
		d, err := decode.New(decode.Options{Kind: decode.Fields, Fields: []decode.Field{{Name: "v", Type: "bcd", Length: n, LittleEndian: little}}})
		if err != nil {
			t.Fatal(err)
		}
		r, err := d.Decode(b, measured)
		if err != nil {
			t.Fatal(err)
		}
		_, values := object(t, r.Payload)
		if number(t, values["v"]).Cmp(rational(t, s.String())) != 0 {
			t.Fatalf("% x becomes %s", b, r.Payload)
		}
	})
}

// TestJSONProperty: what encoding/json writes keeps all but the keys taken out,
// and gets a stamp.
func TestJSONProperty(t *testing.T) {
	d := decoder(t, decode.Options{Kind: decode.JSON, Stamp: "stamp", DeviceFrom: "id", Drop: true})
	rapid.Check(t, func(t *rapid.T) {
		want := map[string]any{}
		for i := range rapid.IntRange(0, 6).Draw(t, "members") {
			var v any
			switch rapid.IntRange(0, 3).Draw(t, "kind") {
			case 0:
				v = json.Number(jsonNumber.Draw(t, "number"))
			case 1:
				v = text(t, "text")
			case 2:
				v = []any{text(t, "element"), map[string]any{"id": "}"}, nil}
			default:
				v = map[string]any{text(t, "key"): []any{}, "stamp": true}
			}
			want["k"+strconv.Itoa(i)+text(t, "key")] = v
		}
		want["id"] = "d"
		b, err := json.MarshalIndent(want, "", rapid.StringMatching(`[ \t]{0,2}`).Draw(t, "indent"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := d.Decode(b, measured)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		delete(want, "id")
		want["stamp"] = strings.Trim(stamped, `"`)
		_, got := object(t, r.Payload)
		if diff := cmp.Diff(want, got); diff != "" || r.Device != "d" {
			t.Fatalf("%s (-want +got):\n%s", r.Payload, diff)
		}
	})
}
