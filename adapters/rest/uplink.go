package rest

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-chi/chi/v5"

	"fieldbridge/bridge"
)

// uplink takes one reading for the device and sub topic in the path.
func (s *Server) uplink(w http.ResponseWriter, r *http.Request) {
	to, err := parseTarget(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	s.take(w, r, to)
}

// target is where a reading goes, and when it was measured: the zero time is now.
type target struct {
	device   bridge.DeviceID
	subtopic bridge.Subtopic
	time     time.Time
}

// take takes one reading. 200 means that the broker has it, 202 that it is safe
// here; any other status that nothing was kept.
func (s *Server) take(w http.ResponseWriter, r *http.Request, to target) {
	reading, how, err := s.reading(r, to)
	if err != nil {
		s.fail(w, err)
		return
	}
	receipt, err := s.accepter.Accept(s.acceptance.context(), reading, how)
	if err != nil {
		s.fail(w, err)
		return
	}
	if how.Async && receipt.State != bridge.Delivered {
		w.Header().Set("Preference-Applied", respondAsync) // RFC 7240, section 3
	}
	writeReceipt(w, &receipt)
}

// reading makes a reading of a request and says how it is to be taken. What can
// be told without the body is checked before it is read.
func (s *Server) reading(r *http.Request, to target) (reading bridge.Reading, how bridge.Handling, err error) {
	reading.Device, reading.Subtopic, reading.Time = to.device, to.subtopic, to.time
	if !s.accepter.Known(reading.Device) {
		return reading, how, fmt.Errorf("%w: %q", bridge.ErrUnknownDevice, reading.Device)
	}
	if how, err = parseHandling(r.Header); err != nil {
		return reading, how, err
	}
	contentType, err := parseContentType(r.Header)
	if err != nil {
		return reading, how, err
	}
	if reading.Payload, err = s.readBody(r); err != nil {
		return reading, how, err
	}
	if reading.ContentType, err = checkBody(contentType, reading.Payload); err != nil {
		return reading, how, err
	}
	if how.Key.Value != "" {
		how.Key.Digest = digest(&reading)
	}
	if reading.Time.IsZero() {
		reading.Time = time.Now()
	}
	return reading, how, nil
}

// parseTarget reads device and sub topic from the path, and the time from the
// query.
func parseTarget(r *http.Request) (to target, err error) {
	rctx := chi.RouteContext(r.Context())
	if to.device, err = parseDevice(rctx.URLParam("device")); err != nil {
		return to, err
	}
	if slices.Contains(rctx.URLParams.Keys, "*") {
		if to.subtopic, err = parseSubtopic(rctx.URLParam("*")); err != nil {
			return to, err
		}
	}
	to.time, err = parseQuery(r.URL.RawQuery)
	return to, err
}
