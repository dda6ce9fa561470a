package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"fieldbridge/adapters/rest/resttest"
	"fieldbridge/bridge"
)

// TestRefusals: every kind of mistake is told, and nothing of it is accepted.
func TestRefusals(t *testing.T) {
	in := newIntake()
	s := start(t, Options{MaxBody: 1024}, in)
	check := func(r resttest.Refusal, cut bool) {
		t.Run(r.Name, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, err = io.WriteString(conn, r.Raw)
			if err == nil && cut {
				err = conn.(*net.TCPConn).CloseWrite()
			}
			if err != nil {
				t.Fatal(err)
			}
			a := exchange(t, conn, "")
			if r.Detail != "" {
				checkProblem(t, a, r.Status, r.Detail)
			} else if a.status != r.Status {
				t.Errorf("status %d, want %d", a.status, r.Status)
			}
			if name, value, ok := strings.Cut(r.Header, ": "); ok {
				got := a.header.Get(name)
				if name == "Connection" && a.closes { // ReadResponse takes it out of the headers
					got = "close"
				}
				if got != value {
					t.Errorf("%s: %q, want %q", name, got, value)
				}
			}
			if seen := in.take(); len(seen) != 0 {
				t.Errorf("the accepter saw %d readings", len(seen))
			}
		})
	}
	for _, r := range resttest.Refusals {
		check(r, false)
	}
	for _, r := range resttest.CutShort {
		check(r, true)
	}
}

func TestAccepterErrors(t *testing.T) {
	in := newIntake()
	var log logBuffer
	s := start(t, Options{Logger: log.logger()}, in)
	c := newClient(t)
	rows := []struct {
		name       string
		err        error
		status     int
		detail     string
		retryAfter string
		reasonCode int
	}{
		{"unavailable", &bridge.UnavailableError{Reason: "the broker does not answer", RetryAfter: 5 * time.Second}, 503, "not accepted: the broker does not answer; send it again", "5", 0},
		{"unavailable, fractions", &bridge.UnavailableError{Reason: "x", RetryAfter: 1200 * time.Millisecond}, 503, "send it again", "2", 0},
		{"unavailable, no time", &bridge.UnavailableError{Reason: "x"}, 503, "send it again", "1", 0},
		{"unavailable, wrapped", fmt.Errorf("accept: %w", &bridge.UnavailableError{Reason: "x", RetryAfter: time.Minute}), 503, "x", "60", 0},
		{"spool full", fmt.Errorf("%w: max_bytes of 256MiB is reached", bridge.ErrSpoolFull), 507, "not accepted: spool full: max_bytes of 256MiB is reached; send it again", "60", 0},
		{"spool full and broker away", fmt.Errorf("%w: no space: %w", bridge.ErrSpoolFull, &bridge.UnavailableError{Reason: "x", RetryAfter: time.Second}), 507, "spool full", "60", 0},
		{"key reused", fmt.Errorf("accept: %w", bridge.ErrKeyReused), 422, "used before for another reading; to repeat a request send the same", "", 0},
		{"rejected payload format", &bridge.RejectedError{Code: 0x99, Reason: "payload format invalid"}, 422, "0x99 (payload format invalid); the payload does not fit", "", 0x99},
		{"rejected topic", &bridge.RejectedError{Code: 0x90, Reason: "topic name invalid"}, 422, "uplink_topic", "", 0x90},
		{"rejected rights", &bridge.RejectedError{Code: 0x87, Reason: "not authorized"}, 422, "the right to publish", "", 0x87},
		{"rejected quota", &bridge.RejectedError{Code: 0x97, Reason: "quota exceeded"}, 422, "quota", "", 0x97},
		{"rejected otherwise", &bridge.RejectedError{Code: 0x80, Reason: "unspecified error"}, 422, "do not send it again", "", 0x80},
		{"too large for the connector", fmt.Errorf("%w: 9 bytes, the connector takes at most 8", bridge.ErrTooLarge), 413, "at most 8", "", 0},
		{"device gone meanwhile", fmt.Errorf("%w: %q", bridge.ErrUnknownDevice, "d1"), 404, "[[device]]", "", 0},
		{"invalid", fmt.Errorf("%w: sub topic", bridge.ErrInvalid), 400, "sub topic", "", 0},
		{"time is up", fmt.Errorf("accept: %w", context.DeadlineExceeded), 503, "send it again", "5", 0},
		{"cancelled", context.Canceled, 503, "send it again", "5", 0},
		{"anything else", errors.New("disk on fire"), 500, "its log says more", "", 0},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			in.answer = func(context.Context, bridge.Reading) (bridge.Receipt, error) { return bridge.Receipt{}, r.err }
			a := post(t, c, s.url("/v1/devices/d1/uplink"), "application/json", "1")
			p := checkProblem(t, a, r.status, r.detail)
			if got := a.header.Get("Retry-After"); got != r.retryAfter {
				t.Errorf("Retry-After %q, want %q", got, r.retryAfter)
			}
			if p.ReasonCode != r.reasonCode {
				t.Errorf("reasonCode %d, want %d", p.ReasonCode, r.reasonCode)
			}
			if strings.Contains(string(a.body), "fire") {
				t.Error("the client is told an internal error")
			}
		})
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), "disk on fire") {
		t.Errorf("%d errors logged, want one; log:\n%s", n, log.String())
	}
}

func TestStoredIs202(t *testing.T) {
	in := newIntake()
	in.answer = func(_ context.Context, r bridge.Reading) (bridge.Receipt, error) {
		receipt := delivered(r)
		receipt.State = bridge.Spooled
		return receipt, nil
	}
	s := start(t, Options{}, in)
	a := post(t, newClient(t), s.url("/v1/devices/d1/uplink"), "text/plain", "x")
	if a.status != http.StatusAccepted || !strings.Contains(string(a.body), `"state":"stored"`) {
		t.Errorf("status %d, body %s", a.status, a.body)
	}
	if got, ok := a.header["Preference-Applied"]; ok {
		t.Errorf("Preference-Applied %q, but nothing was preferred", got)
	}
}
