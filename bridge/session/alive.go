package session

import (
	"fmt"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// errSilent ends a connection that is dead.
type errSilent struct{ after time.Duration }

func (e errSilent) Error() string {
	return fmt.Sprintf("connection lost: keep alive: nothing has come from the broker for %s", e.after.Round(time.Second))
}

// alive looks after what time brings: a PUBACK that does not come, and the keep
// alive (MQTT v5 section 3.1.2.10). It returns when to look again.
//
// A PINGREQ goes out shortly before the keep alive is over, unless something was
// both sent and received within it: the broker wants to hear from us, and we
// from it. What comes then, whatever it is, is the answer. If nothing does
// within half the keep alive, the connection is dead: so that is noticed before
// one and a half keep alives are over, as the broker does on its side. The answer
// is looked for then and not before: it need not wake anybody.
func (c *connection) alive(now time.Time) (wait time.Duration, err error) {
	sent, received := c.link.conn.quiet(now)
	if !c.pinged.IsZero() {
		since := now.Sub(c.pinged)
		came := received <= since
		if c.hushed && (came || since >= c.keepAlive/2) {
			c.hushed = false
			came = heed(c.link.conn.Conn) || came
		}
		if came {
			c.pinged, received = time.Time{}, min(received, since)
		}
	}
	if c.pinged.IsZero() {
		grid := (c.keepAlive / 12).Truncate(time.Second)
		if wait = c.keepAlive - min(c.keepAlive/8, 5*time.Second) - max(sent, received); wait > grid {
			wait = together(now, wait, grid)
		} else {
			c.pinged, c.hushed = now, hush(c.link.conn.Conn)
			c.link.conn.packet(packets.PINGREQ<<4, 0)
			c.link.conn.release()
			wait = c.keepAlive / 2
		}
	} else if wait = c.keepAlive/2 - now.Sub(c.pinged); wait <= 0 {
		return 0, errSilent{received}
	}
	if t := c.s.window.oldest(); !t.IsZero() {
		left := c.s.opts.PubackTimeout - now.Sub(t)
		if left <= 0 {
			return 0, errPuback{c.s.opts.PubackTimeout}
		}
		wait = min(wait, left)
	}
	return wait, nil
}

// together brings a wait, which is longer than the grid, forward by less than the
// grid, to a time that all sessions with this grid share, so that they share their
// wake-ups: waking an idle processor costs far more than what one session then has
// to do. What is due within the grid from then on must be done then.
func together(now time.Time, wait, grid time.Duration) time.Duration {
	if grid == 0 {
		return wait
	}
	at := now.Add(wait).Round(0)
	return wait - at.Sub(at.Truncate(grid))
}
