package rest

import (
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// Who does not take an answer, or keeps back a body that nobody wants, keeps
// nobody out: net/http reads the rest of a body before it answers.
func TestAnswersGiveWay(t *testing.T) {
	for name, tt := range map[string]struct {
		raw   string
		takes bool
	}{
		"answer not taken":      {request("GET", "/openapi.yaml", ""), false},
		"body to no device":     {request("POST", "/v1/devices/nobody/uplink", "", "Content-Length: 1000", "Content-Type: text/plain"), true},
		"body of a wrong batch": {request("POST", "/v1/uplinks", "", "Content-Length: 1000"), true},
		"body of a GET":         {request("GET", "/healthz", "", "Content-Length: 1000"), true},
		"body of unknown size":  {request("GET", "/healthz", "", "Transfer-Encoding: chunked"), true},
		"body and long answer":  {request("GET", "/openapi.yaml", "", "Content-Length: 1000"), true},
	} {
		t.Run(name, func(t *testing.T) {
			var y yields
			withBubbleStop(t, Options{MaxConnections: 2, GaveWay: y.add}, newIntake(), func(t *testing.T, p *pipes, _ func() time.Duration) {
				var pinned []net.Conn
				for range 2 {
					conn := p.dial()
					defer conn.Close()
					write(t, conn, tt.raw)
					if tt.takes {
						go func() { _, _ = io.Copy(io.Discard, conn) }()
					}
					pinned = append(pinned, conn)
					synctest.Wait() // one after the other
					time.Sleep(time.Millisecond)
				}
				conn := p.dial()
				defer conn.Close()
				begin := time.Now()
				go func() { _, _ = io.WriteString(conn, request("POST", "/v1/devices/d1/uplink", "1")) }()
				if a, _ := response(t, conn); a.status != http.StatusOK {
					t.Errorf("status %d: %s", a.status, a.body)
				}
				if d := time.Since(begin); d > slow+look {
					t.Errorf("answered after %v, want %v", d, slow)
				}
				y.check(t, YieldAnswer)
				expectCut(t, pinned[0])
			})
		})
	}
}

// A stream takes long, and stays.
func TestStreamsDoNotGiveWay(t *testing.T) {
	var y yields
	withBubbleStop(t, Options{MaxConnections: 1, Events: &Events{}, GaveWay: y.add}, newIntake(), func(t *testing.T, p *pipes, _ func() time.Duration) {
		watcher, conn := p.dial(), p.dial()
		defer conn.Close()
		write(t, watcher, request("GET", "/v1/events", ""))
		go func() { _, _ = io.Copy(io.Discard, watcher) }()
		go func() { _, _ = io.WriteString(conn, request("POST", "/v1/devices/d1/uplink", "1")) }()
		time.Sleep(10 * slow)
		y.check(t)
		watcher.Close()
		if a, _ := response(t, conn); a.status != http.StatusOK {
			t.Errorf("status %d: %s", a.status, a.body)
		}
	})
}
