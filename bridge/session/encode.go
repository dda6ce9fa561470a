package session

import (
	"encoding/hex"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/google/uuid"
)

// message is what a PUBLISH carries of a reading, apart from what differs
// between two attempts to send it. The payload is the reading's own.
type message struct {
	topic       string
	contentType string
	payload     []byte
	text        bool // payload format indicator 1

	response    bool // an answer: its topic gets no alias, since it hardly comes again
	correlation []byte

	user    bool // has the user properties that follow
	id      uuid.UUID
	at      time.Time // zero: not known
	gateway string
}

// The lengths of what has a fixed one on the wire (MQTT v5 sections 1.5 and
// 3.3.2).
const (
	formatSize = 2     // identifier and value
	aliasSize  = 3     // identifier and value
	stringSize = 2     // the length before a string
	uuidSize   = 36    // as text
	timeSize   = 40    // more than a time takes as text
	maxString  = 65535 // bytes
)

// encodable reports whether the message's strings fit into a packet at all.
func (m *message) encodable() bool {
	return len(m.topic) <= maxString && len(m.contentType) <= maxString && len(m.gateway) <= maxString &&
		len(m.correlation) <= maxString &&
		len(m.payload) < 1<<28-4*maxString
}

// properties is the length of the properties without a topic alias.
func (m *message) properties(at []byte) int {
	n := 0
	if m.text {
		n += formatSize
	}
	if m.contentType != "" {
		n += 1 + stringSize + len(m.contentType)
	}
	if len(m.correlation) > 0 {
		n += 1 + stringSize + len(m.correlation)
	}
	if m.user {
		n += userSize("id", uuidSize) + userSize("gateway", len(m.gateway))
		if len(at) > 0 {
			n += userSize("time", len(at))
		}
	}
	return n
}

func userSize(key string, value int) int { return 1 + stringSize + len(key) + stringSize + value }

// when is the time as text, in b.
func (m *message) when(b *[timeSize]byte) []byte {
	if !m.user || m.at.IsZero() {
		return nil
	}
	return m.at.UTC().AppendFormat(b[:0], time.RFC3339Nano)
}

// size is that of the whole packet with its topic and no alias, in bytes.
func (m *message) size() int {
	var b [timeSize]byte
	props := m.properties(m.when(&b))
	rest := stringSize + len(m.topic) + 2 + vbiSize(props) + props + len(m.payload)
	return 1 + vbiSize(rest) + rest
}

// fits reports whether the packet has at most limit bytes; 0 is no limit.
func (m *message) fits(limit int) bool {
	const most = 256 // of everything else; spares an exact count for nearly all
	return limit == 0 ||
		len(m.topic)+len(m.contentType)+len(m.correlation)+len(m.gateway)+len(m.payload)+most <= limit || m.size() <= limit
}

// appendPublish appends the PUBLISH at QoS 1 (section 3.3). With alias 0 there is
// none; with bare set the alias stands in for the topic.
func appendPublish(dst []byte, m *message, id uint16, dup bool, alias uint16, bare bool) []byte {
	var b [timeSize]byte
	at := m.when(&b)
	props := m.properties(at)
	if alias != 0 {
		props += aliasSize
	}
	topic := m.topic
	if bare {
		topic = ""
	}
	head := byte(packets.PUBLISH<<4 | 1<<1)
	if dup {
		head |= 1 << 3
	}
	dst = append(dst, head)
	dst = appendVBI(dst, stringSize+len(topic)+2+vbiSize(props)+props+len(m.payload))
	dst = appendString(dst, topic)
	dst = append(dst, byte(id>>8), byte(id))
	dst = appendVBI(dst, props)
	if m.text {
		dst = append(dst, packets.PropPayloadFormat, 1)
	}
	if alias != 0 {
		dst = append(dst, packets.PropTopicAlias, byte(alias>>8), byte(alias))
	}
	if m.contentType != "" {
		dst = append(dst, packets.PropContentType)
		dst = appendString(dst, m.contentType)
	}
	if n := len(m.correlation); n > 0 {
		dst = append(dst, packets.PropCorrelationData, byte(n>>8), byte(n))
		dst = append(dst, m.correlation...)
	}
	if m.user {
		dst = appendUser(dst, "id", uuidSize)
		dst = appendUUID(dst, m.id)
		if len(at) > 0 {
			dst = appendUser(dst, "time", len(at))
			dst = append(dst, at...)
		}
		dst = appendUser(dst, "gateway", len(m.gateway))
		dst = append(dst, m.gateway...)
	}
	return append(dst, m.payload...)
}

// appendUser appends a user property up to its value, whose length follows.
func appendUser(dst []byte, key string, value int) []byte {
	dst = append(dst, packets.PropUser)
	dst = appendString(dst, key)
	return append(dst, byte(value>>8), byte(value))
}

func appendUUID(dst []byte, u uuid.UUID) []byte {
	for i, part := range [...][]byte{u[:4], u[4:6], u[6:8], u[8:10], u[10:]} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, part)
	}
	return dst
}

// appendString appends a string of at most maxString bytes.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, byte(len(s)>>8), byte(len(s)))
	return append(dst, s...)
}

// appendVBI appends a variable byte integer (section 1.5.5).
func appendVBI(dst []byte, n int) []byte {
	for n > 0x7f {
		dst = append(dst, byte(n)|0x80)
		n >>= 7
	}
	return append(dst, byte(n))
}

func vbiSize(n int) int {
	size := 1
	for ; n > 0x7f; n >>= 7 {
		size++
	}
	return size
}
