package rest

import (
	"log/slog"
	"strings"
	"sync"
	"time"
)

// handshakeLines is how often a failed TLS handshake is worth a line: whoever
// reaches the port can make as many as he likes.
const handshakeLines = time.Minute

// serverLog is where http.Server writes what it has to say, a line at a time.
type serverLog struct {
	log *slog.Logger

	mu   sync.Mutex // guards what follows
	said time.Time  // the last line about a handshake; zero: none
	more int        // handshakes since then
}

// Write logs a line.
func (l *serverLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	if !strings.HasPrefix(text, "http: TLS handshake error") {
		l.log.Warn(text)
		return len(line), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.said.IsZero() && time.Since(l.said) < handshakeLines {
		l.more++
		l.log.Debug(text)
		return len(line), nil
	}
	l.log.Warn(text, "others_since_last_line", l.more)
	l.said, l.more = time.Now(), 0
	return len(line), nil
}
