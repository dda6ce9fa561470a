package webhook

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge"
)

func TestAnswer(t *testing.T) {
	big := strings.Repeat("x", maxAnswer)
	for _, tt := range []struct {
		name, contentType, encoding, body string
		status                            int
		want, wantType                    string // the answer; "" for none
	}{
		{"json", "application/json", "", `{"ok":true}`, 200, `{"ok":true}`, "application/json"},
		{"with a charset", "Text/Plain; charset=utf-8", "", "ok", 202, "ok", "text/plain; charset=utf-8"},
		{"another type", "image/png", "", "\x89PNG", 200, "\x89PNG", "application/octet-stream"},
		{"nonsense for a type", ";;;", "", "x", 200, "x", "application/octet-stream"},
		{"compressed", "text/plain", "gzip", "\x1f\x8b", 200, "\x1f\x8b", "application/octet-stream"},
		{"empty", "text/plain", "", "", 200, "", ""},
		{"no content", "", "", "", 204, "", ""},
		{"largest", "text/plain", "", big, 200, big, "text/plain"},
		{"too large", "text/plain", "", big + "x", 200, "", ""},
		{"refused", "text/plain", "", "no", 400, "", ""},
		{"later", "text/plain", "", "wait", 503, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.contentType)
				if tt.encoding != "" {
					w.Header().Set("Content-Encoding", tt.encoding)
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			target := newTarget(t, Options{URL: s.URL})
			got, err := target.Deliver(t.Context(), bridge.Downlink{ResponseTopic: "answers"})
			if (err == nil) != (tt.status < 300) {
				t.Errorf("error %v", err)
			}
			switch {
			case tt.want == "" && got != nil:
				t.Errorf("answer %.40q", got.Payload)
			case tt.want != "" && (got == nil || string(got.Payload) != tt.want || got.ContentType != tt.wantType):
				t.Errorf("answer %.40v, want %.40q as %s", got, tt.want, tt.wantType)
			}
			if got, _ := target.Deliver(t.Context(), bridge.Downlink{}); got != nil {
				t.Errorf("answer %.40q, nobody asked", got.Payload)
			}
		})
	}
}

// A body that is not complete is no answer, and what was delivered stays so.
func TestAnswerCutOff(t *testing.T) {
	for name, end := range map[string]func(net.Conn){
		"closed": func(net.Conn) {},
		"slow":   func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }, // until the other side closes
	} {
		t.Run(name, func(t *testing.T) {
			url := raw(t, func(c net.Conn) {
				readRequest(c, 1)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\nabc")
				end(c)
			})
			got, err := newTarget(t, Options{URL: url, Timeout: 200 * time.Millisecond}).
				Deliver(t.Context(), bridge.Downlink{Payload: []byte("x"), ResponseTopic: "answers"})
			if name == "closed" && (got != nil || err != nil) {
				t.Errorf("got %v, %v", got, err)
			}
			if got != nil || err != nil && !strings.Contains(err.Error(), "no answer within") { // it may have been too slow for the header
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}
