package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"

	"fieldbridge/bridge/config"
)

// newLogger writes to w: as text for people at a terminal, as JSON for what
// collects logs, unless the configuration says which.
func newLogger(w io.Writer, c config.Log) *slog.Logger { return slog.New(newLogHandler(w, c)) }

func newLogHandler(w io.Writer, c config.Log) slog.Handler {
	o := &slog.HandlerOptions{Level: c.Level}
	// The journal has its own time stamps and shows text better than JSON.
	_, journal := os.LookupEnv("JOURNAL_STREAM")
	if c.Format == "text" || (c.Format == "auto" && (journal || isTerminal(w))) {
		return slog.NewTextHandler(w, o)
	}
	return slog.NewJSONHandler(w, o)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// newChangingLogger is newLogger with a way to change level and format later,
// also for loggers that were derived from it. Any goroutine may call set.
func newChangingLogger(w io.Writer, c config.Log) (log *slog.Logger, set func(config.Log)) {
	root := &atomic.Pointer[slog.Handler]{}
	set = func(c config.Log) { root.Store(new(newLogHandler(w, c))) }
	set(c)
	return slog.New(&changingHandler{root: root}), set
}

// changingHandler is a slog.Handler over one that is replaced now and then.
type changingHandler struct {
	root *atomic.Pointer[slog.Handler]
	with []func(slog.Handler) slog.Handler // attributes and groups, in order; not changed
}

// Enabled implements slog.Handler.
func (h *changingHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return (*h.root.Load()).Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *changingHandler) Handle(ctx context.Context, r slog.Record) error {
	to := *h.root.Load()
	for _, with := range h.with {
		to = with(to)
	}
	return to.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *changingHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.and(func(to slog.Handler) slog.Handler { return to.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (h *changingHandler) WithGroup(name string) slog.Handler {
	return h.and(func(to slog.Handler) slog.Handler { return to.WithGroup(name) })
}

func (h *changingHandler) and(with func(slog.Handler) slog.Handler) slog.Handler {
	return &changingHandler{root: h.root, with: append(slices.Clip(h.with), with)}
}
