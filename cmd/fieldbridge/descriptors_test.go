package main

import (
	"log/slog"
	"math"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"fieldbridge/bridge/config"
)

func TestConnectionsLeaveDescriptors(t *testing.T) {
	cfg := &config.Config{
		Connectors: []config.Connector{{Name: "own", PerDevice: true}, {Name: "shared"}},
		Devices: []config.Device{
			{ConnectorName: "own", Downlinks: []config.Downlink{{Webhook: "http://h/1"}, {Mailbox: true}}},
			{ConnectorName: "own"}, {ConnectorName: "shared"},
		},
		Serials: []config.Serial{{Name: "scale"}},
	}
	const others = 64 + 3*2 + 2 + 1
	for _, tt := range []struct {
		most  int
		files uint64
		want  int
	}{
		{1024, unix.RLIM_INFINITY, 1024},
		{1024, math.MaxInt64, 1024},
		{1024, others + 1024 + 128, 1024},
		{1024, others + 1023 + 128, 1023},
		{1024, others + 900, 800},
		{1024, others, 64},
		{1024, 0, 64},
	} {
		if got := descriptorsFor(cfg, tt.most, tt.files); got != tt.want {
			t.Errorf("%d of %d connections with %d files, want %d", got, tt.most, tt.files, tt.want)
		}
	}
}

// The daemon says so if it has to do with less.
func TestFewDescriptorsAreReported(t *testing.T) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	var log logBuffer
	cfg := &config.Config{HTTP: config.HTTP{MaxConnections: math.MaxInt32}}
	if got := connectionLimit(cfg, slog.New(slog.NewTextHandler(&log, nil))); got >= math.MaxInt32 || !strings.Contains(log.String(), "LimitNOFILE=") {
		t.Errorf("%d connections with %d files; log:\n%s", got, files.Cur, log.String())
	}
	cfg.HTTP.MaxConnections = 64
	log = logBuffer{}
	if got := connectionLimit(cfg, slog.New(slog.NewTextHandler(&log, nil))); got != 64 || log.String() != "" {
		t.Errorf("%d connections with %d files; log:\n%s", got, files.Cur, log.String())
	}
}
