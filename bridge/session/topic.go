package session

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"fieldbridge/bridge"
)

// Topics is a connector's topic scheme: templates in which {device} stands for
// the device id and everything else stands for itself. Fill in secrets and
// connector ids before (Expand).
type Topics struct {
	// Uplink is a device's topic; sub topics are appended.
	Uplink string
	// Downlink is a device's filter. It ends in "/#" or "/+".
	Downlink string
	// Device is set if the session is one device's own: its topics need not name
	// it then.
	Device bridge.DeviceID
}

// wild reports whether a filter ends as Topics.Downlink must.
func wild(filter string) bool {
	return strings.HasSuffix(filter, "/#") || strings.HasSuffix(filter, "/+")
}

// Expand replaces {name} by its value in one pass, so that a value that looks
// like a placeholder stays as it is.
func Expand(template string, values map[string]string) string {
	pairs := make([]string, 0, 2*len(values))
	for k, v := range values {
		pairs = append(pairs, "{"+k+"}", v)
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

func (t Topics) uplink(r *bridge.Reading) string {
	topic := strings.ReplaceAll(t.Uplink, "{device}", string(r.Device))
	if r.Subtopic != "" {
		topic += "/" + string(r.Subtopic)
	}
	return topic
}

// responseTopic reports whether an answer may be sent to a topic that somebody
// else has chosen. A broker ends the connection over one that is malformed
// (MQTT v5 sections 1.5.4 and 4.7.3), and topics that begin with "$" are its own
// (section 4.7.2).
func responseTopic(topic string) bool {
	return topic != "" && topic[0] != '$' && utf8.ValidString(topic) &&
		!strings.ContainsFunc(topic, func(r rune) bool { return r == '+' || r == '#' || unicode.IsControl(r) })
}

func (t Topics) filter(d bridge.DeviceID) string {
	return strings.ReplaceAll(t.Downlink, "{device}", string(d))
}

// downlink takes a downlink's topic apart.
func (t Topics) downlink(topic string) (d bridge.DeviceID, subtopic string, err error) {
	if t.Device != "" {
		head := t.filter(t.Device)
		rest, ok := strings.CutPrefix(topic, head[:len(head)-2])
		if ok && rest != "" {
			rest, ok = strings.CutPrefix(rest, "/")
		}
		if !ok {
			return "", "", errors.New("downlink topic: not the one subscribed to")
		}
		return t.Device, rest, nil
	}
	pattern := strings.Split(t.Downlink[:len(t.Downlink)-2], "/") // without what wild looks for
	rest := topic
	for i, p := range pattern {
		level, after, more := strings.Cut(rest, "/")
		if p == "{device}" {
			d = bridge.DeviceID(level)
		} else if p != level {
			// The topic may hold a secret, so the error does not.
			return "", "", fmt.Errorf("downlink topic: level %d is not the one subscribed to", i+1)
		}
		if !more && i < len(pattern)-1 {
			return "", "", fmt.Errorf("downlink topic: %d levels, at least %d expected", i+1, len(pattern))
		}
		rest = after
	}
	if _, err := bridge.ParseDeviceID(string(d)); err != nil {
		return "", "", fmt.Errorf("downlink topic: %w", err)
	}
	return d, rest, nil
}
