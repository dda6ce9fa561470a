package rest

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"fieldbridge/bridge"
)

// timeFormat is RFC 3339 with milliseconds, which every client can read.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// receiptDocument is the body of a 2xx.
type receiptDocument struct {
	ID        string       `json:"id"`
	Timestamp string       `json:"timestamp"`
	Message   string       `json:"message"`
	State     bridge.State `json:"state"`
}

// uplink takes one reading. 200 means that the broker has it, 202 that it is
// safe here; any other status that nothing was kept.
func (s *Server) uplink(w http.ResponseWriter, r *http.Request) {
	reading, err := s.reading(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.opts.AcceptTimeout)
	defer cancel()
	receipt, err := s.accepter.Accept(ctx, reading)
	if err != nil {
		s.fail(w, err)
		return
	}
	status := http.StatusOK
	if receipt.State != bridge.Delivered {
		status = http.StatusAccepted
	}
	writeJSON(w, status, "application/json", receiptDocument{
		ID:        receipt.ID.String(),
		Timestamp: receipt.Time.UTC().Format(timeFormat),
		Message:   "uplink received",
		State:     receipt.State,
	})
}

// reading makes a reading of a request. What can be told without the body is
// checked before it is read.
func (s *Server) reading(r *http.Request) (bridge.Reading, error) {
	var none bridge.Reading
	device, sub, err := parseTarget(r)
	if err != nil {
		return none, err
	}
	if !s.accepter.Known(device) {
		return none, fmt.Errorf("%w: %q", bridge.ErrUnknownDevice, device)
	}
	measured, err := parseQuery(r.URL.RawQuery)
	if err != nil {
		return none, err
	}
	contentType, err := parseContentType(r.Header)
	if err != nil {
		return none, err
	}
	body, err := s.readBody(r)
	if err != nil {
		return none, err
	}
	if contentType, err = checkBody(contentType, body); err != nil {
		return none, err
	}
	if measured.IsZero() {
		measured = time.Now()
	}
	return bridge.Reading{
		Device: device, Subtopic: sub, ContentType: contentType, Payload: body, Time: measured,
	}, nil
}

// parseTarget reads device and sub topic from the path.
func parseTarget(r *http.Request) (bridge.DeviceID, bridge.Subtopic, error) {
	rctx := chi.RouteContext(r.Context())
	device, err := parseDevice(rctx.URLParam("device"))
	if err != nil {
		return "", "", err
	}
	for _, key := range rctx.URLParams.Keys {
		if key == "*" {
			sub, err := parseSubtopic(rctx.URLParam("*"))
			return device, sub, err
		}
	}
	return device, "", nil
}
