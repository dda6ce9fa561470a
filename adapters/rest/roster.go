package rest

import (
	"fmt"
	"net/http"

	"fieldbridge/bridge"
)

// roster is the clients of a server until there are others. It does not change.
type roster struct {
	clients []*client     // none: everyone is let in
	over    chan struct{} // closed when another one is in use
}

// newRoster makes a roster, in which a token that is in an older one, too, goes
// on with what is left of its rate.
func newRoster(clients []*client, before *roster) *roster {
	now := &roster{clients: clients, over: make(chan struct{})}
	was := map[string]*client{}
	if before != nil {
		for _, c := range before.clients {
			was[c.Name] = c
		}
	}
	for _, c := range clients {
		c.in = now
		if old := was[c.Name]; old != nil && old.Rate == c.Rate {
			c.limiter = old.limiter
		}
	}
	return now
}

// SetTokens puts other tokens in the place of Options.Tokens. Connections, and
// the requests under way of clients that are known before and after, go on;
// streams, batches and requests that wait end if their token is not valid any
// more. With an error nothing has changed: others cannot be made of the tokens,
// or without any the endpoint must not be where it is. It is not called several
// times at once.
func (s *Server) SetTokens(tokens []Token) error {
	clients, err := newClients(tokens)
	if err != nil {
		return err
	}
	o := s.opts
	o.Tokens = tokens
	if err := o.fits(s.listener); err != nil {
		return fmt.Errorf("http tokens: %w", err)
	}
	before := s.roster.Load()
	s.roster.Store(newRoster(clients, before))
	close(before.over)
	return nil
}

// holder is who a request that was let in belongs to by now, nil without tokens:
// tokens can come and go while it is under way. The channel is closed when it is
// time to ask again. An error is for fail: the request is to end.
func (s *Server) holder(r *http.Request) (*client, <-chan struct{}, error) {
	now, was := s.roster.Load(), clientOf(r)
	switch {
	case len(now.clients) == 0 || was != nil && was.in == now:
		return was, now.over, nil
	case was == nil:
		return nil, nil, invalidToken("by now a token is needed; send the request again with the header Authorization: Bearer")
	}
	token, err := bearer(r)
	if err != nil {
		return nil, nil, err
	}
	is := now.client(token)
	if is == nil || was.Directions&^is.Directions != 0 {
		return nil, nil, invalidToken("the token is not valid any more; see this gateway's token files")
	}
	return is, now.over, nil
}

// mayWait is mayUse for a request that goes on: the channel is closed when it is
// time to ask again.
func (s *Server) mayWait(r *http.Request, device bridge.DeviceID) (<-chan struct{}, error) {
	c, others, err := s.holder(r)
	if err == nil && c != nil && !c.MayUse(device) {
		err = errOtherDevice
	}
	return others, err
}
