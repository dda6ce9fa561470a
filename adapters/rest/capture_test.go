package rest

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge"
)

const yardSecret = "yard/s3cret?"

// yardSecrets: d1 and a b have the connector's secret, the others have none.
func yardSecrets(d bridge.DeviceID) bridge.Secret {
	if d == "d1" || d == "a b" {
		return bridge.NewSecret(yardSecret)
	}
	return bridge.Secret{}
}

func capture(query string, header ...string) string {
	return request("POST", "/v3/capture"+query, `{"t":1}`, append(header, "Content-Type: application/json")...)
}

func TestCaptureAccepts(t *testing.T) {
	in := newIntake()
	s := start(t, Options{Secret: yardSecrets}, in)
	noon := time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name, query string
		header      []string
		want        bridge.Reading // zero time: now
	}{
		{"query", "?deviceId=d1", nil, bridge.Reading{Device: "d1"}},
		{"header", "", []string{"x-device-id: d1"}, bridge.Reading{Device: "d1"}},
		{"both", "?deviceId=d1", []string{"X-Device-ID: d1"}, bridge.Reading{Device: "d1"}},
		{"secret", "?deviceId=d1", []string{"x-uplink-secret: " + yardSecret}, bridge.Reading{Device: "d1"}},
		{"a secret of no use", "?deviceId=uplink", []string{"x-uplink-secret: any"}, bridge.Reading{Device: "uplink"}},
		{"empty secret", "?deviceId=d1", []string{"x-uplink-secret: "}, bridge.Reading{Device: "d1"}},
		{"topic", "?deviceId=d1&topic=alerts", nil, bridge.Reading{Device: "d1", Subtopic: "alerts"}},
		{"topic of levels", "?deviceId=d1&topic=alerts%2Fcritical", nil, bridge.Reading{Device: "d1", Subtopic: "alerts/critical"}},
		{"default topic", "?deviceId=d1&topic=default", nil, bridge.Reading{Device: "d1"}},
		{"empty topic", "?topic=&deviceId=d1", nil, bridge.Reading{Device: "d1"}},
		{"form's space", "?deviceId=a+b&topic=c+d", nil, bridge.Reading{Device: "a b", Subtopic: "c d"}},
		{"encoded space", "?deviceId=a%20b", nil, bridge.Reading{Device: "a b"}},
		{"encoded percent", "?deviceId=a%25b", nil, bridge.Reading{Device: "a%b"}},
		{"UTF-8", "?deviceId=%C3%A9-1", nil, bridge.Reading{Device: "é-1"}},
		{"UTF-8 in the header", "", []string{"x-device-id: é-1"}, bridge.Reading{Device: "é-1"}},
		{"time", "?deviceId=d1&timestamp=2025-03-01T12:00:00Z", nil, bridge.Reading{Device: "d1", Time: noon}},
		{"time with bare plus", "?timestamp=2025-03-01T13:00:00+01:00&deviceId=d1", nil, bridge.Reading{Device: "d1", Time: noon}},
		{"time as in a form", "?deviceId=d1&timestamp=2025-03-01T13%3A00%3A00.000%2B01%3A00", nil, bridge.Reading{Device: "d1", Time: noon}},
		{"a token that nobody asks for", "?deviceId=d1", []string{"Authorization: Bearer x"}, bridge.Reading{Device: "d1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := time.Now()
			a := sendRaw(t, s.Addr(), capture(c.query, c.header...))
			if a.status != http.StatusOK || !strings.Contains(string(a.body), `"message":"uplink received"`) {
				t.Fatalf("status %d: %s", a.status, a.body)
			}
			seen := in.take()
			if len(seen) != 1 {
				t.Fatalf("%d readings", len(seen))
			}
			got := seen[0]
			if got.Device != c.want.Device || got.Subtopic != c.want.Subtopic || string(got.Payload) != `{"t":1}` || got.ContentType != "application/json" {
				t.Errorf("reading %+v, want %+v", got, c.want)
			}
			if c.want.Time.IsZero() {
				if got.Time.Before(before) {
					t.Errorf("time %s, want now", got.Time)
				}
			} else if !got.Time.Equal(c.want.Time) {
				t.Errorf("time %s, want %s", got.Time, c.want.Time)
			}
		})
	}
}

// resttest.Refusals has what is wrong beside secrets.
func TestCaptureRefuses(t *testing.T) {
	in := newIntake()
	s := start(t, Options{Secret: yardSecrets}, in)
	for _, c := range []struct {
		name, query string
		header      []string
		status      int
		detail      string
	}{
		{"wrong secret", "?deviceId=d1", []string{"x-uplink-secret: " + yardSecret + "x"}, 401, "neither the secret of the device's connector nor a token"},
		{"beginning of the secret", "?deviceId=d1", []string{"x-uplink-secret: " + yardSecret[:6]}, 401, "neither the secret"},
		{"right and wrong secret", "?deviceId=d1", []string{"x-uplink-secret: " + yardSecret, "x-uplink-secret: x"}, 400, "more than once"},
		{"page of another origin", "?deviceId=d1", []string{"Origin: http://evil.example", "x-uplink-secret: " + yardSecret}, 403, "web page"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := sendRaw(t, s.Addr(), capture(c.query, c.header...))
			p := checkProblem(t, a, c.status, c.detail)
			if strings.Contains(p.Detail, yardSecret[:6]) {
				t.Errorf("the answer shows the secret: %s", p.Detail)
			}
			if seen := in.take(); len(seen) != 0 {
				t.Errorf("accepted %v", seen)
			}
		})
	}
}

// With tokens x-uplink-secret is looked at as hard as a token.
func TestCaptureSecrets(t *testing.T) {
	in, d, log := newIntake(), &denials{}, &logBuffer{}
	s := start(t, Options{Secret: yardSecrets, Tokens: someTokens(), Denied: d.add, Logger: log.logger()}, in)
	const realm = `Bearer realm="fieldbridge"`
	for _, c := range []struct {
		name, device, secret, authorization string
		status                              int
		challenge                           string
		why                                 Denial
	}{
		{"the connector's", "d1", yardSecret, "", 200, "", ""},
		{"a token", "d1", goodToken, "", 200, "", ""},
		{"a token for this device", "d1", hallToken, "", 200, "", ""},
		{"a token in its own header", "d1", "", "Bearer " + goodToken, 200, "", ""},
		{"a token in its own header, and a secret of elsewhere", "uplink", "other", "Bearer " + goodToken, 200, "", ""},
		{"none", "d1", "", "", 401, realm, DeniedNoToken},
		{"none, unknown device", "d9", "", "", 401, realm, DeniedNoToken},
		{"none, no device", "", "", "", 401, realm, DeniedNoToken},
		{"wrong", "d1", "wrong", "", 401, realm + `, error="invalid_token"`, DeniedInvalidToken},
		{"wrong, unknown device", "d9", "wrong", "", 401, realm + `, error="invalid_token"`, DeniedInvalidToken},
		{"the connector's of another device", "uplink", yardSecret, "", 401, realm + `, error="invalid_token"`, DeniedInvalidToken},
		{"the connector's as a token", "d1", "", "Bearer yard", 401, realm + `, error="invalid_token"`, DeniedInvalidToken},
		{"right, and a wrong token", "d1", yardSecret, "Bearer wrong", 401, realm + `, error="invalid_token"`, DeniedInvalidToken},
		{"no device at all", "uplink", "x", "", 401, realm + `, error="invalid_token"`, DeniedInvalidToken},
		{"a token for other devices", "uplink", hallToken, "", 403, realm + `, error="insufficient_scope"`, DeniedScope},
		{"a token for reading", "d1", readToken, "", 403, realm + `, error="insufficient_scope"`, DeniedScope},
		{"a token for reading in its header", "d1", "", "Bearer " + readToken, 403, realm + `, error="insufficient_scope"`, DeniedScope},
		{"a token, unknown device", "d9", goodToken, "", 404, "", ""},
		{"a slow token", "d1", slowToken, "", 200, "", ""},
		{"a slow token again", "d1", slowToken, "", 429, "", DeniedRate},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := []string{"x-device-id: " + c.device}
			if c.device == "" {
				header = nil
			}
			if c.secret != "" {
				header = append(header, "x-uplink-secret: "+c.secret)
			}
			if c.authorization != "" {
				header = append(header, authorization(c.authorization))
			}
			a := sendRaw(t, s.Addr(), capture("", header...))
			if c.status != http.StatusOK {
				checkProblem(t, a, c.status, "")
			} else if a.status != c.status {
				t.Errorf("status %d: %s", a.status, a.body)
			}
			if got := a.header.Get("WWW-Authenticate"); got != c.challenge {
				t.Errorf("WWW-Authenticate %q, want %q", got, c.challenge)
			}
			if got := d.take(); c.why == "" && len(got) != 0 || c.why != "" && (len(got) != 1 || got[c.why] != 1) {
				t.Errorf("counted %v, want %q", got, c.why)
			}
			if seen := in.take(); (len(seen) == 1) != (c.status == http.StatusOK) {
				t.Errorf("accepted %v", seen)
			}
		})
	}
	for _, secret := range []string{yardSecret, goodToken, hallToken, readToken, slowToken} {
		if strings.Contains(log.String(), secret) {
			t.Error("the log shows a secret")
		}
	}
}

// FuzzCapture: whatever the query and the headers, device and sub topic are what
// MQTT allows, and no reading comes in with a wrong secret.
func FuzzCapture(f *testing.F) {
	f.Add("deviceId=d1&topic=a&timestamp=2025-03-01T12:00:00Z", "d1", yardSecret)
	f.Add("deviceId=a+b&topic=c%2Fd", "", "")
	f.Add("topic=default", "d1", "x")
	f.Add("deviceId=%2e%2e&deviceId=x&&=", "", "")
	f.Add("deviceid=%zz;topic=#", "\xff", yardSecret+" ")
	in := &everyDevice{}
	o, err := Options{Secret: func(bridge.DeviceID) bridge.Secret { return bridge.NewSecret(yardSecret) }, Tokens: someTokens()}.withDefaults()
	if err != nil {
		f.Fatal(err)
	}
	s := newServer(o, in, newPipes())
	f.Cleanup(func() { _ = s.Close() })
	f.Fuzz(func(t *testing.T, query, device, secret string) {
		w := serveWith(s.http.Handler, &url.URL{Path: "/v3/capture", RawQuery: query}, http.Header{
			"X-Device-Id": {device}, "X-Uplink-Secret": {secret}, "Content-Type": {"text/plain"},
		}, []byte("x"))
		got := checkAnswer(t, in, w)
		if got == nil {
			return
		}
		if secret != yardSecret && s.client(secret) == nil {
			t.Errorf("accepted with %q", secret)
		}
		if _, err := bridge.ParseDeviceID(string(got.Device)); err != nil || string(got.Device) != device {
			t.Errorf("device %q from %q: %v", got.Device, device, err)
		}
		if got.Subtopic != "" {
			if _, err := bridge.ParseSubtopic(string(got.Subtopic)); err != nil {
				t.Errorf("sub topic: %v", err)
			}
		}
	})
}
