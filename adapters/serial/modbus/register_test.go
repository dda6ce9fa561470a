package modbus

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func compiled(t interface {
	Fatal(...any)
	Helper()
}, r Register) *register {
	t.Helper()
	if r.Name == "" {
		r.Name = "x"
	}
	m := &mistakes{}
	out := r.compile(m)
	if len(m.errs) > 0 {
		t.Fatal(errors.Join(m.errs...))
	}
	return &out
}

func bit(n int) *int { return &n }

func TestValues(t *testing.T) {
	float := func(f float32) []uint16 {
		n := math.Float32bits(f)
		return []uint16{uint16(n >> 16), uint16(n)}
	}
	double := func(f float64) []uint16 {
		n := math.Float64bits(f)
		return []uint16{uint16(n >> 48), uint16(n >> 32), uint16(n >> 16), uint16(n)}
	}
	for _, v := range []struct {
		name  string
		r     Register
		words []uint16
		want  string
	}{
		{"default", Register{}, []uint16{65535}, "65535"},
		{"int16", Register{Type: Int16}, []uint16{0xFFFF}, "-1"},
		{"int16 least", Register{Type: Int16}, []uint16{0x8000}, "-32768"},
		{"int16 swapped", Register{Type: Int16, Swap: true}, []uint16{0x0180}, "-32767"},
		{"scale", Register{Scale: "0.1"}, []uint16{2305}, "230.5"},
		{"scale, whole", Register{Scale: "0.1"}, []uint16{2300}, "230"},
		{"scale, leading zeros", Register{Scale: "0.001"}, []uint16{5}, "0.005"},
		{"scale, noise in binary", Register{Type: Int16, Scale: "0.1"}, []uint16{0xFFFD}, "-0.3"},
		{"scale above 1", Register{Scale: "100"}, []uint16{123}, "12300"},
		{"scale with exponent", Register{Scale: "1e-3"}, []uint16{1500}, "1.5"},
		{"scale below zero", Register{Scale: "-0.5"}, []uint16{3}, "-1.5"},
		{"offset", Register{Scale: "0.1", Offset: "-40"}, []uint16{655}, "25.5"},
		{"offset alone", Register{Offset: "-273.15"}, []uint16{300}, "26.85"},
		{"very small", Register{Scale: "1e-12"}, []uint16{123}, "1.23e-10"},
		{"very large", Register{Scale: "1e30"}, []uint16{120}, "1.2e32"},
		{"uint32", Register{Type: Uint32}, []uint16{0x0A0B, 0x0C0D}, "168496141"},
		{"uint32 little", Register{Type: Uint32, Order: "little"}, []uint16{0x0C0D, 0x0A0B}, "168496141"},
		{"uint32 big, swapped", Register{Type: Uint32, Swap: true}, []uint16{0x0B0A, 0x0D0C}, "168496141"},
		{"uint32 little, swapped", Register{Type: Uint32, Order: "little", Swap: true}, []uint16{0x0D0C, 0x0B0A}, "168496141"},
		{"int32", Register{Type: Int32}, []uint16{0xFFFF, 0xFFFE}, "-2"},
		{"uint64", Register{Type: Uint64}, []uint16{0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF}, "18446744073709551615"},
		{"uint64 little", Register{Type: Uint64, Order: "little"}, []uint16{1, 0, 0, 0x8000}, "9223372036854775809"},
		{"uint64 scaled", Register{Type: Uint64, Scale: "0.001"}, []uint16{0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF}, "18446744073709551.615"},
		{"int64", Register{Type: Int64}, []uint16{0x8000, 0, 0, 0}, "-9223372036854775808"},
		{"float32", Register{Type: Float32}, float(230.1), "230.1"},
		{"float32 bytes", Register{Type: Float32}, []uint16{0x4148, 0}, "12.5"},
		{"float32 little", Register{Type: Float32, Order: "little"}, []uint16{0, 0x4148}, "12.5"},
		{"float32 scaled", Register{Type: Float32, Scale: "0.1"}, float(230.1), "23.01"},
		{"float32 whole", Register{Type: Float32}, float(16777216), "16777216"},
		{"float32 NaN", Register{Type: Float32, Scale: "2"}, float(float32(math.NaN())), "null"},
		{"float32 infinite", Register{Type: Float32}, float(float32(math.Inf(-1))), "null"},
		{"float32 zero below", Register{Type: Float32}, []uint16{0x8000, 0}, "0"},
		{"float32 least", Register{Type: Float32}, []uint16{0, 1}, "1e-45"},
		{"float64", Register{Type: Float64}, double(0.1), "0.1"},
		{"float64 most", Register{Type: Float64}, double(math.MaxFloat64), "1.7976931348623157e308"},
		{"float64 least, scaled", Register{Type: Float64, Scale: "1e-9", Offset: "1"}, double(math.SmallestNonzeroFloat64),
			"1." + strings.Repeat("0", 332) + "5"},
		{"float64 NaN", Register{Type: Float64}, double(math.NaN()), "null"},
		{"string", Register{Type: String, Length: 6}, []uint16{0x4142, 0x3C22, 0x2020}, `"AB<\""`},
		{"string, NUL", Register{Type: String, Length: 5}, []uint16{0x4100, 0x4242, 0x4242}, `"A"`},
		{"string, odd", Register{Type: String, Length: 3}, []uint16{0x4142, 0x4344}, `"ABC"`},
		{"string, swapped", Register{Type: String, Length: 4, Swap: true}, []uint16{0x4241, 0x4443}, `"ABCD"`},
		{"string, not UTF-8", Register{Type: String, Length: 2}, []uint16{0x41FF}, `"A\ufffd"`},
		{"bit 0", Register{Type: Bool, Bit: bit(0)}, []uint16{1}, "true"},
		{"bit 15", Register{Type: Bool, Bit: bit(15)}, []uint16{0x7FFF}, "false"},
		{"bit, swapped", Register{Type: Bool, Bit: bit(8), Swap: true}, []uint16{1}, "true"},
	} {
		t.Run(v.name, func(t *testing.T) {
			v.r.Function = 4
			r := compiled(t, v.r)
			if r.size != len(v.words) {
				t.Fatalf("takes %d words, want %d", r.size, len(v.words))
			}
			got := string(r.appendValue(nil, Answer{Words: v.words}))
			if got != v.want {
				t.Errorf("got %s, want %s", got, v.want)
			}
			if !json.Valid([]byte(got)) {
				t.Errorf("%s is not JSON", got)
			}
		})
	}
	coil := compiled(t, Register{Function: 1})
	if got := string(coil.appendValue(nil, Answer{Bits: []bool{true}})); got != "true" {
		t.Errorf("a coil is %s", got)
	}
}

// TestRoundTrip: what is read can be written, and gives the same words.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := Register{Function: 3, Swap: rapid.Bool().Draw(t, "swap"),
			Type: rapid.SampledFrom([]string{Int16, Uint16, Int32, Uint32, Int64, Uint64, Float32, Float64, String}).Draw(t, "type")}
		if in.Type == String {
			in.Length = rapid.IntRange(1, 20).Draw(t, "length")
		} else if rapid.Bool().Draw(t, "scaled") {
			in.Scale = rapid.StringMatching(`-?[0-9]{0,4}[1-9](\.[0-9]{1,4})?(e-?[0-9])?`).Draw(t, "scale")
			in.Offset = rapid.StringMatching(`-?[0-9]{1,4}(\.[0-9]{1,4})?`).Draw(t, "offset")
		}
		if in.Type != String && !strings.HasSuffix(in.Type, "16") && rapid.Bool().Draw(t, "little") {
			in.Order = LittleOrder
		}
		r := compiled(t, in)
		words := make([]uint16, r.size)
		for i := range words {
			words[i] = rapid.Uint16().Draw(t, "word")
		}
		if in.Type == String {
			s := strings.TrimRight(rapid.StringMatching(`[ -~]{0,20}`).Draw(t, "text"), " ")
			s = strings.TrimRight(s[:min(len(s), in.Length)], " ")
			words = r.words(append([]byte(s), make([]byte, 2*r.size-len(s))...))
		}
		value := r.appendValue(nil, Answer{Words: words})
		if !json.Valid(value) {
			t.Fatalf("%s is not JSON", value)
		}
		if string(value) == "null" {
			return
		}
		d := json.NewDecoder(bytes.NewReader(value))
		d.UseNumber()
		var v any
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		if n, ok := v.(json.Number); ok && len(strings.Trim(string(n), "-0.")) > maxDigits {
			return // a float's offset made more digits than a payload may have
		}
		_, back, err := r.encode(v)
		if err != nil {
			t.Fatalf("%s: %v", value, err)
		}
		if slices.Equal(back, words) {
			return
		}
		b := r.bytes(words)
		minusZero := in.Type == Float32 && binary.BigEndian.Uint32(b) == 1<<31 || in.Type == Float64 && binary.BigEndian.Uint64(b) == 1<<63
		if !minusZero {
			t.Fatalf("%x became %s and %x", words, value, back)
		}
	})
}

func TestDecimals(t *testing.T) {
	for in, want := range map[string]string{
		"0": "0", "-0.0": "0", "+1": "1", "0.10": "0.1", "1e2": "100", "1.50e-3": "0.0015", "-12E+1": "-120",
		"1e20": "100000000000000000000", "1e21": "1e21", "0.000001": "0.000001", "0.0000001": "1e-7",
		"1e400": "1e400",
	} {
		d, err := parseDecimal(in)
		if err != nil || d.String() != want {
			t.Errorf("%q is %v (%v), want %s", in, d, err, want)
		}
	}
	for _, in := range []string{"", "-", ".", "1.", ".5", "1e", "e1", "1e401", "1e-999999999", "0x1", "1_0", "--1", "+-1", "1 ", "NaN", "Inf", "1,5",
		"1.+5", "٣", strings.Repeat("1", 65)} {
		if d, err := parseDecimal(in); err == nil {
			t.Errorf("%q is %s", in, d)
		}
	}
}

func TestMistakes(t *testing.T) {
	good := Slave{Address: 1, Device: "meter", Every: time.Second, Registers: []Register{{Name: "a", Function: 3}}}
	if err := good.Valid(); err != nil {
		t.Fatal(err)
	}
	reg := func(r Register) func(*Slave) { return func(s *Slave) { s.Registers[0] = r } }
	for _, v := range []struct {
		want   string
		change func(*Slave)
	}{
		{"address: must be 1 to 247, or 0 for all slaves at once (got 248)", func(s *Slave) { s.Address = 248 }},
		{"every: must be 0 for address 0: all slaves at once cannot answer (got 1s)", func(s *Slave) { s.Address = 0 }},
		{"every: must be at least 10ms, or 0 for a slave that is only written (got 1ms)", func(s *Slave) { s.Every = time.Millisecond }},
		{"registers: is missing: what is to be read every 1s?", func(s *Slave) { s.Registers = nil }},
		{"timeout: must be above 0 and at most 1m0s (got -1s)", func(s *Slave) { s.Timeout = -time.Second }},
		{"retries: must be 0 to 10 (got 11)", func(s *Slave) { s.Retries = bit(11) }},
		{"max_registers: must be 1 to 125 (got 126)", func(s *Slave) { s.MaxRegisters = 126 }},
		{"max_bits: must be 1 to 2000 (got -1)", func(s *Slave) { s.MaxBits = -1 }},
		{"max_gap: must be 0 to 2000 (got -1)", func(s *Slave) { s.MaxGap = -1 }},
		{`registers[0].name: must have 1 to 128 bytes (got 0)`, reg(Register{Function: 3})},
		{`registers[1].name: "a" is that of registers[0], too`, func(s *Slave) { s.Registers = append(s.Registers, s.Registers[0]) }},
		{"registers[0].function: must be 1 (coils), 2 (discrete inputs), 3 (holding registers) or 4 (input registers) (got 6)", reg(Register{Name: "a", Function: 6})},
		{`registers[0].type: must be one of bool, int16, uint16, int32, uint32, int64, uint64, float32, float64, string (got "real")`, reg(Register{Name: "a", Function: 3, Type: "real"})},
		{`registers[0].type: must be "bool" for function 1 (got "int16")`, reg(Register{Name: "a", Function: 1, Type: "int16"})},
		{"registers[0].length: must be 1 to 250 bytes for a string (got 0)", reg(Register{Name: "a", Function: 3, Type: "string"})},
		{"registers[0].length: is for strings only", reg(Register{Name: "a", Function: 3, Length: 2})},
		{"registers[0].bit: is missing: which bit of the register, 0 to 15?", reg(Register{Name: "a", Function: 3, Type: "bool"})},
		{`registers[0].bit: is for type "bool" of functions 3 and 4 only`, reg(Register{Name: "a", Function: 1, Bit: bit(0)})},
		{"registers[0].bit: must be 0 to 15 (got 16)", reg(Register{Name: "a", Function: 3, Type: "bool", Bit: bit(16)})},
		{`registers[0].order: must be "big" or "little" (got "middle")`, reg(Register{Name: "a", Function: 3, Type: "int32", Order: "middle"})},
		{`registers[0].order: "little" is for types of 32 and 64 bits only`, reg(Register{Name: "a", Function: 3, Order: "little"})},
		{"registers[0].swap: is for functions 3 and 4 only", reg(Register{Name: "a", Function: 2, Swap: true})},
		{`registers[0].scale: not a decimal number such as 0.1, -5 or 1e-3 (got "1/10")`, reg(Register{Name: "a", Function: 3, Scale: "1/10"})},
		{"registers[0].scale: must not be zero", reg(Register{Name: "a", Function: 3, Scale: "0.0"})},
		{`registers[0].offset: is for numbers only, not for type "bool"`, reg(Register{Name: "a", Function: 1, Offset: "1"})},
		{"registers[0].address: must be 0 to 65532 (got 65533)", reg(Register{Name: "a", Function: 3, Address: 65533, Type: "int64"})},
		{"registers[0].address: must be 0 to 65535 (got -1)", reg(Register{Name: "a", Function: 3, Address: -1})},
		{"registers[0].type: takes 4 registers, and max_registers is 2", func(s *Slave) {
			s.MaxRegisters = 2
			s.Registers[0].Type = "int64"
		}},
	} {
		s := good
		s.Registers = slices.Clone(s.Registers)
		v.change(&s)
		err := s.Valid()
		if err == nil || err.Error() != v.want {
			t.Errorf("got  %v\nwant %s", err, v.want)
			continue
		}
		var f *FieldError
		if !errors.As(err, &f) {
			t.Errorf("%v is no FieldError", err)
		}
	}
	_, err := New(Options{Baud: 0, Slaves: []Slave{{Address: 300, Device: ""}, good}})
	for _, want := range []string{"line and emit must be given", "baud must be above 0 (got 0)", "slave[0]: address: must be 1", "device: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

func TestTOML(t *testing.T) {
	var got struct {
		Slave []Slave `toml:"slave"`
	}
	md, err := toml.Decode(`
[[slave]]
address = 1
device  = "meter-1"
every   = "10s"
timeout = "500ms"
retries = 0
max_gap = 4
registers = [
  { name = "voltage", function = 4, address = 0, type = "float32", order = "big", scale = "0.1", unit = "V" },
  { name = "alarm", function = 3, address = 9, type = "bool", bit = 3 },
]
`, &got)
	if err != nil {
		t.Fatal(err)
	}
	if u := md.Undecoded(); len(u) > 0 {
		t.Errorf("not known: %v", u)
	}
	want := []Slave{{Address: 1, Device: "meter-1", Every: 10 * time.Second, Timeout: 500 * time.Millisecond,
		Retries: bit(0), MaxGap: 4, Registers: []Register{
			{Name: "voltage", Function: 4, Type: "float32", Order: "big", Scale: "0.1", Unit: "V"},
			{Name: "alarm", Function: 3, Address: 9, Type: "bool", Bit: bit(3)},
		}}}
	if d := cmp.Diff(want, got.Slave); d != "" {
		t.Error(d)
	}
	if err := got.Slave[0].Valid(); err != nil {
		t.Error(err)
	}
}

// TestGroup: every register is in one block and whole, no block is above the
// limit, and none reads more unwanted addresses in a row than it may.
func TestGroup(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gap := rapid.IntRange(0, 10).Draw(t, "gap")
		words, bits := rapid.IntRange(4, 125).Draw(t, "words"), rapid.IntRange(1, 2000).Draw(t, "bits")
		limit := func(f Function) int {
			if f.bits() {
				return bits
			}
			return words
		}
		var registers []*register
		for range rapid.IntRange(0, 60).Draw(t, "registers") {
			r := &register{function: Function(rapid.IntRange(1, 4).Draw(t, "function")), size: 1,
				address: rapid.IntRange(0, 300).Draw(t, "address")}
			if !r.function.bits() {
				r.size = rapid.SampledFrom([]int{1, 2, 4}).Draw(t, "size")
			}
			registers = append(registers, r)
		}
		blocks := group(registers, gap, limit)
		covered(t, registers, blocks, gap, limit)
		for _, b := range blocks {
			parts := b.split()
			if parts == nil {
				continue
			}
			covered(t, b.registers, parts, 0, limit)
			for _, p := range parts {
				if p.gaps {
					t.Fatal("a part has gaps")
				}
			}
		}
	})
}

func covered(t *rapid.T, registers []*register, blocks []*block, gap int, limit func(Function) int) {
	seen := map[*register]int{}
	for _, b := range blocks {
		if n := b.end - b.start; n < 1 || n > limit(b.function) {
			t.Fatalf("a block of %d values, limit %d", n, limit(b.function))
		}
		if err := b.request(1).Valid(); err != nil {
			t.Fatal(err)
		}
		wanted := make([]bool, b.end-b.start)
		for _, r := range b.registers {
			seen[r]++
			if r.function != b.function || r.address < b.start || r.end() > b.end {
				t.Fatalf("register %+v is not within %+v", r, b)
			}
			for i := r.address; i < r.end(); i++ {
				wanted[i-b.start] = true
			}
		}
		row, gaps := 0, false
		for _, w := range wanted {
			row++
			if w {
				row = 0
			}
			gaps = gaps || row > 0
			if row > gap {
				t.Fatalf("%d unwanted addresses in a row, at most %d", row, gap)
			}
		}
		if gaps != b.gaps {
			t.Fatalf("gaps is %v", b.gaps)
		}
	}
	for _, r := range registers {
		if seen[r] != 1 {
			t.Fatalf("register %+v is in %d blocks", r, seen[r])
		}
	}
	if len(seen) != len(registers) {
		t.Fatalf("%d registers, want %d", len(seen), len(registers))
	}
}
