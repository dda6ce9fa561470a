package decode

// sentences are the NMEA 0183 sentences whose fields have names, with what
// follows talker and type. Fields that later versions of the standard have added
// at the end may be missing.
var sentences = map[string]func(*sentence){
	"RMC": (*sentence).rmc,
	"GGA": (*sentence).gga,
	"GLL": (*sentence).gll,
	"VTG": (*sentence).vtg,
	"GSA": (*sentence).gsa,
	"GSV": (*sentence).gsv,
	"ZDA": (*sentence).zda,
	"HDT": (*sentence).hdt,
	"MWV": (*sentence).mwv,
	"DBT": (*sentence).dbt,
	"DPT": (*sentence).dpt,
}

// rmc: recommended minimum data. The century of its date is ours: 80 to 99 are
// in the last one, GPS began in 1980.
func (s *sentence) rmc() {
	clock, date := s.clock(0), s.field(8)
	switch {
	case len(date) == 0:
		s.timeOfDay(0)
	case len(date) != 6 || countDigits(date) != 6:
		s.bad(8, "a date, ddmmyy")
	default:
		day, month, year := integer(date[:2]), integer(date[2:4]), 2000+integer(date[4:])
		if year >= 2080 {
			year -= 100
		}
		switch {
		case !isDate(year, month, day):
			s.bad(8, "a date, ddmmyy")
		case clock:
			s.moment(0, year, month, day)
		case s.begin("date"):
			s.object.buf = append(appendDate(append(s.object.buf, '"'), year, month, day), '"')
			s.end()
		}
	}
	s.valid(1)
	s.position(2)
	s.number(6, "speedKnots")
	s.number(7, "courseTrue")
	s.signed(9, "magneticVariation", 'E', 'W')
	s.text(11, "mode")
	s.text(12, "navigationalStatus")
}

// gga: fix data.
func (s *sentence) gga() {
	s.timeOfDay(0)
	s.position(1)
	s.number(5, "quality")
	s.number(6, "satellitesUsed")
	s.number(7, "hdop")
	s.number(8, "altitude")
	s.unit(9, 'M')
	s.number(10, "geoidSeparation")
	s.unit(11, 'M')
	s.number(12, "correctionAge")
	s.text(13, "correctionStation")
}

// gll: geographic position.
func (s *sentence) gll() {
	s.position(0)
	s.timeOfDay(4)
	s.valid(5)
	s.text(6, "mode")
}

// vtg: course and speed over ground.
func (s *sentence) vtg() {
	s.number(0, "courseTrue")
	s.unit(1, 'T')
	s.number(2, "courseMagnetic")
	s.unit(3, 'M')
	s.number(4, "speedKnots")
	s.unit(5, 'N')
	s.number(6, "speedKmh")
	s.unit(7, 'K')
	s.text(8, "mode")
}

// gsa: active satellites and dilution of precision.
func (s *sentence) gsa() {
	s.text(0, "selection")
	s.number(1, "fix")
	if s.begin("satellites") {
		s.object.buf = append(s.object.buf, '[')
		from := len(s.object.buf)
		for i := 2; i < 14; i++ {
			if len(s.field(i)) == 0 {
				continue
			}
			if len(s.object.buf) > from {
				s.object.buf = append(s.object.buf, ',')
			}
			s.element(i)
		}
		s.object.buf = append(s.object.buf, ']')
		s.end()
	}
	s.number(14, "pdop")
	s.number(15, "hdop")
	s.number(16, "vdop")
	s.text(17, "systemId")
}

// gsv: satellites in view, four a sentence.
func (s *sentence) gsv() {
	s.number(0, "sentences")
	s.number(1, "sentence")
	s.number(2, "satellitesInView")
	groups := max(0, len(s.fields)-3) / 4
	if s.begin("satellites") {
		s.object.buf = append(s.object.buf, '[')
		first := true
		for g := range groups {
			first = s.satellite(3+4*g, first)
		}
		s.object.buf = append(s.object.buf, ']')
		s.end()
	}
	if (len(s.fields)-3)%4 == 1 {
		s.text(len(s.fields)-1, "signalId")
	}
}

// satellite writes the four fields from i on, and reports whether it is still
// the first one to come.
func (s *sentence) satellite(i int, first bool) bool {
	if len(s.field(i)) == 0 || s.err != nil {
		return first
	}
	if !first {
		s.object.buf = append(s.object.buf, ',')
	}
	for n, name := range [...]string{`{"id":`, `,"elevation":`, `,"azimuth":`, `,"snr":`} {
		if len(s.field(i+n)) > 0 {
			s.object.buf = append(s.object.buf, name...)
			s.element(i + n)
		}
	}
	s.object.buf = append(s.object.buf, '}')
	return false
}

// zda: time and date. The zone is what the local time differs by, and not part
// of the time.
func (s *sentence) zda() {
	day, month, year := s.field(1), s.field(2), s.field(3)
	switch {
	case !s.clock(0):
	case len(day) == 0 && len(month) == 0 && len(year) == 0:
		s.timeOfDay(0)
	case countDigits(day) != len(day) || len(day) > 2 || countDigits(month) != len(month) || len(month) > 2 ||
		countDigits(year) != 4 || len(year) != 4 || !isDate(integer(year), integer(month), integer(day)):
		s.bad(1, "day, month and year, with the two behind it")
	default:
		s.moment(0, integer(year), integer(month), integer(day))
	}
	s.number(4, "zoneHours")
	s.number(5, "zoneMinutes")
}

// hdt: heading, true.
func (s *sentence) hdt() {
	s.number(0, "headingTrue")
	s.unit(1, 'T')
}

// mwv: wind speed and angle.
func (s *sentence) mwv() {
	s.number(0, "windAngle")
	s.word(1, "reference", []letter{{'R', "relative"}, {'T', "true"}})
	s.number(2, "windSpeed")
	s.word(3, "unit", []letter{{'K', "km/h"}, {'M', "m/s"}, {'N', "kn"}, {'S', "mph"}})
	s.valid(4)
}

// dbt: depth below transducer.
func (s *sentence) dbt() {
	s.number(0, "depthFeet")
	s.unit(1, 'f')
	s.number(2, "depthMetres")
	s.unit(3, 'M')
	s.number(4, "depthFathoms")
	s.unit(5, 'F')
}

// dpt: depth. The offset is of the waterline, if above zero, or the keel.
func (s *sentence) dpt() {
	s.number(0, "depthMetres")
	s.number(1, "offsetMetres")
	s.number(2, "rangeMetres")
}

// letter is what one stands for.
type letter struct {
	letter byte
	word   string
}

// word writes what the letter in field i stands for.
func (s *sentence) word(i int, name string, letters []letter) {
	f := s.field(i)
	if len(f) == 0 {
		return
	}
	for _, l := range letters {
		if len(f) == 1 && f[0] == l.letter {
			if s.begin(name) {
				s.object.buf = appendString(s.object.buf, l.word)
				s.end()
			}
			return
		}
	}
	s.bad(i, "one of its letters")
}

// signed is a number whose sign is a letter in the next field.
func (s *sentence) signed(i int, name string, positive, negative byte) {
	f, sign := s.field(i), s.field(i+1)
	if len(f) == 0 {
		return
	}
	if len(sign) != 1 || sign[0] != positive && sign[0] != negative || !isDigit(f[0]) && f[0] != '.' {
		s.bad(i+1, string(positive)+" or "+string(negative)+" behind a number")
		return
	}
	if s.begin(name) {
		if sign[0] == negative {
			s.object.buf = append(s.object.buf, '-')
		}
		s.element(i)
		s.end()
	}
}
