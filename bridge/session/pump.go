package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// Run implements paho.Pinger.
func (p pinger) Run(ctx context.Context, c net.Conn, keepAlive uint16) error {
	err := p.DefaultPinger.Run(ctx, c, keepAlive)
	if err != nil {
		p.conn.note(fmt.Errorf("keep alive: %w", err))
	}
	return err
}

// settleTimeout bounds the wait for PUBACKs before an orderly disconnect.
const settleTimeout = 2 * time.Second

// serve logs in over the link and carries readings until the connection ends.
// It returns the next link when it left this one in order to renew the
// credentials, and an error or a done ctx otherwise.
func (s *Session) serve(ctx context.Context, l *link) (*link, error) {
	defer context.AfterFunc(ctx, l.conn.hurry)()
	client, ca, err := s.login(ctx, l)
	if err != nil {
		return nil, &failure{err, NotLoggedIn}
	}
	up := &connection{s: s, client: client, link: l}
	if p := ca.Properties; p != nil && p.MaximumPacketSize != nil {
		up.maxPacket = int(*p.MaximumPacketSize)
	}
	if !ca.SessionPresent {
		s.subscribed = false
		if s.opts.Forgotten != nil {
			s.opts.Forgotten(s.opts.ClientID)
		}
	}
	if !s.subscribed {
		if err := s.subscribe(ctx, client); err != nil {
			if ctx.Err() == nil {
				err = up.why(err)
			}
			up.leave()
			return nil, err
		}
	}
	s.setUp(l.creds)
	level := slog.LevelInfo
	if l.renewal {
		level = slog.LevelDebug // nothing has changed for an operator
	}
	s.log.Log(ctx, level, "session up", "session_present", ca.SessionPresent, "expires", l.creds.Expires)
	next, err := up.pump(ctx)
	up.leave()
	return next, err
}

// connection is a session while it is up. It belongs to the goroutine of Run.
type connection struct {
	s         *Session
	client    *paho.Client
	link      *link
	maxPacket int // bytes; 0: the broker set no limit
}

// leave disconnects, if that is still to do, and waits for paho's goroutines.
// The session stays at the broker.
func (c *connection) leave() {
	_ = c.client.Disconnect(&paho.Disconnect{ReasonCode: 0})
}

// why says what ended the connection; otherwise is for when nothing is known.
func (c *connection) why(otherwise error) error {
	if d := c.s.window.disconnected(); d != nil {
		re := &ReasonError{Packet: "DISCONNECT", Code: d.ReasonCode}
		if d.Properties != nil {
			re.Reason = c.s.scrub(d.Properties.ReasonString)
		}
		return re
	}
	if cause := c.link.conn.cause(); cause != nil {
		return fmt.Errorf("connection lost: %w", cause)
	}
	return otherwise
}

// opened is the result of opening the next link.
type opened struct {
	link *link
	err  error
}

func (c *connection) pump(ctx context.Context) (*link, error) {
	s := c.s
	renew := time.NewTimer(time.Until(c.link.creds.Renew))
	defer renew.Stop()
	if c.link.creds.Renew.IsZero() {
		renew.Stop()
	}
	unanswered := time.NewTimer(s.opts.PubackTimeout)
	defer unanswered.Stop()
	var opening chan opened // the next link; nil while none is on the way
	octx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		if opening != nil {
			if o := <-opening; o.link != nil {
				_ = o.link.conn.Close()
			}
		}
	}()
	for failures := 0; ; {
		c.send(time.Now())
		select {
		case <-s.wake:
			if s.window.mustReconnect() {
				return nil, errReconnect
			}
		case <-c.client.Done():
			return nil, c.why(errors.New("connection lost"))
		case <-unanswered.C:
			if t := s.window.oldest(); !t.IsZero() && time.Since(t) >= s.opts.PubackTimeout {
				return nil, errPuback{s.opts.PubackTimeout}
			}
			unanswered.Reset(s.opts.PubackTimeout / 2)
		case <-s.renew:
			if !c.link.creds.Expires.IsZero() {
				renew.Reset(0)
			}
		case <-renew.C:
			if opening != nil {
				break // on its way
			}
			opening = make(chan opened, 1)
			go func(to chan<- opened) {
				l, err := s.open(octx)
				to <- opened{l, err}
			}(opening)
		case o := <-opening:
			opening = nil
			if o.err == nil {
				c.settle(ctx)
				s.opts.Counts.reconnect(Renewed)
				return o.link, nil
			}
			failures++
			pause := s.opts.Backoff.wait(failures, o.err)
			if left := time.Until(c.link.creds.Expires); left > 0 {
				pause = min(pause, left/4+time.Second)
			}
			text := s.scrub(o.err.Error())
			s.note("credentials not renewed yet: " + text)
			s.log.Warn("credentials not renewed yet", "error", text,
				"retry_in", pause.Round(time.Millisecond), "expires", c.link.creds.Expires)
			renew.Reset(pause)
		case <-ctx.Done():
			c.settle(context.Background())
			return nil, ctx.Err()
		}
	}
}

// errReconnect: a PUBACK asked for a new connection.
var errReconnect = errors.New("the broker refused a publish as not authorized or out of step: reconnecting")

// send publishes what waits, as far as the window has room.
func (c *connection) send(now time.Time) {
	s := c.s
	c.link.conn.cork()
	defer c.link.conn.uncork()
	if !s.window.resume(now) {
		return
	}
	for room := s.window.room(); room > 0; {
		src := s.take()
		if src == nil {
			s.window.acquit()
			return
		}
		e := src.Next()
		if e == nil {
			continue
		}
		p := s.packet(&e.Reading)
		if o, tooLarge := c.oversized(p); tooLarge {
			src.Resolve(e, o)
		} else {
			s.window.publish(p, src, e, now)
			room--
		}
		s.putBack(src)
	}
}

// settle waits, without sending anything new, until nothing is in flight, so
// that an orderly disconnect repeats nothing.
func (c *connection) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for c.s.window.inFlight() > 0 {
		select {
		case <-c.s.wake:
		case <-c.client.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}
