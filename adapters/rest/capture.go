package rest

import (
	"context"
	"crypto/subtle"
	"net/http"
	"net/url"

	"fieldbridge/bridge"
)

// POST /v3/capture is how apps post readings to akenza's data gateway
// (https://docs.akenza.io): device, topic and time are in the query, device and
// secret in headers. One that was written for it needs only another base URL.

// defaultTopic is akenza's name for readings that have no topic.
const defaultTopic = "default"

var captureParameters = []string{"deviceId", "topic", "timestamp"}

type targetKey struct{}

// allowCapture is allow for /v3/capture. It gives the request its target as the
// value of targetKey.
func (s *Server) allowCapture(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, err := s.authorizeCapture(r)
		if err != nil {
			s.deny(w, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), targetKey{}, to)))
	})
}

func (s *Server) capture(w http.ResponseWriter, r *http.Request) {
	s.take(w, r, r.Context().Value(targetKey{}).(target))
}

// authorizeCapture returns where a request's reading goes if it may. If there are
// tokens, an Authorization header decides as everywhere, and without one
// x-uplink-secret: it is the secret of the device's connector, or a token. If
// there are none anybody may, as everywhere, but not with a wrong secret.
func (s *Server) authorizeCapture(r *http.Request) (to target, err error) {
	secret, err := uplinkSecret(r.Header)
	if err != nil {
		return to, err
	}
	open, header := len(s.opts.clients) == 0, len(r.Header["Authorization"]) > 0
	if !open && !header && secret == "" {
		return to, &denied{DeniedNoToken, &problem{status: http.StatusUnauthorized, header: challenge(""),
			detail: "a secret is needed; send the header x-uplink-secret with that of the device's connector or with a token"}}
	}
	var c *client
	if !open && header {
		if c, err = s.identify(r); err != nil {
			return to, err
		}
	}
	if to, err = parseCapture(r); err != nil {
		return to, err
	}
	if c == nil && secret != "" {
		known, same := s.compareSecret(to.device, secret)
		c = s.client(secret)
		if same {
			return to, nil
		}
		if c == nil && (!open || known) {
			return to, invalidToken("what x-uplink-secret has is neither the secret of the device's connector nor a token of this gateway; see its secret and token files")
		}
	}
	if c == nil { // open, and nothing to compare with
		return to, nil
	}
	if err := c.admit(Uplink); err != nil {
		return to, err
	}
	if !c.MayUse(to.device) {
		return to, errOtherDevice
	}
	return to, nil
}

// compareSecret reports whether a device has a secret, and whether this is it.
// How long that takes tells nothing about it.
func (s *Server) compareSecret(device bridge.DeviceID, secret string) (known, same bool) {
	if s.opts.Secret == nil {
		return false, false
	}
	right := s.opts.Secret(device)
	sent, want := DigestToken(secret), DigestToken(right.Reveal()) // of the same length
	known = !right.IsZero()
	return known, known && subtle.ConstantTimeCompare(sent[:], want[:]) == 1
}

// uplinkSecret returns the x-uplink-secret header, or "" if there is none.
func uplinkSecret(h http.Header) (string, error) {
	values := h["X-Uplink-Secret"]
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	default:
		return "", invalidRequest("the x-uplink-secret header is there more than once; send one")
	}
}

// parseCapture reads where a reading goes. A "+" in device and topic is a space,
// as forms have it: for itself it can stand in neither.
func parseCapture(r *http.Request) (to target, err error) {
	named := false
	err = eachParameter(r.URL.RawQuery, captureParameters, func(key, value string) error {
		unescape := url.QueryUnescape
		if key == "timestamp" {
			unescape = url.PathUnescape // its "+" is that of an offset
		}
		if value, err = unescape(value); err != nil {
			return badRequest("query parameter %s: %v", key, err)
		}
		switch key {
		case "deviceId":
			named = true
			to.device, err = bridge.ParseDeviceID(value)
		case "timestamp":
			to.time, err = parseTimestamp(value)
		case "topic":
			if value != "" && value != defaultTopic {
				to.subtopic, err = bridge.ParseSubtopic(value)
			}
		}
		return err
	})
	if err != nil {
		return to, err
	}
	headers := r.Header["X-Device-Id"]
	switch {
	case len(headers) > 1:
		return to, badRequest("the x-device-id header is there more than once; send one")
	case len(headers) == 0 && !named:
		return to, badRequest("there is no device; name it in the query, ?deviceId=, or in the header x-device-id")
	case len(headers) == 0:
		return to, nil
	case named && headers[0] != string(to.device):
		return to, badRequest("the query names another device than the header x-device-id; send one of them")
	}
	to.device, err = bridge.ParseDeviceID(headers[0])
	return to, err
}
