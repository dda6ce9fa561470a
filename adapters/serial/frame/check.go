package frame

import (
	"bytes"
	"fmt"
	"strings"
)

// Check is a checksum at the end of a frame. A nil Check is none.
type Check struct {
	name  string
	bytes int // of the sum
	sum   func([]byte) uint16
	low   bool // the low byte comes first
	hex   bool // written as upper-case hexadecimal digits
	nmea  bool // "*" in front of the digits, and "$" not counted
}

// The checks, with their names in the catalogue of parametrised CRC algorithms
// where they have one.
var checks = []Check{
	{name: "crc16-modbus", bytes: 2, low: true, sum: crcModbus},   // CRC-16/MODBUS, low byte first
	{name: "crc16-ccitt", bytes: 2, sum: crcCCITT},                // CRC-16/IBM-3740, also called CCITT-FALSE, high byte first
	{name: "crc8", bytes: 1, sum: crc8},                           // CRC-8/SMBUS
	{name: "xor", bytes: 1, sum: xor},                             // exclusive or of all bytes, also called LRC or BCC
	{name: "sum8", bytes: 1, sum: sum8},                           // sum of all bytes, modulo 256
	{name: "nmea", bytes: 1, sum: xorNMEA, hex: true, nmea: true}, // NMEA 0183: "*" and two digits
}

// hexSuffix asks for a check in hexadecimal digits.
const hexSuffix = "-hex"

// ParseCheck returns the check of a name: crc16-modbus, crc16-ccitt, crc8, xor
// or sum8, also with "-hex" behind it for one that is written as hexadecimal
// digits, or nmea. The empty name is no check.
func ParseCheck(name string) (*Check, error) {
	if name == "" {
		return nil, nil
	}
	for _, c := range checks {
		switch {
		case c.name == name:
			return &c, nil
		case !c.nmea && c.name+hexSuffix == name:
			c.name, c.hex = name, true
			return &c, nil
		}
	}
	return nil, fmt.Errorf("check must be one of %s (got %q)", strings.Join(CheckNames(), ", "), name)
}

// CheckNames are the names that ParseCheck knows.
func CheckNames() []string {
	var names []string
	for _, c := range checks {
		names = append(names, c.name)
	}
	for _, c := range checks {
		if !c.nmea {
			names = append(names, c.name+hexSuffix)
		}
	}
	return names
}

// String returns the check's name.
func (c *Check) String() string {
	if c == nil {
		return ""
	}
	return c.name
}

// Size is how many bytes the check takes at the end of a frame.
func (c *Check) Size() int {
	switch {
	case c == nil:
		return 0
	case c.nmea:
		return 3
	case c.hex:
		return 2 * c.bytes
	default:
		return c.bytes
	}
}

// Strip returns the frame without its check, and whether that was right. A
// frame of a check alone is not.
func (c *Check) Strip(frame []byte) (content []byte, ok bool) {
	if c == nil {
		return frame, true
	}
	n := len(frame) - c.Size()
	if n <= 0 {
		return nil, false
	}
	got := frame[n:]
	var want [8]byte
	if c.hex {
		// Devices write the digits in either case.
		return frame[:n], bytes.EqualFold(got, c.appendSum(want[:0], frame[:n]))
	}
	return frame[:n], bytes.Equal(got, c.appendSum(want[:0], frame[:n]))
}

// Append adds the check to a frame.
func (c *Check) Append(content []byte) []byte {
	if c == nil {
		return content
	}
	return c.appendSum(content, content)
}

func (c *Check) appendSum(to, content []byte) []byte {
	sum := c.sum(content)
	raw := [2]byte{byte(sum >> 8), byte(sum)}
	if c.low {
		raw = [2]byte{byte(sum), byte(sum >> 8)}
	}
	digits := raw[:]
	if c.bytes == 1 {
		digits = []byte{byte(sum)}
	}
	if !c.hex {
		return append(to, digits...)
	}
	if c.nmea {
		to = append(to, '*')
	}
	const hexDigits = "0123456789ABCDEF"
	for _, d := range digits {
		to = append(to, hexDigits[d>>4], hexDigits[d&0xF])
	}
	return to
}

// ModbusCRC is the check of a Modbus RTU frame (Modbus over Serial Line V1.02,
// section 6.2.2); its low byte is sent first.
func ModbusCRC(b []byte) uint16 { return crcModbus(b) }

func crcModbus(b []byte) uint16 {
	crc := uint16(0xFFFF)
	for _, v := range b {
		crc = crc>>8 ^ modbusTable[byte(crc)^v]
	}
	return crc
}

func crcCCITT(b []byte) uint16 {
	crc := uint16(0xFFFF)
	for _, v := range b {
		crc = crc<<8 ^ ccittTable[byte(crc>>8)^v]
	}
	return crc
}

func crc8(b []byte) uint16 {
	var crc byte
	for _, v := range b {
		crc = crc8Table[crc^v]
	}
	return uint16(crc)
}

func xor(b []byte) uint16 {
	var x byte
	for _, v := range b {
		x ^= v
	}
	return uint16(x)
}

func sum8(b []byte) uint16 {
	var s byte
	for _, v := range b {
		s += v
	}
	return uint16(s)
}

// xorNMEA leaves out the "$" or "!" that begins a sentence.
func xorNMEA(b []byte) uint16 {
	if len(b) > 0 && (b[0] == '$' || b[0] == '!') {
		b = b[1:]
	}
	return xor(b)
}

var (
	modbusTable = tabulate(func(v uint16) uint16 {
		for range 8 {
			v = v>>1 ^ (v&1)*0xA001
		}
		return v
	})
	ccittTable = tabulate(func(v uint16) uint16 {
		v <<= 8
		for range 8 {
			v = v<<1 ^ (v>>15)*0x1021
		}
		return v
	})
	crc8Table = func() (t [256]byte) {
		for i := range t {
			v := byte(i)
			for range 8 {
				v = v<<1 ^ (v>>7)*0x07
			}
			t[i] = v
		}
		return t
	}()
)

func tabulate(entry func(uint16) uint16) (t [256]uint16) {
	for i := range t {
		t[i] = entry(uint16(i))
	}
	return t
}
