package decode_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/adapters/serial/decode"
)

func TestPassedOn(t *testing.T) {
	raw, text, jsn := decode.Options{Kind: decode.Raw}, decode.Options{Kind: decode.Text}, decode.Options{Kind: decode.JSON}
	runRows(t, []row{
		{"any bytes", raw, "\x00\xff", "\x00\xff"},
		{"text", text, "21.5 °C", "21.5 °C"},
		{"control characters", text, "\x02 21.5 \x03", "\x02 21.5 \x03"},
		{"latin 1", text, "21.5 \xb0C", "!invalid_text"},
		{"NUL", text, "a\x00", "!invalid_text"},
		{"a surrogate", text, "\xed\xa0\x80", "!invalid_text"},
		{"long numbers", jsn, ` {"n": 1.000000000000000000001e400} `, ` {"n": 1.000000000000000000001e400} `},
		{"JSON that is no object", jsn, `"°"`, `"°"`},
		{"two texts", jsn, `{"a":1}{"b":2}`, "!not_json"},
		{"NaN", jsn, `NaN`, "!not_json"},
		{"JSON in latin 1", jsn, "\"\xb0\"", "!not_json"},
		{"the tail of an object", jsn, `5"}`, "!not_json"},
		{"byte order mark", jsn, "\xef\xbb\xbf{}", "!not_json"},
	})
}

func TestCSV(t *testing.T) {
	abc := decode.Options{Kind: decode.CSV, Columns: []string{"a", "b", "c"}}
	with := func(o decode.Options, f func(*decode.Options)) decode.Options { f(&o); return o }
	typed := with(abc, func(o *decode.Options) { o.Types = map[string]string{"a": "text", "b": "number"} })
	semicolon := with(abc, func(o *decode.Options) { o.Separator = ";" })
	tab := with(abc, func(o *decode.Options) { o.Separator = "\t" })
	long := with(abc, func(o *decode.Options) { o.Separator = " | " })
	blank := with(abc, func(o *decode.Options) { o.Separator = " " })
	runRows(t, []row{
		{"numbers", abc, "1,-2.50,3e5\r\n", `{"a":1,"b":-2.50,"c":3e5}`},
		{"plus", abc, "+1.50,+0,+7e+1", `{"a":1.50,"b":0,"c":7e+1}`},
		{"no numbers", abc, "007,0x1f,1.", `{"a":"007","b":"0x1f","c":"1."}`},
		{"no numbers either", abc, "+,-,+-1", `{"a":"+","b":"-","c":"+-1"}`},
		{"points", abc, ".5,1.5.2,1e", `{"a":".5","b":"1.5.2","c":"1e"}`},
		{"leading zeros", abc, "00.5,-0.5,-01", `{"a":"00.5","b":-0.5,"c":"-01"}`},
		{"many digits", abc, "12345678901234567890.12345678901234567890,0.10,1E-7", `{"a":12345678901234567890.12345678901234567890,"b":0.10,"c":1E-7}`},
		{"empty", abc, ",x,", `{"b":"x"}`},
		{"all empty", abc, " , ,", "!bad_fields"},
		{"blanks", abc, " 1 ,\tx y\t, ", `{"a":1,"b":"x y"}`},
		{"quoted", abc, `"1","a,b","x""y"`, `{"a":"1","b":"a,b","c":"x\"y"}`},
		{"quoted, empty", abc, `"",2,""`, `{"a":"","b":2,"c":""}`},
		{"blanks around quotes", abc, ` "1" , "2 " ,3`, `{"a":"1","b":"2 ","c":3}`},
		{"line break in quotes", abc, "\"a\r\nb\",2,3", `{"a":"a\r\nb","b":2,"c":3}`},
		{"no closing quote", abc, `1,"2,3`, "!bad_fields"},
		{"behind the quote", abc, `1,"2"x,3`, "!bad_fields"},
		{"quote inside", abc, `1,5" pipe,3`, "!bad_fields"},
		{"too few", abc, "1,2", "!bad_fields"},
		{"too many", abc, "1,2,3,", "!bad_fields"},
		{"none", abc, "", "!bad_fields"},
		{"typed", typed, "12,007,x", `{"a":"12","b":7,"c":"x"}`},
		{"typed plus", typed, `+12,"+007.10",x`, `{"a":"+12","b":7.10,"c":"x"}`},
		{"typed empty", typed, `1,"",x`, `{"a":"1","c":"x"}`},
		{"declared number", typed, "1,2x,3", "!bad_number"},
		{"scale's blanks", typed, "1,-  .5,3", `{"a":"1","b":-0.5,"c":3}`},
		{"decimal comma", semicolon, "1,5;2;3", `{"a":"1,5","b":2,"c":3}`},
		{"tabs", tab, "1\t\t 3 ", `{"a":1,"c":3}`},
		{"tabs around a quote", tab, "\"1\"\t\"2\"\t\"\"", `{"a":"1","b":"2","c":""}`},
		{"long separator", long, "1 | 2 | 3", `{"a":1,"b":2,"c":3}`},
		{"runs of blanks", blank, "  1 \t 2    3 ", `{"a":1,"b":2,"c":3}`},
		{"runs and quotes", blank, `"1 x"   2 "3"`, `{"a":"1 x","b":2,"c":"3"}`},
		{"skipped", decode.Options{Kind: decode.CSV, Columns: []string{"", "b", ""}}, "1,2,", `{"b":2}`},
		{"escapes", decode.Options{Kind: decode.CSV, Columns: []string{`"\`, "é"}}, "\\\x01\x7f,°", `{"\"\\":"\\\u0001\u007f","é":"°"}`},
		{"latin 1", abc, "1,2,\xb0", "!invalid_text"},
		{"NUL", abc, "1,2,\x00", "!invalid_text"},
		{"too large", with(abc, func(o *decode.Options) { o.MaxPayload = 30 }), "1,2," + strings.Repeat("x", 30), "!too_large"},
		{"as large as may be", with(abc, func(o *decode.Options) { o.MaxPayload = 30 }), "1,2," + strings.Repeat("x", 8), `{"a":1,"b":2,"c":"xxxxxxxx"}`},
	})
}

func TestKeyValue(t *testing.T) {
	o := decode.Options{Kind: decode.KeyValue, Types: map[string]string{"n": "number", "t": "text"}}
	blank := decode.Options{Kind: decode.KeyValue, Separator: " ", Assign: ":"}
	runRows(t, []row{
		{"pairs", o, "T=21.50;H=40\r\n", `{"T":21.50,"H":40}`},
		{"blanks", o, " T = 21.5 ; H = 4 0 ;; ", `{"T":21.5,"H":"4 0"}`},
		{"typed", o, "n=+007;t=7;u=007", `{"n":7,"t":"7","u":"007"}`},
		{"declared number", o, "n=x", "!bad_number"},
		{"empty value", o, "a=;b=1", `{"b":1}`},
		{"no value at all", o, "a=;", "!bad_fields"},
		{"empty key", o, "=1", "!bad_fields"},
		{"long key", o, strings.Repeat("k", 129) + "=1", "!bad_fields"},
		{"no assign", o, "a=1;b", "!bad_fields"},
		{"twice", o, "a=1;b=2;a=3", "!bad_fields"},
		{"twice, escaped", o, "a\"=1;a\"=3", "!bad_fields"},
		{"assign in the value", o, "a=b=c", `{"a":"b=c"}`},
		{"too many", o, pairs(257), "!bad_fields"},
		{"many", o, pairs(2), `{"k0":1,"k1":1}`},
		{"other separators", decode.Options{Kind: decode.KeyValue, Separator: ",", Assign: ":"}, "T:1,H:2", `{"T":1,"H":2}`},
		{"runs of blanks", blank, " T:1 \t H:2 ", `{"T":1,"H":2}`},
		{"latin 1", o, "a=\xb0", "!invalid_text"},
	})
}

func pairs(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("k" + string(rune('0'+i%10)))
		if i >= 10 {
			b.WriteString(strings.Repeat("x", i/10))
		}
		b.WriteString("=1;")
	}
	return b.String()
}

func TestRegex(t *testing.T) {
	o := decode.Options{Kind: decode.Regex, Pattern: `^(?P<a>\w+)(?: (?P<b>\S*))?$`, Types: map[string]string{"b": "number"}}
	runRows(t, []row{
		{"groups", o, "x 007", `{"a":"x","b":7}`},
		{"a group of no part", o, "5", `{"a":5}`},
		{"an empty group", o, "5 ", `{"a":5}`},
		{"no match", o, "-", "!no_match"},
		{"declared number", o, "5 x", "!bad_number"},
		{"anywhere", decode.Options{Kind: decode.Regex, Pattern: `T=(?P<t>[-0-9.]+)`}, "OK T=-1.0 C", `{"t":-1.0}`},
		{"unnamed groups", decode.Options{Kind: decode.Regex, Pattern: `(\d)(?P<t>\d)(\d)`}, "123", `{"t":2}`},
		{"nothing taken", decode.Options{Kind: decode.Regex, Pattern: `(?P<t>\d*)x`}, "x", "!bad_fields"},
		{"latin 1", o, "\xb0", "!invalid_text"},
	})
}

func TestFields(t *testing.T) {
	one := func(f decode.Field) decode.Options {
		if f.Name == "" {
			f.Name = "v"
		}
		return decode.Options{Kind: decode.Fields, Fields: []decode.Field{f}}
	}
	rows := []row{
		{"f32 scaled", one(decode.Field{Type: "f32", Scale: "0.1"}), "\x41\xac\x00\x00", `{"v":2.15}`},
		{"f32 tenth", one(decode.Field{Type: "f32"}), "\x3d\xcc\xcc\xcd", `{"v":0.1}`},
		{"f64 little", one(decode.Field{Type: "f64", LittleEndian: true}), "\x9a\x99\x99\x99\x99\x99\xb9\x3f", `{"v":0.1}`},
		{"f32 large", one(decode.Field{Type: "f32"}), "\x7f\x7f\xff\xff", `{"v":3.4028235e+38}`},
		{"f32 negative zero", one(decode.Field{Type: "f32", Scale: "2"}), "\x80\x00\x00\x00", `{"v":0}`},
		{"f64 tiny, scaled", one(decode.Field{Type: "f64", Scale: "-0.1"}), "\x00\x00\x00\x00\x00\x00\x00\x01", `{"v":-5e-325}`},
		{"NaN", one(decode.Field{Type: "f32"}), "\x7f\xc0\x00\x00", "!bad_fields"},
		{"infinity", one(decode.Field{Type: "f64"}), "\xff\xf0\x00\x00\x00\x00\x00\x00", "!bad_fields"},
		{"bcd", one(decode.Field{Type: "bcd", Length: 3, Scale: "0.01"}), "\x01\x23\x45", `{"v":123.45}`},
		{"bcd little", one(decode.Field{Type: "bcd", Length: 3, LittleEndian: true}), "\x45\x23\x01", `{"v":12345}`},
		{"bcd longest", one(decode.Field{Type: "bcd", Length: 9}), strings.Repeat("\x99", 9), `{"v":999999999999999999}`},
		{"not bcd", one(decode.Field{Type: "bcd", Length: 2}), "\x1a\x00", "!bad_fields"},
		{"hex", one(decode.Field{Type: "hex", Offset: 1, Length: 2}), "\x00\xab\x0c\x00", `{"v":"ab0c"}`},
		{"hex little", one(decode.Field{Type: "hex", LittleEndian: true}), "\x01\x02\xff", `{"v":"ff0201"}`},
		{"hex of nothing", one(decode.Field{Type: "hex", Offset: 2}), "\x01\x02", "!bad_fields"},
		{"hex behind the end", one(decode.Field{Type: "hex", Offset: 3}), "\x01\x02", "!too_short"},
		{"hex too large", one(decode.Field{Type: "hex"}), strings.Repeat("x", decode.DefaultMaxPayload), "!too_large"},
		{"ascii", one(decode.Field{Type: "ascii", Length: 6}), " a \"\x00\x00", `{"v":"a \""}`},
		{"ascii digits stay text", one(decode.Field{Type: "ascii"}), "0012", `{"v":"0012"}`},
		{"not ascii", one(decode.Field{Type: "ascii"}), "a\xb0", "!invalid_text"},
		{"NUL inside", one(decode.Field{Type: "ascii"}), "a\x00b", "!invalid_text"},
		{"decimal", one(decode.Field{Type: "decimal", Offset: 1, Length: 8}), "\x02+0012.50kg", `{"v":12.50}`},
		{"not decimal", one(decode.Field{Type: "decimal"}), "12x", "!bad_number"},
		{"from the end", one(decode.Field{Type: "u16", Offset: -2}), "\xff\x01\x02", `{"v":258}`},
		{"from the end, too short", one(decode.Field{Type: "u16", Offset: -2}), "\xff", "!too_short"},
		{"too short", one(decode.Field{Type: "u16", Offset: 1}), "\x01\x02", "!too_short"},
		{"bit set", one(decode.Field{Type: "u16", Bit: ref(8)}), "\x01\x00", `{"v":true}`},
		{"bit clear", one(decode.Field{Type: "u16", Bit: ref(8), LittleEndian: true}), "\x01\x00", `{"v":false}`},
		{"bits", one(decode.Field{Type: "u8", Bit: ref(4), Bits: 4, Scale: "0.5"}), "\xb5", `{"v":5.5}`},
		{"all bits", one(decode.Field{Type: "u64", Bit: ref(0), Bits: 64}), strings.Repeat("\xff", 8), `{"v":18446744073709551615}`},
		{"scale and add", one(decode.Field{Type: "u8", Scale: "0.5", Add: "-40.25"}), "\x00", `{"v":-40.25}`},
		{"crossing zero", one(decode.Field{Type: "u8", Scale: "0.5", Add: "-40"}), "\x51", `{"v":0.5}`},
		{"zero", one(decode.Field{Type: "u8", Scale: "0.5", Add: "-40"}), "\x50", `{"v":0.0}`},
		{"scale of thousands", one(decode.Field{Type: "i8", Scale: "1e3"}), "\xfb", `{"v":-5000}`},
		{"add only", one(decode.Field{Type: "i8", Add: "0.5"}), "\xff", `{"v":-0.5}`},
		{"largest", one(decode.Field{Type: "u64", Scale: "-0.999999999999999999"}), strings.Repeat("\xff", 8), `{"v":-18446744073709551596.553255926290448385}`},
		{"NUL is fine here", one(decode.Field{Type: "u8"}), "\x00", `{"v":0}`},
		{"order of the fields", decode.Options{Kind: decode.Fields, Fields: []decode.Field{{Name: "b", Type: "u8", Offset: 1}, {Name: "a", Type: "u8"}}}, "\x01\x02", `{"b":2,"a":1}`},
	}
	for _, v := range []struct{ name, frame, big, little string }{
		{"u8", "\xfe", "254", "254"},
		{"i8", "\xfe", "-2", "-2"},
		{"u16", "\xff\x01", "65281", "511"},
		{"i16", "\xff\x01", "-255", "511"},
		{"u24", "\xff\x00\x01", "16711681", "65791"},
		{"i24", "\xff\x00\x01", "-65535", "65791"},
		{"u32", "\xff\x00\x00\x01", "4278190081", "16777471"},
		{"i32", "\xff\x00\x00\x01", "-16777215", "16777471"},
		{"u64", "\xff\x00\x00\x00\x00\x00\x00\x01", "18374686479671623681", "72057594037928191"},
		{"i64", "\xff\x00\x00\x00\x00\x00\x00\x01", "-72057594037927935", "72057594037928191"},
		{"i64", "\x80\x00\x00\x00\x00\x00\x00\x00", "-9223372036854775808", "128"},
	} {
		rows = append(rows,
			row{v.name, one(decode.Field{Type: v.name}), v.frame, `{"v":` + v.big + `}`},
			row{v.name + " little", one(decode.Field{Type: v.name, LittleEndian: true}), v.frame, `{"v":` + v.little + `}`})
	}
	runRows(t, rows)
}

func TestContentTypes(t *testing.T) {
	for _, row := range []struct {
		opts           decode.Options
		frame, want    string
		wantForwarding bool
	}{
		{decode.Options{Kind: decode.Raw}, "x", "application/octet-stream", false},
		{decode.Options{Kind: decode.Text}, "x", "text/plain", false},
		{decode.Options{Kind: decode.JSON}, "1", "application/json", false},
		{decode.Options{Kind: decode.NMEA}, "GPHDT,1,T", "application/json", false},
		{decode.Options{Kind: decode.Raw, ContentType: "Text/Plain;charset=ISO-8859-1"}, "x", "text/plain; charset=ISO-8859-1", false},
		{decode.Options{Kind: decode.JSON, OnError: decode.Forward}, "x", "text/plain", true},
		{decode.Options{Kind: decode.Text, OnError: decode.Forward}, "\xff", "application/octet-stream", true},
		{decode.Options{Kind: decode.Text, OnError: decode.Forward}, "a\x00", "application/octet-stream", true},
		{decode.Options{Kind: decode.Fields, OnError: decode.Forward, Fields: []decode.Field{{Name: "v", Type: "u32"}}}, "x", "application/octet-stream", true},
	} {
		r, err := decoder(t, row.opts).Decode([]byte(row.frame), measured)
		if r.ContentType != row.want || (err != nil) != row.wantForwarding || string(r.Payload) != row.frame && row.opts.Kind != decode.NMEA {
			t.Errorf("%+v: %q is %q, %v", row.opts, row.frame, r.ContentType, err)
		}
	}
}

func TestStamp(t *testing.T) {
	kv := decode.Options{Kind: decode.KeyValue, Stamp: "timestamp"}
	jsn := decode.Options{Kind: decode.JSON, Stamp: "timestamp"}
	odd := decode.Options{Kind: decode.JSON, Stamp: `"at"`}
	drop := decode.Options{Kind: decode.JSON, Stamp: "timestamp", DeviceFrom: "id", Drop: true}
	s := `"timestamp":` + stamped
	runRows(t, []row{
		{"pairs", kv, "a=1", `{"a":1,` + s + `}`},
		{"the device's own", kv, "timestamp=1;a=2", `{"timestamp":1,"a":2}`},
		{"object", jsn, ` {"a": {"timestamp":1} } `, ` {"a": {"timestamp":1},` + s + ` } `},
		{"empty object", jsn, ` { } `, ` {` + s + ` } `},
		{"no object", jsn, ` [1] `, ` [1] `},
		{"own", jsn, `{"timestamp" : null}`, `{"timestamp" : null}`},
		{"own, escaped", jsn, `{"\u0074imestamp":1}`, `{"\u0074imestamp":1}`},
		{"brackets in strings", jsn, `{"a":"}]\"","b":[{"c":["}"]}, 2]}`, `{"a":"}]\"","b":[{"c":["}"]}, 2],` + s + `}`},
		{"odd key", odd, `{"a":1}`, `{"a":1,"\"at\"":` + stamped + `}`},
		{"dropped", drop, `{"id":7, "a":1}`, `{"a":1,` + s + `}`},
		{"dropped all", drop, `{"id":7}`, `{` + s + `}`},
	})
	for _, at := range []time.Time{{}, time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC)} {
		r, err := decoder(t, kv).Decode([]byte("a=1"), at)
		if err != nil || string(r.Payload) != `{"a":1}` {
			t.Errorf("at %v: %q, %v", at, r.Payload, err)
		}
	}
}

func TestDeviceAndSubtopic(t *testing.T) {
	jsn := decode.Options{Kind: decode.JSON, DeviceFrom: "id", SubtopicFrom: "kind"}
	drop := jsn
	drop.Drop = true
	csv := decode.Options{Kind: decode.CSV, Columns: []string{"id", "v"}, DeviceFrom: "id"}
	for _, row := range []struct {
		opts  decode.Options
		frame string
		want  string // device, sub topic and payload, or "!" and the reason
	}{
		{jsn, `{"id":"d1","kind":"a/b","v":1.0}`, `d1 a/b {"id":"d1","kind":"a/b","v":1.0}`},
		{jsn, `{"id":1.50e3,"kind":-7}`, `1.50e3 -7 {"id":1.50e3,"kind":-7}`},
		{jsn, `{"id":"\u00e9\"","kind":"k"}`, `é" k {"id":"\u00e9\"","kind":"k"}`},
		{jsn, `{"id":"first","id":"last","kind":"k"}`, `last k {"id":"first","id":"last","kind":"k"}`},
		{drop, `{ "id":"first", "v":1.0 ,"id":"last","kind":"k", "w" : [ 1 ] }`, `last k {"v":1.0,"w":[ 1 ]}`},
		{drop, `{"id":"d","kind":"k"}`, `d k {}`},
		{jsn, `{"kind":"k"}`, "!bad_device"},
		{jsn, `{"x":{"id":"d"},"kind":"k"}`, "!bad_device"},
		{jsn, `{"id":null,"kind":"k"}`, "!bad_device"},
		{jsn, `{"id":["d"],"kind":"k"}`, "!bad_device"},
		{jsn, `{"id":"","kind":"k"}`, "!bad_device"},
		{jsn, `{"id":"a/b","kind":"k"}`, "!bad_device"},
		{jsn, `{"id":"#","kind":"k"}`, "!bad_device"},
		{jsn, `{"id":"\u0000","kind":"k"}`, "!bad_device"},
		{jsn, `{"id":"\ud800","kind":"k"}`, "!bad_device"},
		{jsn, `{"id":"` + strings.Repeat("é", 200) + `","kind":"k"}`, "!bad_device"},
		{jsn, `[]`, "!bad_device"},
		{jsn, `{"id":"d"}`, "!bad_subtopic"},
		{jsn, `{"id":"d","kind":""}`, "!bad_subtopic"},
		{jsn, `{"id":"d","kind":"/a"}`, "!bad_subtopic"},
		{jsn, `{"id":"d","kind":true}`, "!bad_subtopic"},
		{jsn, `{"id":"d","kind":"` + strings.Repeat("é/", 90) + `+"}`, "!bad_subtopic"},
		{decode.Options{Kind: decode.JSON, SubtopicFrom: "kind"}, `7`, "!bad_subtopic"},
		{csv, "007,1", `007  {"id":"007","v":1}`},
		{csv, "+12,1", `12  {"id":12,"v":1}`},
		{csv, ",1", "!bad_device"},
	} {
		d := decoder(t, row.opts)
		got := outcome(t, d, row.opts, []byte(row.frame))
		if got[0] != '!' {
			r, _ := d.Decode([]byte(row.frame), measured)
			got = string(r.Device) + " " + string(r.Subtopic) + " " + string(r.Payload)
		}
		if got != row.want {
			t.Errorf("%s\n becomes %s\n    want %s", row.frame, got, row.want)
		}
	}
}

// An error says where, and shows little of the frame.
func TestDetails(t *testing.T) {
	csv := decode.Options{Kind: decode.CSV, Columns: []string{"a", "b"}, Types: map[string]string{"b": "number"}}
	for _, row := range []struct {
		opts        decode.Options
		frame, want string
	}{
		{decode.Options{Kind: decode.Text}, "ab\xffc", `not valid UTF-8 at byte 2: check baud and mode; for another encoding use decode = "raw"`},
		{decode.Options{Kind: decode.JSON}, `{"a":x}`, `not valid JSON at byte 6, invalid character 'x' looking for beginning of value: check baud and mode, and what the device sends`},
		{csv, "1,2,3", "the frame has more than the 2 cells that columns names"},
		{csv, "1,abc", `"b" is not a number: "abc"`},
		{csv, "1," + strings.Repeat("x", 100), `"b" is not a number: "xxxxxxxxxxxxxxxxxxxxxxxx" and 76 bytes more`},
		{decode.Options{Kind: decode.KeyValue}, "a=1;bc", `pair 2 has no "=": "bc"`},
		{decode.Options{Kind: decode.Fields, Fields: []decode.Field{{Name: "t", Offset: 3, Type: "i16"}}}, "abcd", `field "t", i16 at offset 3, is not within the 4 bytes of the frame`},
		{decode.Options{Kind: decode.NMEA}, "$GPHDT,abc,T", `HDT: field 1 is not a number: "abc"`},
		{decode.Options{Kind: decode.JSON, DeviceFrom: "id"}, `{"a":1}`, `device_from: key "id": is missing`},
	} {
		_, err := decoder(t, row.opts).Decode([]byte(row.frame), measured)
		if err == nil || err.Error() != row.want {
			t.Errorf("%q: %v\nwant %s", row.frame, err, row.want)
		}
	}
}

func TestMistakes(t *testing.T) {
	field := func(f decode.Field) decode.Options {
		return decode.Options{Kind: decode.Fields, Fields: []decode.Field{f}}
	}
	csv := func(f func(*decode.Options)) decode.Options {
		o := decode.Options{Kind: decode.CSV, Columns: []string{"a"}}
		f(&o)
		return o
	}
	for _, row := range []struct {
		opts decode.Options
		want []string
	}{
		{decode.Options{Kind: "xml"}, []string{`decode must be one of raw, text, json, csv, keyvalue, regex, fields, nmea (got "xml")`}},
		{decode.Options{Kind: decode.CSV}, []string{`columns is missing: name the cells in order, such as columns = ["id", "temperature"]`}},
		{decode.Options{Kind: decode.Raw, Stamp: "t", OnError: "forward"}, []string{
			`stamp has no meaning with decode = "raw": it belongs to json, csv, keyvalue, regex, fields, nmea`,
			`on_error has no meaning with decode = "raw": it belongs to text, json, csv, keyvalue, regex, fields, nmea`,
		}},
		{decode.Options{Kind: decode.JSON, Drop: true, ContentType: "image/png"}, []string{
			"drop_from takes out what device_from and subtopic_from name: set one of them, or leave it out",
			`unsupported content type: content type "image/png" is not one of application/json, text/plain, application/octet-stream, application/xml, text/csv`,
		}},
		{decode.Options{Kind: decode.JSON, DeviceFrom: "x", SubtopicFrom: "x", OnError: "drop", MaxPayload: -1}, []string{
			`device_from and subtopic_from are both "x": one value cannot be both`,
			`on_error must be "forward" or empty (got "drop")`,
			"max payload must not be below zero (got -1)",
		}},
		{csv(func(o *decode.Options) {
			o.Columns = []string{"a", "b", "a"}
			o.DeviceFrom, o.Types = "id", map[string]string{"b": "float", "c": "text"}
		}), []string{
			`types: "b" must be "text" or "number" (got "float")`,
			`columns has the name "a" twice`,
			`device_from names "id", which is not in columns`,
			`types names "c", which is not in columns`,
		}},
		{csv(func(o *decode.Options) { o.Separator = `"` }), []string{`separator "\"" must not contain a quote or an end of line`}},
		{csv(func(o *decode.Options) { o.Separator = "123456789" }), []string{"separator and assign have at most 8 bytes"}},
		{csv(func(o *decode.Options) { o.Columns = make([]string, 257) }), []string{
			`columns is missing: name the cells in order, such as columns = ["id", "temperature"]`, "columns has 257 entries, at most 256 are allowed",
		}},
		{csv(func(o *decode.Options) { o.Columns = []string{strings.Repeat("x", 129)} }), []string{
			`columns must be a name of 1 to 128 bytes of UTF-8 (got "` + strings.Repeat("x", 40) + `")`,
		}},
		{decode.Options{Kind: decode.KeyValue, Assign: ";"}, []string{`separator ";" and assign ";" must not contain one another`}},
		{decode.Options{Kind: decode.KeyValue, Separator: " ", Assign: ": "}, []string{`separator " " and assign ": " must not contain one another`}},
		{decode.Options{Kind: decode.Regex}, []string{`pattern is missing: give a regular expression with named groups, such as ^T=(?P<temperature>[-0-9.]+)$`}},
		{decode.Options{Kind: decode.Regex, Pattern: "("}, []string{"pattern: error parsing regexp: missing closing ): `(`"}},
		{decode.Options{Kind: decode.Regex, Pattern: "(x)"}, []string{`pattern "(x)" has no named group: write (?P<name>…) around each value`}},
		{decode.Options{Kind: decode.Fields}, []string{`fields is missing: say where each value is, such as fields = [{ name = "temperature", offset = 0, type = "i16", scale = "0.1" }]`}},
		{field(decode.Field{Type: "u8"}), []string{`fields must be a name of 1 to 128 bytes of UTF-8 (got "")`}},
		{field(decode.Field{Name: "v", Type: "u12"}), []string{`fields[0] "v": type must be one of u8, i8, u16, i16, u24, i24, u32, i32, u64, i64, f32, f64, bcd, hex, ascii, decimal (got "u12")`}},
		{field(decode.Field{Name: "v", Type: "u8", Length: 2, Offset: 1 << 21}), []string{
			`fields[0] "v": length is for bcd, hex, ascii and decimal: u8 has 1 bytes`,
			`fields[0] "v": offset and length must be within 1048576 bytes`,
		}},
		{field(decode.Field{Name: "v", Type: "u16", Offset: -1}), []string{`fields[0] "v": 2 bytes at offset -1 end behind the frame`}},
		{field(decode.Field{Name: "v", Type: "bcd"}), []string{`fields[0] "v": length of bcd must be 1 to 9 bytes (got 0)`}},
		{field(decode.Field{Name: "v", Type: "ascii", Scale: "2", Add: "1", LittleEndian: true}), []string{
			`fields[0] "v": scale has no meaning for ascii`, `fields[0] "v": add has no meaning for ascii`, `fields[0] "v": endian has no meaning for ascii`,
		}},
		{field(decode.Field{Name: "v", Type: "f32", Add: "1"}), []string{`fields[0] "v": add has no meaning for f32`}},
		{field(decode.Field{Name: "v", Type: "u8", Scale: "0.1x"}), []string{`fields[0] "v": scale "0.1x" is not a decimal number such as "0.01"`}},
		{field(decode.Field{Name: "v", Type: "u8", Scale: "0"}), []string{`fields[0] "v": scale "0" makes every value zero`}},
		{field(decode.Field{Name: "v", Type: "u8", Scale: "1e-99"}), []string{`fields[0] "v": scale "1e-99": the exponent must be a number from -18 to 18`}},
		{field(decode.Field{Name: "v", Type: "u8", Add: "0.1234567890123456789"}), []string{`fields[0] "v": add "0.1234567890123456789" has more than 18 digits`}},
		{field(decode.Field{Name: "v", Type: "u8", Scale: "1e-12", Add: "1e12"}), []string{`fields[0] "v": scale and add are too far apart for 18 digits`}},
		{field(decode.Field{Name: "v", Type: "i8", Bit: ref(1)}), []string{`fields[0] "v": bit is for unsigned integers (got i8)`}},
		{field(decode.Field{Name: "v", Type: "u8", Bits: 1}), []string{`fields[0] "v": bits needs bit, the lowest one`}},
		{field(decode.Field{Name: "v", Type: "u8", Bit: ref(7), Bits: 2}), []string{`fields[0] "v": bit 7 and the 2 from there on are not all in u8`}},
		{field(decode.Field{Name: "v", Type: "u8", Bit: ref(7), Scale: "2"}), []string{`fields[0] "v": one bit is true or false: scale and add have no meaning`}},
	} {
		err := row.opts.Valid()
		if err == nil {
			t.Errorf("%+v is valid", row.opts)
			continue
		}
		if d := cmp.Diff(row.want, strings.Split(err.Error(), "\n")); d != "" {
			t.Errorf("%+v (-want +got):\n%s", row.opts, d)
		}
		if d, err := decode.New(row.opts); err == nil || d != nil {
			t.Errorf("New(%+v) = %v, %v", row.opts, d, err)
		}
	}
}
