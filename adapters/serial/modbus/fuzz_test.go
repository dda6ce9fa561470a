package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge"
)

// FuzzAnswer gives a request any bytes as its answer. What is taken must be there
// as a whole frame with a good CRC, of the slave and to the function; and a good
// answer after the time-out's silence is always taken.
func FuzzAnswer(f *testing.F) {
	good := sealed(17, 3, 6, 0xAE, 0x41, 0x56, 0x52, 0x43, 0x40)
	f.Add(byte(3), uint16(3), good)
	f.Add(byte(3), uint16(3), slices.Concat([]byte{0, 17, 3}, good))
	f.Add(byte(3), uint16(3), good[:7])
	f.Add(byte(1), uint16(37), sealed(17, 1, 5, 0xCD, 0x6B, 0xB2, 0x0E, 0x1B))
	f.Add(byte(6), uint16(3), sealed(17, 6, 0, 1, 0, 3))
	f.Add(byte(16), uint16(2), sealed(17, 16, 0, 1, 0, 2))
	f.Add(byte(5), uint16(1), sealed(17, 0x85, 11))
	f.Add(byte(4), uint16(1), sealed(18, 4, 2, 0, 1))
	f.Fuzz(func(t *testing.T, function byte, n uint16, answer []byte) {
		r := &Request{Slave: 17, Function: Function(function), Address: 1}
		switch {
		case r.Function.reads():
			r.Count = n
		case r.Function == WriteSingleCoil || r.Function == WriteMultipleCoils:
			r.Bits = make([]bool, min(n, 2000))
		default:
			r.Words = make([]uint16, min(n, 130))
		}
		if wire, err := r.Encode(); err != nil {
			return
		} else if got := binary.LittleEndian.Uint16(wire[len(wire)-2:]); got != crc16(wire[:len(wire)-2]) {
			t.Fatalf("the request's CRC is wrong: % x", wire)
		}
		came := len(answer)
		for i := range answer {
			if r.Done(answer[:i]) {
				came = i
				break
			}
		}
		a, err := r.Parse(answer[:came])
		var failed *RequestError
		switch {
		case err == nil || errors.As(err, &failed) && failed.Exception != 0:
			head := []byte{17, function}
			if err != nil {
				head = []byte{17, function | 0x80, byte(failed.Exception)}
			}
			if !holds(answer[:came], head) {
				t.Fatalf("% x was taken for an answer to function %d (%v)", answer[:came], function, err)
			}
			if err == nil && r.Function.reads() && len(a.Bits)+len(a.Words) != int(n) {
				t.Fatalf("%d values, want %d", len(a.Bits)+len(a.Words), n)
			}
		case failed == nil || !slices.Contains(Outcomes(), failed.Outcome) || failed.Outcome == OK || failed.Error() == "":
			t.Fatalf("the error is %v", err)
		}
		if refusal := sealed(17, function|0x80, 6); !r.Done(refusal) {
			t.Fatal("a good exception is not taken")
		}
	})
}

// holds reports whether a frame that begins with head and has a good CRC is in b.
func holds(b, head []byte) bool {
	for i := range b {
		if !bytes.HasPrefix(b[i:], head) {
			continue
		}
		for j := i + 5; j <= len(b); j++ {
			if binary.LittleEndian.Uint16(b[j-2:j]) == crc16(b[i:j-2]) {
				return true
			}
		}
	}
	return false
}

// noLine is a Line that nobody may use.
type noLine struct{ t testing.TB }

func (n noLine) Exchange(context.Context, Exchange) ([]byte, error) {
	n.t.Error("something was sent")
	return nil, errWireGone
}

// FuzzDownlink plans any payload. What is accepted becomes valid requests, and
// setting what the response says gives the same requests again; what is refused
// says why.
func FuzzDownlink(f *testing.F) {
	for _, s := range []string{
		`{"set":{"setpoint":-21.5,"fan":true}}`, `{"set":{"limit":1e-3,"total":18446744073709551615,"label":"a<b"}}`,
		`{"function":6,"address":1,"value":3}`, `{"function":16,"address":1,"values":[3,-4]}`,
		`{"function":15,"address":1,"values":[true,0]}`, `{"function":3,"address":1,"count":2,"slave":1}`,
		`{"set":{"setpoint":1e999999999}}`, `{"set":{"fan":true,"fan":true}}`, `{"set":[1]}`, `[]`, `{`, "\xFF", `{"set":{"depth":10}} 1`,
	} {
		f.Add([]byte(s))
	}
	m, err := New(Options{Line: noLine{f}, Baud: 9600, Slaves: plant(), Emit: func(context.Context, Poll) {}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, device := range []bridge.DeviceID{"oven", "pumps", "all"} {
			steps, res, err := m.plan(device, payload)
			if err != nil {
				if err.Error() == "" || len(err.Error()) > 1000 {
					t.Fatalf("the error has %d bytes: %.200s", len(err.Error()), err)
				}
				continue
			}
			if len(steps) == 0 {
				t.Fatal("accepted, and nothing to do")
			}
			for _, s := range steps {
				if err := s.request.Valid(); err != nil {
					t.Fatal(err)
				}
			}
			response := appendJSON(nil, res)
			if !json.Valid(response) {
				t.Fatalf("the response is not JSON: %s", response)
			}
			if res.Set == nil {
				continue
			}
			repeat, _ := json.Marshal(map[string]any{"set": res.Set})
			if res.Slave != nil {
				repeat, _ = json.Marshal(map[string]any{"set": res.Set, "slave": res.Slave})
			}
			again, _, err := m.plan(device, repeat)
			if err != nil {
				t.Fatalf("%s became %s, which is refused: %v", payload, repeat, err)
			}
			for i, s := range steps {
				if d := cmp.Diff(s.request, again[i].request); d != "" && !negativeZero(s.request) && !spaced(s.request) {
					t.Fatalf("%s became %s, which gives another request:\n%s", payload, repeat, d)
				}
			}
		}
	})
}

// negativeZero: a float that was rounded to zero from below is read back as 0.
func negativeZero(r *Request) bool { return slices.Equal(r.Words, []uint16{0, 0x8000}) }

// spaced: strings are read back without the spaces at their end.
func spaced(r *Request) bool { return r.Address == 30 }
