package bridgetest

import (
	"fmt"
	"slices"

	"fieldbridge/bridge"
)

func originOf(session string, packetID uint16) string { return fmt.Sprint(session, " ", packetID) }

// AppendDownlinks implements bridge.Downlinks.
func (s *Spool) AppendDownlinks(ds []bridge.StoredDownlink, o bridge.Origin, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ds = slices.Clone(ds)
	s.queue(&op{run: func() func() {
		err := s.failure
		if err == nil {
			for _, d := range ds {
				s.disk.last++
				d.Seq, d.Tries = s.disk.last, 0
				s.disk.downlinks = append(s.disk.downlinks, d)
			}
			if o != (bridge.Origin{}) {
				put(&s.disk.origins, originOf(o.Session, o.PacketID), o)
			}
		}
		return func() { done(err) }
	}})
}

// SeenDownlink implements bridge.Downlinks.
func (s *Spool) SeenDownlink(o bridge.Origin) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	got, ok := s.disk.origins[originOf(o.Session, o.PacketID)]
	return ok && got.Digest == o.Digest, s.blind
}

// DownlinkAcked implements bridge.Downlinks.
func (s *Spool) DownlinkAcked(session string, packetID uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue(&op{run: func() func() {
		delete(s.disk.origins, originOf(session, packetID))
		return nil
	}})
}

// LoadDownlinks implements bridge.Downlinks.
func (s *Spool) LoadDownlinks(target string, after int64, limit int, done func([]bridge.StoredDownlink, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.await(&load{run: func() func() {
		if err := s.blind; err != nil {
			return func() { done(nil, err) }
		}
		var page []bridge.StoredDownlink
		for _, d := range s.disk.downlinks {
			if d.Target == target && d.Seq > after && !s.hidden(d.Seq) && len(page) < limit {
				page = append(page, d)
			}
		}
		return func() { done(page, nil) }
	}})
}

// TriedDownlink implements bridge.Downlinks.
func (s *Spool) TriedDownlink(seq int64, tries int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue(&op{run: func() func() {
		if i := s.downlink("TriedDownlink", seq); i >= 0 {
			s.disk.downlinks[i].Tries = tries
		}
		return nil
	}})
}

// DeleteDownlink implements bridge.Downlinks.
func (s *Spool) DeleteDownlink(seq int64, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue(&op{hides: []int64{seq}, run: func() func() {
		err := s.stiff
		if i := s.downlink("DeleteDownlink", seq); err == nil && i >= 0 {
			s.disk.downlinks = slices.Delete(s.disk.downlinks, i, i+1)
		}
		if done == nil {
			return nil
		}
		return func() { done(err) }
	}})
}

// BuryDownlink implements bridge.Downlinks.
func (s *Spool) BuryDownlink(seq int64, e bridge.Epitaph, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue(&op{hides: []int64{seq}, run: func() func() {
		err := s.stiff
		if i := s.downlink("BuryDownlink", seq); err == nil && i >= 0 {
			s.disk.dead = append(s.disk.dead, DeadLetter{Downlink: s.disk.downlinks[i].Downlink, Epitaph: e})
			s.disk.downlinks = slices.Delete(s.disk.downlinks, i, i+1)
		}
		if done == nil {
			return nil
		}
		return func() { done(err) }
	}})
}

// downlink finds a downlink. It is called with mu held.
func (s *Spool) downlink(what string, seq int64) int {
	i := slices.IndexFunc(s.disk.downlinks, func(d bridge.StoredDownlink) bool { return d.Seq == seq })
	if i < 0 {
		s.note("%s: %d is not stored", what, seq)
	}
	return i
}

// StoredDownlinks returns what is durable and not delivered, oldest first.
func (s *Spool) StoredDownlinks() []bridge.StoredDownlink {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.disk.downlinks)
}
