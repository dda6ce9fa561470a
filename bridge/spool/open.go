package spool

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	sqlite3 "modernc.org/sqlite/lib"

	"modernc.org/sqlite"
)

// SQLite's primary result codes that are told apart here.
const (
	codeBusy     = sqlite3.SQLITE_BUSY
	codeLocked   = sqlite3.SQLITE_LOCKED
	codeIOErr    = sqlite3.SQLITE_IOERR
	codeCorrupt  = sqlite3.SQLITE_CORRUPT
	codeFull     = sqlite3.SQLITE_FULL
	codeCantOpen = sqlite3.SQLITE_CANTOPEN
	codeNotADB   = sqlite3.SQLITE_NOTADB
)

// damageError says why a database is set aside.
type damageError struct{ what string }

func (e *damageError) Error() string { return "database is damaged: " + e.what }

// openFile opens the writer's connection, setting aside and salvaging what is
// damaged.
func (d *DB) openFile() error {
	// fdatasync is as durable as SQLite's default here, fsync, and saves a
	// write of the file system's journal with most commits.
	_, _ = sqlite.Fdatasync(true) // what is not available stays as it is
	d.w.reserve = findReserve(d.opts.Dir)
	if err := d.finishSalvage(); err != nil {
		return err
	}
	err := d.openChecked()
	var damage *damageError
	if errors.As(err, &damage) {
		if err = d.replace(damage); err == nil {
			err = d.openChecked()
		}
	}
	if err != nil && d.classify(err) == failedFull && d.w.reserve.release(d.logger) {
		err = d.openChecked()
	}
	if err != nil {
		return wrap("open "+d.path, err)
	}
	d.w.reserve.renew(d)
	return nil
}

// openChecked opens the database, making it if there is none, and believes
// nothing that it says before it is checked. A *damageError asks for a salvage.
func (d *DB) openChecked() (err error) {
	isNew, err := d.create(d.path)
	if err != nil {
		return err
	}
	if !isNew {
		if err := checkFiles(d.path); err != nil {
			return err
		}
	}
	c, err := openConn(d.path, d.connOptions(true))
	if err != nil {
		return d.judge(err)
	}
	defer func() {
		if err != nil {
			d.w.c = nil
			_ = c.close()
		}
	}()
	if err := d.check(c, isNew); err != nil {
		return d.judge(err)
	}
	use, next, err := survey(c)
	if err != nil {
		return d.judge(err)
	}
	if err := compare(c, &use); err != nil {
		return d.judge(err)
	}
	trusted, err := getMeta(c, metaLastTrusted)
	if err != nil {
		return d.judge(err)
	}
	version, err := c.integer("PRAGMA data_version")
	if err != nil {
		return d.judge(err)
	}
	d.w.c, d.w.next, d.w.reserved, d.w.dataVersion = c, next, next, version
	d.w.logPages, d.w.moved, d.w.counted = 0, 0, c.pagesWritten()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.use = use
	if trusted != 0 {
		d.trusted = fromMillis(trusted * 1000)
	}
	return nil
}

// create makes an empty file that only we can read, and reports whether it did.
// SQLite gives the log the same permissions.
func (d *DB) create(path string) (isNew bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		s, err := os.Stat(path)
		return err == nil && s.Size() == 0, err
	case err != nil:
		return false, err
	}
	if err := f.Close(); err != nil {
		return false, err
	}
	return true, syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// judge turns what SQLite says of a damaged file into a damageError.
func (d *DB) judge(err error) error {
	if d.classify(err) == failedDamaged || resultCode(err) == sqlite3.SQLITE_ERROR || resultCode(err) == sqlite3.SQLITE_CONSTRAINT {
		// A schema that is not ours makes statements fail with SQLITE_ERROR.
		return &damageError{err.Error()}
	}
	return err
}

// check makes sure that the database is sound and has this version's schema.
func (d *DB) check(c *conn, isNew bool) error {
	id, err := c.integer("PRAGMA application_id")
	if err != nil {
		return err
	}
	version, err := c.integer("PRAGMA user_version")
	if err != nil {
		return err
	}
	if !isNew && (id != applicationID || version != schemaVersion) {
		if err := checkVersion(c, id, version); err != nil {
			return err
		}
	}
	if !isNew {
		complaint, err := quickCheck(c)
		if err != nil {
			return err
		}
		if complaint != "ok" {
			return &damageError{complaint}
		}
	}
	if err := migrate(c); err != nil {
		return err
	}
	// What was in the log is in the database from here on, so that every valid
	// frame that the log ever holds is of this run.
	return c.query("PRAGMA wal_checkpoint(TRUNCATE)", func([]driver.Value) error { return nil })
}

// checkVersion tells a database of another version from a damaged header. A
// file without any table is one whose making was interrupted.
func checkVersion(c *conn, id, version int64) error {
	tables, err := c.integer("SELECT count(*) FROM sqlite_schema")
	if err != nil {
		return err
	}
	if tables == 0 && id == 0 && version == 0 {
		return nil
	}
	if id != applicationID {
		return &damageError{fmt.Sprintf("application id %#x is not %#x", id, applicationID)}
	}
	said, err := getMeta(c, metaSchema)
	if err != nil || said != version {
		return &damageError{fmt.Sprintf("schema version %d is not %d", version, said)}
	}
	if version > schemaVersion {
		return fmt.Errorf("the database was written by a later version of this program (schema %d, this one knows %d); install that one again, or move the file away", version, schemaVersion)
	}
	return nil
}

// compare finds what SQLite's quick check does not look for: an index, by which
// downlinks are found, that does not have all of them.
func compare(c *conn, u *usage) error {
	n, err := c.integer("SELECT count(*) FROM downlinks INDEXED BY downlinks_of_target")
	if err != nil {
		return err
	}
	if n != u.downlinks.n {
		return &damageError{fmt.Sprintf("%d downlinks, %d in the index", u.downlinks.n, n)}
	}
	return nil
}
