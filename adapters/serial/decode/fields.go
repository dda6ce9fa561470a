package decode

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Field is a value in a binary frame.
type Field struct {
	// Name is its key in the object.
	Name string
	// Offset is where it begins: bytes from the start of the frame or, below
	// zero, from its end: -1 is the last byte.
	Offset int
	// Type is u8, i8, u16, i16, u24, i24, u32, i32, u64, i64, f32, f64 (IEEE
	// 754), bcd (two digits a byte), hex (its bytes as text), ascii (text
	// without blanks and NUL around it) or decimal (a number in ASCII digits).
	Type string
	// Length is how many bytes bcd, hex, ascii and decimal have; 0 means up to
	// the end of the frame for the last three.
	Length int
	// LittleEndian: the lowest byte comes first. Default: the highest.
	LittleEndian bool
	// Scale and Add are decimal numbers as text: the value is the raw one ×
	// Scale + Add, exactly, with as many decimals as they have. Empty means 1
	// and 0. They are for integers and bcd, Scale for floats, too.
	Scale, Add string
	// Bit takes bits out of an unsigned integer, from this one on, 0 being the
	// lowest: one is true or false, several (Bits) are a number. Nil takes all.
	Bit *int
	// Bits is how many, 1 if it is 0.
	Bits int
}

// fieldTypes are the types with their sizes in bytes; 0 is Field.Length.
var fieldTypes = []struct {
	name string
	size int
}{
	{"u8", 1}, {"i8", 1}, {"u16", 2}, {"i16", 2}, {"u24", 3}, {"i24", 3}, {"u32", 4}, {"i32", 4}, {"u64", 8}, {"i64", 8},
	{"f32", 4}, {"f64", 8}, {"bcd", 0}, {"hex", 0}, {"ascii", 0}, {"decimal", 0},
}

const (
	maxOffset = 1 << 20
	maxBCD    = 9 // bytes, 18 digits
)

// binary is the format of fields.
type binary struct{ fields []field }

// field is a Field made ready.
type field struct {
	Field
	key        string // the name as JSON
	size       int    // bytes; 0 is up to the end
	scale, add decimal
	scaled     bool
}

func newFields(o *Options, p *problems) *binary {
	var names []string
	f := &binary{}
	for i, spec := range o.Fields {
		names = append(names, spec.Name)
		ready, errs := spec.ready()
		for _, err := range errs {
			p.add("fields[%d] %q: %w", i, spec.Name, err)
		}
		f.fields = append(f.fields, ready)
	}
	if len(names) == 0 {
		p.add(`fields is missing: say where each value is, such as fields = [{ name = "temperature", offset = 0, type = "i16", scale = "0.1" }]`)
	}
	o.checkNames("fields", names, p)
	return f
}

func (s Field) ready() (field, []error) {
	f := field{Field: s, key: quote(s.Name), size: -1}
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	var known []string
	for _, t := range fieldTypes {
		known = append(known, t.name)
		if t.name == s.Type {
			f.size = t.size
		}
	}
	if f.size < 0 {
		wrong("type must be one of %s (got %q)", strings.Join(known, ", "), s.Type)
		return f, errs
	}
	integer := s.Type[0] == 'u' || s.Type[0] == 'i'
	float := s.Type[0] == 'f'
	if f.size > 0 && s.Length != 0 {
		wrong("length is for bcd, hex, ascii and decimal: %s has %d bytes", s.Type, f.size)
	}
	if f.size == 0 {
		f.size = s.Length
	}
	if s.Length < 0 || s.Length > maxOffset || s.Offset < -maxOffset || s.Offset > maxOffset {
		wrong("offset and length must be within %d bytes", maxOffset)
	}
	if s.Offset < 0 && s.Offset+f.size > 0 {
		wrong("%d bytes at offset %d end behind the frame", f.size, s.Offset)
	}
	if s.Type == "bcd" && (s.Length < 1 || s.Length > maxBCD) {
		wrong("length of bcd must be 1 to %d bytes (got %d)", maxBCD, s.Length)
	}
	if s.Scale != "" && !integer && !float && s.Type != "bcd" {
		wrong("scale has no meaning for %s", s.Type)
	}
	if s.Add != "" && !integer && s.Type != "bcd" {
		wrong("add has no meaning for %s", s.Type)
	}
	if s.LittleEndian && (s.Type == "ascii" || s.Type == "decimal") {
		wrong("endian has no meaning for %s", s.Type)
	}
	errs = append(errs, f.readyScale()...)
	return f, append(errs, f.readyBits()...)
}

func (f *field) readyScale() (errs []error) {
	f.scale, f.add = decimal{mantissa: 1}, decimal{}
	f.scaled = f.Scale != ""
	var err error
	if f.Scale != "" {
		if f.scale, err = parseDecimal(f.Scale); err != nil {
			errs = append(errs, fmt.Errorf("scale %w", err))
		} else if f.scale.mantissa == 0 {
			errs = append(errs, fmt.Errorf("scale %q makes every value zero", f.Scale))
		}
	}
	if f.Add != "" {
		if f.add, err = parseDecimal(f.Add); err != nil {
			errs = append(errs, fmt.Errorf("add %w", err))
		}
	} else {
		f.add.exponent = f.scale.exponent
	}
	if len(errs) > 0 {
		return errs
	}
	if err := align(&f.scale, &f.add); err != nil {
		errs = append(errs, err)
	}
	return errs
}

func (f *field) readyBits() (errs []error) {
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if f.Bit == nil {
		if f.Bits != 0 {
			wrong("bits needs bit, the lowest one")
		}
		return errs
	}
	bit := *f.Bit
	f.Bit = &bit
	if f.Type[0] != 'u' {
		wrong("bit is for unsigned integers (got %s)", f.Type)
		return errs
	}
	if f.Bits == 0 {
		f.Bits = 1
	}
	if bit < 0 || f.Bits < 1 || bit > 63 || f.Bits > 64 || bit+f.Bits > 8*f.size {
		wrong("bit %d and the %d from there on are not all in %s", bit, f.Bits, f.Type)
	}
	if f.Bits == 1 && (f.Scale != "" || f.Add != "") {
		wrong("one bit is true or false: scale and add have no meaning")
	}
	return errs
}

func (n *binary) decode(b []byte, o *object) *Error {
	for i := range n.fields {
		f := &n.fields[i]
		from := f.Offset
		if from < 0 {
			from += len(b)
		}
		size := f.size
		if size == 0 {
			size = len(b) - from
		}
		if from < 0 || size < 0 || from+size > len(b) {
			return refuse(TooShort, "field %q, %s at offset %d, is not within the %d bytes of the frame", f.Name, f.Type, f.Offset, len(b))
		}
		if err := f.append(o, b[from:from+size]); err != nil {
			return err
		}
	}
	return nil
}

// append writes the field unless it has no value.
func (f *field) append(o *object, b []byte) *Error {
	switch f.Type {
	case "f32":
		return f.appendFloat(o, float64(math.Float32frombits(uint32(f.load(b)))), 32)
	case "f64":
		return f.appendFloat(o, math.Float64frombits(f.load(b)), 64)
	case "bcd":
		return f.appendBCD(o, b)
	case "hex":
		return f.appendHex(o, b)
	case "ascii":
		return f.appendText(o, b, TypeText)
	case "decimal":
		return f.appendText(o, b, TypeNumber)
	}
	raw := f.load(b)
	o.begin(f.key)
	switch {
	case f.Bits == 1:
		o.buf = strconv.AppendBool(o.buf, raw>>*f.Bit&1 == 1)
		return o.end()
	case f.Bits > 1:
		raw = raw >> *f.Bit & (1<<f.Bits - 1)
	}
	negative := false
	if f.Type[0] == 'i' {
		shift := 64 - 8*f.size
		if v := int64(raw<<shift) >> shift; v < 0 {
			negative, raw = true, -uint64(v)
		} else {
			raw = uint64(v)
		}
	}
	o.buf = appendLinear(o.buf, negative, raw, f.scale, f.add)
	return o.end()
}

// load reads up to 8 bytes.
func (f *field) load(b []byte) (v uint64) {
	for i := range b {
		if f.LittleEndian {
			v |= uint64(b[i]) << (8 * i)
		} else {
			v = v<<8 | uint64(b[i])
		}
	}
	return v
}

// appendFloat writes the shortest decimal that is this float, scaled exactly.
// What is not a number, or infinite, has no value.
func (f *field) appendFloat(o *object, v float64, size int) *Error {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	o.begin(f.key)
	if !f.scaled {
		o.buf = appendShortest(o.buf, v, size)
		return o.end()
	}
	mantissa, exponent := shortest(math.Abs(v), size)
	hi, lo := bits.Mul64(mantissa, f.scale.mantissa)
	o.buf = appendDecimal(o.buf, math.Signbit(v) != f.scale.negative, hi, lo, exponent+f.scale.exponent)
	return o.end()
}

// appendShortest writes large and small numbers with an exponent, as ECMAScript
// does.
func appendShortest(out []byte, v float64, size int) []byte {
	format := byte('f')
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(out, v, format, -1, size)
}

// shortest takes a float's shortest decimal apart: at most 17 digits.
func shortest(v float64, size int) (mantissa uint64, exponent int) {
	var scratch [32]byte
	text := strconv.AppendFloat(scratch[:0], v, 'e', -1, size) // d.ddde±dd
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case isDigit(c):
			mantissa = mantissa*10 + uint64(c-'0')
		case c == 'e':
			fraction := max(0, i-2) // digits behind the point
			e, negative := 0, text[i+1] == '-'
			for _, d := range text[i+2:] {
				e = e*10 + int(d-'0')
			}
			if negative {
				e = -e
			}
			return mantissa, e - fraction
		}
	}
	return mantissa, 0
}

func (f *field) appendBCD(o *object, b []byte) *Error {
	var v uint64
	for i := range b {
		c := b[i]
		if f.LittleEndian {
			c = b[len(b)-1-i]
		}
		if c>>4 > 9 || c&0xF > 9 {
			return refuse(BadFields, "field %q: the byte %#02x is not two decimal digits", f.Name, c)
		}
		v = v*100 + uint64(c>>4)*10 + uint64(c&0xF)
	}
	o.begin(f.key)
	o.buf = appendLinear(o.buf, false, v, f.scale, f.add)
	return o.end()
}

func (f *field) appendHex(o *object, b []byte) *Error {
	const digits = "0123456789abcdef"
	if len(b) == 0 {
		return nil
	}
	if 2*len(b) > o.max {
		return o.tooLarge()
	}
	o.begin(f.key)
	o.buf = append(o.buf, '"')
	for i := range b {
		c := b[i]
		if f.LittleEndian {
			c = b[len(b)-1-i]
		}
		o.buf = append(o.buf, digits[c>>4], digits[c&0xF])
	}
	o.buf = append(o.buf, '"')
	return o.end()
}

func (f *field) appendText(o *object, b []byte, kind string) *Error {
	for len(b) > 0 && (b[0] == 0 || b[0] == ' ') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == 0 || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	if len(b) == 0 {
		return nil
	}
	for i, c := range b {
		if c == 0 || c >= utf8.RuneSelf {
			return refuse(InvalidText, "field %q: the byte %#02x at %d is not text in ASCII", f.Name, c, i)
		}
	}
	v := value{name: f.Name, key: f.key, kind: kind}
	return v.add(o, b)
}
