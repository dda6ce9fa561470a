package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

// TestFailuresAreNamed: the log says of which request an error is that is our own
// fault.
func TestFailuresAreNamed(t *testing.T) {
	var log logBuffer
	m := newMailroom(t, Options{Logger: log.logger()})
	m.store.FailReads(errors.New("disk on fire"))
	if status, _, body := m.do("GET", box, nil); status != 500 || strings.Contains(body, "fire") {
		t.Errorf("answer %d %s", status, body)
	}
	if status, _, _ := m.do("DELETE", box+"/secret-id", nil); status != 500 {
		t.Errorf("answer %d", status)
	}
	in := newIntake()
	in.answer = func(context.Context, bridge.Reading) (bridge.Receipt, error) {
		return bridge.Receipt{}, errors.New("disk on fire")
	}
	s := start(t, Options{Logger: log.logger()}, in)
	sendRaw(t, s.Addr(), request("POST", upD1, "1", "Content-Type: text/plain"))
	sendRaw(t, s.Addr(), request("POST", "/v1/uplinks", `{"device":"d1","payload":1}`, "Content-Type: "+batchType))
	var got []string
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "level=ERROR") {
			_, text, _ := strings.Cut(line, "level=ERROR ")
			got = append(got, strings.TrimSpace(text))
		}
	}
	want := []string{
		`msg="http request failed" error="read mailbox: disk on fire" method=GET route=/v1/devices/{device}/downlinks`,
		`msg="http request failed" error="read mailbox: disk on fire" method=DELETE route=/v1/devices/{device}/downlinks/{id}`,
		`msg="http request failed" error="disk on fire" method=POST route=/v1/devices/{device}/uplink`,
		`msg="http request failed" error="disk on fire" method=POST route=/v1/uplinks`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the log says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestHandshakesDoNotFillTheLog: of many that fail one is said.
func TestHandshakesDoNotFillTheLog(t *testing.T) {
	var log logBuffer
	s := start(t, Options{Logger: log.logger(), TLS: &TLS{Certificate: newAuthority(t, "ca").server()}}, newIntake())
	const count = 20
	for range count {
		conn, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, request("GET", "/healthz", ""))
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}
	const handshake = `msg="http: TLS handshake error from `
	for deadline := time.Now().Add(patience); strings.Count(log.String(), handshake) < count; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d lines, want %d", strings.Count(log.String(), handshake), count)
		}
	}
	if n := strings.Count(log.String(), "level=WARN "+handshake); n != 1 {
		t.Errorf("%d lines at WARN, want 1:\n%s", n, log.String())
	}
}

// TestServerLog counts what it does not say.
func TestServerLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		l := &serverLog{log: log.logger()}
		warned := func(want string) {
			t.Helper()
			last := ""
			for line := range strings.Lines(log.String()) {
				if _, text, ok := strings.Cut(line, "level=WARN "); ok {
					last = strings.TrimSpace(text)
				}
			}
			if last != want {
				t.Errorf("the last line is %s, want %s", last, want)
			}
		}
		handshake := func(n int) { fmt.Fprintf(l, "http: TLS handshake error from 127.0.0.1:%d: EOF\n", n) }
		said := func(n, more int) string {
			return fmt.Sprintf(`msg="http: TLS handshake error from 127.0.0.1:%d: EOF" others_since_last_line=%d`, n, more)
		}
		for n := range 3 {
			handshake(n)
			warned(said(0, 0))
		}
		time.Sleep(handshakeLines - 1)
		handshake(3)
		warned(said(0, 0))
		fmt.Fprintln(l, "http: something else")
		warned(`msg="http: something else"`)
		time.Sleep(time.Nanosecond)
		handshake(4)
		warned(said(4, 3))
		time.Sleep(handshakeLines)
		handshake(5)
		warned(said(5, 0))
	})
}
