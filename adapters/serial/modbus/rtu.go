package modbus

import (
	"encoding/binary"
	"fmt"

	"fieldbridge/adapters/serial/frame"
)

// Function is a Modbus function code.
type Function byte

// The functions (MAP section 6).
const (
	ReadCoils              Function = 1
	ReadDiscreteInputs     Function = 2
	ReadHoldingRegisters   Function = 3
	ReadInputRegisters     Function = 4
	WriteSingleCoil        Function = 5
	WriteSingleRegister    Function = 6
	WriteMultipleCoils     Function = 15
	WriteMultipleRegisters Function = 16
)

// exceptionBit is set in the function code of an answer that refuses.
const exceptionBit = 0x80

// Lengths of frames in bytes (MAP section 4.1, MSL section 2.5.1).
const (
	maxFrame       = 256
	exceptionFrame = 5 // slave, function, code, CRC
	writeAnswer    = 8 // slave, function, address, value or count, CRC
	readAround     = 5 // slave, function, byte count; CRC
)

// maxSlave is the highest address of a slave (MSL section 2.2).
const maxSlave = 247

// Broadcast is the address of all slaves: they obey and do not answer.
const Broadcast = 0

// limits are how many values one request may have.
var limits = map[Function]int{
	ReadCoils: 2000, ReadDiscreteInputs: 2000, ReadHoldingRegisters: 125, ReadInputRegisters: 125,
	WriteSingleCoil: 1, WriteSingleRegister: 1, WriteMultipleCoils: 1968, WriteMultipleRegisters: 123,
}

// reads reports whether f asks for values.
func (f Function) reads() bool { return f >= ReadCoils && f <= ReadInputRegisters }

// bits reports whether f is about coils or discrete inputs.
func (f Function) bits() bool {
	return f == ReadCoils || f == ReadDiscreteInputs || f == WriteSingleCoil || f == WriteMultipleCoils
}

// Request is what a master asks of a slave.
type Request struct {
	// Slave is 1 to 247, or Broadcast for a write.
	Slave    byte
	Function Function
	Address  uint16
	// Count is how many values a read asks for. Writes have as many as they
	// carry.
	Count uint16
	// Bits are written by functions 5 and 15, Words by 6 and 16.
	Bits  []bool
	Words []uint16
}

// Answer is what a slave answered to a read: Bits to functions 1 and 2, Words to
// 3 and 4, as many as were asked for.
type Answer struct {
	Bits  []bool
	Words []uint16
}

// count is how many values the request is about.
func (r *Request) count() int {
	switch {
	case r.Function.reads():
		return int(r.Count)
	case r.Function.bits():
		return len(r.Bits)
	default:
		return len(r.Words)
	}
}

// Valid says why the request cannot be sent, or nil.
func (r *Request) Valid() error {
	limit, known := limits[r.Function]
	n := r.count()
	switch {
	case !known:
		return fmt.Errorf("function must be 1 to 6, 15 or 16 (got %d)", r.Function)
	case r.Slave > maxSlave:
		return fmt.Errorf("slave must be 1 to %d (got %d)", maxSlave, r.Slave)
	case r.Slave == Broadcast && r.Function.reads():
		return fmt.Errorf("function %d cannot be broadcast: nobody answers", r.Function)
	case n < 1 || n > limit:
		return fmt.Errorf("function %d takes 1 to %d values (got %d)", r.Function, limit, n)
	case int(r.Address)+n > 1<<16:
		return fmt.Errorf("address %d with %d values reaches beyond 65535", r.Address, n)
	case r.Function.bits() && len(r.Words) > 0, !r.Function.bits() && len(r.Bits) > 0:
		return fmt.Errorf("function %d got values of the wrong kind", r.Function)
	}
	return nil
}

// Encode returns the request's frame, with its CRC. The error is Valid's.
func (r *Request) Encode() ([]byte, error) {
	if err := r.Valid(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, maxFrame)
	b = append(b, r.Slave, byte(r.Function))
	b = binary.BigEndian.AppendUint16(b, r.Address)
	switch r.Function {
	case WriteSingleCoil:
		b = binary.BigEndian.AppendUint16(b, coil(r.Bits[0]))
	case WriteSingleRegister:
		b = binary.BigEndian.AppendUint16(b, r.Words[0])
	case WriteMultipleCoils:
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.Bits)))
		packed := packBits(r.Bits)
		b = append(append(b, byte(len(packed))), packed...)
	case WriteMultipleRegisters:
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.Words)))
		b = append(b, byte(2*len(r.Words)))
		for _, w := range r.Words {
			b = binary.BigEndian.AppendUint16(b, w)
		}
	default:
		b = binary.BigEndian.AppendUint16(b, r.Count)
	}
	return appendCRC(b), nil
}

// coil is how function 5 writes a bit (MAP section 6.5).
func coil(on bool) uint16 {
	if on {
		return 0xFF00
	}
	return 0
}

// packBits puts the first bit into the lowest one of the first byte.
func packBits(bits []bool) []byte {
	out := make([]byte, (len(bits)+7)/8)
	for i, on := range bits {
		if on {
			out[i/8] |= 1 << (i % 8)
		}
	}
	return out
}

func appendCRC(b []byte) []byte { return binary.LittleEndian.AppendUint16(b, frame.ModbusCRC(b)) }

// checked reports whether the CRC at the end of b fits.
func checked(b []byte) bool {
	n := len(b) - 2
	return n >= 2 && binary.LittleEndian.Uint16(b[n:]) == frame.ModbusCRC(b[:n])
}

// AnswerLength is how many bytes the answer has, exceptions apart: 0 for a
// broadcast.
func (r *Request) AnswerLength() int {
	switch {
	case r.Slave == Broadcast:
		return 0
	case r.Function.reads():
		return readAround + r.bytes()
	default:
		return writeAnswer
	}
}

// bytes is the byte count in the answer to a read.
func (r *Request) bytes() int {
	if r.Function.bits() {
		return (int(r.Count) + 7) / 8
	}
	return 2 * int(r.Count)
}

// maxGarbage is how many bytes are looked through for an answer: another whole
// frame or noise before it, and the answer.
const maxGarbage = 2 * maxFrame

// Done reports whether b, all bytes that came since the request, holds the answer
// whole, or will not hold one any more. Noise and other slaves' late answers
// before it are passed over.
func (r *Request) Done(b []byte) bool {
	f := r.find(b, false)
	return f.frame != nil || (f.damaged && !f.pending) || len(b) >= maxGarbage
}

// Parse reads the answer out of b, the bytes that came until Done said so or the
// time was up. The error is a *RequestError.
func (r *Request) Parse(b []byte) (Answer, error) {
	if r.Slave == Broadcast {
		return Answer{}, nil
	}
	f := r.find(b, true)
	if f.frame == nil {
		return Answer{}, r.failed(r.classify(b, f), 0, nil)
	}
	if f.frame[1]&exceptionBit != 0 {
		e := Exception(f.frame[2])
		return Answer{}, r.failed(e.Outcome(), e, nil)
	}
	if !r.Function.reads() {
		return Answer{}, nil
	}
	data := f.frame[3 : 3+r.bytes()]
	var a Answer
	if r.Function.bits() {
		a.Bits = make([]bool, r.Count)
		for i := range a.Bits {
			a.Bits[i] = data[i/8]>>(i%8)&1 == 1
		}
		return a, nil
	}
	a.Words = make([]uint16, r.Count)
	for i := range a.Words {
		a.Words[i] = binary.BigEndian.Uint16(data[2*i:])
	}
	return a, nil
}

func (r *Request) failed(o Outcome, e Exception, err error) error {
	return &RequestError{Outcome: o, Exception: e, Slave: r.Slave, Function: r.Function,
		Address: r.Address, Count: uint16(r.count()), Err: err}
}

// found is what is in the bytes that came.
type found struct {
	frame   []byte // the answer, or nil
	damaged bool   // a whole answer stands at the beginning, with a wrong CRC
	echo    bool   // an answer to another write was there
	pending bool   // an answer has begun and is not whole
}

// find looks for the answer. Until the end of b is final, nothing is looked for
// inside an answer that has begun: its values may look like anything.
func (r *Request) find(b []byte, final bool) (f found) {
	for i := 0; i < len(b); i++ {
		n := r.lengthAt(b[i:])
		switch {
		case n == 0:
		case len(b)-i < n:
			f.pending = true
			if !final {
				return f
			}
		case !checked(b[i : i+n]):
			f.damaged = f.damaged || i == 0
		case !r.mine(b[i : i+n]):
			f.echo = true
			i += n - 1
		default:
			f.frame = b[i : i+n]
			return f
		}
	}
	return f
}

// lengthAt is the length of the answer that b, which is not empty, begins with,
// or 0 if it begins with none.
func (r *Request) lengthAt(b []byte) int {
	switch {
	case b[0] != r.Slave || r.Slave == Broadcast:
		return 0
	case len(b) == 1:
		return exceptionFrame
	case b[1] == byte(r.Function)|exceptionBit:
		return exceptionFrame
	case b[1] != byte(r.Function):
		return 0
	case r.Function.reads() && len(b) > 2 && int(b[2]) != r.bytes():
		return 0
	default:
		return r.AnswerLength()
	}
}

// mine reports whether a whole frame answers this request: a write's answer
// repeats address, and value or count.
func (r *Request) mine(b []byte) bool {
	if r.Function.reads() || b[1]&exceptionBit != 0 {
		return true
	}
	value := uint16(r.count())
	switch r.Function {
	case WriteSingleCoil:
		value = coil(r.Bits[0])
	case WriteSingleRegister:
		value = r.Words[0]
	}
	return binary.BigEndian.Uint16(b[2:]) == r.Address && binary.BigEndian.Uint16(b[4:]) == value
}

// classify says what is wrong with bytes in which there is no answer.
func (r *Request) classify(b []byte, f found) Outcome {
	switch {
	case len(b) == 0:
		return Timeout
	case f.echo:
		return WrongEcho
	case checked(b) && b[0] != r.Slave:
		return WrongSlave
	case checked(b) && b[1] != byte(r.Function):
		return WrongFunction
	case checked(b):
		return WrongLength
	case f.damaged:
		return BadCheck
	case f.pending && r.lengthAt(b) > 0:
		return Incomplete
	default:
		return Garbage
	}
}
