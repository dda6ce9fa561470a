package session

import (
	"context"
	"slices"

	"github.com/eclipse/paho.golang/packets"
)

// ClientID is the session's name at its broker.
func (s *Session) ClientID() string { return s.opts.ClientID }

// Replace tells a session, before Run, which one it takes over at the broker:
// one with the same client id that does not run any more. What the old one had
// subscribed and s does not want is unsubscribed.
func (s *Session) Replace(old *Session) {
	wanted := s.filters()
	for _, f := range slices.Concat(old.filters(), old.unwanted) {
		if !slices.Contains(wanted, f) && !slices.Contains(s.unwanted, f) {
			s.unwanted = append(s.unwanted, f)
		}
	}
}

// Abandon has the broker forget the session when Run ends in order: nobody will
// take it over. Downlinks that wait there for it are lost.
func (s *Session) Abandon() { s.abandoned.Store(true) }

// filters are secrets if the topics hold one.
func (s *Session) filters() []string {
	fs := make([]string, 0, len(s.opts.Subscribe))
	for _, d := range s.opts.Subscribe {
		fs = append(fs, s.opts.Topics.filter(d))
	}
	return fs
}

// unsubscribe takes back what nobody wants any more. A refusal is not returned:
// what comes all the same has no route and is dropped.
func (c *connection) unsubscribe(ctx context.Context) error {
	for fs := range slices.Chunk(c.s.unwanted, filtersPerSubscribe) {
		un := &packets.Unsubscribe{PacketID: c.s.window.subscribing(), Topics: fs, Properties: &packets.Properties{}}
		_, _ = un.WriteTo(c.link.conn) // the connection notes its errors
		if _, err := c.answer(ctx, "unsubscribe"); err != nil {
			return err
		}
	}
	c.s.unwanted = nil
	return nil
}

// farewell is the packet that ends a session in order.
func farewell() *packets.Disconnect {
	return &packets.Disconnect{Properties: &packets.Properties{SessionExpiryInterval: new(uint32)}}
}
