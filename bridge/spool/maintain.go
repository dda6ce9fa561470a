package spool

import (
	"database/sql/driver"
	"time"
)

const (
	// frameHeader is what the write-ahead log adds to a page
	// (https://www.sqlite.org/fileformat2.html#wal_file_format).
	frameHeader = 24
	// checkpointPages is how long the log becomes before it is moved into the
	// database.
	checkpointPages = 1000
	// logLimit is how long the log's file stays.
	logLimit = 4 << 20
	// A database with so many free pages, and at least half of it free, gives
	// them back in steps, whenever there is nothing else to do. With fewer it
	// keeps them: the next outage needs them again.
	tidyPages = 2048
	tidyStep  = 128
	// originLife is longer than brokers keep a session.
	originLife = 30 * 24 * time.Hour
	// sweepRows bounds what one sweep deletes of a table; the next one follows.
	sweepRows = 1000
)

// maintain runs after each transaction.
func (d *DB) maintain() {
	if d.w.logPages >= d.opts.checkpointPages {
		d.checkpoint()
	}
	d.w.reserve.renew(d)
}

// checkpoint moves the log into the database so that the log begins anew. It
// does not wait for readers, unless they have kept the log from beginning anew
// for so long that it has twice its length.
func (d *DB) checkpoint() {
	if d.w.c == nil {
		return
	}
	left := d.moveLog()
	if left.log >= 2*d.opts.checkpointPages {
		d.gate.Lock()
		left = d.moveLog()
		d.gate.Unlock()
	}
	d.w.logPages = min(left.log-left.done, d.opts.checkpointPages/2)
}

// logState is how many frames the log has and how many of them are in the
// database.
type logState struct{ log, done int64 }

func (d *DB) moveLog() (s logState) {
	err := d.w.c.query("PRAGMA wal_checkpoint(PASSIVE)", func(row []driver.Value) error {
		s = logState{asInt(row[1]), asInt(row[2])}
		return errStop
	})
	if err != nil {
		// The log grows meanwhile; the next transaction says what is wrong.
		d.logger.Debug("checkpoint failed, tried again after the next transactions", "error", err)
		return logState{}
	}
	moved := s.done - d.w.moved
	if moved < 0 {
		moved = s.done // the log has begun anew meanwhile
	}
	d.w.moved = s.done
	d.mu.Lock()
	d.stats.WrittenBytes += moved * pageSize
	d.mu.Unlock()
	return s
}

// tidy gives a part of what is free in the file back, if that is much, and
// reports whether it did. The writer calls it when it has nothing to do.
func (d *DB) tidy() bool {
	if d.w.c == nil {
		return false
	}
	free, err := d.w.c.integer("PRAGMA freelist_count")
	if err != nil || free < tidyPages {
		return false
	}
	pages, err := d.w.c.integer("PRAGMA page_count")
	if err != nil || free < pages/2 {
		return false
	}
	// Each page that goes is a row of this statement.
	if err := d.w.c.query("PRAGMA incremental_vacuum(128)" /* tidyStep */, func([]driver.Value) error { return nil }); err != nil {
		return false
	}
	d.account(&tx{db: d})
	if free-tidyStep < tidyPages || d.w.logPages >= d.opts.checkpointPages {
		d.checkpoint()
	}
	return true
}

// sweep deletes what has become old, as far as the clock can be trusted, and
// gives an age to what was stored before it could. It looks from the oldest rows
// on and stops at the first one that is younger, so that it costs nothing when
// there is nothing to do.
func (t *tx) sweep() error {
	if t.now.IsZero() {
		return nil
	}
	if err := t.beginAges(); err != nil {
		return err
	}
	if maxAge := t.db.opts.MaxAge; maxAge > 0 {
		before := t.now.Add(-maxAge).UnixMilli()
		seqs, err := t.older("SELECT seq, accepted_ms FROM readings ORDER BY seq LIMIT ?", before)
		if err == nil && len(seqs) > 0 {
			t.droppedAge += int64(len(seqs))
			err = t.dropReadings(seqs)
		}
		if err != nil {
			return err
		}
		nos, err := t.older("SELECT no, died_ms FROM dead ORDER BY no LIMIT ?", before)
		if err == nil {
			t.droppedDead += int64(len(nos))
			err = t.dropDead(nos)
		}
		if err != nil {
			return err
		}
	}
	if err := t.sweepKeys(t.now.Add(-keyLife).UnixMilli()); err != nil {
		return err
	}
	return t.c.exec("DELETE FROM origins WHERE at_ms < ?", t.now.Add(-originLife).UnixMilli())
}

// older runs a query for numbers and their times and returns the first ones
// that are before a time.
func (t *tx) older(query string, before int64) (nos []int64, err error) {
	err = t.c.query(query, func(row []driver.Value) error {
		if row[1] == nil || asInt(row[1]) >= before {
			return errStop
		}
		nos = append(nos, asInt(row[0]))
		return nil
	}, int64(sweepRows))
	return nos, err
}

func (t *tx) sweepKeys(before int64) error {
	nos, err := t.older("SELECT no, at_ms FROM keys ORDER BY no LIMIT ?", before)
	for i := 0; i < len(nos) && err == nil; i++ {
		err = t.c.query("DELETE FROM keys WHERE no = ? RETURNING "+keySize, func(row []driver.Value) error {
			t.use.keys.add(-1, -asInt(row[0]))
			return nil
		}, nos[i])
	}
	return err
}

// beginAges lets rows that were stored under an untrusted clock become old from
// now on.
func (t *tx) beginAges() error {
	var rows []storedReading
	err := t.c.query("SELECT "+readingColumns+" FROM readings WHERE accepted_ms IS NULL ORDER BY seq LIMIT 1000",
		func(row []driver.Value) error {
			if r, ok := scanReading(row); ok {
				rows = append(rows, r)
			}
			return nil
		})
	for i := 0; i < len(rows) && err == nil; i++ {
		rows[i].accepted = t.now
		err = rows[i].update(t.c)
	}
	if err != nil {
		return err
	}
	var keys []keyRow
	err = t.c.query("SELECT "+keyColumns+" FROM keys WHERE at_ms IS NULL LIMIT 1000", func(row []driver.Value) error {
		if k, ok := scanKey(row); ok {
			keys = append(keys, k)
		}
		return nil
	})
	for i := 0; i < len(keys) && err == nil; i++ {
		keys[i].at = millis(t.now)
		err = keys[i].insert(t.c)
	}
	return err
}

func (r *storedReading) update(c *conn) error {
	s, ns := splitTime(r.Time)
	return c.exec("UPDATE readings SET accepted_ms = ?, time_s = ?, time_ns = ?, boot_id = ?, mono_ns = ?, crc = ? WHERE seq = ?",
		millis(r.accepted), s, ns, r.boot, r.mono, r.sum(), r.Seq)
}

// swept is the end of a sweep.
func (d *DB) swept(err error) {
	if err != nil {
		d.logger.Warn("looking for old readings failed, tried again in a minute", "error", err)
	}
}
