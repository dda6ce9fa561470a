package session

import (
	"fmt"

	"fieldbridge/bridge"
)

// codeNames are the reason codes' names (MQTT v5 section 2.4).
var codeNames = map[byte]string{
	0x00: "success", 0x10: "no matching subscribers",
	0x80: "unspecified error", 0x81: "malformed packet", 0x82: "protocol error",
	0x83: "implementation specific error", 0x84: "unsupported protocol version",
	0x85: "client identifier not valid", 0x86: "bad user name or password",
	0x87: "not authorized", 0x88: "server unavailable", 0x89: "server busy",
	0x8A: "banned", 0x8B: "server shutting down", 0x8C: "bad authentication method",
	0x8D: "keep alive timeout", 0x8E: "session taken over", 0x8F: "topic filter invalid",
	0x90: "topic name invalid", 0x91: "packet identifier in use",
	0x92: "packet identifier not found", 0x93: "receive maximum exceeded",
	0x94: "topic alias invalid", 0x95: "packet too large", 0x96: "message rate too high",
	0x97: "quota exceeded", 0x98: "administrative action", 0x99: "payload format invalid",
	0x9A: "retain not supported", 0x9B: "QoS not supported", 0x9C: "use another server",
	0x9D: "server moved", 0x9E: "shared subscriptions not supported",
	0x9F: "connection rate exceeded", 0xA0: "maximum connect time",
	0xA1: "subscription identifiers not supported", 0xA2: "wildcard subscriptions not supported",
}

// CodeName is the name of a reason code, for people.
func CodeName(code byte) string {
	if n, ok := codeNames[code]; ok {
		return n
	}
	return "unknown reason code"
}

// hints say what to do about a CONNACK or DISCONNECT, where something can be
// done here.
var hints = map[byte]string{
	0x84: "the broker does not speak MQTT v5",
	0x85: "check the device id",
	0x86: "check that the device's public key, or the connector's id and secret, are the ones at the broker, and that this machine's clock is right",
	0x87: "check that the device's public key, or the connector's id and secret, are the ones at the broker, and that this machine's clock is right",
	0x8E: "another client uses this client id: is the device configured on a second gateway?",
	0x95: "lower the connector's max_payload",
}

// ReasonError is a refusal or a disconnect by the broker.
type ReasonError struct {
	// Packet is "CONNACK", "DISCONNECT" or "SUBACK".
	Packet string
	Code   byte
	// Reason is the broker's reason string, without secrets.
	Reason string
}

func (e *ReasonError) Error() string {
	s := fmt.Sprintf("broker answered %s 0x%02X (%s)", e.Packet, e.Code, CodeName(e.Code))
	if e.Reason != "" {
		s += fmt.Sprintf(": %q", e.Reason)
	}
	if h := hints[e.Code]; h != "" {
		s += "; " + h
	}
	return s
}

// slow reports whether attempts should be rare because only a change at the
// broker or in the configuration will help.
func (e *ReasonError) slow() bool {
	switch e.Code {
	case 0x81, 0x82, 0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x8E, 0x98, 0x9B, 0x9C, 0x9D:
		return true
	}
	return e.Packet == "SUBACK"
}

// Bounds on the attempts to publish one reading.
const (
	triesUnspecified   = 5 // 0x80 and 0x83 say nothing about the cause
	triesNotAuthorized = 2 // the token may just have expired; once more with a fresh one
	// A clash of packet ids does not survive new connections and new ids: what
	// fails for the fifth time must not cost any more of them.
	triesPacketID = 5
)

// puback maps a PUBACK's reason code to what becomes of the reading (MQTT v5
// section 3.4.2.1). reconnect asks for a new connection before the next
// attempt.
func puback(code byte, reason string) (o bridge.Outcome, reconnect bool) {
	o = bridge.Outcome{Kind: bridge.Refused, Code: code, Reason: CodeName(code)}
	if reason != "" {
		o.Reason += ": " + reason
	}
	switch code {
	case 0x80, 0x83:
		o.Kind, o.MaxTries = bridge.Retry, triesUnspecified
	case 0x87:
		o.Kind, o.MaxTries = bridge.Retry, triesNotAuthorized
		reconnect = true
	case 0x91:
		o.Kind, o.MaxTries, reconnect = bridge.Retry, triesPacketID, true
	case 0x96, 0x97:
		o.Kind = bridge.Retry
	default:
		if code < 0x80 {
			o.Kind = bridge.Acked
		}
	}
	return o, reconnect
}
