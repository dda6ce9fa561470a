package session

import (
	"testing"

	"fieldbridge/bridge"
)

func TestDownlinkTopics(t *testing.T) {
	for _, tt := range []struct {
		topics Topics
		topic  string
		device bridge.DeviceID
		sub    string
		ok     bool
	}{
		{Topics{Downlink: "/down/x/{device}/#"}, "/down/x/d1/a/b", "d1", "a/b", true},
		{Topics{Downlink: "/down/x/{device}/#"}, "/down/x/d1", "d1", "", true},
		{Topics{Downlink: "down/{device}/+"}, "down/d1/a", "d1", "a", true},
		{Topics{Downlink: "down/{device}/#"}, "up/d1/a", "", "", false},
		{Topics{Downlink: "v1/rpc/+", Device: "d1"}, "v1/rpc/7", "d1", "7", true},
		{Topics{Downlink: "v1/rpc/#", Device: "d1"}, "v1/rpc", "d1", "", true},
		{Topics{Downlink: "v1/rpc/#", Device: "d1"}, "v1/rpcx/7", "", "", false},
		{Topics{Downlink: "v1/rpc/#", Device: "d1"}, "/v1/rpc/7", "", "", false},
		{Topics{Downlink: "v1/rpc/#", Device: "d1"}, "", "", "", false},
		{Topics{Downlink: "a-{device}/#", Device: "d1"}, "a-d1/x/y", "d1", "x/y", true},
		{Topics{Downlink: "a-{device}/#", Device: "d1"}, "a-d2/x/y", "", "", false},
	} {
		d, sub, err := tt.topics.downlink(tt.topic)
		if d != tt.device || sub != tt.sub || (err == nil) != tt.ok {
			t.Errorf("%+v, %q: got %q, %q, %v", tt.topics, tt.topic, d, sub, err)
		}
	}
}
