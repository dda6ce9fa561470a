package config

import (
	"slices"
	"time"

	"fieldbridge/bridge"
)

// Serial is one serial port.
type Serial struct {
	Pos  Position
	Name string
	// Port is the absolute path of the port, which need not exist now, or
	// "replay:" and the absolute path of a recording. It is "" if USB is set.
	Port string
	USB  *USB
	Baud int
	// Mode is data bits, parity (N, E, O, M or S) and stop bits: "8N1".
	Mode string
	// DTR and RTS are what the lines are set to; nil leaves them on.
	DTR, RTS *bool

	// Framing is one of framings. What follows up to Check belongs to one or
	// some of them and is zero otherwise.
	Framing     string
	Delimiter   []byte // line
	Length      int    // fixed; bytes
	Start, End  []byte // delimited
	LengthField LengthField
	// Gap is the silence that ends a frame, or gives it up; 0 is the default of
	// the framing.
	Gap time.Duration
	// MaxFrame is the longest frame in bytes.
	MaxFrame int64
	// Check is the name of the check at the end of each frame, or "".
	Check         string
	CheckAfterEnd bool // delimited

	// Echo: what is written comes back and is taken out.
	Echo bool
	// Turnaround is the silence before something is written; 0 is that of 3.5
	// characters. IdleTimeout opens a silent port again; 0 never does.
	Turnaround, IdleTimeout, WriteTimeout time.Duration

	// Answer is about what a device says to a downlink.
	Answer SerialAnswer

	// Decode is one of decodes. What follows up to OnError belongs to some of
	// them and is zero otherwise.
	Decode                          string
	Columns                         []string
	Separator, Assign, Pattern      string
	Types                           map[string]string
	Fields                          []Field
	Stamp, DeviceFrom, SubtopicFrom string
	DropFrom                        bool
	OnError                         string

	// Polls are what is asked; Slaves what is read with DecodeModbus.
	Polls  []Poll
	Slaves []Slave

	// Device may be "" with DeviceFrom, or if all Slaves have their own.
	Device      bridge.DeviceID
	Subtopic    bridge.Subtopic
	ContentType string
}

// Bare is a copy without positions: equal wherever in a file it stands.
func (s Serial) Bare() Serial {
	s.Pos = Position{}
	s.Fields, s.Polls, s.Slaves = slices.Clone(s.Fields), slices.Clone(s.Polls), slices.Clone(s.Slaves)
	for i := range s.Fields {
		s.Fields[i].Pos = Position{}
	}
	for i := range s.Polls {
		s.Polls[i].Pos = Position{}
	}
	for i := range s.Slaves {
		s.Slaves[i].Pos = Position{}
	}
	return s
}

// USB says which adapter a port is. Empty fields are not compared.
type USB struct {
	// VID and PID have four hexadecimal digits, Interface two.
	VID, PID, Serial, Interface string
}

// LengthField is where a frame's length stands (framing "length").
type LengthField struct {
	Offset, Size int // bytes
	LittleEndian bool
	Counts       string // "rest", "payload" or "frame"
}

// SerialAnswer is what a port takes for the answer to a downlink.
type SerialAnswer struct {
	Timeout time.Duration
	// Expect is a regular expression that the frame must match, or "" for the
	// next frame. With it a downlink without an answer is not delivered.
	Expect string
}

// Field is a value in a binary frame (decode "fields").
type Field struct {
	Pos            Position
	Name           string
	Offset, Length int // bytes
	Type           string
	LittleEndian   bool
	Scale, Add     string // decimal numbers, or ""
	Bit            *int
	Bits           int
}

// Poll is a question that a port asks.
type Poll struct {
	Pos            Position
	Send           []byte
	Raw            bool // sent as it is, without the framing
	Every, Timeout time.Duration
	Retries        int
	Expect         string // a regular expression, or ""
}

// Slave is a Modbus slave, or a part of one.
type Slave struct {
	Pos                           Position
	Address                       int
	Device                        bridge.DeviceID
	Subtopic                      bridge.Subtopic
	Every, Timeout                time.Duration // Every: 0 is never
	Retries                       int
	MaxRegisters, MaxBits, MaxGap int
	WriteMultiple                 bool
	Registers                     []Register
}

// Register is one value of a Slave.
type Register struct {
	Name              string
	Function, Address int
	Type              string
	Length            int // bytes
	Bit               *int
	Order             string
	Swap              bool
	Scale, Offset     string // decimal numbers, or ""
	Unit              string
}

// The ways to cut the bytes of a serial port into frames (key framing).
const (
	FramingLine      = "line"
	FramingFixed     = "fixed"
	FramingDelimited = "delimited"
	FramingLength    = "length"
	FramingGap       = "gap"
	FramingSLIP      = "slip"
	FramingCOBS      = "cobs"
)

// The ways to decode a frame from a serial port (key decode).
const (
	DecodeRaw      = "raw"  // the bytes as they are
	DecodeText     = "text" // must be UTF-8
	DecodeJSON     = "json" // must be one JSON value
	DecodeCSV      = "csv"
	DecodeKeyValue = "keyvalue"
	DecodeRegex    = "regex"
	DecodeFields   = "fields"
	DecodeNMEA     = "nmea"
	DecodeModbus   = "modbus" // a master that asks slaves
)

var (
	framings = []string{FramingLine, FramingFixed, FramingDelimited, FramingLength, FramingGap, FramingSLIP, FramingCOBS}
	decodes  = []string{DecodeRaw, DecodeText, DecodeJSON, DecodeCSV, DecodeKeyValue, DecodeRegex, DecodeFields, DecodeNMEA, DecodeModbus}
	checks   = []string{
		"", "crc16-modbus", "crc16-ccitt", "crc8", "xor", "sum8", "nmea",
		"crc16-modbus-hex", "crc16-ccitt-hex", "crc8-hex", "xor-hex", "sum8-hex",
	}
	fieldTypes = []string{
		"u8", "i8", "u16", "i16", "u24", "i24", "u32", "i32", "u64", "i64", "f32", "f64", "bcd", "hex", "ascii", "decimal",
	}
	registerTypes = []string{
		"", "bool", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "string",
	}
)
