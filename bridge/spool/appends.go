package spool

import (
	"database/sql/driver"
	"slices"

	"fieldbridge/bridge"
)

// Append stores readings, all or none of them, with consecutive Seqs; done gets
// the first one. The spool keeps rs and what is in it until then. keys is nil
// or has the sender's key of each reading; those without one have the zero Key.
// The errors are bridge.ErrSpoolFull, wrapped, bridge.ErrKeyReused, and what
// the file system says.
func (d *DB) Append(rs []bridge.Reading, keys []bridge.Key, done func(first int64, err error)) {
	d.enqueue(appendOf(rs, keys, done))
}

// AppendAll is Append for several, which the writer finds together: unless more
// waits than fits into a transaction, they are one.
func (d *DB) AppendAll(as []bridge.Append) {
	ops := make([]*op, len(as))
	for i, a := range as {
		ops[i] = appendOf(a.Readings, a.Keys, a.Done)
	}
	d.enqueue(ops...)
}

func appendOf(rs []bridge.Reading, keys []bridge.Key, done func(first int64, err error)) *op {
	var first int64
	o := &op{
		run: func(t *tx) (err error) {
			first, err = t.append(rs, keys)
			return err
		},
		end: func(err error) {
			if err != nil {
				first = 0
			}
			done(first, err)
		},
	}
	for i := range rs {
		o.bytes += sizeOf(&rs[i])
	}
	return o
}

func (t *tx) append(rs []bridge.Reading, keys []bridge.Key) (first int64, err error) {
	for i := range min(len(keys), len(rs)) {
		if err := t.checkKey(rs[i].Device, keys[i]); err != nil {
			return 0, err
		}
	}
	if err := t.makeRoom(rs); err != nil {
		return 0, err
	}
	first = t.next
	for i := range rs {
		seq, err := t.put(rs[i])
		if err != nil {
			return 0, err
		}
		if i < len(keys) && keys[i].Value != "" {
			if err := t.putKey(&rs[i], keys[i], seq); err != nil {
				return 0, err
			}
		}
	}
	return first, nil
}

// put stores a reading, whatever the limits are.
func (t *tx) put(r bridge.Reading) (seq int64, err error) {
	row := storedReading{Stored: bridge.Stored{Seq: t.seq(), Reading: r}, accepted: t.now}
	if r.Time.IsZero() && r.Boot != "" {
		row.boot, row.mono = r.Boot, int64(r.Mono)
	}
	if err := row.insert(t.c); err != nil {
		return 0, err
	}
	t.use.addReading(r.Device, row.Seq, sizeOf(&r))
	return row.Seq, nil
}

// Delete removes readings. They are gone for Load at once, and on disk with
// the next commit: a power cut before that brings them back, as duplicates.
// Seqs that are not there are ignored. The spool keeps seqs.
func (d *DB) Delete(seqs []int64) {
	if len(seqs) == 0 {
		return
	}
	d.hidden.hide(seqs)
	for part := range slices.Chunk(seqs, maxDelete) {
		d.enqueue(&op{
			frees: true,
			rows:  len(part),
			run:   func(t *tx) error { return t.deleteReadings(slices.Clone(part)) },
			end:   func(error) { d.hidden.committed(part) },
		})
	}
}

// deleteReadings sorts seqs and deletes runs of neighbours by one statement.
func (t *tx) deleteReadings(seqs []int64) error {
	slices.Sort(seqs)
	for len(seqs) > 0 {
		n := 1
		for n < len(seqs) && seqs[n] <= seqs[n-1]+1 {
			n++
		}
		err := t.c.query("DELETE FROM readings WHERE seq BETWEEN ? AND ? RETURNING device, seq, size", t.countDeleted, seqs[0], seqs[n-1])
		if err != nil {
			return err
		}
		seqs = seqs[n:]
	}
	return nil
}

// countDeleted takes a row with device, seq and size.
func (t *tx) countDeleted(row []driver.Value) error {
	t.use.removeReading(bridge.DeviceID(asString(row[0])), asInt(row[1]), asInt(row[2]))
	return nil
}

// Bury makes a reading a dead letter, in one transaction with its delete. A
// Seq of 0 says that it was never spooled.
func (d *DB) Bury(s bridge.Stored, e bridge.Epitaph, done func(error)) {
	if done == nil {
		done = func(error) {}
	}
	seqs := []int64{s.Seq}
	d.hidden.hide(seqs)
	d.enqueue(&op{
		bytes: sizeOf(&s.Reading),
		run: func(t *tx) error {
			if s.Seq != 0 {
				if err := t.deleteReadings([]int64{s.Seq}); err != nil {
					return err
				}
			}
			return t.bury(deadReading(s, e))
		},
		end: func(err error) {
			if err != nil {
				d.hidden.show(seqs)
			} else {
				d.hidden.committed(seqs)
			}
			done(err)
		},
	})
}
