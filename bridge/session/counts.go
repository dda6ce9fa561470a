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
	codes      [packetKinds][256]atomic.Uint64
	reconnects [causes]atomic.Uint64
}

// packetKind is a packet that brings a reason code.
type packetKind int

const (
	connack packetKind = iota
	pubackPacket
	disconnect
	suback

	packetKinds int = iota
)

var packetNames = [packetKinds]string{connack: "CONNACK", pubackPacket: "PUBACK", disconnect: "DISCONNECT", suback: "SUBACK"}

// Codes yields, for every kind of packet that brings reason codes ("CONNACK",
// "PUBACK", "DISCONNECT", "SUBACK"), how often each code has come.
func (c *Counts) Codes() iter.Seq2[string, map[byte]uint64] {
	return func(yield func(string, map[byte]uint64) bool) {
		for kind := range c.codes {
			came := map[byte]uint64{}
			for code := range c.codes[kind] {
				if n := c.codes[kind][code].Load(); n > 0 {
					came[byte(code)] = n
				}
			}
			if !yield(packetNames[kind], came) {
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

func (c *Counts) code(kind packetKind, code byte) {
	if c != nil {
		c.codes[kind][code].Add(1)
	}
}

// answer counts the code of a CONNACK or DISCONNECT that err is about, if it is.
func (c *Counts) answer(err error) {
	re := asReason(err)
	if re == nil {
		return
	}
	switch re.Packet {
	case packetNames[connack]:
		c.code(connack, re.Code)
	case packetNames[disconnect]:
		c.code(disconnect, re.Code)
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
