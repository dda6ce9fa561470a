package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"fieldbridge/bridge"
)

// serialDecode checks how frames are decoded, as far as that can be told without
// the decoders; they have the last word.
func (v *validator) serialDecode(raw *rawSerial, s *Serial) {
	in := raw.In
	if !oneOf(in, "decode", raw.Decode, decodes) {
		return
	}
	belong(in, "decode", raw.Decode, decodeKeys)
	switch raw.Decode {
	case DecodeCSV:
		if !in.gives("columns") {
			in.missing("columns", `the names of the cells in order, such as ["id", "temperature"]`)
		}
	case DecodeRegex:
		if raw.Pattern == "" {
			in.missing("pattern", `a regular expression with named groups, such as '^T=(?P<temperature>[-0-9.]+)$'`)
		}
	case DecodeFields:
		if !in.gives("fields") {
			in.missing("fields", `where each value is, such as [{ name = "temperature", offset = 0, type = "i16", scale = "0.1" }]`)
		}
	case DecodeModbus:
		if !in.gives("slave") {
			in.missing("slave", "add a [[serial.slave]] block with address, every and registers")
		}
	}
	checkPattern(in, "pattern", raw.Pattern)
	oneOf(in, "on_error", raw.OnError, []string{"", "forward"})
	types := place{src: in.src, path: in.key("types")}
	for _, name := range slices.Sorted(maps.Keys(raw.Types)) {
		oneOf(types, quoteKey(name), raw.Types[name], []string{"text", "number"})
	}
	for i := range raw.Fields {
		s.Fields = append(s.Fields, field(&raw.Fields[i]))
	}
}

// checkPattern checks a regular expression (RE2 syntax).
func checkPattern(in place, key, pattern string) {
	if _, err := regexp.Compile(pattern); err != nil && in.ok(key) {
		in.wrong(key, fmt.Sprintf("is not a regular expression: %v", err), "write it between single quotes, in which \\ stands for itself")
	}
}

func field(raw *rawField) Field {
	in := raw.In
	f := Field{
		Pos: in.pos(""), Name: raw.Name, Offset: int(raw.Offset), Length: int(raw.Length), Type: raw.Type,
		LittleEndian: raw.Endian == "little", Scale: raw.Scale, Add: raw.Add, Bit: toInt(raw.Bit), Bits: int(raw.Bits),
	}
	if raw.Name == "" {
		in.missing("name", "its key in the object")
	}
	if raw.Type == "" {
		in.missing("type", "one of "+quoted(fieldTypes))
	} else {
		oneOf(in, "type", raw.Type, fieldTypes)
	}
	oneOf(in, "endian", raw.Endian, endians)
	checkInt(in, "offset", raw.Offset, -maxOffset, maxOffset)
	checkInt(in, "length", raw.Length, 0, maxOffset)
	checkInt(in, "bits", raw.Bits, 0, 64)
	if raw.Bit != nil {
		checkInt(in, "bit", *raw.Bit, 0, 63)
	}
	return f
}

func toInt(n *int64) *int {
	if n == nil {
		return nil
	}
	i := int(*n)
	return &i
}

// minEvery is the shortest interval between two questions.
const minEvery = 10 * time.Millisecond

func (v *validator) serialPolls(raw *rawSerial, s *Serial) {
	for i := range raw.Poll {
		p := &raw.Poll[i]
		in := p.In
		send, f := binaryValue(p.Send)
		if p.Send == "" {
			in.missing("send", `what the sensor waits for, such as "READ" or "hex:01 05"`)
		} else {
			in.flawed("send", f)
		}
		if !in.gives("every") {
			in.missing("every", `the interval, such as "10s"`)
		} else {
			checkDuration(in, "every", p.Every, durationRange{min: minEvery, max: 365 * 24 * time.Hour})
		}
		checkDuration(in, "timeout", p.Timeout, durationRange{min: time.Millisecond, max: time.Minute})
		checkInt(in, "retries", p.Retries, 0, 10)
		checkPattern(in, "expect", p.Expect)
		s.Polls = append(s.Polls, Poll{
			Pos: in.pos(""), Send: send, Raw: p.Raw, Every: p.Every, Timeout: p.Timeout, Retries: int(p.Retries), Expect: p.Expect,
		})
	}
}

func (v *validator) serialSlaves(raw *rawSerial, s *Serial) {
	for i := range raw.Slaves {
		r := &raw.Slaves[i]
		in := r.In
		slave := Slave{
			Pos: in.pos(""), Address: int(r.Address), Device: bridge.DeviceID(r.Device), Subtopic: v.subtopic(in, r.Subtopic),
			Every: r.Every, Timeout: r.Timeout, Retries: int(r.Retries),
			MaxRegisters: int(r.MaxRegisters), MaxBits: int(r.MaxBits), MaxGap: int(r.MaxGap), WriteMultiple: r.WriteMultiple,
		}
		if !in.gives("address") {
			in.missing("address", "1 to 247, or 0 for a block that is only written, to all slaves at once")
		} else {
			checkInt(in, "address", r.Address, 0, 247)
		}
		switch {
		case r.Device != "":
			v.knownDevice(in, r.Device)
		case raw.Device == "":
			in.missing("device", "the id of the device that its readings belong to; or give it to the port")
		default:
			slave.Device = bridge.DeviceID(raw.Device)
		}
		if !in.gives("subtopic") {
			slave.Subtopic, _ = bridge.ParseSubtopic(raw.Subtopic) // checked with the port
		}
		if r.Every != 0 {
			checkDuration(in, "every", r.Every, durationRange{min: minEvery, max: 365 * 24 * time.Hour})
		}
		checkDuration(in, "timeout", r.Timeout, durationRange{min: time.Millisecond, max: time.Minute})
		checkInt(in, "retries", r.Retries, 0, 10)
		checkInt(in, "max_registers", r.MaxRegisters, 1, 125)
		checkInt(in, "max_bits", r.MaxBits, 1, 2000)
		checkInt(in, "max_gap", r.MaxGap, 0, 2000)
		for j := range r.Registers {
			slave.Registers = append(slave.Registers, register(&r.Registers[j]))
		}
		s.Slaves = append(s.Slaves, slave)
	}
}

func register(raw *rawRegister) Register {
	in := raw.In
	if raw.Name == "" {
		in.missing("name", "its key in the object")
	}
	if !in.gives("function") {
		in.missing("function", "1 (coils), 2 (discrete inputs), 3 (holding registers) or 4 (input registers)")
	} else {
		checkInt(in, "function", raw.Function, 1, 4)
	}
	if !in.gives("address") {
		in.missing("address", "from 0: what a manual calls 40001 is function 3, address 0")
	} else {
		checkInt(in, "address", raw.Address, 0, 65535)
	}
	oneOf(in, "type", raw.Type, registerTypes)
	oneOf(in, "order", raw.Order, []string{"", "big", "little"})
	checkInt(in, "length", raw.Length, 0, 250)
	if raw.Bit != nil {
		checkInt(in, "bit", *raw.Bit, 0, 15)
	}
	return Register{
		Name: raw.Name, Function: int(raw.Function), Address: int(raw.Address), Type: raw.Type, Length: int(raw.Length),
		Bit: toInt(raw.Bit), Order: raw.Order, Swap: raw.Swap, Scale: raw.Scale, Offset: raw.Offset, Unit: raw.Unit,
	}
}

// serialDownlinks finds downlinks of devices that no slave of a Modbus line
// belongs to.
func (v *validator) serialDownlinks() {
	for i := range v.raw.Devices {
		d := &v.raw.Devices[i]
		for j := range d.Downlinks {
			dl := &d.Downlinks[j]
			k := slices.IndexFunc(v.cfg.Serials, func(s Serial) bool { return s.Name == dl.Serial && s.Decode == DecodeModbus })
			if dl.Serial == "" || k < 0 || !dl.In.ok("serial") {
				continue
			}
			slaves := v.cfg.Serials[k].Slaves
			if !slices.ContainsFunc(slaves, func(s Slave) bool { return string(s.Device) == d.ID }) {
				dl.In.wrong("serial", fmt.Sprintf("no slave on %q belongs to the device %q", dl.Serial, d.ID), "give a [[serial.slave]] this device")
			}
		}
	}
}
