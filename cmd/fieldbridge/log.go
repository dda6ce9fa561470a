package main

import (
	"io"
	"log/slog"
	"os"

	"fieldbridge/bridge/config"
)

// newLogger writes to w: as text for people at a terminal, as JSON for what
// collects logs, unless the configuration says which.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.Level}
	// The journal has its own time stamps and shows text better than JSON.
	_, journal := os.LookupEnv("JOURNAL_STREAM")
	if c.Format == "text" || (c.Format == "auto" && (journal || isTerminal(w))) {
		return slog.New(slog.NewTextHandler(w, o))
	}
	return slog.New(slog.NewJSONHandler(w, o))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
