package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzLoad: no file makes Load panic, every mistake has a position within the
// file and fits on a line, and no secret is shown.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/conf.*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, exampleFile) {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	dir := fixture(f)
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "*") {
			return // a pattern could wander over the whole file system
		}
		cfg, err := load(filepath.Join(dir, "fieldbridge.toml"), text)
		if err == nil {
			if cfg == nil || len(cfg.Connectors) == 0 {
				t.Fatalf("no mistake in %q, but got %v", text, cfg)
			}
			if sp := cfg.Spool; !filepath.IsAbs(cfg.StateDir) || sp.MaxBytes < minSpool || sp.MinFree < minMinFree ||
				sp.MaxBytesPerDevice < 0 || sp.MaxBytesPerDevice > sp.MaxBytes || sp.MaxAge < time.Minute {
				t.Fatalf("no mistake in %q, but got %q and %+v", text, cfg.StateDir, sp)
			}
			return
		}
		var errs *Errors
		if cfg != nil || !errors.As(err, &errs) || len(errs.Mistakes) == 0 {
			t.Fatalf("got %v and the error %v", cfg, err)
		}
		lines := 1 + strings.Count(text, "\n")
		for _, m := range errs.Mistakes {
			main := m.File == filepath.Join(dir, "fieldbridge.toml")
			if m.Line < 1 || main && m.Line > lines || m.Problem == "" {
				t.Fatalf("%q of %d lines: mistake %+v", text, lines, m)
			}
			if strings.ContainsAny(m.Error(), "\n\r\x00\x1b") {
				t.Fatalf("%q: mistake %q is not a line of text", text, m.Error())
			}
		}
		if !strings.Contains(text, theSecret) && strings.Contains(err.Error(), theSecret) {
			t.Fatalf("a secret is in %v", err)
		}
	})
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"1B", "256KiB", "9223372036854775807B", "8388608TiB", "1MB", "", "-1B", "1.5MiB", "007kB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			if n != 0 {
				t.Fatalf("ParseSize(%q) = %d with the error %v", s, n, err)
			}
			return
		}
		if n < 0 {
			t.Fatalf("ParseSize(%q) = %d", s, n)
		}
		if back, err := ParseSize(n.String()); err != nil || back != n {
			t.Fatalf("ParseSize(%q) = %d, printed as %s, read back as %d, %v", s, n, n, back, err)
		}
	})
}
