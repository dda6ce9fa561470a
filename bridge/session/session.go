package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fieldbridge/bridge"
)

// Credentials are what one CONNECT carries.
type Credentials struct {
	// Username and Password are left out of the CONNECT if they are empty, but with
	// a password there is always a user name: some brokers drop it otherwise.
	Username string
	Password bridge.Secret
	// Renew is when the session should reconnect with fresh credentials and
	// Expires when these become worthless; zero means never.
	Renew, Expires time.Time
	// Key names the key that the password was signed with, for people, if there
	// are several.
	Key string
	// Answered, if set, is told whether the broker let the session in with these
	// credentials. It is not called if there was no answer, or one about
	// something else. After a refusal it reports whether others are worth an
	// attempt at once.
	Answered func(accepted bool) (another bool)
}

// Options describe a session. The required ones come first.
type Options struct {
	Endpoint *Endpoint
	ClientID string
	// Credentials is called for every CONNECT, once the Pacer has let it pass. An
	// error counts as a failed attempt.
	Credentials func() (Credentials, error)
	Topics      Topics

	// Subscribe lists the devices whose downlinks are wanted.
	Subscribe []bridge.DeviceID
	// Downlinks gets them; see bridge.Bridge.Downlink. PUBACKs and other
	// downlinks of this session wait while it runs.
	Downlinks func(d bridge.Downlink, o bridge.Origin, done func())
	// Acked is told, if set, that the PUBACK of a downlink has been sent.
	Acked func(session string, packetID uint16)
	// Forgotten is told, if set, that the broker has no session of ours (any
	// more).
	Forgotten func(session string)
	// Down is told, if set, that the session has lost its connection or could
	// not get one, once per change.
	Down func(*Session)
	// Counts, if set, count what happens. The sessions of a connector share them.
	Counts *Counts

	// Connector names the session's connector in logs.
	Connector string
	// KeepAlive is rounded to seconds. Default 60 s.
	KeepAlive time.Duration
	// SessionExpiry is how long the broker keeps the session without a
	// connection. Default 24 h.
	SessionExpiry time.Duration
	// ReceiveMaximum bounds what is in flight, in both directions. Default 32.
	ReceiveMaximum uint16
	// TopicAlias has numbers stand for long topics on the wire where the broker
	// allows it.
	TopicAlias bool
	// UserProperties adds id, time and gateway to each reading.
	UserProperties bool
	// When is a reading's time, or zero if it is not known, as of one that came
	// in an earlier boot before the clock was set. Default: Reading.Time.
	When func(*bridge.Reading) time.Time
	// Gateway is this machine's name in the user properties.
	Gateway string
	// Secrets are removed from what the broker says, because a reason string
	// may repeat a topic.
	Secrets []bridge.Secret

	// Pacer, if set, is the budget of connects that the sessions of a connector
	// share.
	Pacer *Pacer
	// OnDemand: connected while there is something to send, and once at first if
	// there is something to subscribe to, instead of all the time. Downlinks
	// wait at the broker meanwhile.
	OnDemand bool
	// IdleTimeout is how long a session on demand stays connected without
	// traffic. Default 30 s.
	IdleTimeout time.Duration
	// AllowedServers are the hosts, or host:port, to which the broker may send
	// the session, with its credentials.
	AllowedServers []string

	Backoff Backoff
	// ConnectTimeout bounds the way to an open transport, and the wait for
	// CONNACK and SUBACK. Default 10 s.
	ConnectTimeout time.Duration
	// PubackTimeout is how long a PUBACK may take before the connection is
	// given up. Default 30 s.
	PubackTimeout time.Duration
	Logger        *slog.Logger
}

// Session is one MQTT v5 session. Make it with New and call Run once; the other
// methods may be called from any goroutine at any time.
type Session struct {
	opts   Options
	log    logger
	window *window
	wake   chan struct{} // capacity 1: readings, room or trouble; look again
	renew  chan struct{} // capacity 1: reconnect with fresh credentials

	unasked   atomic.Int32 // downlinks at QoS 0 that are being delivered
	used      atomic.Bool  // something has come since the pump last looked
	abandoned atomic.Bool  // the broker is to forget the session

	// Owned by Run.
	subscribed bool
	unwanted   []string // filters to unsubscribe
	noAlias    bool     // the broker objected to one
	met        bool     // the broker has let us in once
	key        string   // the one that it let us in with; "" if there is but one
	redirect   redirect
	throttle   throttle

	mu      sync.Mutex // guards what follows
	ready   []bridge.Source
	trouble string
	up      bool
	idle    bool
	alarm   bool
	since   time.Time // when this connection came up; zero: there is none
	expires time.Time
	expiry  time.Duration
	last    string // the last error
	lastAt  time.Time
}

// State is a snapshot for people.
type State struct {
	Up bool
	// Idle: it is on demand, and not connected because nothing is to be sent.
	Idle bool
	// Trouble says why it is not up; "" if that is as it should be.
	Trouble string
	// Alarm: nothing but a person will mend the trouble.
	Alarm bool
	// TokenExpires is when the credentials in use become worthless; zero means
	// never.
	TokenExpires time.Time
	// SessionExpiry is how long the broker keeps the session without a
	// connection: what was asked for, unless the broker set another time. Zero
	// before the first connection.
	SessionExpiry time.Duration
	// LastError is the last thing that went wrong, and LastErrorAt when; "" if
	// nothing did. It stays when the session is up again. It names no secret.
	LastError   string
	LastErrorAt time.Time
}

// New checks the options. Nothing is connected before Run.
func New(o Options) (*Session, error) {
	if o.Endpoint == nil || o.ClientID == "" || o.Credentials == nil || o.Topics.Uplink == "" {
		return nil, errors.New("session: endpoint, client id, credentials and the uplink topic are required")
	}
	if len(o.Subscribe) > 0 && (o.Downlinks == nil || !wild(o.Topics.Downlink)) {
		return nil, errors.New("session: subscriptions need a downlink topic that ends in /# or /+ and a handler")
	}
	if o.When == nil {
		o.When = func(r *bridge.Reading) time.Time { return r.Time }
	}
	if o.KeepAlive <= 0 {
		o.KeepAlive = time.Minute
	}
	if o.SessionExpiry <= 0 {
		o.SessionExpiry = 24 * time.Hour
	}
	if o.ReceiveMaximum == 0 {
		o.ReceiveMaximum = 32
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = 30 * time.Second
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	if o.PubackTimeout <= 0 {
		o.PubackTimeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Backoff = o.Backoff.withDefaults()
	s := &Session{
		opts:    o,
		log:     logger{o.Logger, o.Connector, o.ClientID},
		window:  newWindow(int(o.ReceiveMaximum)),
		wake:    make(chan struct{}, 1),
		renew:   make(chan struct{}, 1),
		trouble: "not connected to the broker yet",
	}
	if o.OnDemand {
		s.idle, s.trouble = true, ""
	}
	s.window.downlinks = s.downlink
	s.window.acked = func(packetID uint16) {
		if o.Acked != nil {
			o.Acked(o.ClientID, packetID)
		}
	}
	s.window.onPuback = func(code byte, reason string) (bridge.Outcome, bool) {
		o.Counts.code(pubackPacket, code)
		out, reconnect := puback(code, s.scrub(reason))
		if code == 0x87 && s.State().TokenExpires.IsZero() {
			// No token can have run out, and the connection may be shared with
			// devices that are in good order.
			reconnect = false
		}
		return out, reconnect
	}
	return s, nil
}

// Offer implements bridge.Uplink.
func (s *Session) Offer(src bridge.Source) {
	s.mu.Lock()
	s.ready = append(s.ready, src)
	s.mu.Unlock()
	s.signal()
}

// take removes the source whose turn it is.
func (s *Session) take() bridge.Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) == 0 {
		s.ready = nil
		return nil
	}
	src := s.ready[0]
	s.ready[0] = nil
	s.ready = s.ready[1:]
	return src
}

// putBack queues a source behind the others.
func (s *Session) putBack(src bridge.Source) {
	s.mu.Lock()
	s.ready = append(s.ready, src)
	s.mu.Unlock()
}

func (s *Session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Renew asks for fresh credentials before those in use run out, because the
// clock that they were made by was wrong, say. Without a connection it ends the
// pause before the next attempt.
func (s *Session) Renew() {
	select {
	case s.renew <- struct{}{}:
	default:
	}
	s.signal()
}

// Trouble implements bridge.Uplink.
func (s *Session) Trouble() string { return s.State().Trouble }

// State tells how the session is.
func (s *Session) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return State{
		Up: s.up, Idle: s.idle, Trouble: s.trouble, Alarm: s.alarm, TokenExpires: s.expires,
		SessionExpiry: s.expiry, LastError: s.last, LastErrorAt: s.lastAt,
	}
}

func (s *Session) setUp(c Credentials) {
	s.mu.Lock()
	s.up, s.idle, s.alarm, s.trouble, s.expires = true, false, false, "", c.Expires
	s.since = time.Now()
	s.mu.Unlock()
}

// setDown notes the trouble and reports whether it is news.
func (s *Session) setDown(trouble string, alarm bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	news := s.up || kind(s.trouble) != kind(trouble)
	s.up, s.idle, s.trouble, s.alarm = false, false, trouble, alarm
	return news
}

// setIdle notes that the session is not connected and need not be.
func (s *Session) setIdle() {
	s.mu.Lock()
	s.up, s.idle, s.alarm, s.trouble, s.expires = false, true, false, "", time.Time{}
	s.mu.Unlock()
}

// lasted is how long the connection that has ended was up; 0 if it never was.
func (s *Session) lasted() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	since := s.since
	if s.since = (time.Time{}); since.IsZero() {
		return 0
	}
	return time.Since(since)
}

// note remembers an error, without secrets, for State.
func (s *Session) note(text string) {
	s.mu.Lock()
	s.last, s.lastAt = text, time.Now()
	s.mu.Unlock()
}

// kind is a text without its digits: port numbers and times of day, as in
// "read tcp 10.0.0.7:40112->…" or "current time …", do not make it news.
func kind(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, text)
}

// scrub removes the session's secrets from text that came from outside.
func (s *Session) scrub(text string) string {
	for _, secret := range s.opts.Secrets {
		if !secret.IsZero() {
			text = strings.ReplaceAll(text, secret.Reveal(), secret.String())
		}
	}
	return text
}

// Run keeps the session connected, or able to connect, until ctx is done, then
// disconnects in order and returns nil. What is in flight then goes back to its
// source as lost.
func (s *Session) Run(ctx context.Context) error {
	defer s.window.close()
	defer s.throttle.stop()
	var past history
	for s.wanted(ctx) {
		l, err := s.openInTurn(ctx, false)
		for err == nil && l != nil {
			l, err = s.serve(ctx, l)
		}
		if ctx.Err() != nil {
			break
		}
		lasted := s.lasted()
		if errors.Is(err, errIdle) {
			past = history{thrown: past.thrown}
			s.log.Debug("session idle: nothing to send", "was_up", lasted.Round(time.Millisecond))
			continue
		}
		s.opts.Counts.answer(err)
		s.opts.Counts.reconnect(causeOf(err))
		s.steer(err, lasted)
		s.slowDown(err)
		pause := past.pause(s.opts.Backoff, err, lasted)
		s.report(past.explain(err), pause)
		select {
		case <-time.After(pause):
		case <-s.renew:
		case <-ctx.Done():
		}
	}
	if s.setDown("the gateway is stopping", false) && s.opts.Down != nil {
		s.opts.Down(s)
	}
	return nil
}

// answered tells where the credentials came from what the broker said to them,
// and says which key worked, if there are several, once per change.
func (s *Session) answered(c Credentials, err error) {
	re := asReason(err)
	refused := re != nil && (re.Code == 0x86 || re.Code == 0x87)
	if err == nil {
		s.met = true
		s.opts.Counts.code(connack, 0)
	}
	if c.Answered == nil || err != nil && !refused {
		return
	}
	another := c.Answered(!refused)
	switch {
	case refused:
		re.soon = another
		if another && s.key != "" {
			s.key = ""
			s.log.Warn("the broker does not take this key any more, another one is tried", "key", c.Key, "error", re)
		}
	case c.Key != s.key:
		s.key = c.Key
		s.log.Info("the broker takes this key", "key", c.Key)
	}
}

// slowDown makes the session one that sends little, if the broker asks for it.
func (s *Session) slowDown(err error) {
	if re := asReason(err); re != nil && re.Packet == packetNames[disconnect] && (re.Code == 0x96 || re.Code == 0x97) {
		s.throttle.complaint(time.Now())
	}
}

// report logs a failure once per change and at debug level when it repeats.
func (s *Session) report(err error, pause time.Duration) {
	text := s.scrub(err.Error())
	s.note(text)
	alarm := false
	if re := asReason(err); re != nil {
		alarm = react(re.Packet, re.Code).alarm && !re.soon
	}
	level := slog.LevelDebug
	if s.setDown(text, alarm) {
		level = slog.LevelWarn
		if alarm {
			level = slog.LevelError
		}
		if s.opts.Down != nil {
			s.opts.Down(s)
		}
	}
	s.log.Log(context.Background(), level, "session down", "error", text, "retry_in", pause.Round(time.Millisecond))
}

// errPuback ends a connection whose broker does not answer.
type errPuback struct{ after time.Duration }

func (e errPuback) Error() string {
	return fmt.Sprintf("the broker did not acknowledge a publish within %s", e.after)
}
