package decode

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
)

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// isNumber reports whether b is a number as JSON writes them (RFC 8259,
// section 6).
func isNumber(b []byte) bool {
	if len(b) > 0 && b[0] == '-' {
		b = b[1:]
	}
	n := countDigits(b)
	if n == 0 || n > 1 && b[0] == '0' {
		return false
	}
	b = b[n:]
	if len(b) > 0 && b[0] == '.' {
		n = countDigits(b[1:])
		if n == 0 {
			return false
		}
		b = b[1+n:]
	}
	return len(b) == 0 || isExponent(b)
}

func isExponent(b []byte) bool {
	if b[0] != 'e' && b[0] != 'E' {
		return false
	}
	b = b[1:]
	if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
		b = b[1:]
	}
	return len(b) > 0 && countDigits(b) == len(b)
}

func countDigits(b []byte) int {
	n := 0
	for n < len(b) && isDigit(b[n]) {
		n++
	}
	return n
}

// appendNumber writes a decimal number as JSON wants it, without a plus sign and
// leading zeros and with a digit in front of the point. Its other digits stay. It
// reports false if b is no number.
func appendNumber(out, b []byte) ([]byte, bool) {
	if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
		if b[0] == '-' {
			out = append(out, '-')
		}
		b = trimBlanks(b[1:]) // scales write "-  12.5"
	}
	n := countDigits(b)
	whole, rest := b[:n], b[n:]
	var fraction []byte
	if len(rest) > 0 && rest[0] == '.' {
		n = countDigits(rest[1:])
		fraction, rest = rest[1:1+n], rest[1+n:]
	}
	if len(whole)+len(fraction) == 0 || len(rest) > 0 && !isExponent(rest) {
		return out, false
	}
	for len(whole) > 1 && whole[0] == '0' {
		whole = whole[1:]
	}
	if len(whole) == 0 {
		out = append(out, '0')
	}
	out = append(out, whole...)
	if len(fraction) > 0 {
		out = append(append(out, '.'), fraction...)
	}
	return append(out, rest...), true
}

func trimBlanks(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// value is one that comes as text.
type value struct {
	name string
	key  string // the name as JSON; empty if the value is not passed on
	kind string // TypeText, TypeNumber, or empty: what it looks like
}

// add writes the value.
func (v *value) add(o *object, b []byte) *Error {
	o.begin(v.key)
	ok := true
	o.buf, ok = appendTyped(o.buf, b, v.kind)
	if !ok {
		return refuse(BadNumber, "%q is not a number: %s", v.name, excerpt(b))
	}
	return o.end()
}

func appendTyped(out, b []byte, kind string) ([]byte, bool) {
	switch {
	case kind == TypeNumber:
		return appendNumber(out, trimBlanks(b))
	case kind == TypeText:
	case isNumber(b):
		return append(out, b...), true
	case len(b) > 1 && b[0] == '+' && isDigit(b[1]) && isNumber(b[1:]):
		return append(out, b[1:]...), true
	}
	return appendString(out, b), true
}

// decimal is mantissa × 10^exponent.
type decimal struct {
	negative bool
	mantissa uint64
	exponent int
}

// maxDigits bounds the digits of scale and add, so that a 64-bit value times
// them fits into 128 bits.
const maxDigits = 18

// parseDecimal reads a decimal number as it is written.
func parseDecimal(s string) (decimal, error) {
	var d decimal
	text, exponent, hasExponent := strings.Cut(strings.ToLower(s), "e")
	if hasExponent {
		e, err := strconv.Atoi(exponent)
		if err != nil || e < -maxDigits || e > maxDigits {
			return d, fmt.Errorf("%q: the exponent must be a number from -%d to %d", s, maxDigits, maxDigits)
		}
		d.exponent = e
	}
	text, d.negative = strings.CutPrefix(text, "-")
	whole, fraction, _ := strings.Cut(text, ".")
	digits := whole + fraction
	if len(digits) == 0 || countDigits([]byte(digits)) != len(digits) {
		return d, fmt.Errorf("%q is not a decimal number such as \"0.01\"", s)
	}
	digits = strings.TrimLeft(digits, "0")
	if len(digits) > maxDigits || len(fraction) > 2*maxDigits {
		return d, fmt.Errorf("%q has more than %d digits", s, maxDigits)
	}
	m, err := strconv.ParseUint("0"+digits, 10, 64)
	if err != nil {
		return d, err
	}
	d.mantissa = m
	d.exponent -= len(fraction)
	return d, nil
}

// align gives a and b the same exponent, the smaller one.
func align(a, b *decimal) error {
	for _, pair := range [][2]*decimal{{a, b}, {b, a}} {
		for pair[0].exponent > pair[1].exponent {
			hi, lo := bits.Mul64(pair[0].mantissa, 10)
			if hi != 0 || lo >= 1e18 {
				return errors.New("scale and add are too far apart for 18 digits")
			}
			pair[0].mantissa = lo
			pair[0].exponent--
		}
	}
	return nil
}

// appendLinear writes raw × scale + add exactly. Both have the same exponent.
func appendLinear(out []byte, negative bool, raw uint64, scale, add decimal) []byte {
	hi, lo := bits.Mul64(raw, scale.mantissa)
	negative = negative != scale.negative
	switch {
	case negative == add.negative:
		var carry uint64
		lo, carry = bits.Add64(lo, add.mantissa, 0)
		hi += carry
	case hi > 0 || lo >= add.mantissa:
		var borrow uint64
		lo, borrow = bits.Sub64(lo, add.mantissa, 0)
		hi -= borrow
	default:
		hi, lo, negative = 0, add.mantissa-lo, add.negative
	}
	return appendDecimal(out, negative, hi, lo, scale.exponent)
}

// maxZeros is up to how many zeros are written out instead of an exponent.
const maxZeros = 40

// appendDecimal writes the 128-bit number hi, lo × 10^exponent.
func appendDecimal(out []byte, negative bool, hi, lo uint64, exponent int) []byte {
	zero := hi == 0 && lo == 0
	if negative && !zero {
		out = append(out, '-')
	}
	if zero && exponent > 0 {
		exponent = 0
	}
	var scratch [40]byte
	digits := appendUint128(scratch[:0], hi, lo)
	point := len(digits) + exponent // where it stands among the digits
	switch {
	case exponent == 0:
		return append(out, digits...)
	case exponent > maxZeros || point < -maxZeros:
		out = append(append(out, digits...), 'e')
		return strconv.AppendInt(out, int64(exponent), 10)
	case exponent > 0:
		out = append(out, digits...)
		for range exponent {
			out = append(out, '0')
		}
		return out
	case point > 0:
		out = append(append(out, digits[:point]...), '.')
		return append(out, digits[point:]...)
	default:
		out = append(out, '0', '.')
		for range -point {
			out = append(out, '0')
		}
		return append(out, digits...)
	}
}

func appendUint128(out []byte, hi, lo uint64) []byte {
	const e19 = 1e19 // the largest power of ten in 64 bits
	if hi == 0 {
		return strconv.AppendUint(out, lo, 10)
	}
	top := hi / e19
	low, rest := bits.Div64(hi%e19, lo, e19)
	out = appendUint128(out, top, low)
	from := len(out)
	out = append(out, "0000000000000000000"...)
	for i := len(out) - 1; i >= from; i-- {
		out[i] = byte('0' + rest%10)
		rest /= 10
	}
	return out
}
