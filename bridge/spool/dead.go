package spool

import (
	"database/sql/driver"
	"time"

	"github.com/google/uuid"

	"fieldbridge/bridge"
)

// Kinds of dead letters.
const (
	KindReading  = "reading"
	KindDownlink = "downlink"
)

// DeadLetter is a reading or a downlink that could not be delivered.
type DeadLetter struct {
	// No names the dead letter; later ones have higher numbers.
	No int64
	// Kind is KindReading or KindDownlink; it says which of Reading and
	// Downlink is meant. Their Seq is the one they had, 0 if they had none.
	Kind     string
	Reading  bridge.Stored
	Downlink bridge.StoredDownlink
	// Died is when; zero if the clock was not trusted then.
	Died time.Time
	bridge.Epitaph

	boot, mono driver.Value
}

func deadReading(s bridge.Stored, e bridge.Epitaph) *DeadLetter {
	return &DeadLetter{Kind: KindReading, Reading: s, Epitaph: e}
}

const deadColumns = `no, kind, seq, died_ms, code, reason, size, target, id, device, subtopic, content_type, time_s, time_ns,
	boot_id, mono_ns, response_topic, correlation_data, expires_s, expires_ns, tries, payload, crc`

// values are the columns from kind to payload.
func (l *DeadLetter) values() []any {
	died := millis(l.Died)
	if l.Kind == KindDownlink {
		d := &l.Downlink
		s, ns := splitTime(d.Received)
		es, ens := splitTime(d.Expires)
		return []any{l.Kind, d.Seq, died, int64(l.Code), l.Reason, l.size(), d.Target, []byte(d.ID), string(d.Device), d.Subtopic,
			d.ContentType, s, ns, nil, nil, d.ResponseTopic, nilBlob(d.CorrelationData), es, ens, int64(d.Tries), blob(d.Payload)}
	}
	r := &l.Reading
	s, ns := splitTime(r.Time)
	return []any{l.Kind, r.Seq, died, int64(l.Code), l.Reason, l.size(), nil, r.ID[:], string(r.Device), string(r.Subtopic),
		r.ContentType, s, ns, l.boot, l.mono, nilText(r.ResponseTopic), nilBlob(r.CorrelationData), nil, nil, int64(0), blob(r.Payload)}
}

func (l *DeadLetter) size() int64 {
	if l.Kind == KindDownlink {
		return sizeOfDownlink(&l.Downlink) + int64(len(l.Reason))
	}
	return sizeOf(&l.Reading.Reading) + int64(len(l.Reason))
}

func sumOf(kind byte, values []any) int64 {
	s := newSum(kind)
	for _, v := range values {
		s = s.nullable(v)
	}
	return s.value()
}

// scanDead reads deadColumns; ok says that the checksum is right.
func scanDead(row []driver.Value) (l DeadLetter, ok bool) {
	l = DeadLetter{No: asInt(row[0]), Kind: asString(row[1]), Died: fromMillis(row[3]),
		Epitaph: bridge.Epitaph{Code: byte(asInt(row[4])), Reason: asString(row[5])}}
	seq, device, payload, at := asInt(row[2]), bridge.DeviceID(asString(row[9])), asBytes(row[21]), joinTime(row[12], row[13])
	if l.Kind == KindDownlink {
		l.Downlink = bridge.StoredDownlink{Seq: seq, Target: asString(row[7]), Tries: int(asInt(row[20])), Downlink: bridge.Downlink{
			ID: string(asBytes(row[8])), Device: device, Subtopic: asString(row[10]), ContentType: asString(row[11]),
			Payload: payload, ResponseTopic: asString(row[16]), CorrelationData: asBytes(row[17]),
			Expires: joinTime(row[18], row[19]), Received: at}}
		return l, sumOf('D', l.values()) == asInt(row[22])
	}
	l.boot, l.mono = row[14], row[15]
	l.Reading = bridge.Stored{Seq: seq, Reading: bridge.Reading{Device: device, Subtopic: bridge.Subtopic(asString(row[10])),
		ContentType: asString(row[11]), Payload: payload, Time: at, ResponseTopic: asString(row[16]), CorrelationData: asBytes(row[17])}}
	n := copy(l.Reading.ID[:], asBytes(row[8]))
	return l, l.Kind == KindReading && n == len(uuid.UUID{}) && sumOf('D', l.values()) == asInt(row[22])
}

const insertDead = `INSERT INTO dead (kind, seq, died_ms, code, reason, size, target, id, device, subtopic, content_type, time_s, time_ns,
	boot_id, mono_ns, response_topic, correlation_data, expires_s, expires_ns, tries, payload, crc)
	VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

func (l *DeadLetter) insert(c *conn) error {
	v := l.values()
	return c.exec(insertDead, append(v, sumOf('D', v))...)
}

// bury stores a dead letter and deletes the oldest ones beyond their room.
func (t *tx) bury(l *DeadLetter) error {
	l.Died = t.now
	if err := l.insert(t.c); err != nil {
		return err
	}
	t.use.dead(l.Kind).add(1, l.size())
	u := &t.db.use
	over := u.deadUp.bytes + u.deadDown.bytes + t.use.deadUp.bytes + t.use.deadDown.bytes - t.db.quarter()
	if over <= 0 {
		return nil
	}
	var nos []int64
	err := t.c.query("SELECT no, size FROM dead ORDER BY no", func(row []driver.Value) error {
		nos = append(nos, asInt(row[0]))
		if over -= asInt(row[1]); over <= 0 {
			return errStop
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.droppedDead += int64(len(nos))
	return t.dropDead(nos)
}

// dropDead deletes dead letters for good, and the keys of their readings: sent
// again, such a reading is a new one.
func (t *tx) dropDead(nos []int64) error {
	for _, no := range nos {
		seq, err := t.removeDead(no)
		if err == nil && seq != 0 {
			err = t.forgetKeys([]int64{seq})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) removeDead(no int64) (seq int64, err error) {
	err = t.c.query("DELETE FROM dead WHERE no = ? RETURNING kind, size, seq", func(row []driver.Value) error {
		t.use.dead(asString(row[0])).add(-1, -asInt(row[1]))
		seq = asInt(row[2])
		return nil
	}, no)
	return seq, err
}

// retryDead puts a dead letter back into its queue, as the newest one there.
func (t *tx) retryDead(no int64) error {
	l, ok, err := findDead(t.c, no)
	if err != nil || !ok {
		return err // named twice: it is back already
	}
	if _, err := t.removeDead(no); err != nil {
		return err
	}
	if l.Kind == KindDownlink {
		l.Downlink.Tries = 0
		return t.putDownlink(l.Downlink)
	}
	row := storedReading{Stored: l.Reading, accepted: t.now, boot: l.boot, mono: l.mono}
	row.Seq = t.seq()
	if err := row.insert(t.c); err != nil {
		return err
	}
	t.use.addReading(row.Device, row.Seq, sizeOf(&row.Reading))
	return t.moveKeys(l.Reading.Seq, row.Seq)
}

func findDead(c *conn, no int64) (l DeadLetter, ok bool, err error) {
	err = c.query("SELECT "+deadColumns+" FROM dead WHERE no = ?", func(row []driver.Value) error {
		l, ok = scanDead(row)
		return errStop
	}, no)
	return l, ok, err
}
