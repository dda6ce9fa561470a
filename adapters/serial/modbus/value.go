package modbus

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// appendValue adds the register's value as JSON, given the words, or bits, of it
// alone.
func (r *register) appendValue(to []byte, a Answer) []byte {
	if r.function.bits() {
		return strconv.AppendBool(to, a.Bits[0])
	}
	b := r.bytes(a.Words)
	switch r.kind {
	case Bool:
		return strconv.AppendBool(to, binary.BigEndian.Uint16(b)>>r.bit&1 == 1)
	case String:
		return appendString(to, b[:r.length])
	case Float32:
		return r.appendFloat(to, float64(math.Float32frombits(binary.BigEndian.Uint32(b))), 32)
	case Float64:
		return r.appendFloat(to, math.Float64frombits(binary.BigEndian.Uint64(b)), 64)
	}
	n := new(big.Int).SetBytes(b)
	if r.signed() && b[0]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	if !r.scaled {
		return n.Append(to, 10)
	}
	return append(to, r.fromRaw(decimal{coef: n}).String()...)
}

func (r *register) signed() bool { return r.kind == Int16 || r.kind == Int32 || r.kind == Int64 }

// bytes puts the words' bytes into the order in which the highest comes first.
// It is its own inverse, apart from the form.
func (r *register) bytes(words []uint16) []byte {
	b := make([]byte, 0, 2*len(words))
	for i := range words {
		w := words[i]
		if r.little {
			w = words[len(words)-1-i]
		}
		if r.swap {
			w = w<<8 | w>>8
		}
		b = binary.BigEndian.AppendUint16(b, w)
	}
	return b
}

// words is the inverse of bytes.
func (r *register) words(b []byte) []uint16 {
	words := make([]uint16, len(b)/2)
	for i := range words {
		words[i] = binary.BigEndian.Uint16(b[2*i:])
	}
	b = r.bytes(words)
	for i := range words {
		words[i] = binary.BigEndian.Uint16(b[2*i:])
	}
	return words
}

func (r *register) fromRaw(d decimal) decimal { return d.times(r.scale).plus(r.offset) }

// appendFloat takes f for the shortest decimal that stands for it: a float32 of
// 230.1 is 230.1, and not 230.10000610351562.
func (r *register) appendFloat(to []byte, f float64, bits int) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(to, "null"...)
	}
	d, err := parseDecimal(strconv.FormatFloat(f, 'e', -1, bits))
	if err != nil {
		return append(to, "null"...) // no float is beyond the bounds
	}
	return append(to, r.fromRaw(d).String()...)
}

// appendString adds text up to the first NUL, without spaces at its end. What is
// not UTF-8 becomes U+FFFD.
func appendString(to, b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return appendJSON(to, strings.TrimRight(string(b), " "))
}

func appendJSON(to []byte, v any) []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return append(to, "null"...) // strings and numbers have no errors
	}
	return append(to, bytes.TrimRight(out.Bytes(), "\n")...)
}

// encode turns a JSON value, with numbers as json.Number, into the bit or words
// that are written.
func (r *register) encode(value any) (bits []bool, words []uint16, err error) {
	if r.kind == Bool {
		on, ok := asBool(value)
		if !ok {
			return nil, nil, fmt.Errorf("must be true or false (got %s)", show(value))
		}
		return []bool{on}, nil, nil
	}
	if r.kind == String {
		s, ok := value.(string)
		switch {
		case !ok:
			return nil, nil, fmt.Errorf("must be a string (got %s)", show(value))
		case len(s) > r.length:
			return nil, nil, fmt.Errorf("has %d bytes, the register takes at most %d", len(s), r.length)
		case strings.IndexByte(s, 0) >= 0:
			return nil, nil, fmt.Errorf("must not contain NUL, which ends a string")
		}
		b := make([]byte, 2*r.size)
		copy(b, s)
		return nil, r.words(b), nil
	}
	number, ok := value.(json.Number)
	if !ok {
		return nil, nil, fmt.Errorf("must be a number (got %s)", show(value))
	}
	d, err := parseDecimal(string(number))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", show(value), err)
	}
	raw := d.rat()
	raw.Sub(raw, r.offset.rat())
	raw.Quo(raw, r.scale.rat())
	b, err := r.rawBytes(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%s %w", show(value), err)
	}
	return nil, r.words(b), nil
}

// asBool takes true, false, 1 and 0.
func asBool(v any) (on, ok bool) {
	switch v {
	case true, json.Number("1"):
		return true, true
	case false, json.Number("0"):
		return false, true
	default:
		return false, false
	}
}

// rawBytes is what the slave stores, highest byte first.
func (r *register) rawBytes(raw *big.Rat) ([]byte, error) {
	switch r.kind {
	case Float32:
		f, _ := raw.Float32()
		if math.IsInf(float64(f), 0) {
			return nil, fmt.Errorf("is out of range for %s", r.kind)
		}
		return binary.BigEndian.AppendUint32(nil, math.Float32bits(f)), nil
	case Float64:
		f, _ := raw.Float64()
		if math.IsInf(f, 0) {
			return nil, fmt.Errorf("is out of range for %s", r.kind)
		}
		return binary.BigEndian.AppendUint64(nil, math.Float64bits(f)), nil
	}
	low, high := r.span()
	if n := new(big.Rat).SetInt(low); raw.Cmp(n) < 0 {
		return nil, r.outOfRange(low, high)
	}
	if n := new(big.Rat).SetInt(high); raw.Cmp(n) > 0 {
		return nil, r.outOfRange(low, high)
	}
	if !raw.IsInt() {
		if r.scaled {
			return nil, fmt.Errorf("is not a multiple of the scale %s (offset %s)", r.scale, r.offset)
		}
		return nil, fmt.Errorf("is not an integer")
	}
	n := new(big.Int).Set(raw.Num())
	if n.Sign() < 0 {
		n.Add(n, new(big.Int).Lsh(big.NewInt(1), uint(16*r.size)))
	}
	return n.FillBytes(make([]byte, 2*r.size)), nil
}

// span is the range of an integer type.
func (r *register) span() (low, high *big.Int) {
	one := big.NewInt(1)
	n := uint(16 * r.size)
	if r.signed() {
		high = new(big.Int).Lsh(one, n-1)
		low = new(big.Int).Neg(high)
	} else {
		high = new(big.Int).Lsh(one, n)
		low = new(big.Int)
	}
	return low, high.Sub(high, one)
}

func (r *register) outOfRange(low, high *big.Int) error {
	a, b := r.fromRaw(decimal{coef: low}), r.fromRaw(decimal{coef: high})
	if r.scale.coef.Sign() < 0 {
		a, b = b, a
	}
	return fmt.Errorf("is out of range for %s: %s to %s", r.kind, a, b)
}

// maxShown bounds what an error shows of a payload.
const maxShown = 40

// show is a JSON value for an error.
func show(v any) string {
	switch v := v.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "an array"
	case json.Number:
		return short(string(v))
	default:
		return short(string(appendJSON(nil, v)))
	}
}

func short(s string) string {
	if len(s) > maxShown {
		return strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return s
}
