package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"fieldbridge/bridge"
)

const (
	eventStream = "text/event-stream"
	// keepAlive is how often a stream without events gets a comment: proxies and
	// clients take a silent connection for dead.
	keepAlive = 15 * time.Second
	// streamPage is how many downlinks are read for a stream at once.
	streamPage = 16
	// reconnect is what clients of a stream wait before they come back.
	reconnect = time.Second
)

// stream sends what a mailbox holds, and what comes, as server-sent events (HTML
// Living Standard, section 9.2). After Last-Event-ID it begins behind that
// downlink if it is still there; otherwise it has been deleted, and all that is
// there begins again: better twice than never.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, id bridge.DeviceID, m *bridge.Mailbox) {
	err := checkNoQuery(r.URL.RawQuery)
	last := ""
	if err == nil {
		last, err = lastEventID(r.Header["Last-Event-Id"])
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	leave, ok := take(w, s.streams, "streams of downlinks are open")
	if !ok {
		return
	}
	defer leave()
	after := int64(0)
	if last != "" {
		d, ok, err := m.Find(r.Context(), last)
		if err != nil {
			s.fail(w, err)
			return
		}
		if ok {
			after = d.Seq
		}
	}
	e := &events{w: w, rc: http.NewResponseController(w)}
	_ = e.rc.SetReadDeadline(time.Time{}) // the server's is for requests that end
	h := w.Header()
	h.Set("Content-Type", eventStream)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	h.Set("X-Content-Type-Options", "nosniff")
	if e.send(fmt.Sprintf("retry: %d\n\n", reconnect.Milliseconds())) != nil {
		return
	}
	s.follow(r, e, id, after)
}

// follow sends until the client or the mailbox is gone, or the server ends.
func (s *Server) follow(r *http.Request, e *events, id bridge.DeviceID, after int64) {
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		m, err := s.opts.Mailboxes.Mailbox(id) // a reload can take it away
		if err != nil {
			_ = e.send(": the mailbox is gone\n\n")
			return
		}
		changed := m.Changed()
		page, more, err := m.Fetch(r.Context(), after, streamPage, maxFetchBytes)
		if err != nil {
			if r.Context().Err() == nil {
				s.opts.Logger.Error("downlinks not streamed", "device", id, "error", err)
			}
			return
		}
		for i := range page {
			if e.downlink(m, &page[i]) != nil {
				return
			}
			after = page[i].Seq
		}
		if more {
			select {
			case <-s.ending:
			default:
				continue
			}
		}
		select {
		case <-changed:
		case <-alive.C:
			if e.send(": here\n\n") != nil {
				return
			}
		case <-s.ending:
			_ = e.send(": fieldbridge stops, come back\n\n")
			return
		case <-r.Context().Done():
			return
		}
	}
}

// events writes to a client that must take each write in time.
type events struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf bytes.Buffer
}

func (e *events) send(text string) error {
	if err := e.rc.SetWriteDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if _, err := e.w.Write([]byte(text)); err != nil {
		return err
	}
	return e.rc.Flush()
}

// downlink sends one as an event whose id is the downlink's.
func (e *events) downlink(m *bridge.Mailbox, d *bridge.StoredDownlink) error {
	e.buf.Reset()
	fmt.Fprintf(&e.buf, "id: %s\ndata: ", d.ID)
	enc := json.NewEncoder(&e.buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(documentOf(m, d)); err != nil { // ends the line
		return err
	}
	e.buf.WriteByte('\n')
	return e.send(e.buf.String())
}
