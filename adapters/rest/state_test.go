package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"fieldbridge/bridge"
)

// someStates has so many devices: d0, d1, …
type someStates struct{ count int }

func (s someStates) Status() any {
	return json.RawMessage(fmt.Sprintf(`{"version":"v0","gateway":"hall","time":"2026-01-31T12:00:00Z","uptimeSeconds":1,"devices":%d,`+
		`"readingsInMemory":0,"clock":{"trusted":true,"source":"kernel","reason":"it says so"},`+
		`"spool":{"readings":0,"bytes":0,"maxBytes":1,"full":false,"downlinks":0,"deadLetters":0},"connectors":[],"ports":[]}`, s.count))
}

func stateOf(id bridge.DeviceID) DeviceState {
	return DeviceState{Device: id, Session: SessionState{State: "up"}}
}

func (s someStates) Device(id bridge.DeviceID) (DeviceState, bool) {
	return stateOf(id), id == "d0" || id == "d1" || id == "a b"
}

func (s someStates) Devices(after string, limit int) (page []DeviceState, more bool) {
	for i := range s.count {
		id := fmt.Sprintf("d%d", i)
		if id <= after {
			continue
		}
		if len(page) == limit {
			return page, true
		}
		page = append(page, stateOf(bridge.DeviceID(id)))
	}
	return page, false
}

func TestStates(t *testing.T) {
	s := start(t, Options{States: someStates{5}}, newIntake())
	empty := `"connector":"","session":{"state":"up"},"queue":{"memory":0,"spooled":0,"bytes":0}}`
	for target, want := range map[string]string{
		"/v1/status":                   string(someStates{5}.Status().(json.RawMessage)),
		"/v1/devices/d0":               `{"device":"d0",` + empty,
		"/v1/devices/a%20b":            `{"device":"a b",` + empty,
		"/v1/devices?after=d4":         `{"devices":[]}`,
		"/v1/devices?limit=1&after=d3": `{"devices":[{"device":"d4",` + empty + `]}`,
		"/v1/devices?limit=1&after=d2": `{"devices":[{"device":"d3",` + empty + `],"next":"d3"}`,
	} {
		a := sendRaw(t, s.Addr(), request("GET", target, ""))
		if a.status != http.StatusOK || strings.TrimSpace(string(a.body)) != want {
			t.Errorf("GET %s: %d %s, want %s", target, a.status, a.body, want)
		}
		if a := sendRaw(t, s.Addr(), request("HEAD", target, "")); a.status != http.StatusOK || len(a.body) > 0 {
			t.Errorf("HEAD %s: %d %s", target, a.status, a.body)
		}
	}
	for _, c := range []struct {
		method, target string
		status         int
		detail         string
	}{
		{"GET", "/v1/devices/d9", 404, "[[device]] block"},
		{"GET", "/v1/devices/%23", 400, "wildcard"},
		{"GET", "/v1/devices/d0?x=1", 400, "takes no query parameters"},
		{"GET", "/v1/status?x=1", 400, "takes no query parameters"},
		{"GET", "/v1/devices?limit=0", 400, "not a number from 1 to 1000"},
		{"GET", "/v1/devices?limit=1001", 400, "not a number from 1 to 1000"},
		{"GET", "/v1/devices?limit=ten", 400, "not a number from 1 to 1000"},
		{"GET", "/v1/devices?limit=1&limit=2", 400, "more than once"},
		{"GET", "/v1/devices?page=2", 400, `"page" is unknown`},
		{"GET", "/v1/devices?after=%zz", 400, "query"},
		{"GET", "/v1/devices?after=" + strings.Repeat("x", 257), 400, "at most 256"},
		{"POST", "/v1/devices", 405, "use GET, HEAD"},
		{"DELETE", "/v1/devices/d0", 405, "use GET, HEAD"},
	} {
		checkProblem(t, sendRaw(t, s.Addr(), request(c.method, c.target, "")), c.status, c.detail)
	}
	// A web page of another origin may not even ask.
	checkProblem(t, sendRaw(t, s.Addr(), request("GET", "/v1/status", "", "Origin: http://evil.example")), 403, "another origin")
}

func TestNoStates(t *testing.T) {
	s := start(t, Options{}, newIntake())
	for _, path := range []string{"/v1/status", "/v1/devices", "/v1/devices/d0"} {
		checkProblem(t, sendRaw(t, s.Addr(), request("GET", path, "")), 404, "nothing is at this path")
	}
}

// FuzzPage: a query is read as what it says, or refused.
func FuzzPage(f *testing.F) {
	for _, s := range []string{"", "limit=1", "limit=1000&after=d1", "after=%C3%BC", "limit=-1", "limit=1e3", "limit=+5", "a;b", "limit=1&limit=1", "&&"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		after, limit, err := parsePage(query)
		if err != nil {
			if p := problemOf(err); p == nil || p.status != http.StatusBadRequest {
				t.Fatalf("error %v", err)
			}
			if _, err := json.Marshal(err.Error()); err != nil {
				t.Fatal(err)
			}
			return
		}
		if limit < 1 || limit > maxPage || len(after) > bridge.MaxDeviceID {
			t.Fatalf("%q: limit %d, after %q", query, limit, after)
		}
		again := url.Values{"after": {after}, "limit": {fmt.Sprint(limit)}}.Encode()
		if a, l, err := parsePage(again); err != nil || a != after || l != limit {
			t.Errorf("%q is %q, %d; read again %q, %d, %v", query, after, limit, a, l, err)
		}
	})
}
