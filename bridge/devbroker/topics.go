package devbroker

import (
	"strings"

	"fieldbridge/bridge"
)

const (
	up   = "/up/"
	down = "/down/"
)

// split takes a topic or filter of this client apart: the device it is for and
// the sub topic behind it. ok is false if it is not the client's to use.
//
// A device has /up/device/id/{id} and what is below it; a connector has
// /up/{secret}/id/{any device} and what is below. The same holds for /down/.
func (i identity) split(direction, topic string) (device bridge.DeviceID, subtopic string, ok bool) {
	level := "device"
	if i.connector != "" {
		level = i.secret.Reveal()
	}
	rest, ok := strings.CutPrefix(topic, direction+level+"/id/")
	if !ok {
		return "", "", false
	}
	id, subtopic, below := strings.Cut(rest, "/")
	if below && subtopic == "" {
		return "", "", false // an empty last level
	}
	device, err := bridge.ParseDeviceID(id)
	if err != nil || (i.connector == "" && device != i.device) {
		return "", "", false
	}
	return device, subtopic, true
}

// RedactedTopic returns the topic with a connector's secret replaced, fit to be
// shown.
func (m Message) RedactedTopic() string {
	for _, direction := range []string{up, down} {
		rest, ok := strings.CutPrefix(m.Topic, direction)
		if !ok {
			continue
		}
		level, rest, _ := strings.Cut(rest, "/")
		if level == "device" {
			return m.Topic
		}
		return direction + "[redacted]/" + rest
	}
	return "[redacted]"
}
