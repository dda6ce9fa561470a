package spool

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"fieldbridge/bridge"
)

// ErrNotThere: there is no dead letter with that number.
var ErrNotThere = errors.New("not in the spool")

// Reader looks into a spool, also while a daemon uses it. One goroutine uses it
// at a time.
type Reader struct {
	c *conn
}

// OpenReadOnly opens the spool of a directory for looking. The error wraps
// fs.ErrNotExist if there is none.
func OpenReadOnly(dir string) (*Reader, error) {
	c, err := openShared(dir, connOptions{readOnly: true, pragmas: []string{"busy_timeout(5000)"}})
	if err != nil {
		return nil, err
	}
	return &Reader{c: c}, nil
}

// openShared opens the database beside the daemon, if it is one of this version.
func openShared(dir string, o connOptions) (*conn, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, wrap("find state directory", err)
	}
	path := filepath.Join(dir, fileName)
	s, err := os.Stat(path)
	if err == nil && s.Size() == 0 {
		err = fs.ErrNotExist // the daemon is about to make it
	}
	if err != nil {
		return nil, fmt.Errorf("spool: open: %w (there is a spool once the daemon has run with this state_dir)", err)
	}
	c, err := openConn(path, o)
	if err != nil {
		return nil, wrap("open "+path, err)
	}
	id, err := c.integer("PRAGMA application_id")
	var version int64
	if err == nil {
		version, err = c.integer("PRAGMA user_version")
	}
	if err == nil && id == applicationID && version > 0 && version < schemaVersion {
		err = fmt.Errorf("written by an earlier version (schema %d, this one has %d); start the daemon, which brings it up to date", version, schemaVersion)
	} else if err == nil && (id != applicationID || version != schemaVersion) {
		err = fmt.Errorf("not a spool of this version (application id %#x, schema %d); start the daemon, which sets a damaged one aside", id, version)
	}
	if err != nil {
		return nil, errors.Join(wrap("open "+path, err), c.close())
	}
	return c, nil
}

// Close ends the reading.
func (r *Reader) Close() error { return wrap("close", r.c.close()) }

// Backlogs is like that of DB, in the order of the devices' names.
func (r *Reader) Backlogs() ([]bridge.Backlog, error) {
	var list []bridge.Backlog
	err := r.c.query(`SELECT device, n, bytes, oldest, (SELECT accepted_ms FROM readings WHERE seq = oldest)
		FROM (SELECT device, count(*) n, sum(size) bytes, min(seq) oldest FROM readings GROUP BY device) ORDER BY device`,
		func(row []driver.Value) error {
			list = append(list, bridge.Backlog{Device: bridge.DeviceID(asString(row[0])), Readings: asInt(row[1]), Bytes: asInt(row[2]),
				Oldest: asInt(row[3]), Accepted: fromMillis(row[4])})
			return nil
		})
	return list, wrap("look for backlogs", err)
}

// exportRows and exportBytes bound what Readings reads at a time.
const (
	exportRows  = 512
	exportBytes = 1 << 20
)

// Readings calls each with the readings of a device, or of all if device is "",
// oldest first, until it returns an error, which is returned. Damaged ones are
// left out, and what is stored after the call began. It reads in pages and holds
// no transaction while each runs, so that the daemon's log does not grow
// meanwhile: what the daemon deletes before its page is reached is not seen.
func (r *Reader) Readings(device bridge.DeviceID, each func(s bridge.Stored, accepted time.Time) error) error {
	last, err := r.c.integer("SELECT max(seq) FROM readings")
	for after := int64(-1); err == nil && after < last; {
		after, err = r.readingsPage(device, after, last, each)
	}
	return err
}

// readingsPage does a part and returns the seq that it has come to. The device
// is compared here: a query for one that has nothing would read everything in
// one transaction.
func (r *Reader) readingsPage(device bridge.DeviceID, after, last int64, each func(bridge.Stored, time.Time) error) (int64, error) {
	var page []storedReading
	rows, left := 0, int64(exportBytes)
	err := r.c.query("SELECT "+readingColumns+" FROM readings WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?", func(row []driver.Value) error {
		s, ok := scanReading(row)
		rows++
		after = s.Seq
		if ok && (device == "" || s.Device == device) {
			page = append(page, s)
		}
		if left -= sizeOf(&s.Reading); left <= 0 {
			return errStop
		}
		return nil
	}, after, last, int64(exportRows))
	if err != nil {
		return after, err
	}
	if rows == 0 {
		after = last
	}
	for i := range page {
		if err := each(page[i].Stored, page[i].accepted); err != nil {
			return after, err
		}
	}
	return after, nil
}

// Downlinks calls each with the downlinks that wait, oldest first, until it
// returns an error, which is returned.
func (r *Reader) Downlinks(each func(bridge.StoredDownlink) error) error {
	return r.c.query("SELECT "+downlinkColumns+" FROM downlinks ORDER BY seq", func(row []driver.Value) error {
		d, ok := scanDownlink(row)
		if !ok {
			return nil
		}
		return each(d)
	})
}

// DeadLetters calls each with the dead letters with a number above after,
// oldest first, until it returns an error, which is returned.
func (r *Reader) DeadLetters(after int64, each func(DeadLetter) error) error {
	return eachDead(r.c, after, each)
}

func eachDead(c *conn, after int64, each func(DeadLetter) error) error {
	return c.query("SELECT "+deadColumns+" FROM dead WHERE no > ? ORDER BY no", func(row []driver.Value) error {
		l, ok := scanDead(row)
		if !ok {
			return nil
		}
		return each(l)
	}, after)
}

// Editor changes dead letters from another process than the daemon, or while
// there is none. The daemon's DB notices. One goroutine uses it at a time.
type Editor struct {
	d DB
}

// OpenEditor opens the spool of a directory for changing its dead letters. The
// error wraps fs.ErrNotExist if there is no spool.
func OpenEditor(dir string) (*Editor, error) {
	e := &Editor{d: DB{opts: Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)}}}
	if err := e.d.opts.complete(); err != nil {
		return nil, err
	}
	c, err := openShared(dir, connOptions{pragmas: []string{"busy_timeout(2000)", "synchronous(FULL)"}})
	if err != nil {
		return nil, err
	}
	// No seq from this one on was ever given, so there is nothing to count.
	next, err := getMeta(c, metaNextSeq)
	if err != nil {
		return nil, errors.Join(wrap("open", err), c.close())
	}
	e.d.w.c, e.d.w.next, e.d.w.dataVersion = c, next, -1
	e.d.use.devices = make(map[bridge.DeviceID]*backlog)
	return e, nil
}

// Close ends the changing.
func (e *Editor) Close() error { return wrap("close", e.d.w.close()) }

// Retry is like that of DB.
func (e *Editor) Retry(nos []int64) error { return e.do(func(t *tx) error { return t.retry(nos) }) }

// Drop is like that of DB.
func (e *Editor) Drop(nos []int64) error { return e.do(func(t *tx) error { return t.drop(nos) }) }

func (e *Editor) do(run func(*tx) error) error {
	o := &op{run: run}
	if err := e.d.transact([]*op{o}); err != nil {
		return e.d.explain(e.d.classify(err), err)
	}
	var r refusal
	if errors.As(o.err, &r) {
		return r.error
	}
	return o.err
}

// DeadLetters returns up to limit dead letters with a number above after,
// oldest first. It waits for the disk.
func (d *DB) DeadLetters(after int64, limit int) (list []DeadLetter, err error) {
	err = d.readRepaired(func(c *conn) error {
		list = nil
		return eachDead(c, after, func(l DeadLetter) error {
			if len(list) >= limit {
				return errStop
			}
			list = append(list, l)
			return nil
		})
	})
	return list, wrap("list dead letters", err)
}

// Retry puts dead letters back into their queues, all or none, as the newest
// ones there; limits do not apply. The error wraps ErrNotThere for a number
// that is not there. It waits until that is durable.
func (d *DB) Retry(nos []int64) error { return d.do(func(t *tx) error { return t.retry(nos) }) }

// Drop deletes dead letters, all or none. The error is as with Retry.
func (d *DB) Drop(nos []int64) error { return d.do(func(t *tx) error { return t.drop(nos) }) }

func (t *tx) retry(nos []int64) error {
	if err := t.allThere(nos); err != nil {
		return err
	}
	for _, no := range nos {
		if err := t.retryDead(no); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) drop(nos []int64) error {
	if err := t.allThere(nos); err != nil {
		return err
	}
	return t.dropDead(nos)
}

func (t *tx) allThere(nos []int64) error {
	for _, no := range nos {
		_, ok, err := findDead(t.c, no)
		switch {
		case err != nil:
			return err
		case !ok:
			return refuse(fmt.Errorf("dead letter %d: %w", no, ErrNotThere))
		}
	}
	return nil
}
