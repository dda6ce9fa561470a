package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"fieldbridge/bridge"
)

// maxDownlink is the largest packet the broker may send, so that none can take
// the memory of a small machine.
const maxDownlink = 1 << 20

// link is an open transport and the credentials to log in with.
type link struct {
	conn  *conn
	creds Credentials
	// renewal: it takes over from a connection that was in good order.
	renewal bool
}

// open mints credentials and opens the transport.
func (s *Session) open(ctx context.Context) (*link, error) {
	creds, err := s.opts.Credentials()
	if err != nil {
		return nil, &failure{fmt.Errorf("credentials: %w", err), NoCredentials}
	}
	ctx, cancel := context.WithTimeout(ctx, s.opts.ConnectTimeout)
	defer cancel()
	c, err := s.endpoint().connect(ctx)
	if err != nil {
		return nil, &failure{err, Unreachable}
	}
	return &link{conn: newConn(c), creds: creds}, nil
}

// login sends CONNECT and waits for the answer. On an error the transport is
// closed. Nothing else has been read from it, and nobody else reads.
func (s *Session) login(l *link) (*packets.Connack, error) {
	ca, err := s.logIn(l)
	if err != nil {
		_ = l.conn.Close()
		return nil, err
	}
	if p := ca.Properties; p.MaximumQOS != nil && *p.MaximumQOS == 0 {
		l.conn.disconnect(0)
		_ = l.conn.Close()
		return nil, &ReasonError{Packet: "CONNACK", Code: 0x9B, Reason: "the broker takes QoS 0 only, which is never acknowledged"}
	}
	return ca, nil
}

func (s *Session) logIn(l *link) (*packets.Connack, error) {
	l.conn.await(s.opts.ConnectTimeout)
	l.conn.patience(s.opts.ConnectTimeout)
	_, _ = s.connectPacket(l.creds).WriteTo(l.conn)
	l.creds.Password = bridge.Secret{} // a token is long, and not needed any more
	if err := l.conn.sync(); err != nil {
		// With TLS 1.3 a broker refuses a client's certificate when the client takes
		// the handshake for done. Its alert can still be read, even if it has hung
		// up before the CONNECT is sent.
		var op *net.OpError
		if _, said := l.conn.next(); errors.As(said, &op) && op.Op == "remote error" {
			return nil, fmt.Errorf("log in: %w", said)
		}
		return nil, fmt.Errorf("log in: send CONNECT: %w", err)
	}
	l.conn.release()
	p, err := l.conn.next()
	if err == nil && p.kind != packets.CONNACK {
		err = malformed("answer to CONNECT")
	}
	var content packets.Packet
	if err == nil {
		content, err = unpack(p)
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil, errors.New("log in: the broker closed the connection without an answer to CONNECT: does it speak MQTT v5 on this port?")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("log in: no answer to CONNECT within %s", s.opts.ConnectTimeout)
	case err != nil:
		return nil, fmt.Errorf("log in: %w", err)
	}
	l.conn.awaited()
	ca := content.(*packets.Connack)
	switch {
	case ca.ReasonCode >= 0x80:
		return nil, &ReasonError{
			Packet: "CONNACK", Code: ca.ReasonCode,
			Reason: s.scrub(ca.Properties.ReasonString), Server: s.scrub(ca.Properties.ServerReference),
		}
	case ca.ReasonCode != 0:
		// MQTT 3.1.1 section 3.2.2.3: 1 is "unacceptable protocol version".
		return nil, &ReasonError{Packet: "CONNACK", Code: 0x84}
	}
	return ca, nil
}

func (s *Session) connectPacket(c Credentials) *packets.Connect {
	expiry := seconds(s.opts.SessionExpiry, math.MaxUint32)
	receive := s.opts.ReceiveMaximum
	size := uint32(maxDownlink)
	problems := byte(1)
	return &packets.Connect{
		ProtocolName:    "MQTT",
		ProtocolVersion: 5,
		ClientID:        s.opts.ClientID,
		KeepAlive:       uint16(seconds(s.opts.KeepAlive, math.MaxUint16)),
		CleanStart:      false,
		Username:        c.Username,
		UsernameFlag:    c.Username != "" || !c.Password.IsZero(),
		Password:        []byte(c.Password.Reveal()),
		PasswordFlag:    !c.Password.IsZero(),
		Properties: &packets.Properties{
			SessionExpiryInterval: &expiry,
			ReceiveMaximum:        &receive,
			MaximumPacketSize:     &size,
			RequestProblemInfo:    &problems,
		},
	}
}

func seconds(d time.Duration, limit uint32) uint32 {
	return uint32(min(max(int64(d.Round(time.Second)/time.Second), 1), int64(limit)))
}

// filtersPerSubscribe bounds a SUBSCRIBE packet: brokers bound its size.
const filtersPerSubscribe = 50

// subscribe asks for the downlinks. A refusal by the broker is an operator's
// matter and not returned: readings must go up all the same.
func (c *connection) subscribe(ctx context.Context) error {
	s := c.s
	if len(s.opts.Subscribe) > 0 && c.noWildcards {
		s.note("no downlinks: the broker does not allow wildcards in subscriptions")
		s.log.Error("no downlinks: the broker does not allow wildcards in subscriptions")
		return nil
	}
	ok := true
	for devices := range slices.Chunk(s.opts.Subscribe, filtersPerSubscribe) {
		sub := &packets.Subscribe{PacketID: s.window.subscribing(), Properties: &packets.Properties{}}
		for _, d := range devices {
			sub.Subscriptions = append(sub.Subscriptions, packets.SubOptions{
				Topic: s.opts.Topics.filter(d), QoS: 1,
				RetainHandling: 1, // a retained downlink once, not at each reconnect
			})
		}
		_, _ = sub.WriteTo(c.link.conn) // the connection notes its errors
		answer, err := c.answer(ctx, "subscribe")
		if err != nil {
			return err
		}
		sa, right := answer.(*packets.Suback)
		if !right {
			return &violation{0x82, "subscribe: the broker answered with UNSUBACK"}
		}
		if len(sa.Reasons) != len(devices) {
			return &violation{0x82, fmt.Sprintf("subscribe: the broker answered %d filters with %d codes", len(devices), len(sa.Reasons))}
		}
		for i, code := range sa.Reasons {
			s.opts.Counts.code(suback, code)
			if code < 0x80 {
				continue
			}
			ok = false
			re := &ReasonError{Packet: "SUBACK", Code: code, Reason: s.scrub(sa.Properties.ReasonString)}
			s.note("no downlinks: the subscription was refused: " + re.Error())
			s.log.Error("no downlinks: the broker refused the subscription",
				"device", devices[i], "error", re)
		}
	}
	c.link.conn.release()
	s.subscribed = ok
	return nil
}

// answer waits for the answer to the SUBSCRIBE or UNSUBSCRIBE that has been sent.
func (c *connection) answer(ctx context.Context, to string) (packets.Packet, error) {
	none := errors.New(to + ": no answer from the broker")
	late := time.NewTimer(c.s.opts.ConnectTimeout)
	defer late.Stop()
	select {
	case a := <-c.answers:
		return a, nil
	case <-c.done:
		return nil, c.why(none)
	case <-late.C:
		return nil, none
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Probe connects once, says what the broker answered, and disconnects. It
// leaves the session at the broker as it is, but a gateway that is connected
// with the same client id loses its connection and reconnects.
func (s *Session) Probe(ctx context.Context) error {
	l, err := s.open(ctx)
	if err == nil {
		defer context.AfterFunc(ctx, l.conn.hurry)()
		if _, err = s.login(l); err == nil {
			l.conn.disconnect(0)
			return l.conn.Close()
		}
	}
	return errors.New(s.scrub(err.Error()))
}

var _ bridge.Uplink = (*Session)(nil)
