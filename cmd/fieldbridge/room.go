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
	room   *room
	events *happenings
}

// Append implements bridge.Spool.
func (w watchedSpool) Append(rs []bridge.Reading, keys []bridge.Key, done func(int64, error)) {
	w.DB.Append(rs, keys, w.watch(rs, done))
}

// AppendAll implements bridge.Spool.
func (w watchedSpool) AppendAll(as []bridge.Append) {
	for i := range as {
		as[i].Done = w.watch(as[i].Readings, as[i].Done)
	}
	w.DB.AppendAll(as)
}

func (w watchedSpool) watch(rs []bridge.Reading, done func(int64, error)) func(int64, error) {
	if len(rs) == 0 {
		return done
	}
	return func(first int64, err error) {
		if changed, reason := w.room.note(err); changed {
			w.events.room(reason)
		}
		if err == nil {
			w.events.stored(rs)
		}
		done(first, err)
	}
}

// Bury implements bridge.Spool.
func (w watchedSpool) Bury(s bridge.Stored, e bridge.Epitaph, done func(error)) {
	w.events.buried(&s.Reading, e)
	w.DB.Bury(s, e, done)
}

// room is why the spool did not take the last reading that it was given, if that
// was for want of room.
type room struct {
	mu   sync.Mutex // guards full
	full string
}

// note reports whether the spool has become full, for a reason, or has room
// again, for none.
func (r *room) note(err error) (changed bool, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.full != ""
	r.full = ""
	if errors.Is(err, bridge.ErrSpoolFull) {
		r.full = err.Error()
	}
	return was != (r.full != ""), r.full
}

func (r *room) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.full
}
