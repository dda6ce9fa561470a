package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"fieldbridge/bridge/devbroker"
)

// The devices of both kinds, with their topics.
var deviceTopics = map[string]string{
	"pump-1": "/up/device/id/pump-1",
	"pump-2": "/up/device/id/pump-2",
	"app":    "/up/" + yardSecret + "/id/app",
}

const devicesText = `
[[device]]
id = "pump-1"
connector = "plant"
[[device]]
id = "pump-2"
connector = "plant"
[[device]]
id = "app"
connector = "yard"
`

// payloadKinds are a payload for each content type, with its decoding on a serial
// port and the payload format indicator it must have.
var payloadKinds = []struct {
	contentType, decode, payload string
	format                       byte
}{
	{"application/json", "json", `{"t":21.5,"unit":"°C"}`, 1},
	{"text/plain", "text", "21.5 °C", 1},
	{"application/octet-stream", "raw", "\x01\xff\xfe\x00 ok", 0},
	{"application/xml", "text", `<t unit="°C">21.5</t>`, 1},
	{"text/csv", "text", "21.5,°C", 1},
}

var subtopics = []string{"", "alerts", "alerts/critical"}

// seen is what matters of a reading at the broker.
type seen struct {
	Device, Topic, ContentType, Payload string
	Format, QoS                         byte
	Retain                              bool
}

func seenOf(m devbroker.Message) seen {
	return seen{string(m.Device), m.Topic, m.ContentType, string(m.Payload), m.PayloadFormat, m.QoS, m.Retain}
}

// expectReadings compares what the broker has with want, in any order.
func expectReadings(t *testing.T, s *site, want map[seen]int) {
	t.Helper()
	total := 0
	for _, n := range want {
		total += n
	}
	eventually(t, fmt.Sprintf("%d readings", total), func() bool { return len(s.Broker.Messages()) >= total })
	got := map[seen]int{}
	for _, m := range s.Broker.Messages() {
		got[seenOf(m)]++
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("readings at the broker (-want +got):\n%s", diff)
	}
}

func topicOf(device, subtopic string) string {
	if subtopic == "" {
		return deviceTopics[device]
	}
	return deviceTopics[device] + "/" + subtopic
}

func TestReadingsOverHTTP(t *testing.T) {
	s := newSite(t)
	g := startGateway(t, s.config("", "", devicesText), s.Files)
	g.awaitUp()
	want := map[seen]int{}
	post := func(device, sub, contentType, payload string, expected seen) {
		t.Helper()
		a := g.post(device, sub, contentType, payload)
		if a.Status != http.StatusOK || a.State != "delivered" || uuid.Validate(a.ID) != nil {
			t.Fatalf("%s %s %s: answer %+v", device, sub, contentType, a)
		}
		expected.Device, expected.Topic, expected.Payload, expected.QoS = device, topicOf(device, sub), payload, 1
		want[expected]++
	}
	for device := range deviceTopics {
		for _, sub := range subtopics {
			for _, c := range payloadKinds {
				post(device, sub, c.contentType, c.payload, seen{ContentType: c.contentType, Format: c.format})
			}
		}
		post(device, "", "text/plain; charset=utf-8", "hello", seen{ContentType: "text/plain; charset=utf-8", Format: 1})
		post(device, "", "text/plain; charset=iso-8859-1", "21.5 \xb0C", seen{ContentType: "text/plain; charset=iso-8859-1"})
		post(device, "", "", `[1, 2]`, seen{ContentType: "application/json", Format: 1})
	}
	expectReadings(t, s, want)
	if n := len(s.Broker.Connects()); n != 3 {
		t.Errorf("%d CONNECTs, want one for each device with a key and one for the connector", n)
	}
}

func TestReadingsOverSerial(t *testing.T) {
	s := newSite(t)
	var text strings.Builder
	text.WriteString(devicesText)
	type sensor struct {
		port    *testPTY
		payload string
	}
	var sensors []sensor
	want := map[seen]int{}
	for device := range deviceTopics {
		for _, sub := range subtopics {
			for _, c := range payloadKinds {
				p := openPTY(t)
				sensors = append(sensors, sensor{p, c.payload})
				fmt.Fprintf(&text, "[[serial]]\nname = \"port-%d\"\nport = %q\ndecode = %q\ndevice = %q\nsubtopic = %q\ncontent_type = %q\n",
					len(sensors), p.Path, c.decode, device, sub, c.contentType)
				want[seen{device, topicOf(device, sub), c.contentType, c.payload, c.format, 1, false}] += 2
			}
		}
	}
	startGateway(t, s.config("", "", text.String()), s.Files)
	for i, o := range sensors {
		// Both ends of a line, also in two pieces, and what is no reading.
		if i%2 == 0 {
			o.port.write(o.payload + "\r\n\n" + o.payload + "\n")
		} else {
			half := len(o.payload) / 2
			o.port.write(o.payload + "\n" + o.payload[:half])
			o.port.write(o.payload[half:] + "\n")
		}
	}
	expectReadings(t, s, want)
}

func TestConnectPacket(t *testing.T) {
	s := newSite(t)
	text := s.config("", "keep_alive = \"30s\"\nsession_expiry = \"1h\"\nreceive_maximum = 7", devicesText)
	startGateway(t, text, s.Files).awaitUp()
	check := func(client string, want devbroker.Connect) {
		t.Helper()
		all := s.connectsOf(client)
		if len(all) != 1 {
			t.Fatalf("%d CONNECTs of %s, want one", len(all), client)
		}
		got := all[0]
		got.At = want.At
		if got.MaximumPacketSize == 0 {
			t.Error("no Maximum Packet Size: the broker could send what does not fit into memory")
		}
		got.MaximumPacketSize = 0
		want.ClientID, want.ProtocolVersion = client, 5
		want.UsernamePresent, want.PasswordPresent, want.SessionExpiryPresent = true, true, true
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("CONNECT of %s (-want +got):\n%s", client, diff)
		}
	}
	for _, device := range []string{"pump-1", "pump-2"} {
		check(device, devbroker.Connect{Username: "unused", KeepAlive: 60e9, SessionExpiry: 86400, ReceiveMaximum: 32})
	}
	yard := s.yardClient()
	if !strings.HasPrefix(yard, "fieldbridge-") || strings.Contains(yard, yardSecret) {
		t.Errorf("the connector's client id is %q", yard)
	}
	check(yard, devbroker.Connect{Username: yardID, KeepAlive: 30e9, SessionExpiry: 3600, ReceiveMaximum: 7})
}

func TestRestartFindsItsSessions(t *testing.T) {
	s := newSite(t)
	for range 2 {
		g := startGateway(t, s.config("", "", devicesText), s.Files)
		g.awaitUp()
		g.stop()
	}
	for _, client := range []string{"pump-1", "pump-2", s.yardClient()} {
		all := s.connectsOf(client)
		if len(all) != 2 || all[0].SessionPresent || !all[1].SessionPresent {
			t.Errorf("%d CONNECTs of %s: want a new session and then the same: %+v", len(all), client, all)
		}
	}
}

func TestUserProperties(t *testing.T) {
	s := newSite(t)
	port := openPTY(t)
	g := startGateway(t, "gateway = \"gw 7\"\n"+s.config("", "user_properties = true", devicesText)+fmt.Sprintf(`
[[serial]]
name = "scale"
port = %q
device = "app"
subtopic = "scale"
`, port.Path), s.Files)
	g.awaitUp()
	a, err := postTo(g.client, g.url("app", "")+"?timestamp=2024-02-29T12:00:00.250%2B01:00", "text/plain", "x")
	if err != nil || a.Status != http.StatusOK {
		t.Fatalf("answer %+v, %v", a, err)
	}
	m := s.messages("app")[0]
	want := []devbroker.UserProperty{{Key: "id", Value: a.ID}, {Key: "time", Value: "2024-02-29T11:00:00.25Z"}, {Key: "gateway", Value: "gw 7"}}
	if diff := cmp.Diff(want, m.UserProperties); diff != "" {
		t.Errorf("user properties (-want +got):\n%s", diff)
	}
	port.write("12 kg\n")
	eventually(t, "the serial reading", func() bool { return len(s.messages("app")) == 2 })
	m = s.messages("app")[1]
	if uuid.Validate(m.User("id")) != nil || m.User("id") == a.ID || m.User("gateway") != "gw 7" || !strings.HasSuffix(m.User("time"), "Z") {
		t.Errorf("user properties of the serial reading: %v", m.UserProperties)
	}
	// The other connector does not ask for them.
	if a := g.post("pump-1", "", "text/plain", "x"); a.Status != http.StatusOK || len(s.messages("pump-1")[0].UserProperties) > 0 {
		t.Errorf("answer %+v, readings %v", a, s.messages("pump-1"))
	}
}

func TestMaxPayload(t *testing.T) {
	s := newSite(t)
	port := openPTY(t)
	g := startGateway(t, s.config("max_payload = \"10B\"", "", devicesText)+fmt.Sprintf(`
[[serial]]
name = "scale"
port = %q
device = "pump-1"
`, port.Path)+"\n[http]\nlisten = \"127.0.0.1:0\"\nmax_body = \"1KiB\"\n", s.Files)
	g.awaitUp()
	for _, c := range []struct {
		device string
		size   int
		status int
		detail string
	}{
		{"pump-1", 10, 200, ""},
		{"pump-1", 11, 413, "payload too large: 11 bytes, the connector takes at most 10; send less at a time"},
		{"app", 1024, 200, ""},
		{"app", 1025, 413, "the body is larger than 1024 bytes; send less at a time, or raise http.max_body"},
	} {
		a := g.post(c.device, "", "text/plain", strings.Repeat("x", c.size))
		if a.Status != c.status || a.Detail != c.detail {
			t.Errorf("%d bytes for %s: %+v", c.size, c.device, a)
		}
	}
	port.write(strings.Repeat("x", 11) + "\nshort\n")
	eventually(t, "the short line", func() bool { return len(s.messages("pump-1")) == 2 })
	if got := string(s.messages("pump-1")[1].Payload); got != "short" {
		t.Errorf("got %q", got)
	}
	if !strings.Contains(g.Logs.String(), "11 bytes, the connector takes at most 10") {
		t.Error("nothing in the log about the long line")
	}
}

func TestUnlistedDevices(t *testing.T) {
	for _, c := range []struct {
		keys   string
		status int
	}{
		{"", http.StatusNotFound},
		{"devices = \"listed\"", http.StatusNotFound},
		{"devices = \"any\"", http.StatusOK},
	} {
		t.Run(c.keys, func(t *testing.T) {
			s := newSite(t)
			g := startGateway(t, s.config("", c.keys, devicesText), s.Files)
			g.awaitUp()
			a := g.post("visitor%207", "door", "text/plain", "open")
			if a.Status != c.status {
				t.Errorf("answer %+v", a)
			}
			if a.Status == http.StatusNotFound && (len(s.Broker.Messages()) > 0 || !strings.Contains(a.Detail, "add a [[device]] block")) {
				t.Errorf("answer %+v, readings %v", a, s.Broker.Messages())
			}
			want := map[seen]int{}
			if a.Status == http.StatusOK {
				want[seen{"visitor 7", "/up/" + yardSecret + "/id/visitor 7/door", "text/plain", "open", 1, 1, false}]++
			}
			for device := range deviceTopics {
				if a := g.post(device, "", "text/plain", "x"); a.Status != http.StatusOK {
					t.Fatalf("answer %+v for a listed device", a)
				}
				want[seen{device, topicOf(device, ""), "text/plain", "x", 1, 1, false}]++
			}
			expectReadings(t, s, want)
		})
	}
}
