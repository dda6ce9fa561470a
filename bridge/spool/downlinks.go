package spool

import (
	"database/sql/driver"
	"time"

	"fieldbridge/bridge"
)

// origin is what is kept of a bridge.Origin: enough to know a PUBLISH again.
type origin bridge.Origin

func (o *origin) sum(at driver.Value) int64 {
	return newSum('O').str(o.Session).int(int64(o.PacketID)).bytes(o.Digest[:]).nullable(at).value()
}

func (o *origin) insert(c *conn, at driver.Value) error {
	return c.exec(`INSERT INTO origins (session, packet_id, digest, at_ms, crc) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (session, packet_id) DO UPDATE SET digest = excluded.digest, at_ms = excluded.at_ms, crc = excluded.crc`,
		o.Session, int64(o.PacketID), o.Digest[:], at, o.sum(at))
}

const (
	downlinkSize = `length(payload) + length(target) + length(device) + length(subtopic) + length(content_type) +
		length(response_topic) + length(id) + ifnull(length(correlation_data), 0) + 160`
	downlinkColumns = `seq, target, id, device, subtopic, content_type, response_topic, correlation_data,
		expires_s, expires_ns, received_s, received_ns, tries, payload, crc`
)

func sizeOfDownlink(d *bridge.StoredDownlink) int64 {
	return int64(len(d.Payload)+len(d.Target)+len(d.Device)+len(d.Subtopic)+len(d.ContentType)+
		len(d.ResponseTopic)+len(d.ID)+len(d.CorrelationData)) + 160
}

func nilBlob(p []byte) driver.Value {
	if len(p) == 0 {
		return nil
	}
	return p
}

// downlinkValues are downlinkColumns without the checksum.
func downlinkValues(d *bridge.StoredDownlink) []any {
	es, ens := splitTime(d.Expires)
	s, ns := splitTime(d.Received)
	return []any{d.Seq, d.Target, d.ID, string(d.Device), d.Subtopic, d.ContentType, d.ResponseTopic,
		nilBlob(d.CorrelationData), es, ens, s, ns, int64(d.Tries), blob(d.Payload)}
}

func scanDownlink(row []driver.Value) (d bridge.StoredDownlink, ok bool) {
	d = bridge.StoredDownlink{Seq: asInt(row[0]), Target: asString(row[1]), Tries: int(asInt(row[12])), Downlink: bridge.Downlink{
		ID: asString(row[2]), Device: bridge.DeviceID(asString(row[3])), Subtopic: asString(row[4]), ContentType: asString(row[5]),
		ResponseTopic: asString(row[6]), CorrelationData: asBytes(row[7]),
		Expires: joinTime(row[8], row[9]), Received: joinTime(row[10], row[11]), Payload: asBytes(row[13])}}
	return d, sumOf('L', downlinkValues(&d)) == asInt(row[14])
}

func insertDownlink(c *conn, d *bridge.StoredDownlink) error {
	v := downlinkValues(d)
	return c.exec(`INSERT OR REPLACE INTO downlinks (`+downlinkColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		append(v, sumOf('L', v))...)
}

// AppendDownlinks stores what one PUBLISH has brought, for each of its targets,
// all or none; the Seqs of ds are set by the spool. It remembers the origin
// until DownlinkAcked. Whoever gets a PUBLISH with the DUP flag asks
// SeenDownlink first: this method stores what it is given. The errors are those
// of Append.
func (d *DB) AppendDownlinks(ds []bridge.StoredDownlink, from bridge.Origin, done func(error)) {
	origin := origin(from)
	o := &op{end: done, run: func(t *tx) error {
		var need int64
		for i := range ds {
			need += sizeOfDownlink(&ds[i])
		}
		if d.use.downlinks.bytes+t.use.downlinks.bytes+need > d.quarter() {
			return full("downlinks that wait have reached a quarter of max_bytes (%d)", d.quarter())
		}
		switch low, err := t.diskLow(need); {
		case err != nil:
			return err
		case low:
			return full("min_free (%d) of the file system is reached", d.opts.MinFree)
		}
		for i := range ds {
			if err := t.putDownlink(ds[i]); err != nil {
				return err
			}
		}
		if origin.Session == "" {
			return nil // QoS 0: never repeated
		}
		return origin.insert(t.c, millis(t.now))
	}}
	for i := range ds {
		o.bytes += sizeOfDownlink(&ds[i])
	}
	d.enqueue(o)
}

func (t *tx) putDownlink(d bridge.StoredDownlink) error {
	d.Seq = t.seq()
	t.use.downlinks.add(1, sizeOfDownlink(&d))
	return insertDownlink(t.c, &d)
}

// SeenDownlink reports that the spool has, or had, what a PUBLISH with the DUP
// flag brings: one with the same origin was stored and is not acknowledged. It
// waits for the disk.
func (d *DB) SeenDownlink(from bridge.Origin) (seen bool, err error) {
	origin := origin(from)
	err = d.readRepaired(func(c *conn) error {
		return c.query("SELECT digest, at_ms, crc FROM origins WHERE session = ? AND packet_id = ?", func(row []driver.Value) error {
			stored := origin
			copy(stored.Digest[:], asBytes(row[0]))
			seen = stored.Digest == origin.Digest && stored.sum(row[1]) == asInt(row[2])
			return errStop
		}, origin.Session, int64(origin.PacketID))
	})
	return seen, wrap("look for an origin", err)
}

// DownlinkAcked: the PUBACK was sent, the packet id may come again with another
// message. If a crash takes this away, a message with the same packet id, the
// same content and the DUP flag is taken for the old one.
func (d *DB) DownlinkAcked(session string, packetID uint16) {
	d.enqueue(&op{frees: true, end: func(error) {}, run: func(t *tx) error {
		return t.c.exec("DELETE FROM origins WHERE session = ? AND packet_id = ?", session, int64(packetID))
	}})
}

// SessionLost: the broker has forgotten the session, its packet ids mean
// nothing any more.
func (d *DB) SessionLost(session string) {
	d.enqueue(&op{frees: true, end: func(error) {}, run: func(t *tx) error {
		return t.c.exec("DELETE FROM origins WHERE session = ?", session)
	}})
}

// LoadDownlinks reads up to limit downlinks of a target with a Seq above after,
// oldest first, also those that have expired. It does not wait for the writer.
func (d *DB) LoadDownlinks(target string, after int64, limit int, done func([]bridge.StoredDownlink, error)) {
	d.loads.add(func(closed bool) {
		if closed {
			done(nil, ErrClosed)
			return
		}
		var found []bridge.StoredDownlink
		err := d.readRepaired(func(c *conn) (err error) {
			found, err = d.loadDownlinks(c, target, after, limit)
			return err
		})
		done(found, wrap("load downlinks", err))
	})
}

// Waiting is what the spool holds of the downlinks of one target.
type Waiting struct {
	Downlinks int64
	// Received is when the oldest of them came.
	Received time.Time
}

// DownlinksOf tells what waits for the targets whose names begin with prefix,
// which is not empty; those with nothing are not in the map. It reads an index, and a row
// for each target, and waits for the disk.
func (d *DB) DownlinksOf(prefix string) (map[string]Waiting, error) {
	var found map[string]Waiting
	last := len(prefix) - 1
	behind := prefix[:last] + string(prefix[last]+1)
	err := d.readRepaired(func(c *conn) error {
		found = map[string]Waiting{}
		return c.query(`SELECT w.target, w.n, d.received_s, d.received_ns FROM
			(SELECT target, count(*) n, min(seq) oldest FROM downlinks INDEXED BY downlinks_of_target
			WHERE target >= ? AND target < ? GROUP BY target) w JOIN downlinks d ON d.seq = w.oldest`,
			func(row []driver.Value) error {
				found[asString(row[0])] = Waiting{asInt(row[1]), joinTime(row[2], row[3])}
				return nil
			}, prefix, behind)
	})
	return found, wrap("count downlinks", err)
}

func (d *DB) loadDownlinks(c *conn, target string, after int64, limit int) ([]bridge.StoredDownlink, error) {
	id := d.hidden.begin()
	defer d.hidden.end(id)
	var found []bridge.StoredDownlink
	var damaged []int64
	err := c.query("SELECT "+downlinkColumns+" FROM downlinks INDEXED BY downlinks_of_target WHERE target = ? AND seq > ? ORDER BY seq",
		func(row []driver.Value) error {
			l, ok := scanDownlink(row)
			switch {
			case len(found) >= limit:
				return errStop
			case d.hidden.has(l.Seq):
			case !ok || l.Target != target:
				damaged = append(damaged, l.Seq)
			default:
				found = append(found, l)
			}
			return nil
		}, target, after)
	if len(damaged) > 0 && err == nil {
		d.discardDownlinks(target, damaged)
	}
	return found, err
}

// DeleteDownlink removes a downlink that was delivered or is of no use any
// more. It is gone for LoadDownlinks at once, and on disk with the next commit,
// of which done is told. If that fails and somebody is told, it is there again.
func (d *DB) DeleteDownlink(seq int64, done func(error)) {
	seqs := []int64{seq}
	d.hidden.hide(seqs)
	d.enqueue(&op{
		frees: true,
		run:   func(t *tx) error { return t.removeDownlink(seq) },
		end: func(err error) {
			if err != nil && done != nil {
				d.hidden.show(seqs)
			} else {
				d.hidden.committed(seqs)
			}
			if done != nil {
				done(err)
			}
		},
	})
}

func (t *tx) removeDownlink(seq int64) error {
	return t.c.query("DELETE FROM downlinks WHERE seq = ? RETURNING "+downlinkSize, func(row []driver.Value) error {
		t.use.downlinks.add(-1, -asInt(row[0]))
		return nil
	}, seq)
}

// TriedDownlink notes how often delivery was attempted. A power cut before the
// next commit forgets it.
func (d *DB) TriedDownlink(seq int64, tries int) {
	d.enqueue(&op{end: func(error) {}, run: func(t *tx) error {
		var l bridge.StoredDownlink
		ok := false
		err := t.c.query("SELECT "+downlinkColumns+" FROM downlinks WHERE seq = ?", func(row []driver.Value) error {
			l, ok = scanDownlink(row)
			return errStop
		}, seq)
		if err != nil || !ok {
			return err
		}
		l.Tries = tries
		return insertDownlink(t.c, &l)
	}})
}

// BuryDownlink makes a downlink a dead letter, in one transaction with its
// delete. One that is not there any more is no error.
func (d *DB) BuryDownlink(seq int64, e bridge.Epitaph, done func(error)) {
	if done == nil {
		done = func(error) {}
	}
	seqs := []int64{seq}
	d.hidden.hide(seqs)
	d.enqueue(&op{
		bytes: readingOverhead,
		run: func(t *tx) error {
			var l bridge.StoredDownlink
			ok := false
			err := t.c.query("SELECT "+downlinkColumns+" FROM downlinks WHERE seq = ?", func(row []driver.Value) error {
				l, ok = scanDownlink(row)
				return errStop
			}, seq)
			if err != nil || !ok {
				return err
			}
			if err := t.removeDownlink(seq); err != nil {
				return err
			}
			return t.bury(&DeadLetter{Kind: KindDownlink, Downlink: l, Epitaph: e})
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
