package spool

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// seqGap is added to the highest seq that a salvage finds, because higher ones
// may have been lost with the damage.
const seqGap = 1 << 20

// maxAside is how many damaged databases are kept.
const maxAside = 3

// replace salvages the damaged database into a new one and sets it aside. The
// new one gets its name only when it is complete and synced, so that a crash at
// any point leads here again or to finishSalvage.
func (d *DB) replace(damage *damageError) error {
	path := filepath.Join(d.opts.Dir, salvageName)
	found, err := d.salvage(path)
	if err != nil && d.classify(err) == failedFull && d.w.reserve.release(d.logger) {
		found, err = d.salvage(path)
	}
	if err != nil {
		// There is no room, or nothing can be read: begin with nothing. The old
		// file stays, under its new name.
		d.logger.Error("salvage of the damaged spool failed, its readings stay in the file set aside", "error", err)
		if err := d.emptySalvage(path); err != nil {
			return err
		}
	}
	aside, err := d.setAside()
	if err != nil {
		return err
	}
	if err := d.finishSalvage(); err != nil {
		return err
	}
	d.logger.Error("spool was damaged, set aside and salvaged", "cause", damage.what, "path", aside,
		"readings", found.readings, "downlinks", found.downlinks, "dead_letters", found.dead, "unreadable_rows", found.bad)
	d.mu.Lock()
	d.stats.Databases++
	d.stats.Salvaged += found.readings
	d.mu.Unlock()
	d.pruneAside()
	return nil
}

// finishSalvage gives a complete salvage the database's name, if the database
// is set aside already. Otherwise a salvage that is there is of a process that
// was ended, and is made again.
func (d *DB) finishSalvage() error {
	path := filepath.Join(d.opts.Dir, salvageName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(d.path); err == nil {
		return removeDatabase(path)
	}
	// A log that is still here belongs to the damaged database; SQLite would
	// believe it.
	if err := renameIf(d.path+"-wal", d.path+"-wal.damaged-"+d.stamp()); err != nil {
		return err
	}
	if err := os.Remove(d.path + "-shm"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := syncDir(d.opts.Dir); err != nil {
		return err
	}
	if err := os.Rename(path, d.path); err != nil {
		return err
	}
	return syncDir(d.opts.Dir)
}

func (d *DB) stamp() string { return d.opts.Now().UTC().Format("20060102T150405Z") }

// setAside renames the damaged database and its log.
func (d *DB) setAside() (string, error) {
	base := d.path + ".damaged-" + d.stamp()
	aside := base
	for i := 2; ; i++ {
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			break
		}
		aside = fmt.Sprintf("%s-%d", base, i)
	}
	if err := os.Rename(d.path, aside); err != nil {
		return "", err
	}
	if err := renameIf(d.path+"-wal", aside+"-wal"); err != nil {
		return "", err
	}
	return aside, syncDir(d.opts.Dir)
}

func renameIf(from, to string) error {
	if err := os.Rename(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func removeDatabase(path string) error {
	for _, p := range []string{path, path + "-journal", path + "-wal", path + "-shm"} {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// pruneAside deletes the oldest damaged databases beyond maxAside.
func (d *DB) pruneAside() {
	list, err := filepath.Glob(d.path + ".damaged-*")
	if err != nil {
		return
	}
	list = slices.DeleteFunc(list, func(p string) bool { return filepath.Ext(p) == ".db-wal" || len(p) > 4 && p[len(p)-4:] == "-wal" })
	slices.Sort(list)
	for len(list) > maxAside {
		d.logger.Warn("deleting the oldest damaged spool", "path", list[0])
		if err := removeDatabase(list[0]); err != nil {
			d.logger.Warn("deleting a damaged spool failed", "path", list[0], "error", err)
		}
		list = list[1:]
	}
}

// salvaged is what a salvage has found.
type salvaged struct {
	readings, downlinks, dead, bad int64
}

func (d *DB) emptySalvage(path string) error {
	c, err := d.newSalvage(path)
	if err != nil {
		return err
	}
	// The numbers that were given are not known: begin where the clock says.
	if err := setMeta(c, metaNextSeq, max(time.Now().UnixMicro(), seqGap)); err != nil {
		c.close()
		return err
	}
	return c.close()
}

func (d *DB) newSalvage(path string) (*conn, error) {
	if err := removeDatabase(path); err != nil {
		return nil, err
	}
	if _, err := d.create(path); err != nil {
		return nil, err
	}
	c, err := openConn(path, connOptions{pragmas: []string{
		fmt.Sprintf("page_size(%d)", pageSize), "auto_vacuum(INCREMENTAL)", "journal_mode(MEMORY)", "synchronous(FULL)", "cache_size(-2048)"}})
	if err != nil {
		return nil, err
	}
	if err := migrate(c); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// salvage copies each sound row of the damaged database into a new one, in one
// transaction.
func (d *DB) salvage(path string) (found salvaged, err error) {
	db, dbBytes, err := openIf(d.path)
	if err != nil || db == nil {
		return found, errors.Join(err, fs.ErrNotExist)
	}
	defer db.Close()
	log, logBytes, err := openIf(d.path + "-wal")
	if err != nil {
		return found, err
	}
	var im *image
	if log != nil {
		defer log.Close()
		im = newImage(db, dbBytes, log, logBytes)
	} else {
		im = newImage(db, dbBytes, nil, 0)
	}
	c, err := d.newSalvage(path)
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return found, err
	}
	s := salvager{c: c}
	w := walker{im: im, row: s.take}
	if err := w.walk(); err != nil {
		return s.found, err
	}
	if err := setMeta(c, metaNextSeq, max(s.next, s.highest+1)+seqGap); err != nil {
		return s.found, err
	}
	if s.trusted != 0 {
		if err := setMeta(c, metaLastTrusted, s.trusted); err != nil {
			return s.found, err
		}
	}
	return s.found, c.exec("COMMIT")
}

// salvager puts rows into their tables. A row's number of columns tells its
// table, its checksum whether it is one. Readings have as many as downlinks; those
// of schema 1 have two less.
type salvager struct {
	c       *conn
	found   salvaged
	next    int64
	highest int64
	trusted int64
}

func (s *salvager) take(rowid int64, v []driver.Value) error {
	switch len(v) {
	case 13:
		return s.reading(rowid, append(v, nil, nil))
	case 15:
		if r, ok := scanReading(readingValues(rowid, v)); ok {
			return s.keep(&r, ok)
		}
		v[0] = rowid
		d, ok := scanDownlink(v)
		return s.put(ok, d.Seq, &s.found.downlinks, "SELECT count(*) FROM downlinks WHERE seq = ?", func() error { return insertDownlink(s.c, &d) })
	case 23:
		v[0] = rowid
		l, ok := scanDead(v)
		if ok {
			s.highest = max(s.highest, l.Reading.Seq, l.Downlink.Seq)
		}
		return s.put(ok, rowid, &s.found.dead, "SELECT count(*) FROM dead WHERE no = ?", func() error { return l.restore(s.c) })
	case 10:
		v[0] = rowid
		k, ok := scanKey(v)
		return s.put(ok, k.seq, new(int64), "SELECT count(*) FROM keys WHERE seq = ?", func() error { return k.insert(s.c) })
	case 6:
		o := origin{Session: asString(v[1]), PacketID: uint16(asInt(v[2]))}
		copy(o.Digest[:], asBytes(v[3]))
		if o.sum(v[4]) == asInt(v[5]) {
			return o.insert(s.c, v[4])
		}
	case 3:
		s.meta(v)
	}
	return nil
}

func (s *salvager) meta(v []driver.Value) {
	name, n := asString(v[0]), asInt(v[1])
	if newSum('M').str(name).int(n).value() != asInt(v[2]) {
		return
	}
	switch name {
	case metaNextSeq:
		s.next = max(s.next, n)
	case metaLastTrusted:
		s.trusted = max(s.trusted, n)
	}
}

// readingValues are the readingColumns of a whole row: seq, size, device, …
func readingValues(rowid int64, v []driver.Value) []driver.Value {
	return append([]driver.Value{rowid}, v[2:]...)
}

func (s *salvager) reading(rowid int64, v []driver.Value) error {
	r, ok := scanReading(readingValues(rowid, v))
	return s.keep(&r, ok)
}

func (s *salvager) keep(r *storedReading, ok bool) error {
	return s.put(ok, r.Seq, &s.found.readings, "SELECT count(*) FROM readings WHERE seq = ?", func() error { return r.insert(s.c) })
}

// put inserts a sound row unless one with its number is there.
func (s *salvager) put(ok bool, no int64, count *int64, there string, insert func() error) error {
	if !ok {
		s.found.bad++
		return nil
	}
	n, err := s.c.integer(there, no)
	if err != nil || n > 0 {
		return err
	}
	s.highest = max(s.highest, no)
	*count++
	return insert()
}

// restore inserts a dead letter under the number it had.
func (l *DeadLetter) restore(c *conn) error {
	if err := l.insert(c); err != nil {
		return err
	}
	return c.exec("UPDATE dead SET no = ? WHERE no = last_insert_rowid()", l.No)
}
