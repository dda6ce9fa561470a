package devbroker

import (
	"fmt"

	"github.com/mochi-mqtt/server/v2/packets"
)

// The reason codes that the rules answer with (MQTT v5 section 2.4).
const (
	codeBadCredentials = 0x86
	codeNotAuthorized  = 0x87
	codePayloadFormat  = 0x99
)

// reasons names the reason codes (MQTT v5 section 2.4), for the reason string of
// what the broker answers.
var reasons = map[byte]string{
	0x00: "success",
	0x10: "no matching subscribers",
	0x80: "unspecified error",
	0x81: "malformed packet",
	0x82: "protocol error",
	0x83: "implementation specific error",
	0x84: "unsupported protocol version",
	0x85: "client identifier not valid",
	0x86: "bad user name or password",
	0x87: "not authorized",
	0x88: "server unavailable",
	0x89: "server busy",
	0x8A: "banned",
	0x8B: "server shutting down",
	0x8C: "bad authentication method",
	0x8D: "keep alive timeout",
	0x8E: "session taken over",
	0x8F: "topic filter invalid",
	0x90: "topic name invalid",
	0x91: "packet identifier in use",
	0x93: "receive maximum exceeded",
	0x94: "topic alias invalid",
	0x95: "packet too large",
	0x96: "message rate too high",
	0x97: "quota exceeded",
	0x98: "administrative action",
	0x99: "payload format invalid",
	0x9A: "retain not supported",
	0x9B: "qos not supported",
	0x9C: "use another server",
	0x9D: "server moved",
	0x9F: "connection rate exceeded",
	0xA0: "maximum connect time",
}

func reason(code byte) packets.Code {
	return packets.Code{Code: code, Reason: reasons[code]}
}

// show writes a reason code as the standard does.
func show(code byte) string { return fmt.Sprintf("0x%02X", code) }
