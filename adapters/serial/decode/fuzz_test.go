package decode_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"fieldbridge/adapters/serial/decode"
)

// fuzz checks, for every frame, what outcome checks: no panic, valid and bounded
// output or one of the reasons, nothing shared. Then that a second decoding,
// and one with the options that work on the object, agree with the first.
func fuzz(f *testing.F, opts ...decode.Options) {
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, o := range opts {
			d := decoder(t, o)
			got := outcome(t, d, o, b)
			if again := outcome(t, d, o, b); again != got {
				t.Fatalf("%q, then %q", got, again)
			}
			o.OnError = decode.Forward
			if forwarded := outcome(t, decoder(t, o), o, b); forwarded != got {
				t.Fatalf("%q, with forwarding %q", got, forwarded)
			}
			o.OnError, o.Stamp = "", "a stamp"
			with := outcome(t, decoder(t, o), o, b)
			if got[0] != '{' {
				continue
			}
			if !json.Valid([]byte(with)) || !strings.Contains(with, `"a stamp":`) {
				t.Fatalf("%s, with a stamp %s", got, with)
			}
		}
	})
}

func FuzzPassedOn(f *testing.F) {
	f.Add([]byte("21.5 \xb0C"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, kind := range []string{decode.Raw, decode.Text} {
			o := decode.Options{Kind: kind}
			got := outcome(t, decoder(t, o), o, b)
			if refused := strings.HasPrefix(got, "!") && got != string(b); !refused && got != string(b) || refused && kind == decode.Raw {
				t.Fatalf("decode %s: %q of frame %q", kind, got, b)
			}
		}
	})
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"id":"a","n":[1,{"x":"}"}]}`))
	f.Add([]byte(` {"id" : 1.50e3 , "\u0069d":"b"} `))
	plain := decode.Options{Kind: decode.JSON}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := outcome(t, decoder(t, plain), plain, b)
		if got == "!not_json" {
			return
		}
		if got != string(b) {
			t.Fatalf("%q becomes %q", b, got)
		}
		stamp := decode.Options{Kind: decode.JSON, Stamp: "a stamp"}
		with := outcome(t, decoder(t, stamp), stamp, b)
		var before, after map[string]json.RawMessage
		if json.Unmarshal(b, &before) != nil || before == nil {
			if with != got {
				t.Fatalf("%q becomes %q", b, with)
			}
			return
		}
		if err := json.Unmarshal([]byte(with), &after); err != nil {
			t.Fatalf("%q: %v", with, err)
		}
		if len(before) == len(after) && before["a stamp"] == nil || after["a stamp"] == nil {
			t.Fatalf("%q is not stamped", with)
		}
		// Taking out device and sub topic takes out nothing else.
		drop := decode.Options{Kind: decode.JSON, DeviceFrom: "id", SubtopicFrom: "s", Drop: true}
		without := outcome(t, decoder(t, drop), drop, b)
		if without[0] == '!' {
			return
		}
		after = nil
		if err := json.Unmarshal([]byte(without), &after); err != nil {
			t.Fatalf("%q: %v", without, err)
		}
		delete(before, "id")
		delete(before, "s")
		if len(before) != len(after) {
			t.Fatalf("%q becomes %q", b, without)
		}
		for k, v := range before {
			if !bytes.Equal(v, after[k]) {
				t.Fatalf("%q becomes %q: %q", b, without, k)
			}
		}
	})
}

func FuzzCSV(f *testing.F) {
	f.Add([]byte("1,2.50,x"))
	f.Add([]byte(`"a ""b""",+1,`))
	f.Add([]byte("  x 007\t\"y\""))
	columns := []string{"a", "b", "c"}
	fuzz(f,
		decode.Options{Kind: decode.CSV, Columns: columns},
		decode.Options{Kind: decode.CSV, Columns: columns, Types: map[string]string{"a": "text", "b": "number"}},
		decode.Options{Kind: decode.CSV, Columns: columns, Separator: " "},
		decode.Options{Kind: decode.CSV, Columns: columns, Separator: "\t"},
		decode.Options{Kind: decode.CSV, Columns: []string{"a", "", "c"}, Separator: " ;", DeviceFrom: "a"})
}

func FuzzKeyValue(f *testing.F) {
	f.Add([]byte("T=21.5;H=40"))
	f.Add([]byte(" a : +1 b:x"))
	fuzz(f,
		decode.Options{Kind: decode.KeyValue},
		decode.Options{Kind: decode.KeyValue, Types: map[string]string{"a": "number", "b": "text"}, SubtopicFrom: "s"},
		decode.Options{Kind: decode.KeyValue, Separator: " ", Assign: ":"},
		decode.Options{Kind: decode.KeyValue, Separator: "\r\n", Assign: "=>", DeviceFrom: "id", Drop: true})
}

func FuzzRegex(f *testing.F) {
	f.Add([]byte("ST,+ 12.5kg"))
	f.Add([]byte("a=1 b=2"))
	fuzz(f,
		decode.Options{Kind: decode.Regex, Pattern: `(?P<k>\w+)=(?P<v>.*?)(?: |$)(?P<rest>.*)`},
		decode.Options{Kind: decode.Regex, Pattern: `^(?P<state>ST|US),(?P<weight>.*)kg$`, Types: map[string]string{"weight": "number"}},
		decode.Options{Kind: decode.Regex, Pattern: `(?s)(?P<all>.*)`, DeviceFrom: "all"})
}

func FuzzFields(f *testing.F) {
	f.Add([]byte("\x02\x41\xac\x00\x00\x12\x34\x00 -1.5 \xff"))
	f.Add([]byte("0123456789abcdef"))
	fuzz(f,
		decode.Options{Kind: decode.Fields, Fields: []decode.Field{
			{Name: "u64", Type: "u64", Scale: "0.999999999999999999"}, {Name: "i64", Type: "i64", Offset: -8, LittleEndian: true, Scale: "-1e18", Add: "7e18"},
			{Name: "f64", Type: "f64", Scale: "1e-18"}, {Name: "f64 plain", Type: "f64", Offset: -8},
		}},
		decode.Options{Kind: decode.Fields, Fields: []decode.Field{
			{Name: "f32", Type: "f32", Scale: "0.1"}, {Name: "f32 little", Type: "f32", LittleEndian: true},
			{Name: "i24", Type: "i24", Add: "-40"}, {Name: "bit", Type: "u8", Bit: ref(3)}, {Name: "bits", Type: "u16", Bit: ref(3), Bits: 9, Scale: "0.5"},
			{Name: "rest", Type: "hex", Offset: 4, LittleEndian: true},
		}},
		decode.Options{Kind: decode.Fields, DeviceFrom: "id", Fields: []decode.Field{{Name: "id", Type: "ascii", Length: 4}, {Name: "n", Type: "decimal", Offset: 4}}},
		decode.Options{Kind: decode.Fields, Fields: []decode.Field{{Name: "b", Type: "bcd", Length: 4, Scale: "1e-9"}, {Name: "l", Type: "bcd", Length: 2, LittleEndian: true, Offset: -2}}})
}

func FuzzNMEA(f *testing.F) {
	for _, s := range []string{
		"$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A",
		"GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,",
		"GPGLL,4916.45,N,12311.12,W,225444,A,", "GPVTG,054.7,T,034.4,M,005.5,N,010.2,K",
		"GPGSA,A,3,04,05,,09,12,,,24,,,,,2.5,1.3,2.1", "GPGSV,1,1,02,01,40,083,,02,,,41,8",
		"GPZDA,082710.00,16,09,2002,00,00", "GPHDT,274.07,T", "WIMWV,214.8,R,0.1,K,A",
		"SDDBT,0038.0,f,0011.6,M,0006.3,F", "SDDPT,76.1,-0.5,100", "!AIVDM,1,1,,B,177KQJ5000G?tO`K>RA1wUbN0TKH,0*5C", "$PUBX,00,x",
	} {
		f.Add([]byte(s))
	}
	fuzz(f, decode.Options{Kind: decode.NMEA}, decode.Options{Kind: decode.NMEA, DeviceFrom: "talker", SubtopicFrom: "type", Drop: true})
}
