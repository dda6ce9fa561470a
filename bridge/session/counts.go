package session

import (
	"errors"
	"iter"
	"sync/atomic"
)

// Cause is why a session connects again.
type Cause int

// The causes. Each stands for one more attempt to connect, not for a change of
// the session's state.
const (
	// Renewed: the credentials were about to run out.
	Renewed Cause = iota
	// NoCredentials: none could be made, because the clock is wrong, say.
	NoCredentials
	// Unreachable: no transport, for a fault of DNS, TCP or TLS.
	Unreachable
	// NotLoggedIn: the broker refused CONNECT or did not answer it.
	NotLoggedIn
	// Disconnected: the broker sent DISCONNECT.
	Disconnected
	// ConnectionLost: it ended without one.
	ConnectionLost
	// PubackTimeout: the broker did not acknowledge a publish.
	PubackTimeout
	// OutOfStep: a PUBACK's reason code asked for a new connection.
	OutOfStep

	causes int = iota
)

var causeNames = [causes]string{
	Renewed: "renewal", NoCredentials: "no_credentials", Unreachable: "unreachable",
	NotLoggedIn: "not_logged_in", Disconnected: "disconnected", ConnectionLost: "connection_lost",
	PubackTimeout: "puback_timeout", OutOfStep: "publish_refused",
}

// String returns a name for logs and metrics, in lower case with underscores.
func (c Cause) String() string { return causeNames[c] }

// Counts count what the sessions that share them do. The zero value is ready;
// all methods may be called from any goroutine.
type Counts struct {
	pubacks    [256]atomic.Uint64 // by reason code
	reconnects [causes]atomic.Uint64
}

// Pubacks yields every reason code that has come in a PUBACK, and how often it
// has.
func (c *Counts) Pubacks() iter.Seq2[byte, uint64] {
	return func(yield func(byte, uint64) bool) {
		for code := range c.pubacks {
			if n := c.pubacks[code].Load(); n > 0 && !yield(byte(code), n) {
				return
			}
		}
	}
}

// Reconnects yields every cause, and how often a session has connected again, or
// tried to, because of it.
func (c *Counts) Reconnects() iter.Seq2[Cause, uint64] {
	return func(yield func(Cause, uint64) bool) {
		for why := range c.reconnects {
			if !yield(Cause(why), c.reconnects[why].Load()) {
				return
			}
		}
	}
}

func (c *Counts) puback(code byte) {
	if c != nil {
		c.pubacks[code].Add(1)
	}
}

func (c *Counts) reconnect(why Cause) {
	if c != nil {
		c.reconnects[why].Add(1)
	}
}

// failure is an error that says by itself why the session connects again.
type failure struct {
	error
	cause Cause
}

func (f *failure) Unwrap() error { return f.error }

// causeOf says why a session connects again after what open or serve returned.
func causeOf(err error) Cause {
	var known *failure
	var answer *ReasonError
	var puback errPuback
	switch {
	case errors.As(err, &known):
		return known.cause
	case errors.As(err, &puback):
		return PubackTimeout
	case errors.Is(err, errReconnect):
		return OutOfStep
	case errors.As(err, &answer) && answer.Packet == "DISCONNECT":
		return Disconnected
	default:
		return ConnectionLost
	}
}

// Connector is the name of the session's connector, as in Options.
func (s *Session) Connector() string { return s.opts.Connector }
