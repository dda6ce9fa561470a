package spool

import (
	"database/sql/driver"
	"time"
)

// Stats are figures for metrics and for people. The counts begin at zero with
// each Open.
type Stats struct {
	// Readings and Bytes are what waits for the broker.
	Readings, Bytes int64
	// Oldest is when the oldest of them was stored; zero if there is none or if
	// the clock was not trusted then.
	Oldest time.Time
	// Downlinks wait for their target.
	Downlinks int64
	// DeadReadings and DeadDownlinks are the dead letters.
	DeadReadings, DeadDownlinks int64
	// Keys are the idempotency keys that are remembered.
	Keys int64

	// WrittenBytes is about what was written to the disk: each page of the log
	// as it was written, and as many again for each that a checkpoint moved,
	// which is more than are really written when a page is in the log twice.
	WrittenBytes int64
	// DroppedFull and DroppedAge are readings that were deleted for a limit's
	// sake, DroppedDead dead letters.
	DroppedFull, DroppedAge, DroppedDead int64
	// Damaged are rows whose checksum was wrong; Databases is how often a whole
	// database was set aside, Salvaged how many readings were taken over from
	// such a one.
	Damaged, Databases, Salvaged int64
}

// Stats returns the figures as they are now. It waits for the disk.
func (d *DB) Stats() Stats {
	d.mu.Lock()
	s := d.stats
	s.Readings, s.Bytes = d.use.readings.n, d.use.readings.bytes
	s.Downlinks = d.use.downlinks.n
	s.DeadReadings, s.DeadDownlinks = d.use.deadUp.n, d.use.deadDown.n
	s.Keys = d.use.keys.n
	d.mu.Unlock()
	if s.Readings == 0 {
		return s
	}
	err := d.read(func(c *conn) error {
		return c.query("SELECT accepted_ms FROM readings ORDER BY seq LIMIT 1", func(row []driver.Value) error {
			s.Oldest = fromMillis(row[0])
			return errStop
		})
	})
	if err != nil {
		d.logger.Debug("looking for the oldest reading failed", "error", err)
	}
	return s
}

// LastTrusted is what was last given to SetLastTrusted, in this run or before;
// the zero time if nothing was.
func (d *DB) LastTrusted() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.trusted
}

// SetLastTrusted keeps, in whole seconds, a time that has certainly passed. It
// costs a commit.
func (d *DB) SetLastTrusted(at time.Time) {
	d.enqueue(&op{end: func(error) {}, run: func(t *tx) error {
		t.trusted = time.Unix(at.Unix(), 0).UTC()
		return setMeta(t.c, metaLastTrusted, at.Unix())
	}})
}

// Repair gives the readings that were stored under the boot bootID, whose time
// is not known, their time: wallAtBoot plus the time that had passed since. It
// waits until that is durable.
func (d *DB) Repair(bootID string, wallAtBoot time.Time) error {
	for after := int64(0); ; {
		last := after
		err := d.do(func(t *tx) (err error) {
			last, err = t.repair(bootID, wallAtBoot, after)
			return err
		})
		if err != nil || last == after {
			return err
		}
		after = last
	}
}

// repair does a part and returns the seq that it has come to.
func (t *tx) repair(bootID string, wallAtBoot time.Time, after int64) (last int64, err error) {
	last = after
	var rows []storedReading
	err = t.c.query("SELECT "+readingColumns+" FROM readings INDEXED BY readings_without_time WHERE boot_id = ? AND seq > ? ORDER BY seq LIMIT 500",
		func(row []driver.Value) error {
			r, ok := scanReading(row)
			if ok {
				rows = append(rows, r)
			}
			last = r.Seq
			return nil
		}, bootID, after)
	for i := 0; i < len(rows) && err == nil; i++ {
		r := &rows[i]
		r.Time = wallAtBoot.Add(time.Duration(asInt(r.mono)))
		r.boot, r.mono = nil, nil
		if r.accepted.IsZero() {
			r.accepted = r.Time
		}
		err = r.update(t.c)
	}
	return last, err
}

// Changed reports whether another process, such as the spool command, has
// changed the database since the last call. It waits for the disk.
func (d *DB) Changed() (bool, error) {
	err := d.do(func(*tx) error { return nil })
	d.mu.Lock()
	defer d.mu.Unlock()
	changed := d.foreign
	d.foreign = false
	return changed, err
}
