package config

import "testing"

func TestParseSize(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Size
		out  string
	}{
		{"0B", 0, "0B"},
		{"1B", 1, "1B"},
		{"512B", 512, "512B"},
		{"1024B", 1024, "1KiB"},
		{"256KiB", 262144, "256KiB"},
		{"64MiB", 64 << 20, "64MiB"},
		{"2GiB", 2 << 30, "2GiB"},
		{"3TiB", 3 << 40, "3TiB"},
		{"1kB", 1000, "1000B"},
		{"1KB", 1000, "1000B"},
		{"1MB", 1e6, "1000000B"},
		{"2GB", 2e9, "1953125KiB"},
		{"1TB", 1e12, "976562500KiB"},
		{"9223372036854775807B", 1<<63 - 1, "9223372036854775807B"},
	} {
		got, err := ParseSize(tt.in)
		if err != nil || got != tt.want || got.String() != tt.out {
			t.Errorf("ParseSize(%q) = %d (%s), %v, want %d (%s)", tt.in, got, got, err, tt.want, tt.out)
		}
	}
	for in, want := range map[string]string{
		"":                     `parse size: "" does not start with a whole number`,
		"KiB":                  `parse size: "KiB" does not start with a whole number`,
		"-1B":                  `parse size: "-1B" does not start with a whole number`,
		"١B":                   `parse size: "١B" does not start with a whole number`,
		"64":                   `parse size: "64" has no unit`,
		"64 MiB":               `parse size: "64 MiB" has the unknown unit " MiB"`,
		"1.5MiB":               `parse size: "1.5MiB" has the unknown unit ".5MiB"`,
		"64mib":                `parse size: "64mib" has the unknown unit "mib"`,
		"64M":                  `parse size: "64M" has the unknown unit "M"`,
		"9223372036854775808B": `parse size: "9223372036854775808B" is too large`,
		"8388608TiB":           `parse size: "8388608TiB" is too large`,
	} {
		if n, err := ParseSize(in); err == nil || err.Error() != want || n != 0 {
			t.Errorf("ParseSize(%q) = %d, %v, want the error %s", in, n, err, want)
		}
	}
}
