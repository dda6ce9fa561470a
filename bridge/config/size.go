package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes, written with its unit: "512B", "256KiB", "64MiB".
type Size int64

// optionalSize is a Size that may be left open: "" is noSize, which no text that
// ParseSize reads gives.
type optionalSize Size

const noSize optionalSize = -1

// sizeUnits are the units of a Size, the largest first.
var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40}, {"TB", 1e12},
	{"GiB", 1 << 30}, {"GB", 1e9},
	{"MiB", 1 << 20}, {"MB", 1e6},
	{"KiB", 1 << 10}, {"KB", 1e3}, {"kB", 1e3},
	{"B", 1},
}

// ParseSize reads a whole number directly followed by B, by a power of 1024
// (KiB, MiB, GiB, TiB; IEC 80000-13) or by a power of 1000 (kB or KB, MB, GB,
// TB). A number without a unit is refused: it would be a guess.
func ParseSize(s string) (Size, error) {
	digits := 0
	for digits < len(s) && '0' <= s[digits] && s[digits] <= '9' {
		digits++
	}
	number, unit := s[:digits], s[digits:]
	switch {
	case number == "":
		return 0, fmt.Errorf("parse size: %q does not start with a whole number", s)
	case unit == "":
		return 0, fmt.Errorf("parse size: %q has no unit", s)
	}
	for _, u := range sizeUnits {
		if unit != u.name {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n > math.MaxInt64/u.bytes {
			return 0, fmt.Errorf("parse size: %q is too large", s)
		}
		return Size(n * u.bytes), nil
	}
	return 0, fmt.Errorf("parse size: %q has the unknown unit %q", s, unit)
}

// String returns the size with the largest unit of 1024 that fits it exactly;
// ParseSize reads it back. Below zero, which ParseSize never returns, it is a
// number of bytes.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s > 0 && strings.HasSuffix(u.name, "iB") && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}
