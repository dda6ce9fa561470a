package rest

import (
	"io"
	"net/http"
	"testing"
)

func TestMetrics(t *testing.T) {
	shown := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = io.WriteString(w, "up 1\n")
	})
	for _, c := range []struct {
		name, request string
		handler       http.Handler
		status        int
		body          string
	}{
		{"shown", request("GET", "/metrics", ""), shown, http.StatusOK, "up 1\n"},
		{"HEAD", request("HEAD", "/metrics", ""), shown, http.StatusOK, ""},
		{"not configured", request("GET", "/metrics", ""), nil, http.StatusNotFound, ""},
		{"wrong method", request("POST", "/metrics", ""), shown, http.StatusMethodNotAllowed, ""},
		{"a web page asks", request("GET", "/metrics", "", "Origin: http://evil.example"), shown, http.StatusForbidden, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, Options{Metrics: c.handler}, newIntake())
			a := sendRaw(t, s.Addr(), c.request)
			if a.status != c.status {
				t.Errorf("status %d, want %d: %s", a.status, c.status, a.body)
			}
			if c.status == http.StatusOK && string(a.body) != c.body {
				t.Errorf("body %q, want %q", a.body, c.body)
			}
		})
	}
}
