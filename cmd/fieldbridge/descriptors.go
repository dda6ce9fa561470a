package main

import (
	"log/slog"

	"golang.org/x/sys/unix"

	"fieldbridge/bridge/config"
)

// What the daemon needs file descriptors for beside the connections of the HTTP
// endpoint, which must not take them away: then no session could connect, and no
// port or database be opened.
const (
	// descriptorsBase is for the spool, the log, name lookups, files of the
	// configuration and listeners that are being replaced.
	descriptorsBase = 64
	// descriptorsPerSession: a connection, and one that takes its place.
	descriptorsPerSession = 2
	// descriptorsPerWebhook: one that is used, and one that is kept.
	descriptorsPerWebhook = 2
	// fewestConnections are those of the endpoint at any rate.
	fewestConnections = 64
)

// connectionLimit is how many connections the HTTP endpoint may have: so many as
// are configured, unless the process may not open so many files.
func connectionLimit(cfg *config.Config, log *slog.Logger) int {
	most := cfg.HTTP.MaxConnections
	var files unix.Rlimit // Go has raised the soft limit to the hard one
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		log.Warn("the limit of open files is not known", "error", err)
		return most
	}
	fit := descriptorsFor(cfg, most, files.Cur)
	if fit < most {
		log.Warn("fewer http connections than http.max_connections: the process may not open so many files; raise the limit (LimitNOFILE= of the unit, ulimit -n)",
			"connections", fit, "max_connections", most, "files", files.Cur)
	}
	return fit
}

// descriptorsFor is how many of most connections fit beside everything else.
func descriptorsFor(cfg *config.Config, most int, files uint64) int {
	webhooks := 0
	for i := range cfg.Devices {
		for _, d := range cfg.Devices[i].Downlinks {
			if d.Webhook != "" {
				webhooks++
			}
		}
	}
	// An eighth more may be taking leave (package rest).
	others := descriptorsBase + descriptorsPerSession*sessionCount(cfg) + descriptorsPerWebhook*webhooks + len(cfg.Serials)
	room := (int64(min(files, 1<<30)) - int64(others)) * 8 / 9
	return int(min(int64(most), max(room, fewestConnections)))
}
