package clock_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldbridge/bridge/clock"
)

func TestResolve(t *testing.T) {
	boot := today.Add(-time.Hour)
	for name, tt := range map[string]struct {
		stamp clock.Stamp
		boot  string
		at    time.Time
		want  time.Time
	}{
		"trusted":               {clock.Stamp{Wall: last, Boot: "1", Mono: time.Minute}, "1", boot, last},
		"trusted, earlier boot": {clock.Stamp{Wall: last, Boot: "0", Mono: time.Minute}, "1", boot, last},
		"same boot":             {clock.Stamp{Boot: "1", Mono: time.Minute}, "1", boot, boot.Add(time.Minute)},
		"same boot, not yet":    {clock.Stamp{Boot: "1", Mono: time.Minute}, "1", time.Time{}, time.Time{}},
		"earlier boot":          {clock.Stamp{Boot: "0", Mono: time.Minute}, "1", boot, time.Time{}},
		"no boot":               {clock.Stamp{Mono: time.Minute}, "", boot, time.Time{}},
		"nothing":               {clock.Stamp{}, "1", boot, time.Time{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := tt.stamp.Resolve(tt.boot, tt.at)
			if !got.Equal(tt.want) || ok == tt.want.IsZero() {
				t.Errorf("got %s, %t, want %s", got, ok, tt.want)
			}
		})
	}
}

func TestManyUsers(t *testing.T) {
	c := clock.New(clock.Options{Built: time.Unix(0, 0)})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			changes := c.Changes()
			var before time.Duration
			for range 500 {
				s := c.Stamp()
				if s.Mono < before {
					t.Errorf("%s after %s", s.Mono, before)
				}
				before = s.Mono
				c.Look()
				c.State()
				c.WallAtBoot()
				if err := c.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				select {
				case <-changes:
				default:
				}
			}
		})
	}
	wg.Wait()
}

func TestNoBootID(t *testing.T) {
	var log lines
	o := clock.Options{
		BootID: func() (string, error) { return "", errors.New("read boot id: not here") },
		Logger: log.logger(),
	}
	a, b := clock.New(o), clock.New(o)
	if a.Boot() == "" || a.Boot() == b.Boot() {
		t.Errorf("boots %q and %q", a.Boot(), b.Boot())
	}
	if got := log.take(); len(got) != 4 || !strings.Contains(got[0], "level=WARN") || !strings.Contains(got[0], "not here") {
		t.Errorf("log %q", got)
	}
}

func TestReadBootID(t *testing.T) {
	for name, tt := range map[string]struct{ content, want string }{
		"as the kernel writes it": {"1f0c9f1e-6a3c-4f9e-9f0b-0d5d1f3a2b4c\n", "1f0c9f1e-6a3c-4f9e-9f0b-0d5d1f3a2b4c"},
		"empty":                   {"\n", ""},
		"long":                    {strings.Repeat("x", 65), ""},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "boot_id")
			if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := clock.ReadBootID(file)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %q, %v", got, err)
			}
			if err != nil && !strings.HasPrefix(err.Error(), "read boot id: ") {
				t.Errorf("error %v", err)
			}
		})
	}
	if _, err := clock.ReadBootID(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestBuildTime(t *testing.T) {
	oldest := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Time{
		"2027-06-01T12:00:00Z":      today,
		"2027-06-01T14:00:00+02:00": today,
		"2001-01-01T00:00:00Z":      oldest,
		"yesterday":                 oldest,
	} {
		got := clock.BuildTimeOf([]debug.BuildSetting{{Key: "vcs", Value: "git"}, {Key: "vcs.time", Value: value}})
		if got != want {
			t.Errorf("%s: got %s, want %s", value, got, want)
		}
	}
	if got := clock.BuildTimeOf(nil); got != oldest {
		t.Errorf("none: got %s", got)
	}
	if got := clock.BuildTime(); got.Before(oldest) {
		t.Errorf("got %s", got)
	}
}

func BenchmarkStamp(b *testing.B) {
	c := clock.New(clock.Options{})
	b.ReportAllocs()
	for b.Loop() {
		c.Stamp()
	}
}
