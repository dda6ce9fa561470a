package decode_test

import (
	"testing"

	"fieldbridge/adapters/serial/decode"
)

func BenchmarkDecode(b *testing.B) {
	for _, row := range []struct {
		name  string
		opts  decode.Options
		frame string
	}{
		{"raw", decode.Options{Kind: decode.Raw}, "\x02ST,GS,+  12.345kg\x03"},
		{"text", decode.Options{Kind: decode.Text}, "ST,GS,+  12.345kg"},
		{"json", decode.Options{Kind: decode.JSON}, `{"temperature":21.50,"humidity":40,"door":"open"}`},
		{"json stamped", decode.Options{Kind: decode.JSON, Stamp: "timestamp"}, `{"temperature":21.50,"humidity":40,"door":"open"}`},
		{"csv", decode.Options{Kind: decode.CSV, Columns: []string{"temperature", "humidity", "door"}}, "21.50,40,open"},
		{"csv stamped, device", decode.Options{Kind: decode.CSV, Columns: []string{"temperature", "humidity", "door"}, Stamp: "timestamp", DeviceFrom: "door", Drop: true}, "21.50,40,open"},
		{"keyvalue", decode.Options{Kind: decode.KeyValue}, "temperature=21.50;humidity=40;door=open"},
		{"regex", decode.Options{Kind: decode.Regex, Pattern: `^(?P<state>ST|US),(?P<kind>\w+),(?P<weight>[-+] *[0-9.]+)kg$`, Types: map[string]string{"weight": "number"}}, "ST,GS,+  12.345kg"},
		{"fields", decode.Options{Kind: decode.Fields, Fields: []decode.Field{
			{Name: "temperature", Type: "i16", Scale: "0.01"}, {Name: "humidity", Offset: 2, Type: "u8"}, {Name: "flow", Offset: 3, Type: "f32"}, {Name: "door", Offset: 7, Type: "u8", Bit: ref(0)},
		}}, "\x08\x66\x28\x41\xac\x00\x00\x01"},
		{"nmea RMC", decode.Options{Kind: decode.NMEA}, "$GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A"},
		{"nmea GSV", decode.Options{Kind: decode.NMEA}, "$GPGSV,2,1,08,01,40,083,46,02,17,308,41,12,07,344,39,14,22,228,45*75"},
		{"refused", decode.Options{Kind: decode.CSV, Columns: []string{"temperature", "humidity"}}, "21.50,40,open"},
	} {
		b.Run(row.name, func(b *testing.B) {
			d := decoder(b, row.opts)
			in := []byte(row.frame)
			b.ReportAllocs()
			b.SetBytes(int64(len(in)))
			for b.Loop() {
				_, err := d.Decode(in, measured)
				if (err != nil) != (row.name == "refused") {
					b.Fatal(err)
				}
			}
		})
	}
}
