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
//
// What only begins and ends a connection is done by others, here and in pump: a
// stack is as large as the frames that wait for the next event, and there is one
// for each session.
func (s *Session) serve(ctx context.Context, l *link) (*link, error) {
	defer context.AfterFunc(ctx, func() { l.conn.hurry(); s.signal() })()
	up, err := s.establish(ctx, l)
	if err != nil {
		return nil, err
	}
	next, err := up.pump(ctx)
	up.leave(err)
	return next, err
}

// establish logs in, takes the session up where it was left, and subscribes.
func (s *Session) establish(ctx context.Context, l *link) (*connection, error) {
	ca, err := s.login(l)
	s.answered(l.creds, err)
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
	if !s.subscribed && len(s.opts.Subscribe) > 0 || len(s.unwanted) > 0 {
		up.answers = make(chan packets.Packet, 1)
	}
	go up.read() // only now, so that no downlink comes before
	if !s.subscribed {
		if err := up.subscribe(ctx); err != nil {
			up.leave(err)
			return nil, err
		}
	}
	if len(s.unwanted) > 0 {
		if err := up.unsubscribe(ctx); err != nil {
			up.leave(err)
			return nil, err
		}
	}
	up.answers = nil // none is awaited from here on
	s.setUp(l.creds)
	level := slog.LevelInfo
	if l.renewal {
		level = slog.LevelDebug // nothing has changed for an operator
	}
	s.log.Log(ctx, level, "session up", "session_present", ca.SessionPresent, "expires", l.creds.Expires)
	return up, nil
}

// connection is a session while it is up. It belongs to the goroutine of Run;
// its reading goroutine uses what never changes.
type connection struct {
	s       *Session
	link    *link
	done    chan struct{}       // closed when nothing is read any more
	answers chan packets.Packet // capacity 1: the SUBACK or UNSUBACK that is awaited; nil if none is

	maxPacket   int // bytes; 0: the broker set no limit
	noWildcards bool
	keepAlive   time.Duration
	pinged      time.Time // when the last PINGREQ was sent; zero if it is answered
	hushed      bool      // its answer is kept by the kernel until it is looked for
	used        time.Time // when something was last sent, or came; of a session on demand

	look *time.Timer // signals; one for all that is waited for
	due  time.Time   // when it fires; zero: look now
	renewal
}

// renewal is the way to the next link, with fresh credentials.
type renewal struct {
	at       time.Time          // when to begin; zero: never
	opening  chan opened        // nil while no link is on the way
	cancel   context.CancelFunc // of opening
	failures int
}

// newConnection obeys what the broker's CONNACK demands. (Retain Available asks
// for nothing: no reading is sent with RETAIN.)
func (s *Session) newConnection(l *link, p *packets.Properties) *connection {
	c := &connection{s: s, link: l, done: make(chan struct{}), used: time.Now()}
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
// dead, and waits for the reading goroutine. The session stays at the broker,
// unless it is abandoned.
func (c *connection) leave(why error) {
	var dead errSilent
	if !errors.As(why, &dead) && c.s.window.disconnected() == nil {
		code := byte(0)
		var bad *violation
		if errors.As(why, &bad) || errors.As(c.link.conn.cause(), &bad) {
			code = bad.code
		}
		if code == 0 && c.s.abandoned.Load() {
			_, _ = farewell().WriteTo(c.link.conn)
		} else {
			c.link.conn.disconnect(code)
		}
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
		return &ReasonError{
			Packet: "DISCONNECT", Code: d.ReasonCode,
			Reason: c.s.scrub(d.Properties.ReasonString), Server: c.s.scrub(d.Properties.ServerReference),
		}
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

// pump carries readings until something ends the connection. All that can happen
// comes as a signal, because a goroutine that waits for one channel costs an idle
// session half a KiB less than one that waits for six.
func (c *connection) pump(ctx context.Context) (*link, error) {
	s := c.s
	if r := c.link.creds.Renew; !r.IsZero() {
		c.at = time.Now().Add(time.Until(r)) // not moved by a step of the clock
	}
	c.look = time.AfterFunc(s.opts.PubackTimeout, s.signal)
	defer c.stop()
	for {
		if next, err := c.turn(ctx); next != nil || err != nil {
			return next, err
		}
		<-s.wake
	}
}

// turn does what there is to do. It returns the next link, or what ended this
// connection.
func (c *connection) turn(ctx context.Context) (*link, error) {
	s := c.s
	select {
	case <-c.done:
		return nil, c.why(errLost)
	default:
	}
	if ctx.Err() != nil {
		c.settle(context.Background())
		return nil, ctx.Err()
	}
	if s.window.mustReconnect() {
		return nil, errReconnect
	}
	select {
	case <-s.renew:
		if !c.link.creds.Expires.IsZero() {
			c.at, c.due = time.Now(), time.Time{}
		}
	default:
	}
	select {
	case o := <-c.opening:
		if c.reopened(ctx, o) {
			return o.link, nil
		}
	default:
	}
	now := time.Now()
	if s.used.Swap(false) {
		c.used = now
	}
	if !now.Before(c.due) {
		if err := c.tick(ctx, now); err != nil {
			return nil, err
		}
	}
	c.send(now)
	return nil, nil
}

// errLost: the connection has ended and nothing says why.
var errLost = errors.New("connection lost")

// tick does what it is time for, and sets the timer for what comes next.
func (c *connection) tick(ctx context.Context, now time.Time) error {
	wait, err := c.alive(now)
	if err != nil {
		return err
	}
	if c.opening == nil && !c.at.IsZero() {
		if left := c.at.Sub(now); left > 0 {
			wait = min(wait, left)
		} else {
			c.reopen(ctx)
		}
	}
	if s := c.s; s.opts.OnDemand {
		if !s.quiet() {
			c.used = now
		}
		left := c.used.Add(s.opts.IdleTimeout).Sub(now)
		if left <= 0 {
			return errIdle
		}
		wait = min(wait, left)
	}
	c.due = now.Add(wait)
	c.look.Reset(wait)
	return nil
}

// reopen opens the next link while this one carries on.
func (c *connection) reopen(ctx context.Context) {
	ctx, c.cancel = context.WithCancel(ctx)
	c.opening = make(chan opened, 1)
	go func(s *Session, to chan<- opened) {
		l, err := s.openInTurn(ctx, true)
		to <- opened{l, err}
		s.signal()
	}(c.s, c.opening)
}

// reopened reports whether the next link is there, and everything in flight
// settled so that it can take over. Otherwise there will be another attempt.
func (c *connection) reopened(ctx context.Context, o opened) bool {
	c.cancel()
	c.opening = nil
	if o.err == nil {
		c.settle(ctx)
		c.s.opts.Counts.reconnect(Renewed)
		return true
	}
	c.failures++
	pause := c.s.opts.Backoff.wait(c.failures, o.err)
	if left := time.Until(c.link.creds.Expires); left > 0 {
		pause = min(pause, left/4+time.Second)
	}
	text := c.s.scrub(o.err.Error())
	c.s.note("credentials not renewed yet: " + text)
	c.s.log.Warn("credentials not renewed yet", "error", text,
		"retry_in", pause.Round(time.Millisecond), "expires", c.link.creds.Expires)
	c.at, c.due = time.Now().Add(pause), time.Time{}
	return false
}

// stop ends the timer, and a next link that nobody will use.
func (c *connection) stop() {
	c.look.Stop()
	if c.opening == nil {
		return
	}
	c.cancel()
	if o := <-c.opening; o.link != nil {
		_ = o.link.conn.Close()
	}
}

// errReconnect: a PUBACK asked for a new connection.
var errReconnect = errors.New("the broker refused a publish as not authorized or out of step: reconnecting")

// send publishes what waits, as far as the window has room.
func (c *connection) send(now time.Time) {
	s := c.s
	defer c.expectPubacks(now)
	c.link.conn.cork()
	defer c.link.conn.uncork()
	if s.throttle.hold(now, s.signal) {
		return
	}
	s.window.oneAtATime(s.throttle.active(now))
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
		if o, unfit := c.unfit(&f.message); unfit {
			src.Resolve(e, o)
		} else {
			s.window.publish(f, c.maxPacket, now)
			c.used = now
			room--
		}
		s.putBack(src)
	}
}

// expectPubacks has the timer fire when the PUBACK of what is sent now is late.
func (c *connection) expectPubacks(now time.Time) {
	if at := now.Add(c.s.opts.PubackTimeout); at.Before(c.due) && c.s.window.inFlight() > 0 {
		c.due = at
		c.look.Reset(c.s.opts.PubackTimeout)
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
