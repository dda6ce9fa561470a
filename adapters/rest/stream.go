package rest

import (
	"bytes"
	"fmt"
	"net/http"
	"time"
)

const (
	// streamKeepAlive is how often a comment is sent when there is nothing else:
	// proxies give connections up that are silent for a minute, and a client
	// that is gone is found.
	streamKeepAlive = 15 * time.Second
	// streamRetry is what browsers and libraries wait before they connect again.
	streamRetry = 2 * time.Second
)

// stream writes server-sent events (WHATWG HTML, section 9.2). One goroutine
// uses it.
type stream struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf bytes.Buffer
}

// openStream begins an answer that goes on until the handler returns: the
// server's limits for requests do not cut it off. An error means that the
// client is gone.
func openStream(w http.ResponseWriter) (*stream, error) {
	st := &stream{w: w, rc: http.NewResponseController(w)}
	// net/http ends the request's context when the time to read it is over,
	// even if all of it was read.
	if err := st.rc.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	fmt.Fprintf(&st.buf, "retry: %d\n\n", streamRetry.Milliseconds())
	return st, st.flush()
}

// add puts an event behind those that flush will send. data has no line break:
// it is JSON as encoding/json writes it. An empty id leaves the client's as it is.
func (st *stream) add(id, event string, data []byte) {
	if id != "" {
		fmt.Fprintf(&st.buf, "id: %s\n", id)
	}
	fmt.Fprintf(&st.buf, "event: %s\ndata: %s\n\n", event, data)
}

// keepAlive sends a comment.
func (st *stream) keepAlive() error {
	st.buf.WriteString(":\n\n")
	return st.flush()
}

// flush sends what was added. A client that takes nothing for answerTime is
// given up.
func (st *stream) flush() error {
	if st.buf.Len() == 0 {
		return nil
	}
	defer st.buf.Reset()
	if err := st.rc.SetWriteDeadline(time.Now().Add(answerTime)); err != nil {
		return fmt.Errorf("write stream: %w", err)
	}
	if _, err := st.w.Write(st.buf.Bytes()); err != nil {
		return fmt.Errorf("write stream: %w", err)
	}
	return st.rc.Flush()
}
