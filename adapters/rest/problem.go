package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"

	"fieldbridge/bridge"
)

const (
	internalDetail = "not accepted because of a mistake in fieldbridge; its log says more"
	// stopRetry is when a request that the daemon's end has cut off is worth
	// another attempt: about the time of a restart.
	stopRetry = 5 * time.Second
	// fullRetry is when a spool that was full may have room again: its readings
	// have to go out, or somebody has to look after the disk.
	fullRetry = time.Minute
)

// problem is an answer that says no (RFC 9457). As an error it carries a
// refusal from where it is found to where it is written.
type problem struct {
	status int
	// detail says what is wrong and what to do. It goes to the client only.
	detail string
	// reasonCode is the broker's, or 0.
	reasonCode byte
	// retryAfter is sent in whole seconds, at least one; 0 sends nothing.
	retryAfter time.Duration
	// header is sent beside.
	header http.Header
	// hangUp closes the connection, for requests whose rest nobody wants.
	hangUp bool
}

func (p *problem) Error() string { return p.detail }

// problemDocument is the body, with members in RFC 9457's order. The type
// "about:blank" says that the status tells the kind of the problem.
type problemDocument struct {
	Type       string `json:"type"`
	Title      string `json:"title"`
	Status     int    `json:"status"`
	Detail     string `json:"detail"`
	ReasonCode int    `json:"reasonCode,omitempty"`
}

// problemOf is the one place where errors become HTTP. It returns nil for an
// error that is nobody's fault but ours.
func problemOf(err error) *problem {
	var (
		p           *problem
		unavailable *bridge.UnavailableError
		rejected    *bridge.RejectedError
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, bridge.ErrSpoolFull):
		return &problem{status: http.StatusInsufficientStorage, retryAfter: fullRetry,
			detail: "not accepted: " + err.Error() + "; send it again after the time in Retry-After; if that does not help, see why nothing goes out, or raise the limit"}
	case errors.Is(err, bridge.ErrKeyReused):
		return &problem{status: http.StatusUnprocessableEntity,
			detail: err.Error() + "; to repeat a request send the same path, timestamp, Content-Type and body, or give this reading a key of its own"}
	case errors.As(err, &unavailable):
		return &problem{status: http.StatusServiceUnavailable, retryAfter: max(unavailable.RetryAfter, time.Second),
			detail: unavailable.Error() + "; send it again after the time in Retry-After"}
	case errors.As(err, &rejected):
		return &problem{status: http.StatusUnprocessableEntity, reasonCode: rejected.Code,
			detail: rejected.Error() + "; " + remedy(rejected.Code)}
	case errors.Is(err, bridge.ErrTooLarge):
		return &problem{status: http.StatusRequestEntityTooLarge, detail: err.Error() + "; send less at a time"}
	case errors.Is(err, bridge.ErrUnknownDevice):
		return &problem{status: http.StatusNotFound,
			detail: err.Error() + "; add a [[device]] block with this id to the configuration, or correct the path"}
	case errors.Is(err, bridge.ErrNoMailbox):
		return &problem{status: http.StatusNotFound,
			detail: err.Error() + "; add a [[device.downlink]] block with mailbox = true to the device"}
	case errors.Is(err, bridge.ErrInvalid):
		return &problem{status: http.StatusBadRequest, detail: err.Error()}
	// Of these two nobody can say that nothing was kept.
	case errors.Is(err, context.DeadlineExceeded):
		return &problem{status: http.StatusServiceUnavailable, retryAfter: stopRetry,
			detail: "neither broker nor disk has answered in time, so it is not known whether this was kept; send it again after the time in Retry-After: a reading may arrive twice, with an Idempotency-Key it does not"}
	case errors.Is(err, context.Canceled):
		return &problem{status: http.StatusServiceUnavailable, retryAfter: stopRetry, hangUp: true,
			detail: "fieldbridge stops before broker or disk has answered, so it is not known whether this was kept; send it again after the time in Retry-After: a reading may arrive twice, with an Idempotency-Key it does not"}
	default:
		return nil
	}
}

// remedy says what to do about a PUBACK's reason code (MQTT v5, section 3.4.2.1).
func remedy(code byte) string {
	switch code {
	case 0x87:
		return "give the device the right to publish on its topic at the broker, or check its connector's credentials"
	case 0x90:
		return "the broker does not take this device id or sub topic; check both, and the connector's uplink_topic"
	case 0x97:
		return "the broker's quota is used up; send less, or have it raised"
	case 0x99:
		return "the payload does not fit its content type; correct one of them"
	default:
		return "do not send it again as it is; the broker's log says more"
	}
}

// fail answers a request with an error.
func (s *Server) fail(w http.ResponseWriter, err error) { refuse(w, s.problemFor(w, err)) }

// problemFor is problemOf, with a problem for what is our own fault. w is that of
// the request, or of a batch that it is a line of.
func (s *Server) problemFor(w http.ResponseWriter, err error) *problem {
	if p := problemOf(err); p != nil {
		return p
	}
	args := []any{"error", err}
	if sw, ok := w.(*statusWriter); ok {
		args = append(args, "method", sw.request.Method, "route", chi.RouteContext(sw.request.Context()).RoutePattern())
	}
	s.opts.Logger.Error("http request failed", args...)
	return &problem{status: http.StatusInternalServerError, detail: internalDetail}
}

func refuse(w http.ResponseWriter, p *problem) {
	h := w.Header()
	for k, v := range p.header {
		h[k] = v
	}
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(wholeSeconds(p.retryAfter)))
	}
	if p.hangUp {
		h.Set("Connection", "close")
	}
	writeJSON(w, p.status, "application/problem+json", problemDocument{
		Type:       "about:blank",
		Title:      http.StatusText(p.status),
		Status:     p.status,
		Detail:     p.detail,
		ReasonCode: int(p.reasonCode),
	})
}

// wholeSeconds rounds up.
func wholeSeconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// writeJSON answers with v. What v is made of here can always be encoded, but
// for Options.Ready's detail.
func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // no page shows it; details stay readable
	if err := enc.Encode(v); err != nil {
		refuse(w, &problem{status: http.StatusInternalServerError, detail: "the answer cannot be shown as JSON; this is a mistake in fieldbridge"})
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(buf.Len()))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(buf.Bytes()) // a client that is gone needs no answer
}
