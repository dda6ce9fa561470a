package frame

import "time"

// Echo takes out of what is received what was sent just before: many RS-485
// adapters hear themselves. The zero value expects nothing. It is used by one
// goroutine at a time.
type Echo struct {
	want  []byte
	until time.Time
}

// Sent says that p is on its way and that its echo will be over by until.
func (e *Echo) Sent(p []byte, until time.Time) {
	e.want = append(e.want, p...)
	e.until = until
}

// Filter returns p, which came at the time at, without the echo at its
// beginning. The first byte that differs ends the expectation: then the line has
// been disturbed, or there is no echo, and nothing more is taken out.
func (e *Echo) Filter(p []byte, at time.Time) []byte {
	if len(e.want) == 0 {
		return p
	}
	if at.After(e.until) {
		e.want = e.want[:0]
		return p
	}
	n := 0
	for n < len(p) && n < len(e.want) && p[n] == e.want[n] {
		n++
	}
	if n < len(p) && n < len(e.want) {
		e.want = e.want[:0]
	} else {
		e.want = append(e.want[:0], e.want[n:]...)
	}
	return p[n:]
}
