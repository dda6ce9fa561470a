package config

import "time"

type rawSerial struct {
	In            place
	Name          string            `toml:"name"`
	Port          string            `toml:"port"`
	USB           rawUSB            `toml:"usb"`
	Baud          int64             `toml:"baud"`
	Mode          string            `toml:"mode"`
	DTR           *bool             `toml:"dtr"`
	RTS           *bool             `toml:"rts"`
	Framing       string            `toml:"framing"`
	Delimiter     string            `toml:"delimiter"`
	Length        int64             `toml:"length"`
	Start         string            `toml:"start"`
	End           string            `toml:"end"`
	LengthField   rawLengthField    `toml:"length_field"`
	Gap           time.Duration     `toml:"gap"`
	MaxFrame      Size              `toml:"max_frame"`
	Check         string            `toml:"check"`
	CheckAfterEnd bool              `toml:"check_after_end"`
	Echo          bool              `toml:"echo"`
	Turnaround    time.Duration     `toml:"turnaround"`
	IdleTimeout   time.Duration     `toml:"idle_timeout"`
	WriteTimeout  time.Duration     `toml:"write_timeout"`
	Answer        rawAnswer         `toml:"answer"`
	Decode        string            `toml:"decode"`
	Columns       []string          `toml:"columns"`
	Separator     string            `toml:"separator"`
	Assign        string            `toml:"assign"`
	Pattern       string            `toml:"pattern"`
	Types         map[string]string `toml:"types"`
	Fields        []rawField        `toml:"fields"`
	Stamp         string            `toml:"stamp"`
	DeviceFrom    string            `toml:"device_from"`
	SubtopicFrom  string            `toml:"subtopic_from"`
	DropFrom      bool              `toml:"drop_from"`
	OnError       string            `toml:"on_error"`
	Poll          []rawPoll         `toml:"poll"`
	Slaves        []rawSlave        `toml:"slave"`
	Device        string            `toml:"device"`
	Subtopic      string            `toml:"subtopic"`
	ContentType   string            `toml:"content_type"`
}

type rawUSB struct {
	In        place
	VID       string `toml:"vid"`
	PID       string `toml:"pid"`
	Serial    string `toml:"serial"`
	Interface string `toml:"interface"`
}

type rawLengthField struct {
	In     place
	Offset int64  `toml:"offset"`
	Size   int64  `toml:"size"`
	Endian string `toml:"endian"`
	Counts string `toml:"counts"`
}

type rawAnswer struct {
	In      place
	Timeout time.Duration `toml:"timeout"`
	Expect  string        `toml:"expect"`
}

type rawField struct {
	In     place
	Name   string `toml:"name"`
	Offset int64  `toml:"offset"`
	Type   string `toml:"type"`
	Length int64  `toml:"length"`
	Endian string `toml:"endian"`
	Scale  string `toml:"scale"`
	Add    string `toml:"add"`
	Bit    *int64 `toml:"bit"`
	Bits   int64  `toml:"bits"`
}

type rawPoll struct {
	In      place
	Send    string        `toml:"send"`
	Raw     bool          `toml:"raw"`
	Every   time.Duration `toml:"every"`
	Timeout time.Duration `toml:"timeout"`
	Retries int64         `toml:"retries"`
	Expect  string        `toml:"expect"`
}

type rawSlave struct {
	In            place
	Address       int64         `toml:"address"`
	Device        string        `toml:"device"`
	Subtopic      string        `toml:"subtopic"`
	Every         time.Duration `toml:"every"`
	Timeout       time.Duration `toml:"timeout"`
	Retries       int64         `toml:"retries"`
	MaxRegisters  int64         `toml:"max_registers"`
	MaxBits       int64         `toml:"max_bits"`
	MaxGap        int64         `toml:"max_gap"`
	WriteMultiple bool          `toml:"write_multiple"`
	Registers     []rawRegister `toml:"registers"`
}

type rawRegister struct {
	In       place
	Name     string `toml:"name"`
	Function int64  `toml:"function"`
	Address  int64  `toml:"address"`
	Type     string `toml:"type"`
	Length   int64  `toml:"length"`
	Bit      *int64 `toml:"bit"`
	Order    string `toml:"order"`
	Swap     bool   `toml:"swap"`
	Scale    string `toml:"scale"`
	Offset   string `toml:"offset"`
	Unit     string `toml:"unit"`
}

const defaultDelimiter = "\n"

func (s *rawSerial) setDefaults() {
	s.Baud = 9600
	s.Mode = "8N1"
	s.Framing = FramingLine
	s.Delimiter = defaultDelimiter
	s.MaxFrame = defaultMaxFrame
	s.WriteTimeout = 10 * time.Second
	s.Answer = rawAnswer{Timeout: time.Second}
	s.Decode = DecodeText
	s.LengthField = rawLengthField{Endian: "big", Counts: "rest"}
}

func (f *rawField) setDefaults() { f.Endian = "big" }

func (p *rawPoll) setDefaults() { p.Timeout = time.Second }

// standsAlone: one poll may be written as a table.
func (p *rawPoll) standsAlone() {}

func (s *rawSlave) setDefaults() {
	s.Timeout = 500 * time.Millisecond
	s.Retries = 2
	s.MaxRegisters, s.MaxBits = 125, 2000 // the most of the specification
}
