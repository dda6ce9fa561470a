package spool

import (
	"database/sql/driver"
	"errors"
	"time"

	"fieldbridge/bridge"
)

// reopenEvery is how often a database that cannot be opened is tried again.
const reopenEvery = time.Second

// recover replaces the database, found damaged while it was in use. Only the
// writer's goroutine calls it.
func (d *DB) recover(cause error) error {
	d.gate.Lock()
	defer d.gate.Unlock()
	d.generation.Add(1)
	_ = d.pool.close()
	_ = d.w.close() // what is damaged may not even close
	if err := d.replace(&damageError{cause.Error()}); err != nil {
		return err
	}
	return d.openChecked()
}

// connect makes sure that the writer has its connection.
func (d *DB) connect() error {
	if d.w.c != nil {
		return nil
	}
	if now := time.Now(); now.Before(d.w.reopenAt) {
		return d.w.reopenErr
	}
	d.gate.Lock()
	defer d.gate.Unlock()
	_ = d.pool.close()
	err := d.openFile()
	d.w.reopenAt, d.w.reopenErr = time.Now().Add(reopenEvery), err
	return err
}

// readRepaired is read, with one more try after the database was found damaged
// and was replaced.
func (d *DB) readRepaired(f func(*conn) error) error {
	generation := d.generation.Load()
	err := d.read(f)
	if err == nil || d.classify(err) != failedDamaged {
		return err
	}
	cause := err
	err = d.do(func(*tx) error {
		if d.generation.Load() == generation {
			return cause // the writer knows what that means
		}
		return nil
	})
	if err != nil {
		return errors.Join(cause, err)
	}
	return d.read(f)
}

// recount counts anew what the database holds, because somebody else has
// deleted from it.
func (d *DB) recount() {
	d.enqueue(&op{
		run: func(t *tx) error {
			use, _, err := survey(t.c)
			if err != nil {
				return err
			}
			t.recounted, t.use = &use, change{}
			return nil
		},
		end: func(err error) {
			d.logger.Warn("readings have vanished from the spool, counted again", "error", err)
		},
	})
}

// discard deletes readings whose checksum is wrong.
func (d *DB) discard(device bridge.DeviceID, seqs []int64) {
	d.hidden.hide(seqs)
	d.enqueue(&op{
		frees: true,
		rows:  len(seqs),
		run: func(t *tx) error {
			t.damaged += int64(len(seqs))
			return t.deleteReadings(seqs)
		},
		end: func(error) {
			d.logger.Error("readings damaged on disk, deleted", "device", device, "readings", len(seqs))
			d.hidden.committed(seqs)
		},
	})
}

func (d *DB) discardDownlinks(target string, seqs []int64) {
	d.hidden.hide(seqs)
	d.enqueue(&op{
		frees: true,
		rows:  len(seqs),
		run: func(t *tx) error {
			t.damaged += int64(len(seqs))
			for _, seq := range seqs {
				if err := t.removeDownlink(seq); err != nil {
					return err
				}
			}
			return nil
		},
		end: func(error) {
			d.logger.Error("downlinks damaged on disk, deleted", "target", target, "downlinks", len(seqs))
			d.hidden.committed(seqs)
		},
	})
}

// quickCheck asks SQLite whether the database is sound. A small one is checked
// in full, its indexes against its tables too.
func quickCheck(c *conn) (complaint string, err error) {
	pages, err := c.integer("PRAGMA page_count")
	if err != nil {
		return "", err
	}
	query := "PRAGMA quick_check(1)"
	if pages <= fullCheckPages {
		query = "PRAGMA integrity_check(1)"
	}
	err = c.query(query, func(row []driver.Value) error {
		complaint = asString(row[0])
		return errStop
	})
	return complaint, err
}

// fullCheckPages is up to which size the full check is quick.
const fullCheckPages = 4096
