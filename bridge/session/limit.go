package session

import (
	"errors"
	"fmt"
)

// limiter follows the lengths of the packets that the broker sends. paho makes
// room for a packet as soon as it knows its length, which may be anything up to
// 4 GiB where the other side does not keep to the standard or to the Maximum
// Packet Size that it was told.
type limiter struct {
	rest     int  // bytes to come of the packet after its fixed header
	inLength bool // the packet type has come and its length has not, or not all of it
	length   int
	shift    uint
}

var errLength = errors.New("the broker sent a malformed packet length: does it speak MQTT v5 on this port?")

// pass looks at the next bytes and refuses those that end the fixed header (MQTT
// v5 section 2.1) of a packet that is too large.
func (l *limiter) pass(b []byte) error {
	for len(b) > 0 {
		if l.rest > 0 {
			n := min(l.rest, len(b))
			l.rest -= n
			b = b[n:]
			continue
		}
		digit := b[0]
		b = b[1:]
		if !l.inLength {
			*l = limiter{inLength: true}
			continue
		}
		l.length |= int(digit&0x7f) << l.shift
		l.shift += 7
		switch more := digit&0x80 != 0; {
		case more && l.shift == 28:
			return errLength
		case !more && l.length > maxDownlink:
			return fmt.Errorf("the broker sent a packet of %d bytes, and at most %d are allowed", l.length, maxDownlink)
		case !more:
			l.inLength, l.rest = false, l.length
		}
	}
	return nil
}
