package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"
)

const (
	// minSpool is the least that the spool is given: below it one reading of
	// the usual largest size would fill a good part.
	minSpool = 1 << 20
	// maxSpool is what one SQLite database can hold (sqlite.org/limits.html).
	maxSpool = 256 << 40
	// minPerDevice leaves room for more than one reading of a usual size.
	minPerDevice = 64 << 10
	// minMinFree is what the database itself needs to make room again.
	minMinFree = 1 << 20
)

// spool checks where and how much is kept on disk, and the clock's keys.
func (v *validator) spool() {
	v.stateDir()
	raw, in := &v.raw.Spool, v.raw.Spool.In
	v.cfg.Spool = Spool{
		Pos: in.pos(""), MaxBytes: int64(raw.MaxBytes), MaxBytesPerDevice: max(0, int64(raw.MaxBytesPerDevice)),
		MaxAge: raw.MaxAge, WhenFull: raw.WhenFull, MinFree: int64(raw.MinFree),
	}
	checkSizeRange(in, "max_bytes", raw.MaxBytes, sizeRange{minSpool, maxSpool})
	if raw.MaxBytesPerDevice != noSize {
		checkPerDevice(raw)
	}
	checkDuration(in, "max_age", raw.MaxAge, durationRange{min: time.Minute, max: math.MaxInt64})
	oneOf(in, "when_full", raw.WhenFull, []string{WhenFullReject, WhenFullDropOldest})
	checkSizeRange(in, "min_free", raw.MinFree, sizeRange{minMinFree, maxSpool})

	v.cfg.Clock = Clock{Pos: v.raw.Clock.In.pos(""), RequireSync: v.raw.Clock.RequireSync}
}

func checkPerDevice(raw *rawSpool) {
	const key = "max_bytes_per_device"
	in, n := raw.In, Size(raw.MaxBytesPerDevice)
	checkSizeRange(in, key, n, sizeRange{minPerDevice, maxSpool})
	if in.ok(key) && in.ok("max_bytes") && n > raw.MaxBytes {
		in.wrong(key, fmt.Sprintf("is more than max_bytes (%s), so it has no effect", raw.MaxBytes), `lower it, or write "" for no limit of its own`)
	}
}

// stateDir makes the path of the state directory absolute. The directory need
// not exist: whoever opens the spool makes it.
func (v *validator) stateDir() {
	in := v.raw.In
	if !in.ok("state_dir") {
		return
	}
	path, f := in.src.directory(v.raw.StateDir)
	if in.flawed("state_dir", f) {
		v.cfg.StateDir = path
	}
}

// directory turns the value of a directory's key into an absolute path. A
// relative one starts at the directory of the file that holds the key.
func (s *source) directory(value string) (string, *flaw) {
	if value == "" {
		return "", &flaw{"is empty", fmt.Sprintf("such as %q", defaultStateDir)}
	}
	if f := checkText(value); f != nil {
		return "", f
	}
	if !filepath.IsAbs(value) {
		value = filepath.Join(s.dir, value)
	}
	path, err := filepath.Abs(value)
	if err != nil {
		return "", &flaw{fmt.Sprintf("cannot be made an absolute path: %v", err), fmt.Sprintf("such as %q", defaultStateDir)}
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		// Not there yet, or not for the user who checks the file.
	case err != nil:
		return "", &flaw{problem: fmt.Sprintf("%s cannot be a directory: %v", path, cause(err))}
	case !info.IsDir():
		return "", &flaw{problem: fmt.Sprintf("%s is not a directory", path)}
	}
	return path, nil
}
