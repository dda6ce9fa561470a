package main

import (
	"os"
	"runtime/debug"

	"fieldbridge/adapters/rest"
	"fieldbridge/bridge/config"
)

// What the heap is let grow to before garbage is collected more often than Go
// would by itself, in bytes. Nothing fails above it: it bounds what is garbage,
// not what is in use.
const (
	// memoryBase has room for the 16 MiB of readings that the bridge holds at most.
	memoryBase = 32 << 20
	// memoryPerSession is for a TLS connection with its buffers, or a serial port.
	memoryPerSession = 64 << 10
	// memoryPerConnection is for an HTTP connection above the default of
	// http.max_connections: 20 KiB were measured for one that is idle.
	memoryPerConnection = 24 << 10
	// memoryPerDevice is for the lane of a device.
	memoryPerDevice = 4 << 10
	// spoolPerByte is how many bytes of the spool cost one in memory: a reading
	// takes 150 or more, and its place in the order of its device one, seldom two.
	spoolPerByte = 128
)

// limitMemory sets Go's soft memory limit by what the configuration needs, unless
// the environment variable GOMEMLIMIT has set one. It is for the whole process.
func limitMemory(cfg *config.Config) {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit(cfg))
	}
}

func memoryLimit(cfg *config.Config) int64 {
	lines := sessionCount(cfg) + len(cfg.Serials)
	return memoryBase + int64(lines)*memoryPerSession + int64(len(cfg.Devices))*memoryPerDevice +
		int64(max(cfg.HTTP.MaxConnections-rest.DefaultMaxConnections, 0))*memoryPerConnection +
		cfg.Spool.MaxBytes/spoolPerByte
}

// sessionCount is how many MQTT sessions a configuration asks for.
func sessionCount(cfg *config.Config) (n int) {
	for i := range cfg.Connectors {
		if !cfg.Connectors[i].PerDevice {
			n++
		}
	}
	for _, d := range cfg.Devices {
		if cfg.Connector(d.ConnectorName).PerDevice {
			n++
		}
	}
	return n
}
