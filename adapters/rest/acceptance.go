package rest

import (
	"context"
	"sync/atomic"
	"time"
)

// acceptance says how long readings wait for broker or spool: one context for all
// that come within a short time, because one for each is a good part of what a
// request costs.
//
// It is not their requests' context. A client that hangs up has sent its reading
// all the same: that is under way, and its place is taken until it is done. And
// net/http ends the requests' contexts when the time to read them is over, and
// when a client says that it will send no more (shutdown(2), SHUT_WR), which may
// well wait for its answer.
type acceptance struct {
	base    context.Context // ends with the server
	timeout time.Duration
	now     atomic.Pointer[period]
}

type period struct {
	ctx    context.Context
	cancel context.CancelFunc
	until  time.Time // it is given to nobody from then on
}

// context returns one that ends after the timeout, or up to a second later.
func (p *acceptance) context() context.Context {
	now, last := time.Now(), p.now.Load()
	if last != nil && now.Before(last.until) {
		return last.ctx
	}
	late := min(p.timeout/16, time.Second)
	next := &period{until: now.Add(late)}
	next.ctx, next.cancel = context.WithDeadline(p.base, next.until.Add(p.timeout))
	if !p.now.CompareAndSwap(last, next) {
		next.cancel()
		return p.now.Load().ctx
	}
	return next.ctx // whoever has the last one keeps it until it ends
}
