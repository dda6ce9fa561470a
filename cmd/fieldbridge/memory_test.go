package main

import (
	"fmt"
	"runtime/debug"
	"slices"
	"testing"

	"fieldbridge/bridge/config"
)

func TestMemoryLimit(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	s := newSite(t)
	port := openPTY(t)
	cfg, err := config.Load(writeConfig(t, complete(s.config("", "", fmt.Sprintf(scaleText, port.Path)+"\n[spool]\nmax_bytes = \"64MiB\"\n")), s.Files))
	if err != nil {
		t.Fatal(err)
	}
	// Two devices have a session each, the third shares the yard's; one port.
	const want = 32<<20 + 4*64<<10 + 3*4<<10 + 512<<10
	t.Setenv("GOMEMLIMIT", "")
	limitMemory(cfg)
	if got := debug.SetMemoryLimit(-1); got != want {
		t.Errorf("%d bytes, want %d", got, want)
	}
	own := *cfg
	own.Connectors = slices.Clone(cfg.Connectors)
	for i := range own.Connectors {
		own.Connectors[i].PerDevice = true // the third has one, too, and nobody shares any more
	}
	limitMemory(&own)
	if got := debug.SetMemoryLimit(-1); got != want {
		t.Errorf("%d bytes for sessions of their own, want %d", got, want)
	}
	own.Devices = append(slices.Clone(own.Devices), own.Devices[2])
	limitMemory(&own)
	if got := debug.SetMemoryLimit(-1); got != want+64<<10+4<<10 {
		t.Errorf("%d bytes for one more, want %d", got, want+64<<10+4<<10)
	}
	many := *cfg
	many.HTTP.MaxConnections = 10_000
	limitMemory(&many)
	if got := debug.SetMemoryLimit(-1); got != want+(10_000-1024)*24<<10 {
		t.Errorf("%d bytes for many connections, want %d", got, want+(10_000-1024)*24<<10)
	}
	t.Setenv("GOMEMLIMIT", "1GiB")
	debug.SetMemoryLimit(1 << 30)
	limitMemory(cfg)
	if got := debug.SetMemoryLimit(-1); got != 1<<30 {
		t.Errorf("%d bytes: what the environment says counts", got)
	}
}
