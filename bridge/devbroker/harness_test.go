package devbroker_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"fieldbridge/bridge"
	"fieldbridge/bridge/devbroker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	dev       = "0004A30B001C1B03"
	rsaDev    = "rsa-device"
	connector = "yard-connector"
	secret    = "s3cr3t-of-the-yard"

	uplink   = "/up/device/id/" + dev
	downlink = "/down/device/id/" + dev
)

// keys are made once: RSA keys take long under the race detector.
var keys = sync.OnceValues(func() (map[bridge.DeviceID]crypto.Signer, error) {
	ec, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rs, err2 := rsa.GenerateKey(rand.Reader, 2048)
	return map[bridge.DeviceID]crypto.Signer{dev: ec, rsaDev: rs}, errors.Join(err1, err2)
})

func key(t testing.TB, id bridge.DeviceID) crypto.Signer {
	t.Helper()
	m, err := keys()
	if err != nil {
		t.Fatal(err)
	}
	return m[id]
}

func newBroker(t *testing.T, change func(*devbroker.Options)) *devbroker.Broker {
	t.Helper()
	o := devbroker.Options{
		Devices:    map[bridge.DeviceID]crypto.PublicKey{},
		Connectors: map[string]bridge.Secret{connector: bridge.NewSecret(secret)},
	}
	for _, id := range []bridge.DeviceID{dev, rsaDev} {
		o.Devices[id] = key(t, id).Public()
	}
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	if change != nil {
		change(&o)
	}
	b, err := devbroker.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func listen(t *testing.T, b *devbroker.Broker) string {
	t.Helper()
	addr, err := b.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	return addr.String()
}

// sign makes a token for a device; change may spoil it.
func sign(t *testing.T, id bridge.DeviceID, change func(jwt.MapClaims)) string {
	t.Helper()
	claims := jwt.MapClaims{
		"iat": time.Now().Unix(),
		"exp": time.Now().Add(time.Hour).Unix(),
		"aud": "https://akenza.io/devices/" + string(id),
		"sub": string(id),
	}
	if change != nil {
		change(claims)
	}
	return signWith(t, key(t, id), claims)
}

func signWith(t *testing.T, key crypto.Signer, claims jwt.MapClaims) string {
	t.Helper()
	var method jwt.SigningMethod = jwt.SigningMethodES256
	if _, ok := key.(*rsa.PrivateKey); ok {
		method = jwt.SigningMethodRS256
	}
	s, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wire is a client that shows every packet, made of paho's packets.
type wire struct {
	t *testing.T
	net.Conn
}

// patience is the deadline for what must happen.
const patience = 10 * time.Second

func dial(t *testing.T, addr string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &wire{t, conn}
}

func (w *wire) send(content io.WriterTo) {
	w.t.Helper()
	if _, err := content.WriteTo(w.Conn); err != nil {
		w.t.Fatalf("send: %v", err)
	}
}

// read returns the next packet, or nil when the broker has cut the connection.
func (w *wire) read() any {
	w.t.Helper()
	_ = w.SetReadDeadline(time.Now().Add(patience))
	cp, err := packets.ReadPacket(w.Conn)
	if err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			w.t.Fatal("nothing came")
		}
		return nil
	}
	return cp.Content
}

func receive[T any](w *wire) T {
	w.t.Helper()
	p := w.read()
	v, ok := p.(T)
	if !ok {
		w.t.Fatalf("%T came (%v), want %T", p, p, v)
	}
	return v
}

// silent checks that nothing comes for a while, neither data nor the end.
func (w *wire) silent() {
	w.t.Helper()
	_ = w.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := w.Read(make([]byte, 1))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatalf("read %d bytes, error %v; want silence", n, err)
	}
}

func ptr[T any](v T) *T { return &v }

func deviceConnect(t *testing.T, id bridge.DeviceID) *packets.Connect {
	return &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: string(id), KeepAlive: 60,
		UsernameFlag: true, Username: "unused", PasswordFlag: true, Password: []byte(sign(t, id, nil)),
		Properties: &packets.Properties{SessionExpiryInterval: ptr(uint32(3600)), ReceiveMaximum: ptr(uint16(16))},
	}
}

func connectorConnect(clientID string) *packets.Connect {
	return &packets.Connect{
		ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: clientID, KeepAlive: 60,
		UsernameFlag: true, Username: connector, PasswordFlag: true, Password: []byte(secret),
		Properties: &packets.Properties{SessionExpiryInterval: ptr(uint32(3600))},
	}
}

// connected dials and connects, and fails the test if that is refused.
func connected(t *testing.T, addr string, c *packets.Connect) (*wire, *packets.Connack) {
	t.Helper()
	w := dial(t, addr)
	w.send(c)
	ack := receive[*packets.Connack](w)
	if ack.ReasonCode != 0 {
		t.Fatalf("CONNACK with 0x%02X (%s)", ack.ReasonCode, ack.Reason())
	}
	return w, ack
}

func (w *wire) publish(id uint16, topic, contentType, payload string) {
	w.t.Helper()
	w.send((&packets.Publish{
		PacketID: id, QoS: 1, Topic: topic, Payload: []byte(payload),
		Properties: &packets.Properties{ContentType: contentType},
	}).ToControlPacket())
}

func (w *wire) acked(id uint16, code byte) {
	w.t.Helper()
	ack := receive[*packets.Puback](w)
	if ack.PacketID != id || ack.ReasonCode != code {
		w.t.Fatalf("PUBACK for %d with 0x%02X, want %d with 0x%02X", ack.PacketID, ack.ReasonCode, id, code)
	}
}

func (w *wire) ack(id uint16) {
	w.t.Helper()
	w.send(&packets.Puback{PacketID: id, Properties: &packets.Properties{}})
}

func (w *wire) subscribe(filter string) byte {
	w.t.Helper()
	cp := packets.NewControlPacket(packets.SUBSCRIBE)
	sub := cp.Content.(*packets.Subscribe)
	sub.PacketID, sub.Subscriptions = 1, []packets.SubOptions{{Topic: filter, QoS: 1}}
	w.send(cp)
	return receive[*packets.Suback](w).Reasons[0]
}

func (w *wire) ping() {
	w.t.Helper()
	w.send(packets.NewControlPacket(packets.PINGREQ))
	receive[*packets.Pingresp](w)
}

// closed checks that the broker has cut the connection without a word.
func (w *wire) closed() {
	w.t.Helper()
	if p := w.read(); p != nil {
		w.t.Fatalf("%T came, want the end", p)
	}
}

// disconnected checks that the broker ends the connection with this code.
func (w *wire) disconnected(code byte) {
	w.t.Helper()
	if d := receive[*packets.Disconnect](w); d.ReasonCode != code {
		w.t.Fatalf("DISCONNECT with 0x%02X, want 0x%02X", d.ReasonCode, code)
	}
	w.closed()
}

// eventually polls a condition that no packet announces.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

func payloads(ms []devbroker.Message) []string {
	var s []string
	for _, m := range ms {
		s = append(s, string(m.Payload))
	}
	return s
}
