package rest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"

	"fieldbridge/bridge"
)

const (
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
	leave, ok := occupy(w, s.streams, "streams of downlinks are open")
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
	st, err := openStream(w, r, reconnect)
	if err != nil {
		return
	}
	s.follow(r, st, id, after)
}

// follow sends until the client or the mailbox is gone, or the server ends.
func (s *Server) follow(r *http.Request, st *stream, id bridge.DeviceID, after int64) {
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		others, err := s.mayWait(r, id)
		if err != nil {
			_ = st.comment("the token is not valid any more")
			return
		}
		m, err := s.opts.Mailboxes.Mailbox(id) // a reload can take it away
		if err != nil {
			_ = st.comment("the mailbox is gone")
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
			if st.downlink(m, &page[i]) != nil {
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
		case <-others:
		case <-alive.C:
			if st.comment("here") != nil {
				return
			}
		case <-s.ending:
			_ = st.comment("fieldbridge stops, come back")
			return
		case <-r.Context().Done():
			return
		}
	}
}

// downlink sends one as an event whose id is the downlink's.
func (st *stream) downlink(m *bridge.Mailbox, d *bridge.StoredDownlink) error {
	var data bytes.Buffer
	enc := json.NewEncoder(&data)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(documentOf(m, d)); err != nil {
		return err
	}
	st.add(d.ID, "", bytes.TrimSuffix(data.Bytes(), []byte("\n")))
	return st.flush()
}
