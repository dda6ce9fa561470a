package session

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

// The encoder writes what paho reads as the same, and knows the size beforehand.
func FuzzPublish(f *testing.F) {
	f.Fuzz(func(t *testing.T, topic, contentType, gateway string, payload, correlation []byte, nanos int64, id, alias uint16, flags byte) {
		m := message{topic: topic, contentType: contentType, payload: payload, correlation: correlation, text: flags&1 != 0}
		if flags&2 != 0 {
			m.user, m.id, m.gateway = true, uuid.NewSHA1(uuid.Nil, payload), gateway
			if nanos != 0 {
				m.at = time.Unix(0, nanos)
			}
		}
		if !m.encodable() {
			return
		}
		dup, bare := flags&4 != 0, flags&8 != 0 && alias != 0
		before := []byte("what was there")
		wire := appendPublish(bytes.Clone(before), &m, id, dup, alias, bare)
		rest, ok := bytes.CutPrefix(wire, before)
		if !ok {
			t.Fatal("what was there is gone")
		}
		if alias == 0 && len(rest) != m.size() {
			t.Errorf("%d bytes, size says %d", len(rest), m.size())
		}
		if m.fits(len(rest)-1) && alias == 0 && len(rest) > 1 || !m.fits(m.size()) {
			t.Errorf("fits is wrong about %d bytes", m.size())
		}
		r := bytes.NewReader(rest)
		cp, err := packets.ReadPacket(r)
		if err != nil || r.Len() > 0 {
			t.Fatalf("%v, %d bytes are left", err, r.Len())
		}
		want := &packets.Publish{Topic: topic, QoS: 1, Duplicate: dup, PacketID: id, Payload: payload,
			Properties: &packets.Properties{ContentType: contentType}}
		if len(correlation) > 0 {
			want.Properties.CorrelationData = correlation
		}
		if bare {
			want.Topic = ""
		}
		if m.text {
			want.Properties.PayloadFormat = ptr(byte(1))
		}
		if alias != 0 {
			want.Properties.TopicAlias = &alias
		}
		if m.user {
			want.Properties.User = []packets.User{{Key: "id", Value: m.id.String()}}
			if !m.at.IsZero() {
				want.Properties.User = append(want.Properties.User, packets.User{Key: "time", Value: m.at.UTC().Format(time.RFC3339Nano)})
			}
			want.Properties.User = append(want.Properties.User, packets.User{Key: "gateway", Value: gateway})
		}
		got := cp.Content.(*packets.Publish)
		if len(got.Payload) == 0 && len(payload) == 0 {
			got.Payload, want.Payload = nil, nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// What no packet can hold is refused, and costs the connection nothing.
func TestNotEncodable(t *testing.T) {
	long := strings.Repeat("x", maxString+1)
	for _, m := range []message{{topic: long}, {contentType: long}, {gateway: long}, {correlation: []byte(long)}, {payload: make([]byte, 1<<28)}} {
		c := connection{}
		if o, refused := c.oversized(&m); !refused || o.Code != 0x95 {
			t.Errorf("%+v", o)
		}
	}
	edge := message{topic: long[1:], contentType: long[1:], correlation: []byte(long[1:]), user: true, gateway: long[1:], at: time.Now()}
	if cp, err := packets.ReadPacket(bytes.NewReader(appendPublish(nil, &edge, 1, false, 0, false))); err != nil || cp.Content.(*packets.Publish).Topic != long[1:] {
		t.Errorf("%v", err)
	}
}
