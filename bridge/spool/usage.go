package spool

import (
	"database/sql/driver"
	"time"

	"fieldbridge/bridge"
)

// amount is rows and their bytes.
type amount struct{ n, bytes int64 }

func (a *amount) add(n, bytes int64) {
	a.n += n
	a.bytes += bytes
}

// backlog is what a device has in the database.
type backlog struct {
	amount
	seqs seqList
}

// usage is what the database holds.
type usage struct {
	devices   map[bridge.DeviceID]*backlog // none is empty
	readings  amount
	downlinks amount
	keys      amount
	deadUp    amount // dead readings
	deadDown  amount // dead downlinks
}

// change is what a transaction does to the usage.
type change struct {
	devices   map[bridge.DeviceID]amount
	added     []place
	removed   []place
	readings  amount
	downlinks amount
	keys      amount
	deadUp    amount
	deadDown  amount
}

// place is where a reading is.
type place struct {
	device bridge.DeviceID
	seq    int64
}

func (c *change) reading(device bridge.DeviceID, n, bytes int64) {
	if c.devices == nil {
		c.devices = make(map[bridge.DeviceID]amount, 1)
	}
	a := c.devices[device]
	a.add(n, bytes)
	c.devices[device] = a
	c.readings.add(n, bytes)
}

func (c *change) addReading(device bridge.DeviceID, seq, bytes int64) {
	c.reading(device, 1, bytes)
	c.added = append(c.added, place{device, seq})
}

func (c *change) removeReading(device bridge.DeviceID, seq, bytes int64) {
	c.reading(device, -1, -bytes)
	c.removed = append(c.removed, place{device, seq})
}

// dead is where dead letters of a kind are counted.
func (c *change) dead(kind string) *amount {
	if kind == KindDownlink {
		return &c.deadDown
	}
	return &c.deadUp
}

// device returns a device's backlog, making an empty one.
func (u *usage) device(device bridge.DeviceID) *backlog {
	b := u.devices[device]
	if b == nil {
		b = new(backlog)
		u.devices[device] = b
	}
	return b
}

func (u *usage) apply(c *change) {
	for _, p := range c.added {
		u.device(p.device).seqs.add(p.seq)
	}
	for _, p := range c.removed {
		u.device(p.device).seqs.remove(p.seq)
	}
	for device, a := range c.devices {
		b := u.device(device)
		b.add(a.n, a.bytes)
		if b.n == 0 {
			delete(u.devices, device)
		}
	}
	u.readings.add(c.readings.n, c.readings.bytes)
	u.downlinks.add(c.downlinks.n, c.downlinks.bytes)
	u.keys.add(c.keys.n, c.keys.bytes)
	u.deadUp.add(c.deadUp.n, c.deadUp.bytes)
	u.deadDown.add(c.deadDown.n, c.deadDown.bytes)
}

// tx is a transaction of the writer: its connection and what it has changed so
// far.
type tx struct {
	db   *DB
	c    *conn
	next int64     // the next seq
	now  time.Time // zero if the clock is not trusted

	use         change
	recounted   *usage // what use begins with, if not with what is known
	trusted     time.Time
	droppedFull int64
	droppedAge  int64
	droppedDead int64
	damaged     int64

	free     int64 // of the file system, less what this transaction takes
	freeRead bool
}

// seq gives a new sequence number.
func (t *tx) seq() int64 {
	t.next++
	return t.next - 1
}

// survey counts what is in the database and finds the lowest seq that nothing
// there has reached.
func survey(c *conn) (u usage, next int64, err error) {
	u.devices = make(map[bridge.DeviceID]*backlog)
	if err := u.surveyReadings(c, 0); err != nil {
		return u, 0, err
	}
	if err := u.surveyOthers(c); err != nil {
		return u, 0, err
	}
	if next, err = getMeta(c, metaNextSeq); err != nil {
		return u, 0, err
	}
	for _, q := range []string{"SELECT max(seq) FROM readings", "SELECT max(seq) FROM downlinks", "SELECT max(seq) FROM dead"} {
		highest, err := c.integer(q)
		if err != nil {
			return u, 0, err
		}
		next = max(next, highest+1)
	}
	return u, max(next, 1), nil
}

// surveyReadings counts the readings from a seq on.
func (u *usage) surveyReadings(c *conn, from int64) error {
	return c.query("SELECT seq, size, device FROM readings WHERE seq >= ? ORDER BY seq", func(row []driver.Value) error {
		b := u.device(bridge.DeviceID(asString(row[2])))
		b.add(1, asInt(row[1]))
		b.seqs.add(asInt(row[0]))
		u.readings.add(1, asInt(row[1]))
		return nil
	}, from)
}

func (u *usage) surveyOthers(c *conn) error {
	for _, s := range []struct {
		query string
		into  *amount
	}{
		{"SELECT count(*), sum(" + downlinkSize + ") FROM downlinks NOT INDEXED", &u.downlinks},
		{"SELECT count(*), sum(" + keySize + ") FROM keys", &u.keys},
		{"SELECT count(*), sum(size) FROM dead WHERE kind = 'reading'", &u.deadUp},
		{"SELECT count(*), sum(size) FROM dead WHERE kind = 'downlink'", &u.deadDown},
	} {
		err := c.query(s.query, func(row []driver.Value) error {
			*s.into = amount{asInt(row[0]), asInt(row[1])}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
