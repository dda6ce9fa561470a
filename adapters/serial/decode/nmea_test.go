package decode_test

import (
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"fieldbridge/adapters/serial/decode"
	"fieldbridge/adapters/serial/frame"
)

// The sentences are published examples: of the NMEA 0183 pages by Dale DePriest
// and by Glenn Baddeley, of gpsd's description and of the u-blox protocol
// description, with their checks.
func TestNMEA(t *testing.T) {
	o := decode.Options{Kind: decode.NMEA}
	object := func(address, rest string) string {
		return `{"talker":"` + address[:2] + `","type":"` + address[2:] + `"` + rest + `}`
	}
	rows := []row{
		{"RMC", o, "$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A", object("GPRMC", `,"time":"1994-03-23T12:35:19Z","valid":true,"latitude":48.117300,"longitude":11.516667,"speedKnots":22.4,"courseTrue":84.4,"magneticVariation":-3.1`)},
		{"RMC, 4.1", o, "$GPRMC,083559.00,A,4717.11437,N,00833.91522,E,0.004,77.52,091202,,,A,V*2D", object("GPRMC", `,"time":"2002-12-09T08:35:59.00Z","valid":true,"latitude":47.28523950,"longitude":8.56525367,"speedKnots":0.004,"courseTrue":77.52,"mode":"A","navigationalStatus":"V"`)},
		{"RMC without a fix", o, "$GPRMC,,V,,,,,,,,,,N*53", object("GPRMC", `,"valid":false,"mode":"N"`)},
		{"RMC, clock only", o, "GPRMC,123519,V,,,,,,,,,", object("GPRMC", `,"utc":"12:35:19","valid":false`)},
		{"RMC, date only", o, "GPRMC,,V,,,,,,,290224,,", object("GPRMC", `,"date":"2024-02-29","valid":false`)},
		{"RMC, another century", o, "GPRMC,000000.5,V,,,,,,,311279,,", object("GPRMC", `,"time":"2079-12-31T00:00:00.5Z","valid":false`)},
		{"RMC, leap second", o, "GPRMC,235960,V,,,,,,,311216,,", object("GPRMC", `,"time":"2016-12-31T23:59:60Z","valid":false`)},
		{"RMC, no such date", o, "GPRMC,123519,V,,,,,,,290223,,", "!bad_fields"},
		{"RMC, no date", o, "GPRMC,123519,V,,,,,,,2902x3,,", "!bad_fields"},
		{"RMC, no such status", o, "GPRMC,,X", "!bad_fields"},
		{"RMC, variation without a letter", o, "GPRMC,,V,,,,,,,,1.0,", "!bad_fields"},
		{"RMC, variation with a sign", o, "GPRMC,,V,,,,,,,,-1.0,W", "!bad_fields"},
		{"GGA", o, "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47\r\n", object("GPGGA", `,"utc":"12:35:19","latitude":48.117300,"longitude":11.516667,"quality":1,"satellitesUsed":8,"hdop":0.9,"altitude":545.4,"geoidSeparation":46.9`)},
		{"GGA, corrections", o, "GNGGA,092725.00,4717.11399,S,00833.91590,W,2,08,1.01,-499.6,M,-48.0,M,01.5,0120", object("GNGGA", `,"utc":"09:27:25.00","latitude":-47.28523317,"longitude":-8.56526500,"quality":2,"satellitesUsed":8,"hdop":1.01,"altitude":-499.6,"geoidSeparation":-48.0,"correctionAge":1.5,"correctionStation":"0120"`)},
		{"GGA, unit", o, "GPGGA,,,,,,0,,,545.4,F,,,,", "!bad_fields"},
		{"GLL", o, "$GPGLL,4916.45,N,12311.12,W,225444,A,*1D", object("GPGLL", `,"latitude":49.27417,"longitude":-123.18533,"utc":"22:54:44","valid":true`)},
		{"GLL, old", o, "GPGLL,4916.45,N,12311.12,W", object("GPGLL", `,"latitude":49.27417,"longitude":-123.18533`)},
		{"VTG", o, "$GPVTG,054.7,T,034.4,M,005.5,N,010.2,K*48", object("GPVTG", `,"courseTrue":54.7,"courseMagnetic":34.4,"speedKnots":5.5,"speedKmh":10.2`)},
		{"VTG, 2.3", o, "$GPVTG,77.52,T,,M,0.004,N,0.008,K,A*06", object("GPVTG", `,"courseTrue":77.52,"speedKnots":0.004,"speedKmh":0.008,"mode":"A"`)},
		{"VTG, other units", o, "GPVTG,054.7,034.4,005.5,010.2", "!bad_fields"},
		{"GSA", o, "$GPGSA,A,3,04,05,,09,12,,,24,,,,,2.5,1.3,2.1*39", object("GPGSA", `,"selection":"A","fix":3,"satellites":[4,5,9,12,24],"pdop":2.5,"hdop":1.3,"vdop":2.1`)},
		{"GSA, 4.11", o, "GNGSA,A,1,,,,,,,,,,,,,99.99,99.99,99.99,1", object("GNGSA", `,"selection":"A","fix":1,"satellites":[],"pdop":99.99,"hdop":99.99,"vdop":99.99,"systemId":"1"`)},
		{"GSA, no satellite", o, "GNGSA,A,3,04,x5", "!bad_fields"},
		{"GSV", o, "$GPGSV,2,1,08,01,40,083,46,02,17,308,41,12,07,344,39,14,22,228,45*75", object("GPGSV", `,"sentences":2,"sentence":1,"satellitesInView":8,"satellites":[{"id":1,"elevation":40,"azimuth":83,"snr":46},{"id":2,"elevation":17,"azimuth":308,"snr":41},{"id":12,"elevation":7,"azimuth":344,"snr":39},{"id":14,"elevation":22,"azimuth":228,"snr":45}]`)},
		{"GSV, signal id", o, "GPGSV,1,1,02,01,40,083,,02,,,41,8", object("GPGSV", `,"sentences":1,"sentence":1,"satellitesInView":2,"satellites":[{"id":1,"elevation":40,"azimuth":83},{"id":2,"snr":41}],"signalId":"8"`)},
		{"GSV, none", o, "$GPGSV,1,1,00*79", object("GPGSV", `,"sentences":1,"sentence":1,"satellitesInView":0,"satellites":[]`)},
		{"GSV, no number", o, "GPGSV,1,1,01,01,40,083,xx", "!bad_fields"},
		{"ZDA", o, "$GPZDA,082710.00,16,09,2002,00,00*64", object("GPZDA", `,"time":"2002-09-16T08:27:10.00Z","zoneHours":0,"zoneMinutes":0`)},
		{"ZDA, zone", o, "GPZDA,160012.71,11,03,2004,-1,00", object("GPZDA", `,"time":"2004-03-11T16:00:12.71Z","zoneHours":-1,"zoneMinutes":0`)},
		{"ZDA, clock only", o, "GPZDA,082710.00,,,,,", object("GPZDA", `,"utc":"08:27:10.00"`)},
		{"ZDA, no date", o, "GPZDA,082710.00,16,13,2002,00,00", "!bad_fields"},
		{"ZDA, empty", o, "GPZDA,,,,,,", object("GPZDA", "")},
		{"HDT", o, "$GPHDT,274.07,T*03", object("GPHDT", `,"headingTrue":274.07`)},
		{"MWV", o, "$WIMWV,214.8,R,0.1,K,A*28", object("WIMWV", `,"windAngle":214.8,"reference":"relative","windSpeed":0.1,"unit":"km/h","valid":true`)},
		{"MWV, true", o, "IIMWV,017,T,02.91,N,V", object("IIMWV", `,"windAngle":17,"reference":"true","windSpeed":2.91,"unit":"kn","valid":false`)},
		{"MWV, no such unit", o, "IIMWV,017,T,02.91,Z,A", "!bad_fields"},
		{"DBT", o, "$SDDBT,7.7,f,2.3,M,1.3,F*05", object("SDDBT", `,"depthFeet":7.7,"depthMetres":2.3,"depthFathoms":1.3`)},
		{"DPT", o, "SDDPT,76.1,-0.5,100", object("SDDPT", `,"depthMetres":76.1,"offsetMetres":-0.5,"rangeMetres":100`)},
		{"unknown", o, "$IIXDR,C,19.52,C,TempAir*19", object("IIXDR", `,"fields":["C","19.52","C","TempAir"]`)},
		{"AIS", o, "!AIVDM,1,1,,B,177KQJ5000G?tO`K>RA1wUbN0TKH,0*5C", object("AIVDM", ",\"fields\":[\"1\",\"1\",\"\",\"B\",\"177KQJ5000G?tO`K>RA1wUbN0TKH\",\"0\"]")},
		{"a maker's own", o, "$PUBX,00,x", `{"talker":"P","type":"UBX","fields":["00","x"]}`},
		{"a maker's RMC", o, "$PRMC,x", `{"talker":"P","type":"RMC","fields":["x"]}`},
		{"no fields", o, "$GPXXX", object("GPXXX", `,"fields":[]`)},
		{"an empty field", o, "$GPXXX,", object("GPXXX", `,"fields":[""]`)},
		{"lower-case check", o, "$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6a", object("GPRMC", `,"time":"1994-03-23T12:35:19Z","valid":true,"latitude":48.117300,"longitude":11.516667,"speedKnots":22.4,"courseTrue":84.4,"magneticVariation":-3.1`)},
		{"wrong check", o, "$GPHDT,274.08,T*03", "!bad_check"},
		{"half a check", o, "$GPHDT,274.07,T*0", "!bad_fields"},
		{"too many fields", o, "GPXXX" + strings.Repeat(",", 257), "!bad_fields"},
		{"no sentence", o, "21.5", "!no_match"},
		{"nothing", o, "$", "!no_match"},
		{"lower case", o, "$gprmc,,V", "!no_match"},
		{"latin 1", o, "$GPTXT,\xb0", "!invalid_text"},
		{"clock", o, "GPGLL,,,,,246060,", "!bad_fields"},
		{"clock too short", o, "GPGLL,,,,,1235,", "!bad_fields"},
		{"clock's fraction", o, "GPGLL,,,,,123519.5x,", "!bad_fields"},
		{"minutes", o, "GPGLL,4960.00,N,12311.12,W", "!bad_fields"},
		{"above the pole", o, "GPGLL,9000.01,N,12311.12,W", "!bad_fields"},
		{"the pole", o, "GPGLL,9000.00,S,18000.00,W", object("GPGLL", `,"latitude":-90.00000,"longitude":-180.00000`)},
		{"beyond the date line", o, "GPGLL,9000.00,S,18000.01,W", "!bad_fields"},
		{"no letter", o, "GPGLL,4916.45,,12311.12,W", "!bad_fields"},
		{"the wrong letter", o, "GPGLL,4916.45,E,12311.12,W", "!bad_fields"},
		{"signed", o, "GPGLL,-4916.45,N,12311.12,W", "!bad_fields"},
		{"on the equator", o, "GPGLL,0000,S,00000.1,E", object("GPGLL", `,"latitude":0.000,"longitude":0.0017`)},
		{"ten digits", o, "GPGLL,4916.0123456789,N,,", "!bad_fields"},
	}
	runRows(t, rows)
	for _, r := range rows {
		if r.want[0] == '{' && r.frame[0] != '$' && r.frame[0] != '!' { // with its check added
			check, err := frame.ParseCheck("nmea")
			if err != nil {
				t.Fatal(err)
			}
			framed := string(check.Append([]byte("$" + r.frame)))
			if got := outcome(t, decoder(t, o), o, []byte(framed)); got != r.want {
				t.Errorf("%s becomes %s", framed, got)
			}
		}
	}
}

// A position is what a rational number says, rounded to three decimals more than
// its minutes have.
func TestDegreesProperty(t *testing.T) {
	d := decoder(t, decode.Options{Kind: decode.NMEA})
	rapid.Check(t, func(t *rapid.T) {
		degrees := rapid.IntRange(0, 179).Draw(t, "degrees")
		minutes := rapid.IntRange(0, 59).Draw(t, "minutes")
		fraction := rapid.StringMatching(`[0-9]{0,9}`).Draw(t, "fraction")
		west := rapid.Bool().Draw(t, "west")
		letter := "E"
		if west {
			letter = "W"
		}
		text := pad(degrees, 3) + pad(minutes, 2)
		if fraction != "" {
			text += "." + fraction
		}
		r, err := d.Decode([]byte("GPGLL,,,"+text+","+letter), measured)
		if err != nil {
			t.Fatal(err)
		}
		_, values := object(t, r.Payload)
		got := number(t, values["longitude"])
		want := rational(t, pad(minutes, 2)+"."+fraction+"0")
		want.Quo(want, big.NewRat(60, 1))
		want.Add(want, big.NewRat(int64(degrees), 1))
		if west {
			want.Neg(want)
		}
		last := rational(t, "1e-"+pad(len(fraction), 1)) // of the minutes
		off := got.Sub(got, want)
		if off.Abs(off).Cmp(last.Quo(last, big.NewRat(2000, 1))) > 0 {
			t.Fatalf("%s %s becomes %s, off by %s", text, letter, r.Payload, off.FloatString(15))
		}
	})
}
