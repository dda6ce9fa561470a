package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

const (
	// subprotocol is MQTT's name in the upgrade (MQTT v5 section 6.0).
	subprotocol = "mqtt"
	// maxMessage bounds one WebSocket message. It may hold many packets, each of
	// maxDownlink at most, and is passed on as it comes, so that it costs no memory.
	maxMessage = 64 << 20
	// maxUpgradeHeader bounds the answer to the upgrade.
	maxUpgradeHeader = 16 << 10
)

// webSocket is a transport of binary frames. Packets may begin and end anywhere
// in them.
type webSocket struct {
	net.Conn // what is below it: its deadlines and addresses are right
	ws       *websocket.Conn
	message  io.Reader // that is being read; nil between two. Used by the reading goroutine
}

// upgrade makes a WebSocket of an open connection. On an error that one is the
// caller's to close.
func (e *Endpoint) upgrade(ctx context.Context, c net.Conn) (net.Conn, error) {
	// One use: a second request, for a redirect say, gets none.
	conns := make(chan net.Conn, 1)
	conns <- c
	transport := &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			select {
			case c := <-conns:
				return c, nil
			default:
				return nil, errors.New("no second connection")
			}
		},
		MaxResponseHeaderBytes: maxUpgradeHeader,
		DisableCompression:     true,
	}
	defer transport.CloseIdleConnections()
	// The connection is there and encrypted already if it is to be: so not wss.
	ws, resp, err := websocket.Dial(ctx, "ws://"+e.Address+e.path, &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		HTTPHeader:   http.Header{"User-Agent": {"fieldbridge"}},
		Host:         e.hostHeader(),
		Subprotocols: []string{subprotocol},
	})
	if err != nil {
		return nil, e.notUpgraded(err, resp)
	}
	if ws.Subprotocol() != subprotocol {
		_ = ws.CloseNow()
		return nil, errors.New("the server opened a WebSocket, but not for MQTT (no subprotocol \"mqtt\"): is the path in broker right?")
	}
	ws.SetReadLimit(maxMessage)
	return &webSocket{Conn: c, ws: ws}, nil
}

// hostHeader is the host without the scheme's own port, which some proxies do not
// expect.
func (e *Endpoint) hostHeader() string {
	usual := ":80"
	if e.tls != nil {
		usual = ":443"
	}
	return strings.TrimSuffix(e.Address, usual)
}

// notUpgraded says what the answer means and what to do.
func (e *Endpoint) notUpgraded(err error, resp *http.Response) error {
	if resp == nil {
		// Without the prefixes of the libraries on the way, which name a URL that
		// nobody has written.
		if inner := errors.Unwrap(errors.Unwrap(errors.Unwrap(err))); inner != nil {
			err = inner
		}
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return errors.New("no answer to the upgrade: does this port speak HTTP?")
		case strings.Contains(err.Error(), "malformed HTTP"):
			return errors.New("the answer is not HTTP: is this the port for mqtt:// or mqtts://, or does it want TLS (wss://)?")
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return fmt.Errorf("the other side closed the connection instead of an answer (%w): does this port speak HTTP, and with or without TLS?", err)
		}
		return fmt.Errorf("open it: %w", e.refused(err))
	}
	status := fmt.Sprintf("the server answered HTTP %d", resp.StatusCode)
	if text := http.StatusText(resp.StatusCode); text != "" {
		status += " " + text
	}
	switch code := resp.StatusCode; {
	case code == http.StatusSwitchingProtocols:
		return fmt.Errorf("the upgrade is not valid: %w", err)
	case code >= 300 && code < 400:
		return fmt.Errorf("%s: redirects are not followed, because the credentials would go along; write the right address in broker", status)
	case code == http.StatusNotFound:
		return fmt.Errorf("%s: there is no WebSocket at this path; put the right one behind the port in broker (/mqtt is usual)", status)
	case code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusProxyAuthRequired:
		return fmt.Errorf("%s: it wants a login by HTTP, before MQTT, which fieldbridge does not have", status)
	case code == http.StatusTooManyRequests || code >= 500:
		return fmt.Errorf("%s: it, or the broker behind it, does not take connections now", status)
	}
	return fmt.Errorf("%s instead of 101: is there a WebSocket for MQTT at this port and path?", status)
}

// Read implements net.Conn.
func (w *webSocket) Read(p []byte) (int, error) {
	for {
		if w.message == nil {
			kind, r, err := w.ws.Reader(context.Background())
			if err != nil {
				return 0, closed(err)
			}
			if kind != websocket.MessageBinary {
				_ = w.Close() // as section 6.0 demands
				return 0, errors.New("the broker sent text over the WebSocket, where MQTT is binary")
			}
			w.message = r
		}
		n, err := w.message.Read(p)
		if errors.Is(err, io.EOF) {
			w.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, closed(err)
		}
	}
}

// closed turns the end of a WebSocket into that of a connection.
func closed(err error) error {
	var ce websocket.CloseError
	if errors.As(err, &ce) {
		if ce.Code == websocket.StatusNormalClosure || ce.Code == websocket.StatusGoingAway {
			return io.EOF
		}
		return fmt.Errorf("the broker closed the WebSocket with %d %q", ce.Code, ce.Reason)
	}
	return err
}

// Write implements net.Conn: one binary frame.
func (w *webSocket) Write(p []byte) (int, error) {
	if err := w.ws.Write(context.Background(), websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close implements net.Conn. It does not wait for the other side: DISCONNECT has
// said all that a closing frame would.
func (w *webSocket) Close() error {
	_ = w.Conn.SetDeadline(time.Now().Add(time.Second))
	return w.ws.CloseNow()
}

// NetConn is the connection below.
func (w *webSocket) NetConn() net.Conn { return w.Conn }
