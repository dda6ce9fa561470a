package spool

import (
	"encoding/binary"
	"sort"
)

// seqList holds ascending sequence numbers in one or two bytes each, so that
// the places of a million readings fit into memory and need no index on disk:
// that would cost every reading a page of it. The zero value is empty.
type seqList struct {
	chunks []seqChunk
}

// seqChunk is a run of numbers: the first one and the distances to the others.
type seqChunk struct {
	first, last int64
	n           int
	deltas      []byte
}

// chunkLen bounds what one removal from the middle has to copy.
const chunkLen = 256

// add appends a number that is greater than all there are.
func (l *seqList) add(seq int64) {
	if k := len(l.chunks); k > 0 && l.chunks[k-1].n < chunkLen {
		c := &l.chunks[k-1]
		c.deltas = binary.AppendUvarint(c.deltas, uint64(seq-c.last))
		c.last = seq
		c.n++
		return
	}
	l.chunks = append(l.chunks, seqChunk{first: seq, last: seq, n: 1})
}

// at returns the first chunk that may hold seq or something above it.
func (l *seqList) at(seq int64) int {
	return sort.Search(len(l.chunks), func(i int) bool { return l.chunks[i].last >= seq })
}

// remove takes a number out, if it is there.
func (l *seqList) remove(seq int64) {
	i := l.at(seq)
	if i == len(l.chunks) || l.chunks[i].first > seq {
		return
	}
	c := &l.chunks[i]
	switch {
	case c.n == 1:
		l.chunks = append(l.chunks[:i], l.chunks[i+1:]...)
		if len(l.chunks) == 0 {
			l.chunks = nil
		}
	case c.first == seq:
		d, used := binary.Uvarint(c.deltas)
		c.first += int64(d)
		c.deltas = c.deltas[used:]
		c.n--
	default:
		c.without(seq)
	}
}

// without copies the chunk but for one number that is not the first.
func (c *seqChunk) without(seq int64) {
	deltas := make([]byte, 0, len(c.deltas))
	last, kept := c.first, c.first
	n := 1
	for rest := c.deltas; len(rest) > 0; {
		d, used := binary.Uvarint(rest)
		rest = rest[used:]
		last += int64(d)
		if last == seq {
			continue
		}
		deltas = binary.AppendUvarint(deltas, uint64(last-kept))
		kept = last
		n++
	}
	c.deltas, c.last, c.n = deltas, kept, n
}

// after returns up to limit numbers above seq.
func (l *seqList) after(seq int64, limit int) (found []int64) {
	for i := l.at(seq + 1); i < len(l.chunks) && len(found) < limit; i++ {
		c := &l.chunks[i]
		n := c.first
		for rest := c.deltas; ; {
			if n > seq {
				found = append(found, n)
			}
			if len(rest) == 0 || len(found) == limit {
				break
			}
			d, used := binary.Uvarint(rest)
			rest = rest[used:]
			n += int64(d)
		}
	}
	return found
}

// first returns the lowest number, 0 if there is none.
func (l *seqList) first() int64 {
	if len(l.chunks) == 0 {
		return 0
	}
	return l.chunks[0].first
}

// last is the highest number, or 0.
func (l *seqList) last() int64 {
	if k := len(l.chunks); k > 0 {
		return l.chunks[k-1].last
	}
	return 0
}
