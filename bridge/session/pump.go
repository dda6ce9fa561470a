package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/eclipse/paho.golang/packets"
)

// settleTimeout bounds the wait for PUBACKs before an orderly disconnect.
const settleTimeout = 2 * time.Second

// serve logs in over the link and carries readings until the connection ends.
// It returns the next link when it left this one in order to renew the
// credentials, and an error or a done ctx otherwise.
func (s *Session) serve(ctx context.Context, l *link) (*link, error) {
	defer context.AfterFunc(ctx, l.conn.hurry)()
	ca, err := s.login(l)
	if err != nil {
		return nil, &failure{err, NotLoggedIn}
	}
	up := s.newConnection(l, ca.Properties)
	s.window.begin(l.conn, ca)
	if !ca.SessionPresent {
		s.subscribed = false
		if s.opts.Forgotten != nil {
			s.opts.Forgotten(s.opts.ClientID)
		}
	}
	go up.read() // only now, so that no downlink comes before
	if !s.subscribed {
		if err := up.subscribe(ctx); err != nil {
			up.leave(err)
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
	up.leave(err)
	return next, err
}

// connection is a session while it is up. It belongs to the goroutine of Run;
// its reading goroutine uses what never changes.
type connection struct {
	s       *Session
	link    *link
	done    chan struct{}        // closed when nothing is read any more
	subacks chan *packets.Suback // capacity 1: the answer that is awaited

	maxPacket   int // bytes; 0: the broker set no limit
	noWildcards bool
	keepAlive   time.Duration
	pinged      time.Time // when the last PINGREQ was sent; zero if it is answered
}

// newConnection obeys what the broker's CONNACK demands. (Retain Available asks
// for nothing: no reading is sent with RETAIN.)
func (s *Session) newConnection(l *link, p *packets.Properties) *connection {
	c := &connection{s: s, link: l, done: make(chan struct{}), subacks: make(chan *packets.Suback, 1)}
	c.keepAlive = time.Duration(seconds(s.opts.KeepAlive, math.MaxUint16)) * time.Second
	if k := p.ServerKeepAlive; k != nil && *k > 0 {
		// Zero would mean that the broker does not care. We do.
		c.keepAlive = time.Duration(*k) * time.Second
	}
	if p.MaximumPacketSize != nil {
		c.maxPacket = int(*p.MaximumPacketSize)
	}
	c.noWildcards = p.WildcardSubAvailable != nil && *p.WildcardSubAvailable == 0
	if p.TopicAliasMaximum != nil && s.opts.TopicAlias && !s.noAlias {
		l.conn.aliases.max = *p.TopicAliasMaximum
	}
	l.conn.patience(c.keepAlive / 2)
	tune(l.conn.Conn, c.keepAlive)
	s.noteExpiry(p.SessionExpiryInterval)
	return c
}

// noteExpiry notes for how long the broker keeps the session, and says so once
// if that is less than asked for.
func (s *Session) noteExpiry(answer *uint32) {
	wanted := seconds(s.opts.SessionExpiry, math.MaxUint32)
	got := wanted
	if answer != nil {
		got = *answer
	}
	expiry := time.Duration(got) * time.Second
	s.mu.Lock()
	news := s.expiry != expiry
	s.expiry = expiry
	s.mu.Unlock()
	if news && got < wanted {
		s.log.Warn("the broker keeps the session for less time than session_expiry; downlinks of a longer outage are lost",
			"wanted", time.Duration(wanted)*time.Second, "broker", expiry)
	}
}

// leave ends the connection, telling the broker unless it has ended it or is
// dead, and waits for the reading goroutine. The session stays at the broker.
func (c *connection) leave(why error) {
	var dead errSilent
	if !errors.As(why, &dead) && c.s.window.disconnected() == nil {
		code := byte(0)
		var bad *violation
		if errors.As(why, &bad) || errors.As(c.link.conn.cause(), &bad) {
			code = bad.code
		}
		c.link.conn.disconnect(code)
	}
	_ = c.link.conn.Close()
	<-c.done
}

// why says what ended the connection; otherwise is for when nothing is known.
func (c *connection) why(otherwise error) error {
	if d := c.s.window.disconnected(); d != nil {
		if d.ReasonCode == 0x94 {
			c.s.noAlias = true // whose fault it may be: the full topics do as well
		}
		return &ReasonError{Packet: "DISCONNECT", Code: d.ReasonCode, Reason: c.s.scrub(d.Properties.ReasonString)}
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
	now := time.Now()
	wait, _ := c.alive(now)
	look := time.NewTimer(wait) // one timer for all that is waited for
	defer look.Stop()
	due := now.Add(wait)
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
		now = time.Now()
		c.send(now)
		if at := now.Add(s.opts.PubackTimeout); at.Before(due) && s.window.inFlight() > 0 {
			due = at
			look.Reset(s.opts.PubackTimeout)
		}
		select {
		case <-s.wake:
			if s.window.mustReconnect() {
				return nil, errReconnect
			}
		case <-c.done:
			return nil, c.why(errors.New("connection lost"))
		case <-look.C:
			now = time.Now()
			wait, err := c.alive(now)
			if err != nil {
				return nil, err
			}
			due = now.Add(wait)
			look.Reset(wait)
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
			s.log.Warn("credentials not renewed yet", "error", s.scrub(o.err.Error()),
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
		f := &flight{message: s.message(&e.Reading), source: src, entry: e}
		if o, tooLarge := c.oversized(&f.message); tooLarge {
			src.Resolve(e, o)
		} else {
			s.window.publish(f, c.maxPacket, now)
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
		case <-c.done:
			return
		case <-ctx.Done():
			return
		}
	}
}
