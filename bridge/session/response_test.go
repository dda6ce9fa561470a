package session

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/eclipse/paho.golang/packets"
	"github.com/google/uuid"

	"fieldbridge/bridge"
)

func response(topic string, correlation []byte) bridge.Reading {
	return bridge.Reading{ID: uuid.Must(uuid.NewV7()), Device: dev, Subtopic: "not/used", ContentType: "text/plain", Payload: []byte("done"),
		ResponseTopic: topic, CorrelationData: correlation}
}

// An answer goes to the topic that was asked for, as it is.
func TestResponsePacket(t *testing.T) {
	long := "apps/" + strings.Repeat("x", 2*aliasFrom)
	for _, tt := range []struct {
		topic       string
		correlation []byte
	}{
		{"/apps/7/answers", []byte{0, 1, 0xff}},
		{"a", nil},
		{"//{device}//", []byte("c")},
		{"apps/$7/größe", bytes.Repeat([]byte("c"), maxString)},
		{long, []byte("1")},
		{long, []byte("2")}, // the same one again, and no alias
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := newServer(t)
			r := start(t, srv, func(o *Options) { o.TopicAlias = true })
			p, _ := srv.next()
			p.connack(0, true, &packets.Properties{TopicAliasMaximum: ptr(uint16(10))})
			for range 2 {
				r.queues[dev].submit(response(tt.topic, tt.correlation))
				pub := receive[*packets.Publish](p)
				if pub.Topic != tt.topic || string(pub.Payload) != "done" || pub.QoS != 1 || pub.Retain {
					t.Errorf("%.40v", pub)
				}
				if x := pub.Properties; !bytes.Equal(x.CorrelationData, tt.correlation) || x.ContentType != "text/plain" || x.TopicAlias != nil || x.ResponseTopic != "" {
					t.Errorf("%.20q: properties %.200v", tt.topic, x)
				}
				p.puback(pub.PacketID, 0)
				synctest.Wait()
			}
			r.submit(dev, "reading") // goes where readings go
			pub := receive[*packets.Publish](p)
			if pub.Topic != upTo || pub.Properties.CorrelationData != nil {
				t.Errorf("%v", pub)
			}
			p.puback(pub.PacketID, 0)
			synctest.Wait()
			r.held(0)
		})
	}
}

// A topic that would end the connection, or is none of the publisher's business,
// is refused here, and what is behind goes out.
func TestResponseTopicRefused(t *testing.T) {
	for _, topic := range []string{
		"apps/+/x", "#", "apps/7#", "$SYS/broker", "$share/g/t", "a\x00b", "a\nb", "a\u0085b", "a\xffb", strings.Repeat("x", maxString+1),
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := newServer(t)
			r := start(t, srv, nil)
			r.queues[dev].submit(response(topic, nil))
			r.submit(dev, "next")
			p := srv.accept(true)
			if pub := receive[*packets.Publish](p); string(pub.Payload) != "next" {
				t.Errorf("%.20q: sent %v", topic, pub)
			} else {
				p.puback(pub.PacketID, 0)
			}
			synctest.Wait()
			r.held(0)
			if strings.Contains(r.log.String(), topic) && len(topic) > 1 {
				t.Errorf("%.20q is in the log", topic)
			}
		})
	}
	if responseTopic("") {
		t.Error("the empty topic is taken")
	}
}

// Topic and correlation data count for Maximum Packet Size.
func TestResponseTooLarge(t *testing.T) {
	m := message{topic: "apps/7", correlation: make([]byte, 100), response: true, payload: []byte("x")}
	c := connection{maxPacket: m.size()}
	if o, unfit := c.unfit(&m); unfit {
		t.Errorf("refused at its size: %+v", o)
	}
	c.maxPacket--
	if o, unfit := c.unfit(&m); !unfit || o.Code != 0x95 || o.Kind != bridge.Refused {
		t.Errorf("one byte too large: %+v", o)
	}
}
