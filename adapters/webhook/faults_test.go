package webhook

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"fieldbridge/bridge"
)

// raw serves each connection with f on a bare listener and returns its URL.
func raw(t *testing.T, f func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				f(c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return "http://" + l.Addr().String()
}

// readRequest takes a request with a body of n bytes from c.
func readRequest(c net.Conn, n int) {
	var got []byte
	buf := make([]byte, 4096)
	for {
		if i := strings.Index(string(got), "\r\n\r\n"); i >= 0 && len(got) >= i+4+n {
			return
		}
		k, err := c.Read(buf)
		if err != nil {
			return
		}
		got = append(got, buf[:k]...)
	}
}

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

func TestTargetsThatMisbehave(t *testing.T) {
	closed := func(t *testing.T) string {
		s := httptest.NewServer(nil)
		s.Close()
		return s.URL
	}
	answering := func(text string) func(t *testing.T) string {
		return func(t *testing.T) string {
			return raw(t, func(c net.Conn) {
				readRequest(c, 1)
				_, _ = io.WriteString(c, text)
			})
		}
	}
	tests := []struct {
		name      string
		url       func(t *testing.T) string
		delivered bool
		permanent bool
		want      string // in the error
	}{
		{name: "refuses connections", url: closed, want: "connection refused"},
		{name: "closes at once", url: func(t *testing.T) string { return raw(t, func(net.Conn) {}) }},
		{name: "closes without an answer", url: answering("")},
		{name: "closes in the header", url: answering("HTTP/1.1 200 OK\r\nContent-Le")},
		{name: "closes in the body", url: answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"), delivered: true},
		{name: "closes in a chunk", url: answering("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc"), delivered: true},
		{name: "sends more than it said", url: answering("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabcdef"), delivered: true},
		{name: "closes in the body of a refusal", url: answering("HTTP/1.1 400 No\r\nContent-Length: 100\r\n\r\nabc"), permanent: true, want: "400"},
		{name: "contradicts itself about length", url: answering("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")},
		{name: "speaks no HTTP", url: answering("220 mail.example ESMTP\r\n")},
		{name: "speaks TLS only", url: func(t *testing.T) string {
			s := httptest.NewUnstartedServer(nil)
			s.Config.ErrorLog = discardLog()
			s.StartTLS()
			t.Cleanup(s.Close)
			return strings.Replace(s.URL, "https", "http", 1)
		}, permanent: true, want: "400"},
		{name: "speaks no TLS", url: func(t *testing.T) string {
			return strings.Replace(serve(t, func(http.ResponseWriter, *http.Request) {}).URL, "http", "https", 1)
		}},
		{name: "has an unknown certificate", url: func(t *testing.T) string {
			s := httptest.NewUnstartedServer(nil)
			s.Config.ErrorLog = discardLog()
			s.StartTLS()
			t.Cleanup(s.Close)
			return s.URL
		}, want: "certificate"},
		{name: "has an endless header", url: func(t *testing.T) string {
			return raw(t, func(c net.Conn) {
				readRequest(c, 1)
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
				for {
					if _, err := io.WriteString(c, "X: "+strings.Repeat("y", 1000)+"\r\n"); err != nil {
						return
					}
				}
			})
		}},
		{name: "redirects to nonsense", url: answering("HTTP/1.1 302 Found\r\nLocation: http://%zz/\r\nContent-Length: 0\r\n\r\n"), permanent: true, want: "302"},
		{name: "continues and answers", url: answering("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), delivered: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			secret := strings.Replace(tt.url(t), "://", "://user:hunter2@", 1) + "/path?key=hunter2"
			_, err := newTarget(t, Options{URL: secret}).Deliver(t.Context(), bridge.Downlink{Payload: []byte("x")})
			if tt.delivered {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if permanent, _ := outcome(t, err); permanent != tt.permanent {
				t.Errorf("permanent %v: %v", permanent, err)
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "/path: ") {
				t.Errorf("error %q, want %q and the path in it", err, tt.want)
			}
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "user") {
				t.Errorf("error %q contains a secret", err)
			}
		})
	}
}

func TestNoAnswer(t *testing.T) {
	arrived := make(chan struct{}, 1)
	hang := raw(t, func(c net.Conn) {
		readRequest(c, 1)
		arrived <- struct{}{}
		_, _ = c.Read(make([]byte, 1)) // until the other side closes
	})
	t.Run("within the timeout", func(t *testing.T) {
		_, err := newTarget(t, Options{URL: hang, Timeout: 20 * time.Millisecond}).Deliver(t.Context(), bridge.Downlink{Payload: []byte("x")})
		if permanent, _ := outcome(t, err); permanent || !strings.Contains(err.Error(), "no answer within 20ms") {
			t.Errorf("permanent %v: %v", permanent, err)
		}
		select { // it may have been too slow to get there at all
		case <-arrived:
		default:
		}
	})
	t.Run("before the context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		target := newTarget(t, Options{URL: hang, Timeout: time.Hour})
		done := make(chan error, 1)
		go func() { _, err := target.Deliver(ctx, bridge.Downlink{Payload: []byte("x")}); done <- err }()
		<-arrived
		cancel()
		select {
		case err := <-done:
			if permanent, _ := outcome(t, err); permanent || !errors.Is(err, context.Canceled) {
				t.Errorf("permanent %v: %v", permanent, err)
			}
		case <-time.After(patience):
			t.Fatal("Deliver does not end")
		}
	})
}

func TestSlowAnswer(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-r.Context().Done():
		}
		w.WriteHeader(http.StatusAccepted)
	})
	if _, err := newTarget(t, Options{URL: s.URL}).Deliver(t.Context(), bridge.Downlink{}); err != nil {
		t.Error(err)
	}
}

// Once the status is there, a body without end holds nothing up.
func TestEndlessBody(t *testing.T) {
	for name, part := range map[string]string{"fast": strings.Repeat("x", 8192), "dripping": ""} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(w).Flush()
				for part != "" {
					if _, err := io.WriteString(w, part); err != nil {
						return
					}
				}
				<-r.Context().Done()
			})
			target := newTarget(t, Options{URL: s.URL, Timeout: time.Hour})
			done := make(chan error, 1)
			go func() { _, err := target.Deliver(t.Context(), bridge.Downlink{}); done <- err }()
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Fatal("Deliver does not end")
			}
		})
	}
}
