package spool

import (
	"bytes"
	"database/sql/driver"
	"time"

	"fieldbridge/bridge"
)

// keyLife is how long an idempotency key is remembered.
const keyLife = 24 * time.Hour

const keySize = "length(device) + length(key) + 160"

func sizeOfKey(device bridge.DeviceID, key string) int64 {
	return int64(len(device) + len(key) + 160)
}

const keyColumns = "no, device, key, seq, at_ms, id, time_s, time_ns, digest, crc"

// keyRow is a row of the table keys.
type keyRow struct {
	no     int64
	device bridge.DeviceID
	key    string
	seq    int64
	at     driver.Value // Unix milliseconds, NULL if the clock was not trusted
	bridge.Remembered
}

func scanKey(row []driver.Value) (k keyRow, ok bool) {
	k.no = asInt(row[0])
	k.device, k.key = bridge.DeviceID(asString(row[1])), asString(row[2])
	k.seq, k.at = asInt(row[3]), row[4]
	n := copy(k.ID[:], asBytes(row[5]))
	k.Time = joinTime(row[6], row[7])
	n += copy(k.Digest[:], asBytes(row[8]))
	return k, n == len(k.ID)+len(k.Digest) && k.sum() == asInt(row[9])
}

func (k *keyRow) sum() int64 {
	s, ns := splitTime(k.Time)
	return newSum('K').str(string(k.device)).str(k.key).int(k.seq).nullable(k.at).bytes(k.ID[:]).
		nullable(s).nullable(ns).bytes(k.Digest[:]).value()
}

func (k *keyRow) insert(c *conn) error {
	s, ns := splitTime(k.Time)
	return c.exec(`INSERT INTO keys (device, key, seq, at_ms, id, time_s, time_ns, digest, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (device, key) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms, id = excluded.id,
		time_s = excluded.time_s, time_ns = excluded.time_ns, digest = excluded.digest, crc = excluded.crc`,
		string(k.device), k.key, k.seq, k.at, k.ID[:], s, ns, k.Digest[:], k.sum())
}

// find returns the row of a key that is remembered at a time, which is zero if
// the clock is not trusted.
func findKey(c *conn, device bridge.DeviceID, key string, now time.Time) (k keyRow, ok bool, err error) {
	err = c.query("SELECT "+keyColumns+" FROM keys WHERE device = ? AND key = ?", func(row []driver.Value) error {
		k, ok = scanKey(row)
		return errStop
	}, string(device), key)
	if ok && k.at != nil && !now.IsZero() && now.Sub(fromMillis(k.at)) > keyLife {
		ok = false
	}
	return k, ok, err
}

// checkKey refuses a key that belongs to another body.
func (t *tx) checkKey(device bridge.DeviceID, key bridge.Key) error {
	if key.Value == "" {
		return nil
	}
	k, ok, err := findKey(t.c, device, key.Value, t.now)
	if err == nil && ok && !bytes.Equal(k.Digest[:], key.Digest[:]) {
		err = refuse(bridge.ErrKeyReused)
	}
	return err
}

// putKey remembers a key. One that is known for the same body belongs to the
// new reading from now on.
func (t *tx) putKey(r *bridge.Reading, key bridge.Key, seq int64) error {
	known, err := t.c.integer("SELECT count(*) FROM keys WHERE device = ? AND key = ?", string(r.Device), key.Value)
	if err != nil {
		return err
	}
	k := keyRow{device: r.Device, key: key.Value, seq: seq, at: millis(t.now),
		Remembered: bridge.Remembered{ID: r.ID, Time: r.Time, Digest: key.Digest}}
	if err := k.insert(t.c); err != nil {
		return err
	}
	if known == 0 {
		t.use.keys.add(1, sizeOfKey(r.Device, key.Value))
	}
	over := t.db.use.keys.bytes + t.use.keys.bytes - t.db.quarter()
	if over <= 0 {
		return nil
	}
	return t.dropRows("keys", keySize, over, &t.use.keys)
}

// dropRows deletes the oldest rows of a table with a column no until so many
// bytes are gone.
func (t *tx) dropRows(table, size string, bytes int64, count *amount) error {
	var last int64
	var gone amount
	err := t.c.query("SELECT no, "+size+" FROM "+table+" ORDER BY no", func(row []driver.Value) error {
		last = asInt(row[0])
		gone.add(1, asInt(row[1]))
		if gone.bytes >= bytes {
			return errStop
		}
		return nil
	})
	if err != nil {
		return err
	}
	count.add(-gone.n, -gone.bytes)
	return t.c.exec("DELETE FROM "+table+" WHERE no <= ?", last)
}

// forgetKeys deletes the keys of readings.
func (t *tx) forgetKeys(seqs []int64) error {
	if t.db.use.keys.n+t.use.keys.n == 0 {
		return nil
	}
	for _, seq := range seqs {
		err := t.c.query("DELETE FROM keys WHERE seq = ? RETURNING "+keySize, func(row []driver.Value) error {
			t.use.keys.add(-1, -asInt(row[0]))
			return nil
		}, seq)
		if err != nil {
			return err
		}
	}
	return nil
}

// moveKeys gives the keys of a reading to its new seq.
func (t *tx) moveKeys(from, to int64) error {
	if from == 0 {
		return nil
	}
	var moved []keyRow
	err := t.c.query("SELECT "+keyColumns+" FROM keys WHERE seq = ?", func(row []driver.Value) error {
		if k, ok := scanKey(row); ok {
			k.seq = to
			moved = append(moved, k)
		}
		return nil
	}, from)
	for i := 0; i < len(moved) && err == nil; i++ {
		err = moved[i].insert(t.c)
	}
	return err
}

// Remembered looks for a reading that was accepted under a key in the last 24
// hours. It waits for the disk.
func (d *DB) Remembered(device bridge.DeviceID, key string) (r bridge.Remembered, ok bool, err error) {
	now := d.now()
	err = d.readRepaired(func(c *conn) error {
		var k keyRow
		if k, ok, err = findKey(c, device, key, now); err != nil || !ok {
			return err
		}
		r = k.Remembered
		n, err := c.integer("SELECT count(*) FROM readings WHERE seq = ?", k.seq)
		if err != nil {
			return err
		}
		if r.Waiting = n > 0 && !d.hidden.has(k.seq); r.Waiting {
			return nil
		}
		return c.query("SELECT code, reason FROM dead WHERE seq = ? AND kind = 'reading'", func(row []driver.Value) error {
			r.Dead = &bridge.Epitaph{Code: byte(asInt(row[0])), Reason: asString(row[1])}
			return errStop
		}, k.seq)
	})
	return r, ok, wrap("look for a key", err)
}
