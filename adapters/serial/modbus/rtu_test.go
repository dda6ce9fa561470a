package modbus

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVectors has frames whose PDUs are the examples of MAP section 6 or of the
// widely published RTU tutorials, with the CRCs printed there.
func TestVectors(t *testing.T) {
	for _, v := range []struct {
		name            string
		request         Request
		wire, answer    string
		bits            string
		words           []uint16
		exceptionAnswer string
		exception       Exception
	}{
		{"read coils", Request{Slave: 17, Function: 1, Address: 0x13, Count: 0x25},
			"11 01 0013 0025 0E84", "11 01 05 CD6BB20E1B 45E6",
			"1011001111010110010011010111000011011", nil, "", 0},
		{"read discrete inputs", Request{Slave: 17, Function: 2, Address: 0xC4, Count: 0x16},
			"11 02 00C4 0016 BAA9", "11 02 03 ACDB35 2018",
			"0011010111011011101011", nil, "", 0},
		{"read holding registers", Request{Slave: 17, Function: 3, Address: 0x6B, Count: 3},
			"11 03 006B 0003 7687", "11 03 06 AE4156524340 49AD",
			"", []uint16{0xAE41, 0x5652, 0x4340}, "", 0},
		{"read input registers", Request{Slave: 17, Function: 4, Address: 8, Count: 1},
			"11 04 0008 0001 B298", "11 04 02 000A F8F4", "", []uint16{10}, "", 0},
		{"write single coil", Request{Slave: 17, Function: 5, Address: 0xAC, Bits: []bool{true}},
			"11 05 00AC FF00 4E8B", "11 05 00AC FF00 4E8B", "", nil, "", 0},
		{"write single register", Request{Slave: 17, Function: 6, Address: 1, Words: []uint16{3}},
			"11 06 0001 0003 9A9B", "11 06 0001 0003 9A9B", "", nil, "", 0},
		{"write multiple coils", Request{Slave: 17, Function: 15, Address: 0x13,
			Bits: []bool{true, false, true, true, false, false, true, true, true, false}},
			"11 0F 0013 000A 02 CD01 BF0B", "11 0F 0013 000A 2699", "", nil, "", 0},
		{"write multiple registers", Request{Slave: 17, Function: 16, Address: 1, Words: []uint16{0x000A, 0x0102}},
			"11 10 0001 0002 04 000A 0102 C6F0", "11 10 0001 0002 1298", "", nil, "", 0},
		{"exception", Request{Slave: 10, Function: 1, Address: 0x4A1, Count: 1},
			"0A 01 04A1 0001 AC63", "", "", nil, "0A 81 02 B053", IllegalDataAddress},
	} {
		t.Run(v.name, func(t *testing.T) {
			wire, err := v.request.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if want := unhex(t, v.wire); !bytes.Equal(wire, want) {
				t.Errorf("request is % x, want % x", wire, want)
			}
			if v.answer != "" {
				a := dribble(t, &v.request, unhex(t, v.answer))
				if err := a.err; err != nil {
					t.Fatal(err)
				}
				got := ""
				for _, on := range a.Bits {
					got += map[bool]string{true: "1", false: "0"}[on]
				}
				if got != v.bits || !slices.Equal(a.Words, v.words) {
					t.Errorf("answer is %q %x, want %q %x", got, a.Words, v.bits, v.words)
				}
			}
			if v.exceptionAnswer != "" {
				a := dribble(t, &v.request, unhex(t, v.exceptionAnswer))
				var failed *RequestError
				if !errors.As(a.err, &failed) || failed.Exception != v.exception || failed.Outcome != v.exception.Outcome() {
					t.Errorf("got %v, want %v", a.err, v.exception)
				}
			}
		})
	}
}

type judged struct {
	Answer
	err error
}

// dribble gives an answer byte by byte: it is done with the last one and not
// before.
func dribble(t testing.TB, r *Request, b []byte) judged {
	t.Helper()
	for i := range b {
		if r.Done(b[:i]) {
			t.Fatalf("done after %d of %d bytes", i, len(b))
		}
	}
	if !r.Done(b) {
		t.Fatalf("not done after all %d bytes", len(b))
	}
	a, err := r.Parse(b)
	return judged{a, err}
}

func TestExceptionNames(t *testing.T) {
	// MAP section 7.
	for code, want := range map[Exception]Outcome{
		1: "exception_illegal_function", 2: "exception_illegal_data_address", 3: "exception_illegal_data_value",
		4: "exception_server_device_failure", 5: "exception_acknowledge", 6: "exception_server_device_busy",
		8: "exception_memory_parity_error", 0x0A: "exception_gateway_path_unavailable",
		0x0B: "exception_gateway_target_failed_to_respond", 0x55: "exception_unknown",
	} {
		if got := code.Outcome(); got != want {
			t.Errorf("exception %02X: outcome %q, want %q", byte(code), got, want)
		}
	}
	if got := GatewayTarget.String(); got != "gateway target device failed to respond (exception 0B)" {
		t.Errorf("name is %q", got)
	}
	all := map[Outcome]bool{}
	for _, o := range Outcomes() {
		all[o] = true
	}
	for code := range 256 {
		if !all[Exception(code).Outcome()] {
			t.Errorf("the outcome of exception %02X is not in Outcomes", code)
		}
	}
}

func TestOutcomes(t *testing.T) {
	read := Request{Slave: 1, Function: 3, Address: 0, Count: 2}
	write := Request{Slave: 1, Function: 6, Address: 5, Words: []uint16{7}}
	good := sealed(1, 3, 4, 0, 1, 0, 2)
	bad := slices.Clone(good)
	bad[4] ^= 1
	for _, v := range []struct {
		name   string
		r      Request
		answer []byte
		done   bool // before the time-out
		want   Outcome
	}{
		{"nothing", read, nil, false, Timeout},
		{"good", read, good, true, OK},
		{"one byte", read, good[:1], false, Incomplete},
		{"all but one", read, good[:8], false, Incomplete},
		{"damaged", read, bad, true, BadCheck},
		{"noise in front", read, slices.Concat([]byte{0, 0xFF, 1, 1, 3, 9}, good), true, OK},
		{"damaged and good", read, slices.Concat(bad, good), true, OK},
		{"late of another slave, and good", read, slices.Concat(sealed(2, 3, 4, 0, 9, 0, 9), good), true, OK},
		{"late of another length, and good", read, slices.Concat(sealed(1, 3, 2, 0, 9), good), true, OK},
		{"another slave", read, sealed(2, 3, 4, 0, 1, 0, 2), false, WrongSlave},
		{"another function", read, sealed(1, 4, 4, 0, 1, 0, 2), false, WrongFunction},
		{"too short", read, sealed(1, 3, 2, 0, 1), false, WrongLength},
		{"too long", read, sealed(1, 3, 6, 0, 1, 0, 2, 0, 3), false, WrongLength},
		{"noise", read, []byte{0xFF, 0, 0xFF, 0, 7}, false, Garbage},
		{"endless noise", read, bytes.Repeat([]byte{0x55}, 600), true, Garbage},
		{"exception", read, sealed(1, 0x83, 6), true, "exception_server_device_busy"},
		{"exception to another function", read, sealed(1, 0x84, 6), false, WrongFunction},
		{"write", write, sealed(1, 6, 0, 5, 0, 7), true, OK},
		{"another address", write, sealed(1, 6, 0, 6, 0, 7), false, WrongEcho},
		{"another value", write, sealed(1, 6, 0, 5, 0, 8), false, WrongEcho},
		{"another value, and good", write, slices.Concat(sealed(1, 6, 0, 5, 0, 8), sealed(1, 6, 0, 5, 0, 7)), true, OK},
		{"write, exception", write, sealed(1, 0x86, 3), true, "exception_illegal_data_value"},
	} {
		t.Run(v.name, func(t *testing.T) {
			if got := v.r.Done(v.answer); got != v.done {
				t.Errorf("done is %v", got)
			}
			_, err := v.r.Parse(v.answer)
			got := OK
			var failed *RequestError
			if errors.As(err, &failed) {
				got = failed.Outcome
				if failed.Error() == "" || failed.Slave != 1 {
					t.Errorf("error is %q", failed)
				}
			}
			if got != v.want {
				t.Errorf("outcome is %q, want %q", got, v.want)
			}
			if !slices.Contains(Outcomes(), got) {
				t.Errorf("%q is not in Outcomes", got)
			}
		})
	}
}

func TestBroadcast(t *testing.T) {
	r := Request{Slave: Broadcast, Function: 6, Address: 1, Words: []uint16{3}}
	wire, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(sealed(0, 6, 0, 1, 0, 3), wire); d != "" {
		t.Error(d)
	}
	if n := r.AnswerLength(); n != 0 {
		t.Errorf("an answer of %d bytes is expected", n)
	}
	read := Request{Slave: Broadcast, Function: 3, Count: 1}
	if _, err := read.Encode(); err == nil {
		t.Error("a read was broadcast")
	}
}

func TestRequestLimits(t *testing.T) {
	for _, v := range []struct {
		r    Request
		good bool
	}{
		{Request{Slave: 1, Function: 1, Count: 2000}, true},
		{Request{Slave: 1, Function: 2, Count: 2001}, false},
		{Request{Slave: 1, Function: 3, Count: 125}, true},
		{Request{Slave: 1, Function: 4, Count: 126}, false},
		{Request{Slave: 1, Function: 4, Count: 0}, false},
		{Request{Slave: 248, Function: 4, Count: 1}, false},
		{Request{Slave: 1, Function: 7, Count: 1}, false},
		{Request{Slave: 1, Function: 3, Address: 65535, Count: 1}, true},
		{Request{Slave: 1, Function: 3, Address: 65535, Count: 2}, false},
		{Request{Slave: 1, Function: 15, Bits: make([]bool, 1968)}, true},
		{Request{Slave: 1, Function: 15, Bits: make([]bool, 1969)}, false},
		{Request{Slave: 1, Function: 16, Words: make([]uint16, 123)}, true},
		{Request{Slave: 1, Function: 16, Words: make([]uint16, 124)}, false},
		{Request{Slave: 1, Function: 5, Bits: make([]bool, 2)}, false},
		{Request{Slave: 1, Function: 6, Bits: make([]bool, 1), Words: make([]uint16, 1)}, false},
	} {
		b, err := v.r.Encode()
		if (err == nil) != v.good {
			t.Errorf("function %d, address %d, %d values: %v", v.r.Function, v.r.Address, v.r.count(), err)
		}
		if len(b) > maxFrame {
			t.Errorf("a frame of %d bytes", len(b))
		}
	}
}

func TestSilence(t *testing.T) {
	for baud, want := range map[int]time.Duration{
		1200: 32083333, 9600: 4010416, 19200: 2005208, 19201: 1750 * time.Microsecond, 115200: 1750 * time.Microsecond,
	} {
		if got := Silence(baud); got != want {
			t.Errorf("at %d baud %s, want %s", baud, got, want)
		}
	}
}

// TestAnswersBehindNoise: whatever stands before an answer, if it does not look
// like the beginning of one, the answer is found with its last byte.
func TestAnswersBehindNoise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Request{Slave: 9, Function: rapid.SampledFrom([]Function{1, 2, 3, 4}).Draw(t, "function")}
		limit := min(limits[r.Function], 200)
		r.Count = uint16(rapid.IntRange(1, limit).Draw(t, "count"))
		data := rapid.SliceOfN(rapid.Byte(), r.bytes(), r.bytes()).Draw(t, "data")
		answer := sealed(append([]byte{9, byte(r.Function), byte(r.bytes())}, data...)...)
		noise := rapid.SliceOfN(rapid.Byte().Filter(func(b byte) bool { return b != 9 }), 0, 200).Draw(t, "noise")
		all := slices.Concat(noise, answer)
		for i := range all {
			if r.Done(all[:i]) {
				t.Fatalf("done after %d of %d bytes", i, len(all))
			}
		}
		if !r.Done(all) {
			t.Fatal("not done")
		}
		a, err := r.Parse(all)
		if err != nil {
			t.Fatal(err)
		}
		var back []byte
		if r.Function.bits() {
			if len(a.Bits) != int(r.Count) {
				t.Fatalf("%d bits, want %d", len(a.Bits), r.Count)
			}
			for i, on := range a.Bits {
				if on != (data[i/8]>>(i%8)&1 == 1) {
					t.Fatalf("bit %d is %v", i, on)
				}
			}
			return
		}
		for _, w := range a.Words {
			back = append(back, byte(w>>8), byte(w))
		}
		if !bytes.Equal(back, data) {
			t.Fatalf("got % x, want % x", back, data)
		}
	})
}
