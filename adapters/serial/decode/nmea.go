package decode

import (
	"bytes"
	"strconv"
	"time"

	"fieldbridge/adapters/serial/frame"
)

// nmea is the format of NMEA 0183 sentences.
type nmea struct {
	check    *frame.Check
	sentence sentence // of the frame at hand
}

func newNMEA() *nmea {
	check, _ := frame.ParseCheck("nmea") // a name it knows
	return &nmea{check: check}
}

func (n *nmea) decode(b []byte, o *object) *Error {
	if err := checkText(b); err != nil {
		return err
	}
	b = bytes.TrimRight(b, "\r\n \t")
	if i := len(b) - n.check.Size(); i >= 0 && b[i] == '*' {
		content, ok := n.check.Strip(b)
		if !ok {
			return refuse(frame.BadCheck, "the sentence's check is wrong")
		}
		b = content
	}
	if len(b) > 0 && (b[0] == '$' || b[0] == '!') {
		b = b[1:]
	}
	address, rest, more := cutAt(b, ",", false)
	talker, kind, ok := splitAddress(address)
	if !ok {
		return refuse(NoMatch, "not an NMEA sentence: it begins with %s", excerpt(address))
	}
	s := &n.sentence
	s.object, s.kind, s.err, s.fields = o, kind, nil, s.fields[:0]
	for more {
		var field []byte
		field, rest, more = cutAt(rest, ",", false)
		if len(s.fields) == maxNames {
			return refuse(BadFields, "the sentence has more than %d fields", maxNames)
		}
		s.fields = append(s.fields, field)
	}
	s.string("talker", talker)
	s.string("type", kind)
	if write := sentences[string(kind)]; write != nil && len(talker) == 2 {
		write(s)
	} else {
		s.all()
	}
	return s.err
}

// splitAddress takes a sentence's first field apart: two letters of the talker,
// or P for one of a maker's own, and the type.
func splitAddress(a []byte) (talker, kind []byte, ok bool) {
	for _, c := range a {
		if (c < 'A' || c > 'Z') && !isDigit(c) {
			return nil, nil, false
		}
	}
	n := 2
	if len(a) > 0 && a[0] == 'P' {
		n = 1
	}
	if len(a) < n+2 || len(a) > 16 {
		return nil, nil, false
	}
	return a[:n], a[n:], true
}

// sentence is one being decoded. The first error ends it: the methods that
// follow do nothing. An empty field, or one that is not there, has no value.
type sentence struct {
	object *object
	kind   []byte
	fields [][]byte
	err    *Error
}

func (s *sentence) field(i int) []byte {
	if i < len(s.fields) {
		return s.fields[i]
	}
	return nil
}

// begin writes a key, and reports whether its value shall be appended.
func (s *sentence) begin(name string) bool {
	if s.err == nil {
		o := s.object
		if len(o.members) > 0 {
			o.buf = append(o.buf, ',')
		}
		at := len(o.buf)
		o.buf = append(append(append(o.buf, '"'), name...), '"', ':') // none needs an escape
		o.members = append(o.members, member{key: at, keyEnd: len(o.buf) - 1, value: len(o.buf)})
	}
	return s.err == nil
}

func (s *sentence) end() {
	if s.err == nil {
		s.err = s.object.end()
	}
}

func (s *sentence) bad(i int, what string) {
	if s.err == nil {
		s.err = refuse(BadFields, "%s: field %d is not %s: %s", s.kind, i+1, what, excerpt(s.field(i)))
	}
}

func (s *sentence) string(name string, v []byte) {
	if len(v) > 0 && s.begin(name) {
		s.object.buf = appendString(s.object.buf, v)
		s.end()
	}
}

// text passes field i on.
func (s *sentence) text(i int, name string) { s.string(name, s.field(i)) }

// number passes field i on as a number.
func (s *sentence) number(i int, name string) {
	if len(s.field(i)) > 0 && s.begin(name) {
		s.element(i)
		s.end()
	}
}

func (s *sentence) element(i int) {
	ok := true
	if s.object.buf, ok = appendNumber(s.object.buf, s.field(i)); !ok {
		s.bad(i, "a number")
	}
}

// valid is a status: A or V.
func (s *sentence) valid(i int) {
	f := s.field(i)
	switch {
	case len(f) == 0:
	case len(f) == 1 && (f[0] == 'A' || f[0] == 'V'):
		if s.begin("valid") {
			s.object.buf = strconv.AppendBool(s.object.buf, f[0] == 'A')
			s.end()
		}
	default:
		s.bad(i, "A or V")
	}
}

// unit demands the letter of a unit behind a value that is there.
func (s *sentence) unit(i int, letter byte) {
	f := s.field(i)
	if len(s.field(i-1)) > 0 && len(f) > 0 && (len(f) != 1 || f[0] != letter) {
		s.bad(i, "the unit "+string(letter))
	}
}

// position is latitude and longitude with their letters, from field i on.
func (s *sentence) position(i int) {
	s.degrees(i, "latitude", 2, 'N', 'S')
	s.degrees(i+2, "longitude", 3, 'E', 'W')
}

// degrees turns (d)ddmm.mmmm and a letter into degrees with three decimals more
// than the minutes have, which is finer than these. whole is how many digits the
// degrees have; some receivers leave out leading zeros.
func (s *sentence) degrees(i int, name string, whole int, positive, negative byte) {
	f, sign := s.field(i), s.field(i+1)
	if len(f) == 0 {
		return
	}
	if len(sign) != 1 || sign[0] != positive && sign[0] != negative {
		s.bad(i+1, string(positive)+" or "+string(negative))
		return
	}
	n := countDigits(f)
	fraction := f[n:]
	if len(fraction) > 0 {
		if fraction[0] != '.' || countDigits(fraction[1:]) != len(fraction)-1 {
			s.bad(i, "degrees and minutes")
			return
		}
		fraction = fraction[1:]
	}
	if n < 3 || n > whole+2 || len(fraction) > 9 {
		s.bad(i, "degrees and minutes")
		return
	}
	degrees := integer(f[:n-2])
	minutes := integer(f[n-2 : n])
	limit := uint64(90)
	if whole == 3 {
		limit = 180
	}
	scale := uint64(1)
	for range fraction {
		scale *= 10
	}
	scaled := minutes*scale + integer(fraction)        // minutes × scale
	total := degrees*scale*1000 + (scaled*1000/6+5)/10 // degrees × scale × 1000, rounded
	if minutes >= 60 || total > limit*scale*1000 {
		s.bad(i, "degrees and minutes within "+strconv.FormatUint(limit, 10)+" degrees")
		return
	}
	if s.begin(name) {
		s.object.buf = appendDecimal(s.object.buf, sign[0] == negative, 0, total, -3-len(fraction))
		s.end()
	}
}

// integer reads digits, few enough for 64 bits.
func integer(digits []byte) (v uint64) {
	for _, c := range digits {
		v = v*10 + uint64(c-'0')
	}
	return v
}

// clock checks a time of day, hhmmss or hhmmss.sss, and reports whether it is
// there.
func (s *sentence) clock(i int) bool {
	f := s.field(i)
	if len(f) == 0 {
		return false
	}
	n := countDigits(f)
	if n != 6 || len(f) > 16 || len(f) > 6 && (f[6] != '.' || countDigits(f[7:]) != len(f)-7) ||
		integer(f[:2]) > 23 || integer(f[2:4]) > 59 || integer(f[4:6]) > 60 {
		s.bad(i, "a time, hhmmss")
		return false
	}
	return true
}

func appendClock(out, f []byte) []byte {
	out = append(append(append(out, f[:2]...), ':'), f[2:4]...)
	out = append(append(out, ':'), f[4:6]...)
	if len(f) > 7 {
		out = append(out, f[6:]...)
	}
	return out
}

// timeOfDay is field i as "utc", hh:mm:ss with what the device sends behind it.
func (s *sentence) timeOfDay(i int) {
	if s.clock(i) && s.begin("utc") {
		s.object.buf = append(appendClock(append(s.object.buf, '"'), s.field(i)), '"')
		s.end()
	}
}

// moment is "time", RFC 3339 in UTC, of the clock in field i and a date.
func (s *sentence) moment(i int, year, month, day uint64) {
	if s.begin("time") {
		s.object.buf = append(s.object.buf, '"')
		s.object.buf = appendClock(append(appendDate(s.object.buf, year, month, day), 'T'), s.field(i))
		s.object.buf = append(s.object.buf, 'Z', '"')
		s.end()
	}
}

func appendDate(out []byte, year, month, day uint64) []byte {
	for _, c := range [][2]uint64{{year / 100, 0}, {year % 100, 0}, {month, '-'}, {day, '-'}} {
		if c[1] != 0 {
			out = append(out, byte(c[1]))
		}
		out = append(out, byte('0'+c[0]/10), byte('0'+c[0]%10))
	}
	return out
}

func isDate(year, month, day uint64) bool {
	t := time.Date(int(year), time.Month(month), int(day), 0, 0, 0, 0, time.UTC)
	return month >= 1 && month <= 12 && day >= 1 && uint64(t.Day()) == day
}

// all passes every field on as text.
func (s *sentence) all() {
	if !s.begin("fields") {
		return
	}
	s.object.buf = append(s.object.buf, '[')
	for i, f := range s.fields {
		if i > 0 {
			s.object.buf = append(s.object.buf, ',')
		}
		s.object.buf = appendString(s.object.buf, f)
	}
	s.object.buf = append(s.object.buf, ']')
	s.end()
}
