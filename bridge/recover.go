package bridge

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"
)

// counters are what has happened since the start.
type counters struct {
	spooled atomic.Int64 // readings
	lost    atomic.Int64 // readings that nobody could be told about

	answers, answersDropped atomic.Int64 // to downlinks
}

func (c *counters) spill(n int, err error) {
	if err == nil {
		c.spooled.Add(int64(n))
	}
}

func (c *counters) dropped(l *Lane, e *Entry, err error) {
	c.lost.Add(1)
	l.logger.Error("reading dropped: the spool did not take it", "device", l.device, "id", e.Reading.ID, "error", err)
}

// Counts are what has happened since the start.
type Counts struct {
	// Spooled readings, and those that were Dropped because the spool did not
	// take them and nobody waited who could be told.
	Spooled, Dropped int64
	// Answers to downlinks that were taken to be sent up, and those that never
	// can be: AnswersDropped.
	Answers, AnswersDropped int64
}

// Counts returns what has happened since the start.
func (b *Bridge) Counts() Counts {
	c := &b.counts
	return Counts{
		Spooled: c.spooled.Load(), Dropped: c.lost.Load(),
		Answers: c.answers.Load(), AnswersDropped: c.answersDropped.Load(),
	}
}

// Recover tells the lanes what the spool holds. Call it when all devices are
// connected and before the first reading comes in, which would overtake what is
// stored; and again when another process has changed the spool. Readings of
// devices that are not connected stay where they are; their number is returned.
func (b *Bridge) Recover() (strangers int64, err error) {
	backlogs, err := b.opts.Spool.Backlogs()
	if err != nil {
		return 0, fmt.Errorf("recover: %w", err)
	}
	for _, bl := range backlogs {
		lane, leave, err := b.lane(bl.Device, true)
		if err != nil {
			strangers += bl.Readings
			continue
		}
		if lane.departed() {
			strangers += bl.Readings
		}
		lane.recall(bl)
		leave()
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, t := range b.targets {
		t.signal()
	}
	for _, m := range b.boxes {
		m.next.Store(0)
		m.stir()
	}
	return strangers, nil
}

// LinkDown stores at once what has been given to an uplink that lost its
// connection and is in memory only.
func (b *Bridge) LinkDown(u Uplink) {
	for _, l := range b.lanesAt(u) {
		l.spillNow()
	}
}

// lanesAt looks only where the uplink's lanes can be: when a broker goes, all its
// sessions ask at once.
func (b *Bridge) lanesAt(u Uplink) []*Lane {
	b.mu.RLock()
	defer b.mu.RUnlock()
	lanes := slices.Clone(b.at[u])
	if b.open != nil && b.open.Uplink == u {
		lanes = slices.AppendSeq(lanes, maps.Values(b.passing))
	}
	return lanes
}

func (b *Bridge) lanes() []*Lane {
	b.mu.RLock()
	defer b.mu.RUnlock()
	out := make([]*Lane, 0, len(b.devices)+len(b.passing))
	for _, d := range b.devices {
		out = append(out, d.lane)
	}
	for _, v := range b.passing {
		out = append(out, v)
	}
	return out
}

// Flush stores what is in memory only and returns when it is durable or ctx is
// done. Readings that come in meanwhile are not waited for. An error says how
// many readings the spool did not take; they stay in memory.
func (b *Bridge) Flush(ctx context.Context) error {
	began := time.Now()
	for _, l := range b.lanes() {
		l.spillNow()
	}
	stored := make(chan error, 1)
	for {
		b.opts.Spool.Append(nil, nil, func(_ int64, err error) { stored <- err })
		select {
		case err := <-stored:
			if err != nil {
				return fmt.Errorf("flush: %w", err)
			}
		case <-ctx.Done():
			return fmt.Errorf("flush: %w", ctx.Err())
		}
		left, spooling, err := b.volatile(began)
		switch {
		case spooling: // a batch that waited for the one before it
		case left > 0:
			return fmt.Errorf("flush: %d readings are in memory only: %w", left, err)
		default:
			return nil
		}
	}
}

// volatile counts the readings that came in until then and are in memory only,
// and says whether some are on their way to the spool, and why others are not.
func (b *Bridge) volatile(until time.Time) (n int, spooling bool, err error) {
	for _, l := range b.lanes() {
		l.mu.Lock()
		for _, e := range l.memoryOnly(until) {
			n++
			spooling = spooling || e.spooling
		}
		if l.failure != nil {
			err = l.failure
		}
		l.mu.Unlock()
	}
	return n, spooling, err
}
