package devbroker_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge"
	"fieldbridge/bridge/devbroker"
)

// logBuffer is a log that may be written to and read at once.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestConnect(t *testing.T) {
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	token := func(change func(jwt.MapClaims)) func(*packets.Connect) {
		return func(c *packets.Connect) { c.Password = []byte(sign(t, dev, change)) }
	}
	hs256, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{}).SignedString([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	none, err := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{}).SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		change func(*packets.Connect)
		rule   string // "" if the CONNECT is to be accepted
	}{
		{"es256", func(*packets.Connect) {}, ""},
		{"rs256", func(c *packets.Connect) { c.ClientID, c.Password = rsaDev, []byte(sign(t, rsaDev, nil)) }, ""},
		{"empty user name", func(c *packets.Connect) { c.Username = "" }, ""},
		{"iat in the leeway", token(func(m jwt.MapClaims) { m["iat"] = time.Now().Add(30 * time.Second).Unix() }), ""},
		{"no sub", token(func(m jwt.MapClaims) { delete(m, "sub") }), ""},
		{"connector", func(c *packets.Connect) {
			c.Username, c.Password, c.ClientID = connector, []byte(secret), "anything"
		}, ""},

		{"no user name", func(c *packets.Connect) { c.UsernameFlag = false }, "the user name must be present"},
		{"no password", func(c *packets.Connect) { c.PasswordFlag = false }, "the password must be present"},
		{"unknown device", func(c *packets.Connect) { c.ClientID = "nobody" }, "no device that connects with a token"},
		{"other device", func(c *packets.Connect) { c.ClientID = rsaDev }, "alg must be RS256 for an RSA key"},
		{"other key", func(c *packets.Connect) {
			c.Password = []byte(signWith(t, stranger, jwt.MapClaims{"exp": time.Now().Add(time.Hour).Unix()}))
		}, "signature does not verify"},
		{"no token", func(c *packets.Connect) { c.Password = []byte("hunter2") }, "not a JSON Web Token"},
		{"hs256", func(c *packets.Connect) { c.Password = []byte(hs256) }, "alg must be"},
		{"alg none", func(c *packets.Connect) { c.Password = []byte(none) }, "alg must be"},
		{"expired", token(func(m jwt.MapClaims) { m["exp"] = time.Now().Add(-time.Second).Unix() }), "has expired"},
		{"no exp", token(func(m jwt.MapClaims) { delete(m, "exp") }), "has no exp"},
		{"exp is text", token(func(m jwt.MapClaims) { m["exp"] = "tomorrow" }), "has no exp"},
		{"no iat", token(func(m jwt.MapClaims) { delete(m, "iat") }), "has no iat"},
		{"iat in the future", token(func(m jwt.MapClaims) { m["iat"] = time.Now().Add(2 * time.Minute).Unix() }), "iat lies in the future"},
		{"other audience", token(func(m jwt.MapClaims) { m["aud"] = "https://akenza.io/devices/other" }), "not this broker's audience"},
		{"audience list", token(func(m jwt.MapClaims) { m["aud"] = []string{"https://akenza.io/devices/" + dev} }), "aud must be one string"},
		{"no audience", token(func(m jwt.MapClaims) { delete(m, "aud") }), "aud must be one string"},
		{"wrong secret", func(c *packets.Connect) { c.Username, c.Password = connector, []byte("hunter2") }, "is not its secret"},
		{"unknown connector", func(c *packets.Connect) {
			c.ClientID, c.Username, c.Password = "anything", "nobody", []byte(secret)
		}, "no device that connects with a token"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log logBuffer
			b := newBroker(t, func(o *devbroker.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			w := dial(t, listen(t, b))
			c := deviceConnect(t, dev)
			tc.change(c)
			w.send(c)
			ack := receive[*packets.Connack](w)
			record := b.Connects()
			if len(record) != 1 || record[0].Code != ack.ReasonCode {
				t.Fatalf("recorded %+v", record)
			}
			if tc.rule == "" {
				if ack.ReasonCode != 0 {
					t.Fatalf("CONNACK with 0x%02X: %s", ack.ReasonCode, record[0].Refused)
				}
				w.ping()
			} else {
				if ack.ReasonCode != 0x86 {
					t.Errorf("CONNACK with 0x%02X, want 0x86", ack.ReasonCode)
				}
				w.closed()
				if !strings.Contains(record[0].Refused, tc.rule) || !strings.Contains(log.String(), tc.rule) {
					t.Errorf("neither record (%q) nor log (%q) say %q", record[0].Refused, log.String(), tc.rule)
				}
			}
			if p := string(c.Password); strings.Contains(log.String(), p) || strings.Contains(log.String(), secret) {
				t.Error("the password is in the log")
			}
		})
	}
}

func TestConnectRecord(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	c := deviceConnect(t, dev)
	c.CleanStart = true
	c.Properties.User = []packets.User{{Key: "k", Value: "v"}}
	w, _ := connected(t, addr, c)
	w.ping()
	got := b.Connects()[0]
	if time.Since(got.At) > time.Minute {
		t.Errorf("at %v", got.At)
	}
	got.At = time.Time{}
	want := devbroker.Connect{
		ClientID: dev, Username: "unused", UsernamePresent: true, PasswordPresent: true, ProtocolVersion: 5,
		CleanStart: true, KeepAlive: time.Minute, SessionExpiry: 3600, SessionExpiryPresent: true, ReceiveMaximum: 16,
		UserProperties: []devbroker.UserProperty{{Key: "k", Value: "v"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestOldProtocol(t *testing.T) {
	b := newBroker(t, nil)
	w := dial(t, listen(t, b))
	// MQTT 3.1.1 CONNECT: client id "x", user name "u", password "p".
	if _, err := w.Write([]byte("\x10\x13\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01x\x00\x01u\x00\x01p")); err != nil {
		t.Fatal(err)
	}
	ack := make([]byte, 4)
	_ = w.SetReadDeadline(time.Now().Add(patience))
	if _, err := w.Read(ack); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ack, []byte{0x20, 2, 0, 1}) { // unacceptable protocol version
		t.Errorf("CONNACK % x", ack)
	}
	w.closed()
	if got := b.Connects()[0]; got.ProtocolVersion != 4 || got.Code == 0 {
		t.Errorf("recorded %+v", got)
	}
}

func TestAudienceAndKeys(t *testing.T) {
	b := newBroker(t, func(o *devbroker.Options) { o.Audience = "https://own.example/{device}" })
	addr := listen(t, b)
	c := deviceConnect(t, dev)
	c.Password = []byte(sign(t, dev, func(m jwt.MapClaims) { m["aud"] = "https://own.example/" + dev }))
	connected(t, addr, c)

	// A second key is added, then the first one removed, then the device.
	second, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	first := key(t, dev).Public()
	c2 := deviceConnect(t, dev)
	c2.Password = []byte(signWith(t, second, jwt.MapClaims{
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(), "aud": "https://own.example/" + dev,
	}))
	for _, step := range []struct {
		keys        []crypto.PublicKey
		want, want2 byte
	}{
		{[]crypto.PublicKey{first, second.Public()}, 0, 0},
		{[]crypto.PublicKey{second.Public()}, 0x86, 0},
		{nil, 0x86, 0x86},
	} {
		if err := b.SetDevice(dev, step.keys...); err != nil {
			t.Fatal(err)
		}
		for i, c := range []*packets.Connect{c, c2} {
			w := dial(t, addr)
			w.send(c)
			if got, want := receive[*packets.Connack](w).ReasonCode, []byte{step.want, step.want2}[i]; got != want {
				t.Errorf("with %d keys, token %d: CONNACK with 0x%02X, want 0x%02X", len(step.keys), i, got, want)
			}
		}
	}
}

func TestPublishRules(t *testing.T) {
	const own = "/up/" + secret + "/id/"
	for _, tc := range []struct {
		name        string
		connect     func(*testing.T) *packets.Connect
		topic       string
		contentType string
		code        byte
		device      bridge.DeviceID
		subtopic    string
	}{
		{"own topic", device, uplink, "application/json", 0, dev, ""},
		{"sub topic", device, uplink + "/alerts/critical", "text/plain", 0, dev, "alerts/critical"},
		{"no content type", device, uplink, "", 0, dev, ""},
		{"parameters", device, uplink, "Text/CSV; charset=utf-8", 0, dev, ""},
		{"octets", device, uplink, "application/octet-stream", 0, dev, ""},
		{"xml", device, uplink, "application/xml", 0, dev, ""},
		{"form", device, uplink, "application/x-www-form-urlencoded", 0x99, "", ""},
		{"prefix of a type", device, uplink, "application/jsonx", 0x99, "", ""},
		{"other device", device, "/up/device/id/other", "", 0x87, "", ""},
		{"longer id", device, uplink + "X", "", 0x87, "", ""},
		{"no slash", device, strings.TrimPrefix(uplink, "/"), "", 0x87, "", ""},
		{"down", device, downlink, "", 0x87, "", ""},
		{"secret", device, own + dev, "", 0x87, "", ""},
		{"empty level", device, uplink + "/", "", 0x87, "", ""},

		{"connector", yard, own + "any-device", "", 0, "any-device", ""},
		{"connector, sub topic", yard, own + "any-device/a/b", "", 0, "any-device", "a/b"},
		{"connector, content type", yard, own + "d", "image/png", 0x99, "", ""},
		{"connector, other secret", yard, "/up/other/id/d", "", 0x87, "", ""},
		{"connector as device", yard, uplink, "", 0x87, "", ""},
		{"connector, no device", yard, own, "", 0x87, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log logBuffer
			b := newBroker(t, func(o *devbroker.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			w, _ := connected(t, listen(t, b), tc.connect(t))
			w.publish(7, tc.topic, tc.contentType, "payload-of-the-reading")
			w.acked(7, tc.code)
			w.ping() // the connection stays
			got := b.Messages()
			if tc.code != 0 {
				if len(got) != 0 {
					t.Fatalf("recorded %+v", got)
				}
			} else {
				if len(got) != 1 {
					t.Fatalf("recorded %d messages", len(got))
				}
				m := got[0]
				if m.Device != tc.device || m.Subtopic != tc.subtopic || m.Topic != tc.topic || m.ContentType != tc.contentType || m.QoS != 1 {
					t.Errorf("recorded %+v", m)
				}
				if r := m.RedactedTopic(); strings.Contains(r, secret) || !strings.Contains(r, string(tc.device)) {
					t.Errorf("RedactedTopic() = %q", r)
				}
				slog.New(slog.NewTextHandler(&log, nil)).Info("message", "message", m)
			}
			for _, hidden := range []string{secret, "payload-of-the-reading"} {
				if strings.Contains(log.String(), hidden) {
					t.Errorf("the log has %q in it: %s", hidden, &log)
				}
			}
		})
	}
}

func device(t *testing.T) *packets.Connect { return deviceConnect(t, dev) }
func yard(*testing.T) *packets.Connect     { return connectorConnect("gateway") }

func TestSubscribeRules(t *testing.T) {
	const own = "/down/" + secret + "/id/"
	for _, tc := range []struct {
		name    string
		connect func(*testing.T) *packets.Connect
		filter  string
		code    byte
	}{
		{"all", device, downlink + "/#", 1},
		{"deeper", device, downlink + "/valve/#", 1},
		{"one level", device, downlink + "/+/set", 1},
		{"other device", device, "/down/device/id/other/#", 0x87},
		{"all devices", device, "/down/device/id/+/#", 0x87},
		{"everything", device, "#", 0x87},
		{"up", device, uplink + "/#", 0x87},
		{"connector", yard, own + "any-device/#", 1},
		{"connector, all devices", yard, own + "+/#", 0x87},
		{"connector, other secret", yard, "/down/other/id/d/#", 0x87},
		{"connector as device", yard, downlink + "/#", 0x87},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBroker(t, nil)
			w, _ := connected(t, listen(t, b), tc.connect(t))
			if got := w.subscribe(tc.filter); got != tc.code {
				t.Errorf("SUBACK with 0x%02X, want 0x%02X", got, tc.code)
			}
		})
	}
}

func TestMessageProperties(t *testing.T) {
	b := newBroker(t, nil)
	w, _ := connected(t, listen(t, b), deviceConnect(t, dev))
	next := b.Subscribe()
	w.send((&packets.Publish{
		PacketID: 1, QoS: 1, Duplicate: true, Topic: uplink, Payload: []byte(`{"t":1}`),
		Properties: &packets.Properties{
			ContentType: "application/json", PayloadFormat: ptr(byte(1)), MessageExpiry: ptr(uint32(90)),
			ResponseTopic: "answer", CorrelationData: []byte{1, 2},
			User: []packets.User{{Key: "id", Value: "1"}, {Key: "id", Value: "2"}},
		},
	}).ToControlPacket())
	ack := receive[*packets.Puback](w)
	if ack.ReasonCode != 0 || len(ack.Properties.User) != 0 {
		t.Errorf("PUBACK %+v", ack)
	}
	got, err := next.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got.Received = time.Time{}
	want := devbroker.Message{
		ClientID: dev, Device: dev, Topic: uplink, ContentType: "application/json", Payload: []byte(`{"t":1}`),
		PayloadFormat: 1, MessageExpiry: 90 * time.Second, ResponseTopic: "answer", CorrelationData: []byte{1, 2},
		UserProperties: []devbroker.UserProperty{{Key: "id", Value: "1"}, {Key: "id", Value: "2"}},
		QoS:            1, Duplicate: true, PacketID: 1,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got.User("id") != "1" || got.User("nothing") != "" {
		t.Errorf("User(id) = %q", got.User("id"))
	}
}

func TestLimits(t *testing.T) {
	b := newBroker(t, func(o *devbroker.Options) {
		o.ReceiveMaximum, o.MaximumPacketSize, o.TopicAliasMaximum = 7, 1000, 3
		o.ServerKeepAlive, o.MaximumSessionExpiry = 90*time.Second, time.Minute
	})
	addr := listen(t, b)
	w, ack := connected(t, addr, deviceConnect(t, dev))
	p := ack.Properties
	if *p.ReceiveMaximum != 7 || *p.MaximumPacketSize != 1000 || *p.TopicAliasMaximum != 3 || *p.ServerKeepAlive != 90 ||
		*p.SessionExpiryInterval != 60 || *p.MaximumQOS != 1 {
		t.Errorf("CONNACK %+v", p)
	}

	// An alias stands for the topic, rules included.
	w.send((&packets.Publish{PacketID: 1, QoS: 1, Topic: uplink + "/a", Properties: &packets.Properties{TopicAlias: ptr(uint16(3))}}).ToControlPacket())
	w.acked(1, 0)
	w.send((&packets.Publish{PacketID: 2, QoS: 1, Properties: &packets.Properties{TopicAlias: ptr(uint16(3))}}).ToControlPacket())
	w.acked(2, 0)
	if got := b.Messages(); got[1].Topic != uplink+"/a" || got[1].Subtopic != "a" {
		t.Errorf("recorded %+v", got[1])
	}

	// The whole packet counts: 2 bytes fixed header (3 from 128 on), topic,
	// packet id, properties length, payload.
	fits := 1000 - 3 - 2 - len(uplink) - 2 - 1
	w.publish(3, uplink, "", strings.Repeat("x", fits))
	w.acked(3, 0)
	w.publish(4, uplink, "", strings.Repeat("x", fits+1))
	w.disconnected(0x95)
	if got := len(b.Messages()); got != 3 {
		t.Errorf("%d messages recorded", got)
	}
}
