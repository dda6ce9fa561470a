package rest

import (
	"bytes"
	"fmt"
	"net/http"
	"time"
)

const (
	eventStream = "text/event-stream"
	// keepAlive is how often a stream without events gets a comment: proxies and
	// clients take a silent connection for dead, and a client that is gone is
	// found.
	keepAlive = 15 * time.Second
)

// stream writes server-sent events (WHATWG HTML, section 9.2). One goroutine
// uses it.
type stream struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf bytes.Buffer
}

// openStream begins an answer that goes on until the handler returns: the
// server's limits for requests do not cut it off. retry is what the client is to
// wait before it comes back. An error means that the client is gone.
func openStream(w http.ResponseWriter, r *http.Request, retry time.Duration) (*stream, error) {
	st := &stream{w: w, rc: http.NewResponseController(w)}
	if err := patient(st.rc, r); err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	goOn(w)
	h := w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	fmt.Fprintf(&st.buf, "retry: %d\n\n", retry.Milliseconds())
	return st, st.flush()
}

// patient lifts the bound on the time to read a request that has been read:
// net/http ends its context with that time all the same. One with a body keeps it,
// because net/http reads the rest of the body before it answers.
func patient(rc *http.ResponseController, r *http.Request) error {
	if r.ContentLength != 0 {
		return nil
	}
	return rc.SetReadDeadline(time.Time{})
}

// add puts an event behind those that flush will send. data has no line break:
// it is JSON as encoding/json writes it. An empty id leaves the client's as it is;
// an empty event is a "message".
func (st *stream) add(id, event string, data []byte) {
	if id != "" {
		fmt.Fprintf(&st.buf, "id: %s\n", id)
	}
	if event != "" {
		fmt.Fprintf(&st.buf, "event: %s\n", event)
	}
	fmt.Fprintf(&st.buf, "data: %s\n\n", data)
}

// comment sends a line that clients pass over.
func (st *stream) comment(text string) error {
	fmt.Fprintf(&st.buf, ": %s\n\n", text)
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
