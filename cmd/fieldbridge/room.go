package main

import (
	"errors"
	"sync"

	"fieldbridge/bridge"
	"fieldbridge/bridge/spool"
)

// watchedSpool is the spool as the lanes see it. It remembers whether it had
// room for the last reading.
type watchedSpool struct {
	*spool.DB
	room *room
}

// Append implements bridge.Spool.
func (w watchedSpool) Append(rs []bridge.Reading, keys []bridge.Key, done func(int64, error)) {
	if len(rs) == 0 {
		w.DB.Append(rs, keys, done)
		return
	}
	w.DB.Append(rs, keys, func(first int64, err error) {
		w.room.note(err)
		done(first, err)
	})
}

// room is why the spool did not take the last reading that it was given, if that
// was for want of room.
type room struct {
	mu   sync.Mutex // guards full
	full string
}

func (r *room) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full = ""
	if errors.Is(err, bridge.ErrSpoolFull) {
		r.full = err.Error()
	}
}

func (r *room) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.full
}
