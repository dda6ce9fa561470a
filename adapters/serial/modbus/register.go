package modbus

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// Types of registers.
const (
	Bool    = "bool"
	Int16   = "int16"
	Uint16  = "uint16"
	Int32   = "int32"
	Uint32  = "uint32"
	Int64   = "int64"
	Uint64  = "uint64"
	Float32 = "float32"
	Float64 = "float64"
	String  = "string"
)

// Word orders of values of 32 and 64 bits. With Swap they are all that exist:
//
//	Order   Swap   bytes of 0x0A0B0C0D on the wire
//	big     false  0A 0B 0C 0D
//	little  false  0C 0D 0A 0B
//	big     true   0B 0A 0D 0C
//	little  true   0D 0C 0B 0A
const (
	BigOrder    = "big"    // the highest word comes first
	LittleOrder = "little" // the lowest word comes first
)

// types are the types with the words they take; that of a string depends on its
// length.
var types = []struct {
	name  string
	words int
}{
	{Bool, 1}, {Int16, 1}, {Uint16, 1}, {Int32, 2}, {Uint32, 2}, {Int64, 4}, {Uint64, 4},
	{Float32, 2}, {Float64, 4}, {String, 0},
}

func typeNames() []string {
	var names []string
	for _, t := range types {
		names = append(names, t.name)
	}
	return names
}

// Register is one value of a slave. Name, Function and Address are needed.
type Register struct {
	// Name is its key in the object.
	Name string `toml:"name"`
	// Function reads it: 1 for coils, 2 for discrete inputs, 3 for holding
	// registers, 4 for input registers.
	Function int `toml:"function"`
	// Address is the protocol's, from 0.
	Address int `toml:"address"`
	// Type is how its bits are read. Default: Bool for functions 1 and 2, Uint16
	// for 3 and 4.
	Type string `toml:"type"`
	// Length of a String in bytes. It ends before a NUL, and spaces at its end
	// are cut.
	Length int `toml:"length"`
	// Bit of the word that a Bool of functions 3 and 4 is: 0, the lowest, to 15.
	Bit *int `toml:"bit"`
	// Order of the words, BigOrder (default) or LittleOrder. Swap: the bytes in
	// each word are swapped.
	Order string `toml:"order"`
	Swap  bool   `toml:"swap"`
	// The value is what the slave has, times Scale, plus Offset: decimal numbers.
	// Defaults: 1 and 0.
	Scale  string `toml:"scale"`
	Offset string `toml:"offset"`
	// Unit is for people; it is not in the object.
	Unit string `toml:"unit"`
}

// FieldError is one mistake in a configuration.
type FieldError struct {
	// Field is where, as it is written there: "registers[2].scale".
	Field string
	// Problem says what is wrong and what would be right.
	Problem string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// register is a Register made ready.
type register struct {
	name          string
	kind          string
	function      Function
	address, size int // size in words, or in bits for functions 1 and 2
	length        int // of a string, in bytes
	bit           int
	little, swap  bool
	scaled        bool
	scale, offset decimal
}

// end is the address behind the register.
func (r *register) end() int { return r.address + r.size }

// mistakes collects FieldErrors below a path.
type mistakes struct {
	path string
	errs []error
}

func (m *mistakes) add(field, format string, args ...any) {
	if m.path != "" {
		field = m.path + "." + field
	}
	m.errs = append(m.errs, &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)})
}

// maxName bounds a register's name in bytes.
const maxName = 128

// compile makes the register ready; it is of use if m gained nothing.
func (r Register) compile(m *mistakes) register {
	out := register{name: r.Name, kind: r.Type, function: Function(r.Function), address: r.Address,
		length: r.Length, swap: r.Swap, little: r.Order == LittleOrder}
	if r.Name == "" || len(r.Name) > maxName {
		m.add("name", "must have 1 to %d bytes (got %d)", maxName, len(r.Name))
	}
	if r.Function < 1 || r.Function > 4 {
		m.add("function", "must be 1 (coils), 2 (discrete inputs), 3 (holding registers) or 4 (input registers) (got %d)", r.Function)
		return out
	}
	bits := out.function.bits()
	if out.kind == "" {
		out.kind = Uint16
		if bits {
			out.kind = Bool
		}
	}
	i := slices.IndexFunc(types, func(t struct {
		name  string
		words int
	}) bool {
		return t.name == out.kind
	})
	if i < 0 {
		m.add("type", "must be one of %s (got %q)", strings.Join(typeNames(), ", "), r.Type)
		return out
	}
	out.size = types[i].words
	if bits && out.kind != Bool {
		m.add("type", "must be %q for function %d (got %q)", Bool, r.Function, r.Type)
	}
	r.compileLength(&out, m)
	r.compileBit(&out, m)
	r.compileOrder(&out, m)
	r.compileScale(&out, m)
	if r.Address < 0 || r.Address+out.size > 1<<16 {
		m.add("address", "must be 0 to %d (got %d)", 1<<16-max(out.size, 1), r.Address)
	}
	return out
}

func (r Register) compileLength(out *register, m *mistakes) {
	limit := 2 * limits[ReadHoldingRegisters]
	switch {
	case out.kind == String && (r.Length < 1 || r.Length > limit):
		m.add("length", "must be 1 to %d bytes for a string (got %d)", limit, r.Length)
	case out.kind == String:
		out.size = (r.Length + 1) / 2
	case r.Length != 0:
		m.add("length", "is for strings only")
	}
}

func (r Register) compileBit(out *register, m *mistakes) {
	needed := out.kind == Bool && !out.function.bits()
	switch {
	case r.Bit == nil && needed:
		m.add("bit", "is missing: which bit of the register, 0 to 15?")
	case r.Bit == nil:
	case !needed:
		m.add("bit", "is for type %q of functions 3 and 4 only", Bool)
	case *r.Bit < 0 || *r.Bit > 15:
		m.add("bit", "must be 0 to 15 (got %d)", *r.Bit)
	default:
		out.bit = *r.Bit
	}
}

func (r Register) compileOrder(out *register, m *mistakes) {
	switch {
	case r.Order != "" && r.Order != BigOrder && r.Order != LittleOrder:
		m.add("order", "must be %q or %q (got %q)", BigOrder, LittleOrder, r.Order)
	case out.little && (out.kind == String || out.size < 2):
		m.add("order", "%q is for types of 32 and 64 bits only", LittleOrder)
	}
	if r.Swap && out.function.bits() {
		m.add("swap", "is for functions 3 and 4 only")
	}
}

func (r Register) compileScale(out *register, m *mistakes) {
	out.scale, out.offset = decimal{coef: big.NewInt(1)}, decimal{coef: new(big.Int)}
	for _, f := range []struct {
		name, text string
		to         *decimal
	}{{"scale", r.Scale, &out.scale}, {"offset", r.Offset, &out.offset}} {
		if f.text == "" {
			continue
		}
		if out.kind == Bool || out.kind == String {
			m.add(f.name, "is for numbers only, not for type %q", out.kind)
			continue
		}
		d, err := parseDecimal(f.text)
		switch {
		case err != nil:
			m.add(f.name, "%v (got %q)", err, f.text)
		case f.name == "scale" && d.coef.Sign() == 0:
			m.add(f.name, "must not be zero")
		default:
			*f.to, out.scaled = d, true
		}
	}
}
