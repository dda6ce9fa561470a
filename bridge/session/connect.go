package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/eclipse/paho.golang/paho"

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
	c, err := s.opts.Endpoint.connect(ctx)
	if err != nil {
		return nil, &failure{err, Unreachable}
	}
	return &link{conn: newConn(c), creds: creds}, nil
}

// login makes the MQTT connection. On an error the transport is closed.
func (s *Session) login(ctx context.Context, l *link) (*paho.Client, *paho.Connack, error) {
	client := paho.NewClient(paho.ClientConfig{
		ClientID:      s.opts.ClientID,
		Conn:          l.conn,
		Session:       s.window,
		PacketTimeout: s.opts.ConnectTimeout,
		PingHandler:   pinger{paho.NewDefaultPinger(), l.conn},
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){
			func(p paho.PublishReceived) (bool, error) {
				// QoS 0 only: the others reach the window directly.
				return s.downlink(p.Packet.Packet()), nil
			},
		},
		OnServerDisconnect: func(*paho.Disconnect) {},
	})
	ca, err := client.Connect(ctx, s.connectPacket(l.creds))
	switch {
	case err == nil:
	case ca != nil && ca.ReasonCode >= 0x80:
		re := &ReasonError{Packet: "CONNACK", Code: ca.ReasonCode}
		if ca.Properties != nil {
			re.Reason = s.scrub(ca.Properties.ReasonString)
		}
		return nil, nil, re
	case errors.Is(err, errRefused):
		// MQTT 3.1.1 section 3.2.2.3: 1 is "unacceptable protocol version".
		return nil, nil, &ReasonError{Packet: "CONNACK", Code: 0x84}
	case errors.Is(err, io.EOF):
		return nil, nil, errors.New("log in: the broker closed the connection without an answer to CONNECT: does it speak MQTT v5 on this port?")
	case errors.Is(err, context.DeadlineExceeded):
		return nil, nil, fmt.Errorf("log in: no answer to CONNECT within %s", s.opts.ConnectTimeout)
	default:
		return nil, nil, fmt.Errorf("log in: %w", err)
	}
	if p := ca.Properties; p != nil && p.MaximumQoS != nil && *p.MaximumQoS == 0 {
		_ = client.Disconnect(&paho.Disconnect{ReasonCode: 0})
		return nil, nil, &ReasonError{Packet: "CONNACK", Code: 0x9B, Reason: "the broker takes QoS 0 only, which is never acknowledged"}
	}
	return client, ca, nil
}

func (s *Session) connectPacket(c Credentials) *paho.Connect {
	expiry := seconds(s.opts.SessionExpiry, math.MaxUint32)
	receive := s.opts.ReceiveMaximum
	size := uint32(maxDownlink)
	return &paho.Connect{
		ClientID:     s.opts.ClientID,
		KeepAlive:    uint16(seconds(s.opts.KeepAlive, math.MaxUint16)),
		CleanStart:   false,
		Username:     c.Username,
		UsernameFlag: true,
		Password:     []byte(c.Password.Reveal()),
		PasswordFlag: true,
		Properties: &paho.ConnectProperties{
			SessionExpiryInterval: &expiry,
			ReceiveMaximum:        &receive,
			MaximumPacketSize:     &size,
			RequestProblemInfo:    true,
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
func (s *Session) subscribe(ctx context.Context, client *paho.Client) error {
	devices := s.opts.Subscribe
	ok := true
	for len(devices) > 0 {
		n := min(len(devices), filtersPerSubscribe)
		sub := &paho.Subscribe{}
		for _, d := range devices[:n] {
			sub.Subscriptions = append(sub.Subscriptions, paho.SubscribeOptions{
				Topic: s.opts.Topics.filter(d), QoS: 1,
				RetainHandling: 1, // a retained downlink once, not at each reconnect
			})
		}
		sa, err := client.Subscribe(ctx, sub)
		if errors.Is(err, paho.ErrInvalidArguments) {
			s.note("no downlinks: the broker does not allow wildcards in subscriptions")
			s.log.Error("no downlinks: the broker does not allow wildcards in subscriptions")
			return nil
		}
		if err != nil && sa == nil {
			return errors.New("subscribe: no answer from the broker")
		}
		for i, code := range sa.Reasons {
			if code < 0x80 {
				continue
			}
			ok = false
			re := &ReasonError{Packet: "SUBACK", Code: code}
			if sa.Properties != nil {
				re.Reason = s.scrub(sa.Properties.ReasonString)
			}
			s.note("no downlinks: the subscription was refused: " + re.Error())
			s.log.Error("no downlinks: the broker refused the subscription; check downlink_topic and the device's rights",
				"device", devices[min(i, n-1)], "error", re)
		}
		devices = devices[n:]
	}
	s.subscribed = ok
	return nil
}

// Probe connects once, says what the broker answered, and disconnects. It
// leaves the session at the broker as it is, but a gateway that is connected
// with the same client id loses its connection and reconnects.
func (s *Session) Probe(ctx context.Context) error {
	l, err := s.open(ctx)
	if err == nil {
		defer context.AfterFunc(ctx, l.conn.hurry)()
		var client *paho.Client
		if client, _, err = s.login(ctx, l); err == nil {
			return client.Disconnect(&paho.Disconnect{ReasonCode: 0})
		}
	}
	return errors.New(s.scrub(err.Error()))
}

// pinger tells the connection why it is going to be closed.
type pinger struct {
	*paho.DefaultPinger
	conn *conn
}

var _ bridge.Uplink = (*Session)(nil)
