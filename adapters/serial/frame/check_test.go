package frame_test

import (
	"fmt"
	"strings"
	"testing"

	"fieldbridge/adapters/serial/frame"
)

// The check values of the CRC catalogue are those of "123456789"; the sentences
// are from NMEA 0183 examples, the Modbus frame from the protocol's documents.
func TestCheckVectors(t *testing.T) {
	for _, row := range []struct{ check, content, want string }{
		{"crc16-modbus", "123456789", "\x37\x4b"},
		{"crc16-modbus", "\x11\x03\x00\x6b\x00\x03", "\x76\x87"},
		{"crc16-ccitt", "123456789", "\x29\xb1"},
		{"crc16-ccitt-hex", "123456789", "29B1"},
		{"crc8", "123456789", "\xf4"},
		{"crc8-hex", "123456789", "F4"},
		{"xor", "123456789", "\x31"},
		{"sum8", "123456789", "\xdd"},
		{"sum8-hex", "123456789", "DD"},
		{"nmea", "$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,", "*47"},
		{"nmea", "!AIVDM,1,1,,B,177KQJ5000G?tO`K>RA1wUbN0TKH,0", "*5C"},
		{"nmea", "GPRMC,,V,,,,,,,,,,N", "*53"},
	} {
		t.Run(row.check, func(t *testing.T) {
			c := check(t, row.check)
			framed := c.Append([]byte(row.content))
			if got := string(framed[len(row.content):]); got != row.want {
				t.Fatalf("check of %q is %q, want %q", row.content, got, row.want)
			}
			if c.Size() != len(row.want) || c.String() != row.check {
				t.Errorf("size %d, name %q", c.Size(), c)
			}
			content, ok := c.Strip(framed)
			if !ok || string(content) != row.content {
				t.Errorf("Strip: %q, %v", content, ok)
			}
			for i := range framed {
				bad := []byte(string(framed))
				bad[i] ^= 0x01
				// One bit that is wrong is always found, except where it changes
				// the case of a digit.
				if _, ok := c.Strip(bad); ok && !strings.EqualFold(string(bad), string(framed)) {
					t.Errorf("bit 0 of byte %d is wrong and nothing notices", i)
				}
			}
			if _, ok := c.Strip(framed[len(row.content):]); ok {
				t.Error("a frame of the check alone passes")
			}
		})
	}
	if _, ok := check(t, "nmea").Strip([]byte("$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47")); !ok {
		t.Error("a sentence is refused")
	}
	if got := frame.ModbusCRC([]byte("123456789")); got != 0x4B37 {
		t.Errorf("ModbusCRC = %#x", got)
	}
}

func TestParseCheck(t *testing.T) {
	for _, name := range frame.CheckNames() {
		if c, err := frame.ParseCheck(name); err != nil || c.String() != name {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	for _, name := range []string{"crc32", "nmea-hex", "-hex", "CRC8"} {
		_, err := frame.ParseCheck(name)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", name)) || !strings.Contains(err.Error(), "crc16-modbus") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c, err := frame.ParseCheck(""); c != nil || err != nil || c.Size() != 0 || c.String() != "" {
		t.Errorf("no check: %v, %v", c, err)
	}
}
