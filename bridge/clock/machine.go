package clock

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

// From include/uapi/linux/timex.h, see adjtimex(2).
const (
	timeError = 5
	staUnsync = 0x40
)

// maxBootID bounds what is taken for a boot id; the kernel's has 36 bytes.
const maxBootID = 64

const bootIDFile = "/proc/sys/kernel/random/boot_id"

// bootID reads the kernel's random id of this boot.
func bootID() (string, error) { return readBootID(bootIDFile) }

func readBootID(file string) (string, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	id := strings.TrimSpace(string(raw))
	if id == "" || len(id) > maxBootID {
		return "", fmt.Errorf("read boot id: %s has %d bytes, want 1 to %d", file, len(id), maxBootID)
	}
	return id, nil
}

// oldest is earlier than any build of this software.
func oldest() time.Time { return time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC) }

// BuildTime returns a time at which this software existed: that of the commit
// it was built from (vcs.time of runtime/debug.BuildSetting), or a fixed one
// before the first release if the build does not say.
func BuildTime() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return oldest()
	}
	return buildTime(info.Settings)
}

func buildTime(settings []debug.BuildSetting) time.Time {
	for _, s := range settings {
		if s.Key != "vcs.time" {
			continue
		}
		if t, err := time.Parse(time.RFC3339, s.Value); err == nil && t.After(oldest()) {
			return t.UTC()
		}
	}
	return oldest()
}
