package session

import (
	"context"
	"log/slog"
)

// logger adds the connector and the client id to each record when it is written.
// A slog.Logger made by With would hold them, formatted, for every session.
type logger struct {
	base                *slog.Logger
	connector, clientID string
}

// Log is as that of slog.Logger.
func (l logger) Log(ctx context.Context, level slog.Level, msg string, args ...any) {
	if l.base.Enabled(ctx, level) {
		l.base.Log(ctx, level, msg, append([]any{"connector", l.connector, "client_id", l.clientID}, args...)...)
	}
}

// Debug is as that of slog.Logger.
func (l logger) Debug(msg string, args ...any) {
	l.Log(context.Background(), slog.LevelDebug, msg, args...)
}

// Info is as that of slog.Logger.
func (l logger) Info(msg string, args ...any) {
	l.Log(context.Background(), slog.LevelInfo, msg, args...)
}

// Warn is as that of slog.Logger.
func (l logger) Warn(msg string, args ...any) {
	l.Log(context.Background(), slog.LevelWarn, msg, args...)
}

// Error is as that of slog.Logger.
func (l logger) Error(msg string, args ...any) {
	l.Log(context.Background(), slog.LevelError, msg, args...)
}
