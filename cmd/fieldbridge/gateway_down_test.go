package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"fieldbridge/bridge"
	"fieldbridge/bridge/devbroker"
)

// routesText has every kind of route; its verbs are the webhook's URL and two
// serial ports.
const routesText = `
[[device]]
id = "pump-1"
connector = "plant"
[[device.downlink]]
subtopic = "valve/#"
webhook = "%[1]s/valve"
[[device.downlink]]
subtopic = "display/+"
serial = "display"

[[device]]
id = "app"
connector = "yard"
[[device.downlink]]
webhook = "%[1]s/app"
[[device.downlink]]
subtopic = "both"
serial = "other"

[[device]]
id = "gate"
connector = "yard"

[[serial]]
name = "display"
port = %[2]q
device = "pump-1"
[[serial]]
name = "other"
port = %[3]q
device = "app"
delimiter = "\r\n"
`

func TestDownlinks(t *testing.T) {
	s := newSite(t)
	hook := newWebhook(t, nil)
	display, other := openPTY(t), openPTY(t)
	g := startGateway(t, s.config("", "", fmt.Sprintf(routesText, hook.URL, display.Path, other.Path)), s.Files)
	g.awaitUp()
	pump := func(sub, contentType, payload string) devbroker.Message {
		return devbroker.Message{Device: "pump-1", Subtopic: sub, ContentType: contentType, Payload: []byte(payload)}
	}
	app := func(sub, contentType, payload string) devbroker.Message {
		return devbroker.Message{Connector: yardID, Device: "app", Subtopic: sub, ContentType: contentType, Payload: []byte(payload)}
	}
	settled := func(client string) {
		t.Helper()
		eventually(t, "all downlinks of "+client+" acknowledged", func() bool { return s.Broker.Pending(client) == 0 })
	}
	for _, c := range []struct {
		name           string
		down           devbroker.Message
		hook           hookCall
		display, other string
	}{
		{name: "JSON to the webhook", down: pump("valve/2/set", "application/json", `{"open":true}`),
			hook: hookCall{"/valve", "application/json", "pump-1", "valve/2/set", `{"open":true}`}},
		{name: "parent level of the filter", down: pump("valve", "text/plain", "open"),
			hook: hookCall{"/valve", "text/plain", "pump-1", "valve", "open"}},
		{name: "binary", down: pump("valve", "application/octet-stream", "\x00\xff\n"),
			hook: hookCall{"/valve", "application/octet-stream", "pump-1", "valve", "\x00\xff\n"}},
		{name: "serial", down: pump("display/1", "text/plain", "HELLO"), display: "HELLO"},
		{name: "serial, with its delimiter", down: pump("display/2", "text/plain", "BYE\n"), display: "BYE"},
		{name: "no filter", down: app("", "text/plain", "x"), hook: hookCall{"/app", "text/plain", "app", "", "x"}},
		{name: "two routes", down: app("both", "text/csv", "1,2"), hook: hookCall{"/app", "text/csv", "app", "both", "1,2"}, other: "1,2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.down(c.down)
			if c.hook != (hookCall{}) {
				hook.want(c.hook)
			}
			if c.display != "" {
				display.want(c.display)
			}
			if c.other != "" {
				other.want(c.other)
			}
		})
	}
	// What no filter matches is acknowledged, dropped and told.
	s.down(pump("display/1/2", "text/plain", "too deep"))
	s.down(pump("", "text/plain", "too short"))
	settled("pump-1")
	settled(s.yardClient())
	if n := strings.Count(g.Logs.String(), "downlink has no route, dropped"); n != 2 {
		t.Errorf("%d warnings about downlinks without a route, want 2", n)
	}
	if err := s.Broker.Publish(devbroker.Message{Connector: yardID, Device: "gate", Payload: []byte("x")}); err == nil {
		t.Error("the gateway has subscribed for a device without routes")
	}
	for _, left := range []int{len(hook.Calls), len(display.Lines), len(other.Lines)} {
		if left != 0 {
			t.Errorf("%d deliveries too many", left)
		}
	}
}

// TestDownlinkIsStoredBeforeItIsAcknowledged has a target that takes nothing: the
// broker is rid of the downlinks, a restart keeps them, and each is delivered
// once, in order.
func TestDownlinkIsStoredBeforeItIsAcknowledged(t *testing.T) {
	s := newSite(t)
	var open atomic.Bool
	hook := newWebhook(t, func(hookCall) int {
		if open.Load() {
			return http.StatusNoContent
		}
		return http.StatusServiceUnavailable
	})
	g := startGateway(t, s.config("", "", fmt.Sprintf(routesText, hook.URL, openPTY(t).Path, openPTY(t).Path)), s.Files)
	g.awaitUp()
	call := func(body string) hookCall { return hookCall{"/valve", "text/plain", "pump-1", "valve", body} }
	bodies := []string{"first", "second", "third"}
	for _, body := range bodies {
		s.down(devbroker.Message{Device: "pump-1", Subtopic: "valve", ContentType: "text/plain", Payload: []byte(body)})
	}
	eventually(t, "the acknowledgements", func() bool { return s.Broker.Pending("pump-1") == 0 })
	if got := g.gw.spool.Stats().Downlinks; got != 3 {
		t.Errorf("%d downlinks in the spool, want 3", got)
	}
	hook.want(call("first")) // and answered 503
	eventually(t, "the warning", func() bool { return strings.Contains(g.Logs.String(), "downlink not delivered yet") })

	g.stop()
	for len(hook.Calls) > 0 {
		hook.want(call("first")) // nothing overtakes it
	}
	open.Store(true)
	g = g.restart()
	for _, body := range bodies {
		hook.want(call(body))
	}
	eventually(t, "no downlink in the spool", func() bool { return g.gw.spool.Stats().Downlinks == 0 })
	g = g.restart()
	g.awaitUp()
	g.stop()
	if left := len(hook.Calls); left > 0 {
		t.Errorf("%d deliveries too many", left)
	}
}

func TestDownlinkToAPortThatTakesNothing(t *testing.T) {
	s := newSite(t)
	port := openDeafPTY(t)
	g := startGateway(t, s.config("", "", fmt.Sprintf(routesText, "http://127.0.0.1:1", port.Path, openPTY(t).Path)), s.Files)
	g.awaitUp()
	// More than fits into a pseudo-terminal: its end is written when the
	// beginning has been read.
	line := strings.Repeat("x", 199) + "\n"
	const lines = 1000
	s.down(devbroker.Message{Device: "pump-1", Subtopic: "display/1", ContentType: "text/plain", Payload: []byte(strings.Repeat(line, lines))})
	// It is stored, so the broker need not wait for the port, nor do readings.
	eventually(t, "the acknowledgement", func() bool { return s.Broker.Pending("pump-1") == 0 })
	if a := g.post("pump-1", "", "text/plain", "meanwhile"); a.Status != http.StatusOK {
		t.Errorf("answer %+v", a)
	}
	if got := g.gw.spool.Stats().Downlinks; got != 1 {
		t.Errorf("%d downlinks in the spool, want 1", got)
	}
	port.listen()
	for range lines {
		port.want(strings.TrimSuffix(line, "\n"))
	}
	eventually(t, "no downlink in the spool", func() bool { return g.gw.spool.Stats().Downlinks == 0 })
}

func TestDownlinksWaitForTheGateway(t *testing.T) {
	s := newSite(t)
	hook := newWebhook(t, nil)
	text := s.config("", "", fmt.Sprintf(routesText, hook.URL, openPTY(t).Path, openPTY(t).Path))
	g := startGateway(t, text, s.Files)
	g.awaitUp()
	g.stop()
	for _, body := range []string{"1", "2", "3"} {
		for _, m := range []devbroker.Message{{Device: "pump-1", Subtopic: "valve"}, {Device: "app", Connector: yardID}} {
			m.ContentType, m.Payload = "text/plain", []byte(body)
			if err := s.Broker.Publish(m); err != nil {
				t.Fatalf("the broker has not kept the session of %s: %v", m.Device, err)
			}
		}
	}
	g.restart()
	got := map[bridge.DeviceID]string{}
	for range 6 {
		call := hook.next()
		got[bridge.DeviceID(call.Device)] += call.Body
	}
	for device, order := range got {
		if order != "123" {
			t.Errorf("downlinks of %s came as %q", device, order)
		}
	}
	for _, client := range []string{"pump-1", s.yardClient()} {
		eventually(t, "the acknowledgements of "+client, func() bool { return s.Broker.Pending(client) == 0 })
	}
}
