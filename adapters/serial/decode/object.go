package decode

import (
	"encoding/json"
	"strings"
	"time"

	"fieldbridge/bridge"
)

// object is a JSON object being written. Its memory is used again for the next
// frame.
type object struct {
	buf     []byte
	members []member
	max     int // bytes of the whole
}

// member is where a key, with its quotes, and its value stand.
type member struct{ key, keyEnd, value, valueEnd int }

func (o *object) reset() {
	o.buf = append(o.buf[:0], '{')
	o.members = o.members[:0]
}

// begin writes a key, which is given as JSON; the value is then appended to buf,
// and end called.
func (o *object) begin(key string) { beginKey(o, key) }

// beginBytes is begin.
func (o *object) beginBytes(key []byte) { beginKey(o, key) }

func beginKey[S string | []byte](o *object, key S) {
	if len(o.members) > 0 {
		o.buf = append(o.buf, ',')
	}
	at := len(o.buf)
	o.buf = append(o.buf, key...)
	m := member{key: at, keyEnd: len(o.buf)}
	o.buf = append(o.buf, ':')
	m.value = len(o.buf)
	o.members = append(o.members, m)
}

// end completes the value.
func (o *object) end() *Error {
	o.members[len(o.members)-1].valueEnd = len(o.buf)
	if len(o.buf) >= o.max {
		return o.tooLarge()
	}
	return nil
}

func (o *object) tooLarge() *Error {
	return refuse(TooLarge, "the decoded object is longer than %d bytes", o.max)
}

// close completes the object. One without any value says nothing.
func (o *object) close() *Error {
	if len(o.members) == 0 {
		return refuse(BadFields, "the frame has no value")
	}
	o.buf = append(o.buf, '}')
	return nil
}

// find returns the member with the key, the last one if there are several, as
// most readers of JSON do.
func find(b []byte, members []member, key string) *member {
	for i := len(members) - 1; i >= 0; i-- {
		if m := &members[i]; keyIs(b[m.key:m.keyEnd], key) {
			return m
		}
	}
	return nil
}

// finish makes the payload of the object in b: it takes device and sub topic
// from it and stamps it.
func (d *Decoder) finish(b []byte, members []member, at time.Time, r *Result) *Error {
	o := &d.opts
	if o.DeviceFrom != "" {
		s, err := take(b, members, o.DeviceFrom)
		if err == "" {
			var parseErr error
			if r.Device, parseErr = bridge.ParseDeviceID(s); parseErr != nil {
				err = shorten(parseErr)
			}
		}
		if err != "" {
			return refuse(BadDevice, "device_from: key %q: %s", o.DeviceFrom, err)
		}
	}
	if o.SubtopicFrom != "" {
		s, err := take(b, members, o.SubtopicFrom)
		if err == "" {
			var parseErr error
			if r.Subtopic, parseErr = bridge.ParseSubtopic(s); parseErr != nil {
				err = shorten(parseErr)
			} else if s == "" {
				err = "is empty"
			}
		}
		if err != "" {
			return refuse(BadSubtopic, "subtopic_from: key %q: %s", o.SubtopicFrom, err)
		}
	}
	stamp := o.Stamp != "" && !at.IsZero() && find(b, members, o.Stamp) == nil
	if stamp {
		at = at.UTC()
		stamp = at.Year() >= 0 && at.Year() <= 9999 // RFC 3339 section 1
	}
	r.Payload = d.assemble(b, members, at, stamp)
	return nil
}

// assemble copies the object in b, with the stamp and without what was taken
// from it.
func (d *Decoder) assemble(b []byte, members []member, at time.Time, stamp bool) []byte {
	const timeFormat = "2006-01-02T15:04:05.000Z07:00"
	room := len(b)
	if stamp {
		room += len(d.stampKey) + len(timeFormat) + len(`,:""`)
	}
	out := make([]byte, 0, room)
	var rest []byte // behind the members: white space of the device's stays
	first := len(members) == 0
	if d.opts.Drop {
		out = d.withoutUsed(out, b, members)
		first, rest = len(out) == 1, []byte{'}'}
	} else {
		end := skipSpace(b, 0) + 1 // behind the opening brace
		if !first {
			end = members[len(members)-1].valueEnd
		}
		out, rest = append(out, b[:end]...), b[end:]
	}
	if stamp {
		if !first {
			out = append(out, ',')
		}
		out = append(append(out, d.stampKey...), ':', '"')
		out = append(at.AppendFormat(out, timeFormat), '"')
	}
	return append(out, rest...)
}

// withoutUsed writes the members but those that device and sub topic were taken
// from, without the closing brace.
func (d *Decoder) withoutUsed(out, b []byte, members []member) []byte {
	out = append(out, '{')
	for _, m := range members {
		key := b[m.key:m.keyEnd]
		if d.opts.DeviceFrom != "" && keyIs(key, d.opts.DeviceFrom) || d.opts.SubtopicFrom != "" && keyIs(key, d.opts.SubtopicFrom) {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), b[m.value:m.valueEnd]...)
	}
	return out
}

// take returns a member's value if it is text or a number, the latter as its
// digits, or what is wrong with it.
func take(b []byte, members []member, key string) (s, wrong string) {
	m := find(b, members, key)
	if m == nil {
		return "", "is missing"
	}
	v := b[m.value:m.valueEnd]
	switch {
	case v[0] == '"':
		return unquote(v), ""
	case v[0] == '-' || isDigit(v[0]):
		return string(v), ""
	default:
		return "", "is neither text nor a number"
	}
}

// shorten bounds an error that shows its whole value.
func shorten(err error) string {
	const limit = 160
	s := err.Error()
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// scanMembers finds the members of the object that the valid JSON in b is, and
// reports whether it is one.
func scanMembers(b []byte, members []member) ([]member, bool) {
	i := skipSpace(b, 0)
	if b[i] != '{' {
		return members, false
	}
	for i++; ; {
		i = skipSpace(b, i)
		switch b[i] {
		case '}':
			return members, true
		case ',':
			i++
			continue
		}
		m := member{key: i, keyEnd: skipString(b, i)}
		i = skipSpace(b, m.keyEnd)
		m.value = skipSpace(b, i+1) // behind the colon
		m.valueEnd = skipValue(b, m.value)
		members = append(members, m)
		i = m.valueEnd
	}
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString returns where the string that begins at i ends.
func skipString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

func skipValue(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			i = skipString(b, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			if depth == 0 {
				return i // of the object around it, behind a number or a word
			}
			depth--
			i++
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return i
			}
			i++
			continue
		default:
			i++
			continue
		}
		if depth == 0 {
			return i
		}
	}
	return i
}

// keyIs compares a key as it stands in JSON, with its quotes.
func keyIs(key []byte, name string) bool {
	for _, c := range key {
		if c == '\\' {
			return unquote(key) == name
		}
	}
	return string(key[1:len(key)-1]) == name
}

// unquote returns the text of a valid JSON string.
func unquote(v []byte) string {
	for _, c := range v {
		if c == '\\' {
			var s string
			if json.Unmarshal(v, &s) != nil {
				return ""
			}
			return s
		}
	}
	return string(v[1 : len(v)-1])
}

func quote(s string) string { return string(appendString(nil, s)) }

// appendString writes s, which is valid UTF-8, as a JSON string.
func appendString[S string | []byte](out []byte, s S) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	from := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c != 0x7F {
			continue
		}
		out = append(out, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\n':
			out = append(out, '\\', 'n')
		case '\r':
			out = append(out, '\\', 'r')
		case '\t':
			out = append(out, '\\', 't')
		default:
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xF])
		}
	}
	return append(append(out, s[from:]...), '"')
}
