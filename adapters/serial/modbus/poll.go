package modbus

import (
	"context"
	"errors"
	"slices"
	"time"
)

// reading is what a poll has brought so far.
type reading struct {
	values  map[*register][]byte // JSON
	at      time.Time            // of the first answer
	err     error                // the first failure
	heard   bool                 // the slave answered, if only with an exception
	refused bool                 // the line gave way, not the slave
}

// poll asks a slave for all its blocks and emits what came.
//
// After a request without an answer, exceptions apart, the rest of the blocks is
// left for the next poll, which begins behind that request: so a slave that is
// away costs the line one request with its retries, and one that never answers a
// certain request still gives its other values.
func (m *Master) poll(ctx context.Context, p *polled) {
	tries := 1 + p.retries
	if p.silent >= silentAfter {
		tries = 1
	}
	got := reading{values: map[*register][]byte{}}
	todo := slices.Concat(p.blocks[p.first:], p.blocks[:p.first])
	p.first = 0
	for len(todo) > 0 && ctx.Err() == nil {
		b := todo[0]
		todo = todo[1:]
		a, err := m.ask(ctx, p.unit, b.request(byte(p.Address)), tries)
		if err == nil {
			got.add(b, a)
			tries = 1 + p.retries // it is there again
			continue
		}
		var failed *RequestError
		if !errors.As(err, &failed) || failed.Exception == 0 {
			got.err = firstOf(got.err, err)
			got.refused = failed == nil || failed.Outcome == LineFailed || failed.Outcome == LineBusy
			p.first = (slices.Index(p.blocks, b) + 1) % len(p.blocks)
			break
		}
		got.heard = true
		if parts := m.split(p, b, failed); parts != nil {
			todo = slices.Concat(parts, todo) // nothing is lost yet
			continue
		}
		got.err = firstOf(got.err, err)
	}
	if ctx.Err() != nil {
		return
	}
	m.finish(ctx, p, got)
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (g *reading) add(b *block, a Answer) {
	if g.at.IsZero() {
		g.at = time.Now()
	}
	g.heard = true
	for _, r := range b.registers {
		g.values[r] = r.appendValue(nil, b.slice(r, a))
	}
}

// split replaces a block that the slave refused for its addresses, or its
// length, by smaller ones for good; nil if that is not why, or there are none.
func (m *Master) split(p *polled, b *block, why *RequestError) []*block {
	if why.Exception != IllegalDataAddress && why.Exception != IllegalDataValue {
		return nil
	}
	parts := b.split()
	if parts == nil {
		return nil
	}
	i := slices.Index(p.blocks, b)
	p.blocks = slices.Replace(p.blocks, i, i+1, parts...)
	m.log.Info("slave refuses registers together; asking in smaller parts from now on",
		"slave", p.Address, "function", int(b.function), "address", b.start, "count", b.end-b.start, "parts", len(parts))
	return parts
}

// finish notes how the poll went and emits its values.
func (m *Master) finish(ctx context.Context, p *polled, got reading) {
	object, missing := p.object(got.values)
	wasSilent := p.silent >= silentAfter
	switch {
	case got.heard:
		p.silent = 0
	case !got.refused:
		p.silent++
	}
	isSilent := p.silent >= silentAfter
	m.mu.Lock()
	p.stats.Silent, p.stats.Requests = isSilent, len(p.blocks)
	if len(missing) == 0 {
		p.stats.Polls++
	} else {
		p.stats.Failed++
		p.stats.LastError = got.err
	}
	if got.heard {
		p.stats.LastAnswer = time.Now()
	}
	m.mu.Unlock()
	m.tell(p, got.err, wasSilent, isSilent)
	if len(got.values) == 0 {
		return
	}
	m.emit(ctx, Poll{Slave: p.Address, Device: p.Device, Subtopic: p.Subtopic, Time: got.at,
		Payload: object, Missing: missing, Err: got.err})
}

// tell logs what is new about a slave.
func (m *Master) tell(p *polled, err error, wasSilent, isSilent bool) {
	words := ""
	if err != nil {
		words = err.Error()
	}
	switch {
	case isSilent && !wasSilent:
		m.log.Warn("slave does not answer; trying it less often", "slave", p.Address, "device", p.Device, "error", err, "every", max(p.Every, m.probeEvery))
	case isSilent:
	case err != nil && words != p.words:
		m.log.Warn("slave did not give all values", "slave", p.Address, "device", p.Device, "error", err)
	case err == nil && p.words != "":
		m.log.Info("slave gives all values again", "slave", p.Address, "device", p.Device)
	}
	p.words = words
}

// object is the JSON object of the values that came, and the names of the others.
func (u *unit) object(values map[*register][]byte) (object []byte, missing []string) {
	object = append(object, '{')
	for i := range u.registers {
		r := &u.registers[i]
		v, ok := values[r]
		if !ok {
			missing = append(missing, r.name)
			continue
		}
		if len(object) > 1 {
			object = append(object, ',')
		}
		object = appendJSON(object, r.name)
		object = append(append(object, ':'), v...)
	}
	return append(object, '}'), missing
}
