package rest

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge"
)

func TestUplinkAccepts(t *testing.T) {
	in := newIntake()
	s := start(t, Options{MaxBody: 64 << 10}, in)
	const jsonType = "application/json"
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	type row struct {
		name, path, contentType, body string
		want                          bridge.Reading // payload is the body; zero time: now
	}
	rows := []row{
		{"json", "/v1/devices/d1/uplink", jsonType, `{"t":21.5}`, bridge.Reading{Device: "d1", ContentType: jsonType}},
		{"text", "/v1/devices/d1/uplink", "text/plain", "21.5 °C", bridge.Reading{Device: "d1", ContentType: "text/plain"}},
		{"bytes", "/v1/devices/d1/uplink", "application/octet-stream", "\x00\xff\x01", bridge.Reading{Device: "d1", ContentType: "application/octet-stream"}},
		{"xml", "/v1/devices/d1/uplink", "application/xml", "<t>1</t>", bridge.Reading{Device: "d1", ContentType: "application/xml"}},
		{"csv", "/v1/devices/d1/uplink", "text/csv", "a,b\n1,2\n", bridge.Reading{Device: "d1", ContentType: "text/csv"}},
		{"charset", "/v1/devices/d1/uplink", "text/plain; charset=iso-8859-1", "21 \xb0C", bridge.Reading{Device: "d1", ContentType: "text/plain; charset=iso-8859-1"}},
		{"charset, other writing", "/v1/devices/d1/uplink", `Text/CSV;Header="present" ;charset=UTF-8`, "a\n1", bridge.Reading{Device: "d1", ContentType: "text/csv; charset=UTF-8; header=present"}},
		{"charset declared, bytes not in it", "/v1/devices/d1/uplink", "text/plain; charset=utf-8", "\xff", bridge.Reading{Device: "d1", ContentType: "text/plain; charset=utf-8"}},
		{"json with charset", "/v1/devices/d1/uplink", "application/json;charset=utf-8", `"é"`, bridge.Reading{Device: "d1", ContentType: "application/json; charset=utf-8"}},
		{"no type, json", "/v1/devices/d1/uplink", "", ` [1, 2] `, bridge.Reading{Device: "d1", ContentType: jsonType}},
		{"json scalar", "/v1/devices/d1/uplink", jsonType, `-1.5e3`, bridge.Reading{Device: "d1", ContentType: jsonType}},
		{"one level", "/v1/devices/d1/uplink/alerts", jsonType, `1`, bridge.Reading{Device: "d1", Subtopic: "alerts", ContentType: jsonType}},
		{"two levels", "/v1/devices/d1/uplink/alerts/critical", jsonType, `1`, bridge.Reading{Device: "d1", Subtopic: "alerts/critical", ContentType: jsonType}},
		{"five levels", "/v1/devices/d1/uplink/a/b/c/d/e", jsonType, `1`, bridge.Reading{Device: "d1", Subtopic: "a/b/c/d/e", ContentType: jsonType}},
		{"level of dots", "/v1/devices/d1/uplink/...", jsonType, `1`, bridge.Reading{Device: "d1", Subtopic: "...", ContentType: jsonType}},
		{"level named like the route", "/v1/devices/uplink/uplink/uplink", jsonType, `1`, bridge.Reading{Device: "uplink", Subtopic: "uplink", ContentType: jsonType}},
		{"encoded UTF-8 level", "/v1/devices/d1/uplink/%C3%BCber/%E6%B8%A9%E5%BA%A6", jsonType, `1`, bridge.Reading{Device: "d1", Subtopic: "über/温度", ContentType: jsonType}},
		{"needlessly encoded level", "/v1/devices/d1/uplink/%61%2Db", jsonType, `1`, bridge.Reading{Device: "d1", Subtopic: "a-b", ContentType: jsonType}},
		{"encoded space", "/v1/devices/a%20b/uplink/c%20d", jsonType, `1`, bridge.Reading{Device: "a b", Subtopic: "c d", ContentType: jsonType}},
		{"encoded percent", "/v1/devices/a%25b/uplink/%2561", jsonType, `1`, bridge.Reading{Device: "a%b", Subtopic: "%61", ContentType: jsonType}},
		{"encoded percent beside another escape", "/v1/devices/%61%25b/uplink/%2561", jsonType, `1`, bridge.Reading{Device: "a%b", Subtopic: "%61", ContentType: jsonType}},
		{"encoded device", "/v1/devices/%C3%A9-1/uplink", jsonType, `1`, bridge.Reading{Device: "é-1", ContentType: jsonType}},
		{"encoded question mark", "/v1/devices/d1/uplink/a%3Fb", jsonType, `1`, bridge.Reading{Device: "d1", Subtopic: "a?b", ContentType: jsonType}},
		{"time in UTC", "/v1/devices/d1/uplink?timestamp=2025-03-01T12:00:00Z", jsonType, `1`, bridge.Reading{Device: "d1", ContentType: jsonType, Time: at("2025-03-01T12:00:00Z")}},
		{"time with fraction", "/v1/devices/d1/uplink?timestamp=2025-03-01T12:00:00.123456Z", jsonType, `1`, bridge.Reading{Device: "d1", ContentType: jsonType, Time: at("2025-03-01T12:00:00.123456Z")}},
		{"time with offset", "/v1/devices/d1/uplink/x?timestamp=2025-03-01T12:00:00-05:30", jsonType, `1`, bridge.Reading{Device: "d1", Subtopic: "x", ContentType: jsonType, Time: at("2025-03-01T17:30:00Z")}},
		{"time with encoded plus", "/v1/devices/d1/uplink?timestamp=2025-03-01T12%3A00%3A00%2B01:00", jsonType, `1`, bridge.Reading{Device: "d1", ContentType: jsonType, Time: at("2025-03-01T11:00:00Z")}},
		{"time with bare plus", "/v1/devices/d1/uplink?timestamp=2025-03-01T12:00:00+01:00", jsonType, `1`, bridge.Reading{Device: "d1", ContentType: jsonType, Time: at("2025-03-01T11:00:00Z")}},
		{"time, stray ampersands", "/v1/devices/d1/uplink?&timestamp=2025-03-01T12:00:00Z&", jsonType, `1`, bridge.Reading{Device: "d1", ContentType: jsonType, Time: at("2025-03-01T12:00:00Z")}},
		{"empty query", "/v1/devices/d1/uplink?", jsonType, `1`, bridge.Reading{Device: "d1", ContentType: jsonType}},
		{"largest body", "/v1/devices/d1/uplink", "text/plain", strings.Repeat("x", 64<<10), bridge.Reading{Device: "d1", ContentType: "text/plain"}},
		{"longest sub topic", "/v1/devices/d1/uplink/" + strings.Repeat("%C3%A9", bridge.MaxSubtopic/2), jsonType, `1`, bridge.Reading{Device: "d1", Subtopic: bridge.Subtopic(strings.Repeat("é", bridge.MaxSubtopic/2)), ContentType: jsonType}},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			in.take()
			header := []string{"Connection: close"}
			if r.contentType != "" {
				header = append(header, "Content-Type: "+r.contentType)
			}
			before := time.Now()
			a := sendRaw(t, s.Addr(), request("POST", r.path, r.body, header...))
			if a.status != http.StatusOK {
				t.Fatalf("status %d, body %s", a.status, a.body)
			}
			seen := in.take()
			if len(seen) != 1 {
				t.Fatalf("%d readings, want 1", len(seen))
			}
			got := seen[0]
			if got.Device != r.want.Device || got.Subtopic != r.want.Subtopic || got.ContentType != r.want.ContentType {
				t.Errorf("reading %q %q %q, want %q %q %q", got.Device, got.Subtopic, got.ContentType,
					r.want.Device, r.want.Subtopic, r.want.ContentType)
			}
			if string(got.Payload) != r.body {
				t.Errorf("payload %q, want %q", got.Payload, r.body)
			}
			if r.want.Time.IsZero() {
				if got.Time.Before(before) || got.Time.After(time.Now()) {
					t.Errorf("time %v is not that of the request", got.Time)
				}
			} else if !got.Time.Equal(r.want.Time) {
				t.Errorf("time %v, want %v", got.Time, r.want.Time)
			}
			checkReceipt(t, a, got)
		})
	}
}

func checkReceipt(t *testing.T, a answer, r bridge.Reading) {
	t.Helper()
	if ct := a.header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("Content-Type %q", ct)
	}
	var doc map[string]string
	if err := json.Unmarshal(a.body, &doc); err != nil {
		t.Fatalf("body %q: %v", a.body, err)
	}
	want := map[string]string{
		"id":        delivered(r).ID.String(),
		"timestamp": r.Time.UTC().Format("2006-01-02T15:04:05.000") + "Z",
		"message":   "uplink received",
		"state":     "delivered",
	}
	for k, v := range want {
		if doc[k] != v {
			t.Errorf("%s is %q, want %q", k, doc[k], v)
		}
	}
	if len(doc) != len(want) {
		t.Errorf("members %v, want %v", doc, want)
	}
}

func TestUplinkWithOrdinaryClient(t *testing.T) {
	in := newIntake()
	s := start(t, Options{}, in)
	c := newClient(t)
	// The same connection serves refused and accepted readings in turn.
	for range 3 {
		if a := post(t, c, s.url("/v1/devices/d1/uplink"), "application/json", `{"a":1}`); a.status != http.StatusOK {
			t.Fatalf("status %d, body %s", a.status, a.body)
		}
		checkProblem(t, post(t, c, s.url("/v1/devices/d1/uplink"), "application/json", `{"a":`), http.StatusBadRequest, "too early")
	}
	if n := len(in.take()); n != 3 {
		t.Errorf("%d readings, want 3", n)
	}
}

func TestUplinkChunked(t *testing.T) {
	in := newIntake()
	s := start(t, Options{}, in)
	a := sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n",
		"Transfer-Encoding: chunked", "Content-Type: application/json"))
	if a.status != http.StatusOK {
		t.Fatalf("status %d, body %s", a.status, a.body)
	}
	if seen := in.take(); len(seen) != 1 || string(seen[0].Payload) != "[1,2]" {
		t.Errorf("readings %v", seen)
	}
}

func TestUplinkKeepsLittleMemory(t *testing.T) {
	in := newIntake()
	s := start(t, Options{}, in)
	body := `"` + strings.Repeat("x", 17<<10) + `"` // one byte more than the first buffer holds
	if a := post(t, newClient(t), s.url("/v1/devices/d1/uplink"), "application/json", body); a.status != http.StatusOK {
		t.Fatalf("status %d, body %s", a.status, a.body)
	}
	p := in.take()[0].Payload
	if string(p) != body {
		t.Error("payload differs")
	}
	if cap(p) > 2*len(p)+512 {
		t.Errorf("%d bytes held for a payload of %d", cap(p), len(p))
	}
}

func TestUplinkHosts(t *testing.T) {
	in := newIntake()
	s := start(t, Options{}, in)
	rows := []struct {
		name   string
		header []string
	}{
		{"ip", []string{"Host: 127.0.0.1"}},
		{"ip and port", []string{"Host: 127.0.0.1:8080"}},
		{"another loopback ip", []string{"Host: 127.8.9.1:8080"}},
		{"localhost", []string{"Host: LocalHost:80"}},
		{"ip v6", []string{"Host: [::1]"}},
		{"ip v6 and port", []string{"Host: [::1]:8080"}},
		{"none", []string{"Host: "}},
		{"same origin", []string{"Host: localhost:8080", "Origin: http://localhost:8080", "Sec-Fetch-Site: same-origin"}},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			if a := sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "1", r.header...)); a.status != http.StatusOK {
				t.Errorf("status %d, body %s", a.status, a.body)
			}
		})
	}
	t.Run("a link that was followed", func(t *testing.T) {
		a := sendRaw(t, s.Addr(), request("GET", "/healthz", "", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"))
		if a.status != http.StatusOK {
			t.Errorf("status %d, body %s", a.status, a.body)
		}
	})
	t.Run("HTTP/1.0", func(t *testing.T) {
		a := sendRaw(t, s.Addr(), "POST /v1/devices/d1/uplink HTTP/1.0\r\nContent-Length: 1\r\n\r\n1")
		if a.status != http.StatusOK {
			t.Errorf("status %d, body %s", a.status, a.body)
		}
	})
	if n := len(in.take()); n != len(rows)+1 {
		t.Errorf("%d readings, want %d", n, len(rows)+1)
	}
}
