package bridge

import (
	"context"
	"strings"
	"time"
)

// Downlink is one payload that the broker sends down for a device.
type Downlink struct {
	// ID identifies the downlink on this gateway.
	ID string
	// Device is the device that the downlink is for.
	Device DeviceID
	// Subtopic is the part of its topic behind the device, as the broker sent
	// it: it may hold levels that ParseSubtopic would refuse.
	Subtopic string
	// ContentType is what the publisher set, or "".
	ContentType string
	// Payload must not be changed by anyone.
	Payload []byte
	// ResponseTopic and CorrelationData are what the publisher set for an
	// answer (MQTT v5 section 4.10). A topic may hold a secret: do not log it.
	ResponseTopic   string
	CorrelationData []byte
	// Expires is when the downlink has become useless (message expiry
	// interval); the zero time means never.
	Expires time.Time
	// Received is when it arrived here.
	Received time.Time
}

// Answer is what a device says to a downlink. It goes up on the downlink's
// response topic, with its correlation data (MQTT v5 section 4.10).
type Answer struct {
	// Payload belongs to the Bridge from the moment it is returned.
	Payload []byte
	// ContentType is one of ContentTypes, with parameters. Anything else is sent
	// as application/octet-stream.
	ContentType string
}

// Deliverer brings a downlink to one target: a serial port or a webhook.
//
// Deliver makes one attempt and returns no error only when the device has the
// downlink. The Answer is nil if there is none; it may come with a permanent
// error, which the publisher then gets to know. That of a downlink without a
// response topic is dropped. A *DeliveryError says whether and when another attempt makes sense;
// any other error is taken as worth another attempt. The Bridge calls Deliver
// of one Deliverer from one goroutine at a time, in the order in which the
// downlinks arrived. Deliver returns soon after ctx is done.
type Deliverer interface {
	Deliver(ctx context.Context, d Downlink) (*Answer, error)
}

// MatchFilter reports whether a sub topic matches an MQTT topic filter (section
// 4.7): "+" stands for one level, "#" as the last level for all that follow and
// for the parent level. The empty filter matches everything. The empty sub topic
// has no level: of the other filters only "#" matches it.
func MatchFilter(filter, subtopic string) bool {
	if filter == "" || filter == "#" {
		return true
	}
	if subtopic == "" {
		return false
	}
	for {
		f, frest, fmore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		s, srest, smore := strings.Cut(subtopic, "/")
		if f != "+" && f != s {
			return false
		}
		switch {
		case !fmore && !smore:
			return true
		case !smore:
			return frest == "#"
		case !fmore:
			return false
		}
		filter, subtopic = frest, srest
	}
}

// CheckFilter says what is wrong with a topic filter, or returns nil. The empty
// filter is valid.
func CheckFilter(filter string) error {
	if filter == "" {
		return nil
	}
	levels := strings.Split(filter, "/")
	for i, l := range levels {
		switch {
		case l == "+":
		case l == "#":
			if i != len(levels)-1 {
				return errInvalidf("filter %q: %q is allowed as the last level only", filter, "#")
			}
		case strings.ContainsAny(l, "+#"):
			return errInvalidf("filter %q: a wildcard must be a whole level", filter)
		default:
			if err := checkLevel("filter level", l); err != nil {
				return err
			}
		}
	}
	return nil
}
