package rest

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

	"fieldbridge/bridge"
)

// Mailboxes hold downlinks that apps fetch; *bridge.Bridge has them. Mailbox is
// called from many goroutines at once; its errors are bridge.ErrUnknownDevice and
// bridge.ErrNoMailbox.
type Mailboxes interface {
	Mailbox(bridge.DeviceID) (*bridge.Mailbox, error)
}

const (
	defaultFetch = 100
	maxFetch     = 1000
	// maxFetchBytes bounds the payloads of one answer, if there are two or more.
	maxFetchBytes = 1 << 20
	maxWait       = 5 * time.Minute
	// waitRetry is when one of those that wait may have left.
	waitRetry = 5 * time.Second
)

// downlinkDocument is a downlink as apps see it. One of the payloads is there.
type downlinkDocument struct {
	ID          string          `json:"id"`
	Device      bridge.DeviceID `json:"device"`
	Subtopic    string          `json:"subtopic,omitempty"`
	ContentType string          `json:"contentType,omitempty"`
	Received    string          `json:"received"`
	Expires     string          `json:"expires"`
	// Payload is JSON as it is, or a text as a string.
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadBase64 *[]byte         `json:"payloadBase64,omitempty"`
	Correlation   []byte          `json:"correlationDataBase64,omitempty"`
	// AnswerWanted: the body of the DELETE goes to the downlink's response topic.
	AnswerWanted bool `json:"answerWanted,omitempty"`
}

// fetched is the body of GET /v1/devices/{device}/downlinks.
type fetched struct {
	Downlinks []downlinkDocument `json:"downlinks"`
	// More: there are others behind these.
	More bool `json:"more,omitempty"`
}

func documentOf(m *bridge.Mailbox, d *bridge.StoredDownlink) downlinkDocument {
	doc := downlinkDocument{
		ID: d.ID, Device: d.Device, Subtopic: d.Subtopic, ContentType: d.ContentType,
		Received: d.Received.UTC().Format(timeFormat), Expires: m.Expires(d).UTC().Format(timeFormat),
		Correlation: d.CorrelationData, AnswerWanted: d.ResponseTopic != "",
	}
	kind, _, err := mime.ParseMediaType(d.ContentType)
	isJSON := err == nil && (kind == "application/json" || strings.HasSuffix(kind, "+json"))
	switch {
	case !utf8.Valid(d.Payload):
	case isJSON && json.Valid(d.Payload):
		doc.Payload = d.Payload
		return doc
	case d.ContentType == "" || err == nil && strings.HasPrefix(kind, "text/"):
		if text, err := json.Marshal(string(d.Payload)); err == nil {
			doc.Payload = text
			return doc
		}
	}
	doc.PayloadBase64 = &d.Payload
	return doc
}

// mailbox finds the mailbox that a path names.
func (s *Server) mailbox(r *http.Request) (bridge.DeviceID, *bridge.Mailbox, error) {
	id, err := parseDevice(chi.RouteContext(r.Context()).URLParam("device"))
	if err != nil {
		return "", nil, err
	}
	m, err := s.opts.Mailboxes.Mailbox(id)
	return id, m, err
}

// occupy takes one of the places in a channel, or answers that there is none.
func occupy(w http.ResponseWriter, places chan struct{}, what string) (leave func(), ok bool) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, true
	default:
		refuse(w, &problem{status: http.StatusServiceUnavailable, retryAfter: waitRetry,
			detail: fmt.Sprintf("%d %s already; ask again after the time in Retry-After, or close one", cap(places), what)})
		return nil, false
	}
}

// downlinks answers with what a mailbox holds, or streams it.
func (s *Server) downlinks(w http.ResponseWriter, r *http.Request) {
	id, m, err := s.mailbox(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	if acceptsEvents(r.Header["Accept"]) {
		s.stream(w, r, id, m)
		return
	}
	wait, limit, err := parseFetch(r.URL.RawQuery)
	if err != nil {
		s.fail(w, err)
		return
	}
	leave, ok := occupy(w, s.polls, "requests fetch downlinks")
	if !ok {
		return
	}
	defer leave()
	// The server's bounds are for requests that do not wait.
	rc := http.NewResponseController(w)
	_ = patient(rc, r)
	_ = rc.SetWriteDeadline(time.Now().Add(wait + answerTime))
	page, more, err := s.poll(r, id, wait, limit)
	if err != nil {
		s.fail(w, err)
		return
	}
	m, err = s.opts.Mailboxes.Mailbox(id)
	if err != nil {
		s.fail(w, err)
		return
	}
	body := fetched{Downlinks: make([]downlinkDocument, 0, len(page)), More: more}
	for i := range page {
		body.Downlinks = append(body.Downlinks, documentOf(m, &page[i]))
	}
	writeJSON(w, http.StatusOK, "application/json", body)
}

// poll waits until there is something in a mailbox, the time is over, the server
// is about to end, or the client sends no more: it may be gone, or have said so
// (shutdown(2), SHUT_WR) and wait for its answer.
func (s *Server) poll(r *http.Request, id bridge.DeviceID, wait time.Duration, limit int) ([]bridge.StoredDownlink, bool, error) {
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		others, err := s.mayWait(r, id)
		if err != nil {
			return nil, false, err
		}
		m, err := s.opts.Mailboxes.Mailbox(id) // a reload can take it away
		if err != nil {
			return nil, false, err
		}
		changed := m.Changed()
		page, more, err := m.Fetch(s.acceptance.base, 0, limit, maxFetchBytes)
		if err != nil || len(page) > 0 || wait == 0 {
			return page, more, err
		}
		select {
		case <-changed:
		case <-others:
		case <-over.C:
			wait = 0 // a last look
		case <-s.ending:
			wait = 0
		case <-r.Context().Done():
			wait = 0
		}
	}
}

// deleteDownlink takes a downlink out of a mailbox. The body, if there is one, is
// the answer to it.
func (s *Server) deleteDownlink(w http.ResponseWriter, r *http.Request) {
	_, m, err := s.mailbox(r)
	if err == nil {
		err = checkNoQuery(r.URL.RawQuery)
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	id, err := url.PathUnescape(chi.RouteContext(r.Context()).URLParam("id"))
	if err != nil {
		s.fail(w, badRequest("downlink id: %v", err))
		return
	}
	var answer *bridge.Answer
	if r.ContentLength != 0 {
		contentType, err := parseContentType(r.Header)
		if err == nil {
			answer = &bridge.Answer{}
			answer.Payload, err = s.readBody(r)
		}
		if err == nil {
			answer.ContentType, err = checkBody(contentType, answer.Payload)
		}
		if err != nil {
			s.fail(w, err)
			return
		}
	}
	ctx := s.acceptance.context()
	switch ok, err := m.Delete(ctx, id, answer); {
	case err != nil:
		s.fail(w, err)
	case !ok:
		refuse(w, &problem{status: http.StatusNotFound,
			detail: fmt.Sprintf("the mailbox holds no downlink %q: it has been deleted already, or has expired", clip(id))})
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// acceptsEvents reports whether Accept headers name server-sent events. What
// prefers something else, too, gets the stream: nothing else asks for this type.
func acceptsEvents(values []string) bool {
	for _, value := range values {
		for kind := range strings.SplitSeq(value, ",") {
			kind, _, _ = strings.Cut(kind, ";")
			if strings.EqualFold(strings.Trim(kind, " \t"), eventStream) {
				return true
			}
		}
	}
	return false
}

// parseFetch reads the query of a request for downlinks. A wait is a duration of
// Go, or whole seconds.
func parseFetch(query string) (wait time.Duration, limit int, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return 0, 0, badRequest("query: %v", err)
	}
	limit = defaultFetch
	for key, all := range values {
		if len(all) > 1 {
			return 0, 0, badRequest("query parameter %q is there more than once; send one", clip(key))
		}
		switch key {
		case "wait":
			if wait, err = parseWait(all[0]); err != nil || wait < 0 || wait > maxWait {
				return 0, 0, badRequest("wait %q is not a time from 0s to %s, such as 30s", clip(all[0]), maxWait)
			}
		case "limit":
			if limit, err = strconv.Atoi(all[0]); err != nil || limit < 1 || limit > maxFetch {
				return 0, 0, badRequest("limit %q is not a number from 1 to %d", clip(all[0]), maxFetch)
			}
		default:
			return 0, 0, badRequest("query parameter %q is unknown; there are %q and %q", clip(key), "wait", "limit")
		}
	}
	return wait, limit, nil
}

func parseWait(s string) (time.Duration, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return time.ParseDuration(s)
	}
	seconds, err := strconv.ParseInt(s, 10, 32)
	return time.Duration(seconds) * time.Second, err
}

// lastEventID returns the value of the Last-Event-ID headers of a request (HTML
// Living Standard, section 9.2.4), or "".
func lastEventID(values []string) (string, error) {
	values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1:
		return "", badRequest("the request has %d Last-Event-ID headers; send one", len(values))
	case len(values[0]) > maxKey:
		return "", badRequest("the Last-Event-ID header has %d bytes, an id has at most %d", len(values[0]), maxKey)
	}
	return values[0], nil
}
