package session

import "sync"

// aliases are the topic aliases of one connection (MQTT v5 section 3.3.2.3.4):
// numbers for the topics that came first, up to what the server allows. A topic
// is left out only once the server has acknowledged the publish that gave it its
// number, because a server that refused that publish may not know it. They end
// with the connection.
type aliases struct {
	max uint16 // 0: none; set before the first use

	mu     sync.Mutex // guards what follows; apart from the connection's, which is held while writing
	topics map[string]*alias
}

type alias struct {
	number uint16
	giver  uint16 // packet id of the publish that gave it
	known  bool   // to the server
}

const (
	// aliasFrom is the length of a topic from which an alias pays, in bytes.
	aliasFrom = 16
	// maxAliases bounds the memory for them; a server may allow 65,535.
	maxAliases = 1024
)

// use returns the alias to send a topic with, 0 for none, and whether it stands
// for the topic. room is false if the packet may not grow.
func (a *aliases) use(topic string, id uint16, room bool) (number uint16, bare bool) {
	if a.max == 0 || len(topic) < aliasFrom {
		return 0, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	known := a.topics[topic]
	switch {
	case known != nil && known.known:
		return known.number, true
	case known != nil || !room || len(a.topics) >= int(min(a.max, maxAliases)):
		return 0, false
	}
	if a.topics == nil {
		a.topics = map[string]*alias{}
	}
	number = uint16(len(a.topics) + 1)
	a.topics[topic] = &alias{number: number, giver: id}
	return number, false
}

// confirm notes that the server has acknowledged a publish on a topic.
func (a *aliases) confirm(topic string, id uint16) {
	if a.max == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if t := a.topics[topic]; t != nil && t.giver == id {
		t.known = true
	}
}

// publish sends a message. What is sent again neither gives nor uses an alias. An
// error is noted and ends the connection.
func (c *conn) publish(m *message, id uint16, dup bool, limit int) {
	c.Lock()
	defer c.Unlock()
	if c.failed != nil {
		return
	}
	var number uint16
	var bare bool
	if !dup && !m.response && c.aliases.max > 0 {
		// An alias, and the bytes by which two lengths may grow with it.
		room := limit == 0 || limit > aliasSize+2 && m.fits(limit-aliasSize-2)
		number, bare = c.aliases.use(m.topic, id, room)
	}
	c.buf = appendPublish(c.buf, m, id, dup, number, bare)
}
