package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// webServer answers requests at a loopback address.
func webServer(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func openWebSocket(t *testing.T, address, path string) (net.Conn, error) {
	t.Helper()
	ep, err := NewEndpoint(EndpointOptions{Address: address, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := ep.connect(ctx)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// What is written arrives as binary frames; what comes may be cut anywhere.
func TestWebSocketCarriesBytes(t *testing.T) {
	const path = "/some/mqtt"
	addr := webServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != path || r.Header.Get("Sec-WebSocket-Protocol") != "mqtt" || r.Host == "" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}})
		if err != nil {
			return
		}
		defer ws.CloseNow()
		ws.SetReadLimit(-1)
		kind, got, err := ws.Read(r.Context())
		if err != nil || kind != websocket.MessageBinary {
			return
		}
		// Back in frames of three bytes, an empty one among them.
		for ; len(got) > 0; got = got[min(3, len(got)):] {
			_ = ws.Write(r.Context(), websocket.MessageBinary, got[:min(3, len(got))])
			_ = ws.Write(r.Context(), websocket.MessageBinary, nil)
		}
		_ = ws.Close(websocket.StatusNormalClosure, "")
	})
	c, err := openWebSocket(t, addr, path)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456789"), 10_000) // more than one read, and than the library's own limit
	if n, err := c.Write(want); n != len(want) || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes and %v, want %d and the end", len(got), err, len(want))
	}
}

// Deadlines are those of the connection below, so that a frozen broker is noticed.
func TestWebSocketDeadline(t *testing.T) {
	addr := webServer(t, func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}})
		if err != nil {
			return
		}
		defer ws.CloseNow()
		_, _, _ = ws.Read(r.Context())
	})
	c, err := openWebSocket(t, addr, "/mqtt")
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(-time.Second))
	var ne net.Error
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("read: %v, want a timeout", err)
	}
	if below, ok := c.(interface{ NetConn() net.Conn }); !ok || below.NetConn() == nil {
		t.Error("the connection below cannot be reached")
	}
}

func TestWebSocketReadErrors(t *testing.T) {
	for name, tt := range map[string]struct {
		say  func(ctx context.Context, ws *websocket.Conn)
		want string
	}{
		"text":    {func(ctx context.Context, ws *websocket.Conn) { _ = ws.Write(ctx, websocket.MessageText, []byte("x")) }, "sent text over the WebSocket"},
		"refusal": {func(_ context.Context, ws *websocket.Conn) { _ = ws.Close(websocket.StatusPolicyViolation, "no") }, `closed the WebSocket with 1008 "no"`},
		"away":    {func(_ context.Context, ws *websocket.Conn) { _ = ws.Close(websocket.StatusGoingAway, "") }, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := webServer(t, func(w http.ResponseWriter, r *http.Request) {
				ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"mqtt"}})
				if err != nil {
					return
				}
				defer ws.CloseNow()
				tt.say(r.Context(), ws)
				_, _, _ = ws.Read(r.Context())
			})
			c, err := openWebSocket(t, addr, "/mqtt")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(make([]byte, 10)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("read: %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestWebSocketRefused(t *testing.T) {
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://elsewhere.example/?secret=hunter2")
			w.WriteHeader(code)
		}
	}
	for name, tt := range map[string]struct {
		handle http.HandlerFunc
		want   []string
	}{
		"redirect":  {status(302), []string{"HTTP 302 Found", "redirects are not followed"}},
		"not found": {status(404), []string{"HTTP 404 Not Found", "no WebSocket at this path"}},
		"forbidden": {status(403), []string{"HTTP 403 Forbidden", "login by HTTP"}},
		"busy":      {status(503), []string{"HTTP 503", "does not take connections now"}},
		"page":      {status(200), []string{"HTTP 200 OK instead of 101"}},
		"other protocol": {func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"chat"}})
			if err == nil {
				_, _, _ = ws.Read(r.Context())
				_ = ws.CloseNow()
			}
		}, []string{"not for MQTT"}},
		"bad answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "Upgrade")
			w.Header().Set("Upgrade", "websocket")
			w.WriteHeader(101)
		}, []string{"the upgrade is not valid", "Sec-WebSocket-Accept"}},
	} {
		t.Run(name, func(t *testing.T) {
			addr := webServer(t, tt.handle)
			_, err := openWebSocket(t, addr, "/mqtt")
			checkError(t, err, append(tt.want, "WebSocket at "+addr+"/mqtt"))
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the address of a redirect: %v", err)
			}
		})
	}
	for name, tt := range map[string]struct {
		handle func(net.Conn)
		want   string
	}{
		"closes": {func(c net.Conn) { _, _ = c.Read(make([]byte, 4096)) }, "closed the connection instead of an answer"},
		"speaks MQTT": {func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = c.Write([]byte("\x20\x03\x00\x84\x00\r\n"))
		}, "the answer is not HTTP"},
		"long headers": {func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, "HTTP/1.1 101 X\r\n"+strings.Repeat("A: "+strings.Repeat("x", 1000)+"\r\n", 100))
		}, "open it"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := openWebSocket(t, listen(t, tt.handle), "/mqtt")
			checkError(t, err, []string{tt.want})
		})
	}
}

// A server that says nothing holds nobody for longer than the context.
func TestWebSocketSilence(t *testing.T) {
	hold := make(chan struct{})
	addr := listen(t, func(c net.Conn) { <-hold })
	t.Cleanup(func() { close(hold) })
	ep, err := NewEndpoint(EndpointOptions{Address: addr, Path: "/mqtt"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if c, err := ep.connect(ctx); err == nil {
		_ = c.Close()
		t.Fatal("it connected")
	} else {
		checkError(t, err, []string{"no answer to the upgrade"})
	}
}

// A proxy that the environment names is not used.
func TestWebSocketUsesNoProxy(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	addr := webServer(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) })
	_, err := openWebSocket(t, addr, "/mqtt")
	checkError(t, err, []string{"HTTP 404"})
}

func TestHostHeader(t *testing.T) {
	for address, want := range map[string]string{"h:80": "h", "h:8083": "h:8083", "h:443": "h:443"} {
		if got := (&Endpoint{Address: address}).hostHeader(); got != want {
			t.Errorf("%s: host %q, want %q", address, got, want)
		}
	}
}
