package session

import (
	"fmt"

	"fieldbridge/bridge"
)

// codeNames are the reason codes' names (MQTT v5 section 2.4).
var codeNames = map[byte]string{
	0x00: "success", 0x04: "disconnect with will message", 0x10: "no matching subscribers",
	0x11: "no subscription existed", 0x18: "continue authentication", 0x19: "re-authenticate",
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

// reaction is what follows from a reason code that ends a connection, or that is
// the answer to CONNECT.
type reaction struct {
	class pauseClass
	// alarm: nothing but a person will mend it.
	alarm bool
	// hint says what to do, where something can be done here.
	hint string
}

const (
	hintCredentials = "check that the device's public key, or the connector's id and secret, are the ones at the broker, and that this machine's clock is right"
	hintOurs        = "the broker says that fieldbridge breaks the protocol: if it repeats, report it with the name of the broker"
)

// reactions are those to CONNACK and DISCONNECT alike. A code that is not here is
// tried again as usual.
var reactions = map[byte]reaction{
	0x81: {slow, true, hintOurs},
	0x82: {slow, true, hintOurs},
	0x84: {slow, true, "the broker does not speak MQTT v5"},
	0x85: {slow, true, "check the device id"},
	0x86: {slow, true, hintCredentials},
	0x87: {slow, true, hintCredentials},
	0x8A: {slow, true, "the broker has banned this client: only its administrator can let it in again"},
	0x8C: {slow, true, "the broker wants another way to log in than auth says"},
	0x8E: {long, true, "another client uses this client id: is the device configured on a second gateway?"},
	0x90: {normal, false, "check the topics of the connector"},
	0x95: {normal, false, "lower the connector's max_payload"},
	0x96: {normal, false, "the device is slowed down"},
	0x97: {normal, false, "the device is slowed down; check the limits of the account"},
	0x98: {long, true, "somebody has ended the session at the broker"},
	0x9A: {slow, true, ""}, // nothing of ours is retained
	0x9B: {slow, true, "the broker does not take QoS 1, without which nothing is ever acknowledged"},
	0x9C: {slow, true, ""},
	0x9D: {slow, true, ""},
	0x9E: {slow, true, hintOurs},
	0x9F: {normal, false, "lower the connector's connect_rate if it repeats"},
	0xA1: {slow, true, hintOurs},
	0xA2: {slow, true, "the broker does not allow wildcards in subscriptions, which downlinks need"},
}

// react is the reaction to a code in a packet.
func react(packet string, code byte) reaction {
	r := reactions[code]
	if packet == packetNames[connack] && code == 0x97 {
		r = reaction{slow, true, "check the limits of the account: so many clients may not connect"}
	}
	return r
}

// subackHints say why there are no downlinks.
var subackHints = map[byte]string{
	0x87: "the device may not subscribe to its downlinks: check downlink_topic and its rights at the broker",
	0x8F: "the broker does not take the filter: check downlink_topic",
	0x97: "check the limits of the account",
	0x9E: hintOurs,
	0xA1: hintOurs,
	0xA2: "the broker does not allow wildcards in subscriptions, which downlinks need",
}

// ReasonError is a refusal or a disconnect by the broker.
type ReasonError struct {
	// Packet is "CONNACK", "DISCONNECT" or "SUBACK".
	Packet string
	Code   byte
	// Reason is the broker's reason string, without secrets.
	Reason string
	// Server is where the broker sends the session (0x9C, 0x9D), without secrets.
	Server string

	soon  bool // there is another key or server to try
	loops bool // servers send the session on to each other
	stray bool // Server is none of those that may be followed
	times int  // how often in a row, if that is known
}

func (e *ReasonError) Error() string {
	s := fmt.Sprintf("broker answered %s 0x%02X (%s)", e.Packet, e.Code, CodeName(e.Code))
	if e.Reason != "" {
		s += fmt.Sprintf(": %q", e.Reason)
	}
	hint := react(e.Packet, e.Code).hint
	if e.Packet == packetNames[suback] {
		hint = subackHints[e.Code]
	}
	if hint != "" {
		s += "; " + hint
	}
	if e.times > 0 {
		s += fmt.Sprintf("; number %d in a row", e.times)
	}
	switch {
	case e.loops:
		s += "; the servers send the session on to each other"
	case e.stray && e.Server == "":
		s += "; it names no server: set broker to the right one"
	case e.stray:
		s += fmt.Sprintf("; it names %.*q, which is not among allowed_servers", maxReference, e.Server)
	}
	return s
}

// class says how soon the next attempt should be.
func (e *ReasonError) class() pauseClass {
	if e.soon {
		return soon
	}
	return react(e.Packet, e.Code).class
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
