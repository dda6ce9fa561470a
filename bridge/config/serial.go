package config

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"fieldbridge/bridge"
)

func (v *validator) serialNames() {
	v.serialPorts = make(map[string]Position)
	for i := range v.raw.Serials {
		raw := &v.raw.Serials[i]
		checkUnique(raw.In, "name", raw.Name, v.serialPorts)
	}
}

// serialMode is data bits, parity and stop bits; 1.5 of them cannot be set on
// Linux (termios(3)).
var serialMode = regexp.MustCompile(`^[5-8][NEOMS][12]$`)

const (
	maxMarker   = 8 // bytes of a delimiter, start or end
	maxMaxFrame = 16 << 20
	maxOffset   = 1 << 20
)

func (v *validator) serials() {
	ports := make(map[string]Position)
	for i := range v.raw.Serials {
		raw := &v.raw.Serials[i]
		in := raw.In
		s := Serial{
			Pos: in.pos(""), Name: raw.Name,
			Baud: int(raw.Baud), Mode: raw.Mode, DTR: raw.DTR, RTS: raw.RTS,
			Framing: raw.Framing, Length: int(raw.Length), Gap: raw.Gap, MaxFrame: int64(raw.MaxFrame),
			Check: raw.Check, CheckAfterEnd: raw.CheckAfterEnd,
			Echo: raw.Echo, Turnaround: raw.Turnaround, IdleTimeout: raw.IdleTimeout, WriteTimeout: raw.WriteTimeout,
			Answer: SerialAnswer{Timeout: raw.Answer.Timeout, Expect: raw.Answer.Expect},
			Decode: raw.Decode, Columns: raw.Columns, Separator: raw.Separator, Assign: raw.Assign,
			Pattern: raw.Pattern, Types: raw.Types,
			Stamp: raw.Stamp, DeviceFrom: raw.DeviceFrom, SubtopicFrom: raw.SubtopicFrom, DropFrom: raw.DropFrom,
			OnError: raw.OnError, Device: bridge.DeviceID(raw.Device),
		}
		v.serialPort(raw, &s, ports)
		v.serialLine(raw)
		v.serialFraming(raw, &s)
		v.serialDecode(raw, &s)
		v.serialPolls(raw, &s)
		v.serialSlaves(raw, &s)
		v.serialReading(raw, &s)
		v.cfg.Serials = append(v.cfg.Serials, s)
	}
	v.serialDownlinks()
}

// replayPrefix stands before the path of a recording.
const replayPrefix = "replay:"

// serialPort checks which port it is.
func (v *validator) serialPort(raw *rawSerial, s *Serial, ports map[string]Position) {
	const example = `such as port = "/dev/ttyUSB0", or better one of /dev/serial/by-id`
	in := raw.In
	id := ""
	switch {
	case !in.ok("port") || !in.ok("usb"):
		return
	case raw.Port != "" && in.gives("usb"):
		in.wrong("usb", "there is a port already", "give port or usb, not both")
		return
	case in.gives("usb"):
		if !v.usb(&raw.USB) {
			return
		}
		s.USB = &USB{VID: raw.USB.VID, PID: raw.USB.PID, Serial: raw.USB.Serial, Interface: raw.USB.Interface}
		id = strings.ToLower(fmt.Sprintf("usb %+v", *s.USB))
		if first, ok := ports[id]; ok {
			in.wrong("usb", "this adapter is opened already", "by "+first.String())
			return
		}
	case raw.Port == "":
		in.missing("port", example+"; fieldbridge ports lists those of this machine")
		return
	case strings.HasPrefix(raw.Port, replayPrefix):
		path, _, f := in.src.resolve(strings.TrimPrefix(raw.Port, replayPrefix))
		if f == nil {
			f = checkRegular(path)
		}
		if in.flawed("port", f) {
			s.Port = replayPrefix + path
		}
		return
	default:
		id = filepath.Clean(raw.Port)
		if !filepath.IsAbs(id) {
			in.wrong("port", fmt.Sprintf("%q is not an absolute path", raw.Port), fmt.Sprintf("such as %q", "/dev/"+filepath.Base(id)))
			return
		}
		s.Port = raw.Port
		if first, ok := ports[id]; ok {
			in.wrong("port", fmt.Sprintf("%s is opened already", id), "by "+first.String())
			return
		}
	}
	ports[id] = in.pos("")
}

// checkRegular looks for a file whose content is of no interest now.
func checkRegular(path string) *flaw {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return &flaw{fmt.Sprintf("the recording %s cannot be opened: %v", path, cause(err)), "fieldbridge listen --record makes one"}
	case !info.Mode().IsRegular():
		return &flaw{problem: fmt.Sprintf("%s is not a regular file", path)}
	}
	return nil
}

var hexDigits = regexp.MustCompile(`^[0-9A-Fa-f]+$`)

func (v *validator) usb(raw *rawUSB) bool {
	sound := true
	for _, f := range []struct {
		key, value string
		digits     int
	}{{"vid", raw.VID, 4}, {"pid", raw.PID, 4}, {"interface", raw.Interface, 2}} {
		if f.value != "" && raw.In.ok(f.key) && (len(f.value) != f.digits || !hexDigits.MatchString(f.value)) {
			raw.In.wrong(f.key, fmt.Sprintf("must be %d hexadecimal digits (got %q)", f.digits, f.value), "as fieldbridge ports and lsusb show them")
			sound = false
		}
		sound = sound && raw.In.ok(f.key)
	}
	if raw.Serial == "" && (raw.VID == "" || raw.PID == "") && sound {
		raw.In.wrong("", "fits too many adapters", "give vid and pid, or serial")
		return false
	}
	return sound && raw.In.flawed("serial", checkText(raw.Serial))
}

// serialLine checks how the line is used.
func (v *validator) serialLine(raw *rawSerial) {
	in := raw.In
	checkInt(in, "baud", raw.Baud, 1, math.MaxInt32)
	if in.ok("mode") && !serialMode.MatchString(raw.Mode) {
		in.wrong("mode", fmt.Sprintf("%q is not data bits, parity and stop bits", raw.Mode), `such as "8N1" or "7E1"`)
	}
	checkDuration(in, "turnaround", raw.Turnaround, durationRange{max: 10 * time.Second})
	if raw.IdleTimeout != 0 {
		checkDuration(in, "idle_timeout", raw.IdleTimeout, durationRange{min: time.Second, max: 365 * 24 * time.Hour, minText: "at least 1s, or 0s for never"})
	}
	checkDuration(in, "write_timeout", raw.WriteTimeout, durationRange{min: 10 * time.Millisecond, max: time.Hour})
	checkDuration(raw.Answer.In, "timeout", raw.Answer.Timeout, durationRange{min: time.Millisecond, max: time.Minute})
	checkPattern(raw.Answer.In, "expect", raw.Answer.Expect)
}

// belonging says to which values of another key a key belongs.
type belonging struct {
	key    string
	values []string
}

var framingKeys = []belonging{
	{"delimiter", []string{FramingLine}},
	{"length", []string{FramingFixed}},
	{"start", []string{FramingDelimited}},
	{"end", []string{FramingDelimited}},
	{"check_after_end", []string{FramingDelimited}},
	{"length_field", []string{FramingLength}},
}

var decodeKeys = []belonging{
	{"columns", []string{DecodeCSV}},
	{"separator", []string{DecodeCSV, DecodeKeyValue}},
	{"assign", []string{DecodeKeyValue}},
	{"pattern", []string{DecodeRegex}},
	{"types", []string{DecodeCSV, DecodeKeyValue, DecodeRegex}},
	{"fields", []string{DecodeFields}},
	{"stamp", decodes[2:]},
	{"device_from", decodes[2 : len(decodes)-1]},
	{"subtopic_from", decodes[2 : len(decodes)-1]},
	{"drop_from", decodes[2 : len(decodes)-1]},
	{"on_error", decodes[1 : len(decodes)-1]},
	{"slave", []string{DecodeModbus}},
}

// notModbus are keys that mean nothing to a Modbus line: its frames are its own.
var notModbus = []string{
	"framing", "delimiter", "length", "start", "end", "check_after_end", "length_field", "gap", "max_frame", "check", "poll", "answer", "content_type",
}

// belong records keys that mean nothing with the value of another key.
func belong(in place, other, value string, keys []belonging) {
	for _, k := range keys {
		if in.gives(k.key) && in.ok(k.key) && !slices.Contains(k.values, value) {
			in.wrong(k.key, fmt.Sprintf("has no meaning with %s = %q", other, value), fmt.Sprintf("it belongs to %s", quoted(k.values)))
		}
	}
}

func (v *validator) serialFraming(raw *rawSerial, s *Serial) {
	in := raw.In
	checkSize(in, "max_frame", raw.MaxFrame, maxMaxFrame)
	if raw.Decode == DecodeModbus {
		for _, key := range notModbus {
			if in.gives(key) && in.ok(key) {
				in.wrong(key, `has no meaning with decode = "modbus"`, "remove it; Modbus RTU has a framing and a check of its own")
			}
		}
		return
	}
	if oneOf(in, "framing", raw.Framing, framings) {
		belong(in, "framing", raw.Framing, framingKeys)
	}
	oneOf(in, "check", raw.Check, checks)
	if raw.CheckAfterEnd && raw.Check == "" && in.ok("check_after_end") {
		in.wrong("check_after_end", "there is no check", "give check, such as \"xor\"")
	}
	if in.gives("gap") {
		checkDuration(in, "gap", raw.Gap, durationRange{min: 100 * time.Microsecond, max: time.Minute})
	}
	switch raw.Framing {
	case FramingLine:
		s.Delimiter = marker(in, "delimiter", raw.Delimiter, `such as "\n" or "\r\n"`)
	case FramingFixed:
		if !in.gives("length") {
			in.missing("length", "the whole frame's, in bytes, with its check")
		} else {
			checkInt(in, "length", raw.Length, 1, int64(raw.MaxFrame))
		}
	case FramingDelimited:
		s.Start = marker(in, "start", raw.Start, `such as "hex:02"`)
		s.End = marker(in, "end", raw.End, `such as "hex:03"`)
	case FramingLength:
		v.lengthField(raw, s)
	case FramingGap:
		if !in.gives("gap") {
			in.missing("gap", `the silence that ends a frame, such as "20ms"`)
		}
	}
}

func (v *validator) lengthField(raw *rawSerial, s *Serial) {
	f, in := &raw.LengthField, raw.LengthField.In
	if !raw.In.gives("length_field") {
		raw.In.missing("length_field", "where a frame's length stands, such as { offset = 1, size = 1 }")
		return
	}
	checkInt(in, "offset", f.Offset, 0, maxOffset)
	if !in.gives("size") {
		in.missing("size", "how many bytes the length has, 1 to 4")
	} else {
		checkInt(in, "size", f.Size, 1, 4)
	}
	oneOf(in, "endian", f.Endian, endians)
	oneOf(in, "counts", f.Counts, []string{"rest", "payload", "frame"})
	s.LengthField = LengthField{Offset: int(f.Offset), Size: int(f.Size), LittleEndian: f.Endian == "little", Counts: f.Counts}
}

var endians = []string{"big", "little"}

// hexPrefix stands before a binary value that is written in hexadecimal.
const hexPrefix = "hex:"

// binaryValue reads a value that may be any bytes.
func binaryValue(text string) ([]byte, *flaw) {
	digits, ok := strings.CutPrefix(text, hexPrefix)
	if !ok {
		return []byte(text), nil
	}
	b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	if err != nil {
		return nil, &flaw{fmt.Sprintf("%q is not hexadecimal", text), `write two digits for each byte, such as "hex:0D0A" or "hex:0d 0a"`}
	}
	return b, nil
}

// marker reads a delimiter, start or end.
func marker(in place, key, text, example string) []byte {
	if !in.ok(key) {
		return nil
	}
	if text == "" && !in.gives(key) {
		in.missing(key, example)
		return nil
	}
	b, f := binaryValue(text)
	if f == nil && (len(b) < 1 || len(b) > maxMarker) {
		f = &flaw{fmt.Sprintf("must have 1 to %d bytes (got %d)", maxMarker, len(b)), example}
	}
	in.flawed(key, f)
	return b
}

// serialReading checks what a reading from the port is made with.
func (v *validator) serialReading(raw *rawSerial, s *Serial) {
	in := raw.In
	switch {
	case raw.Device != "":
		v.knownDevice(in, raw.Device)
	case raw.Decode == DecodeModbus: // its slaves have theirs
	case raw.DeviceFrom == "":
		in.missing("device", "the id of the device that the readings belong to")
	case raw.OnError != "":
		in.missing("device", "with device_from it is for the frames that on_error forwards")
	}
	if raw.DeviceFrom != "" && len(v.raw.Devices) == 0 && !v.incomplete && in.ok("device_from") && !v.takesAny() {
		in.wrong("device_from", "no device is configured, so all readings would be refused",
			`add a [[device]] block for each that is expected, or devices = "any" to a connector`)
	}
	s.Subtopic = v.subtopic(in, raw.Subtopic)
	if raw.Decode == DecodeModbus {
		return
	}
	if raw.ContentType == "" {
		s.ContentType = "application/json"
		switch raw.Decode {
		case DecodeRaw:
			s.ContentType = "application/octet-stream"
		case DecodeText:
			s.ContentType = "text/plain"
		}
		return
	}
	ct, err := bridge.ParseContentType(raw.ContentType)
	if err != nil {
		in.wrong("content_type", plain(err, bridge.ErrContentType), didYouMean(raw.ContentType, bridge.ContentTypes))
	}
	s.ContentType = ct
}

func (v *validator) takesAny() bool {
	return slices.ContainsFunc(v.cfg.Connectors, func(c Connector) bool { return c.AnyDevice })
}

// knownDevice checks that a device is configured.
func (v *validator) knownDevice(in place, id string) {
	if _, ok := v.deviceIDs[id]; ok || v.incomplete || !in.ok("device") {
		return
	}
	hint := didYouMean(id, slices.Sorted(maps.Keys(v.deviceIDs)))
	if hint == "" {
		hint = "add a [[device]] block with this id"
	}
	in.wrong("device", fmt.Sprintf("no device has the id %q", id), hint)
}

func (v *validator) subtopic(in place, text string) bridge.Subtopic {
	sub, err := bridge.ParseSubtopic(text)
	if err != nil && in.ok("subtopic") {
		in.wrong("subtopic", plain(err, bridge.ErrInvalid), `such as "alerts" or "alerts/critical"`)
	}
	return sub
}
