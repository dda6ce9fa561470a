package spool

import (
	"database/sql/driver"
	"encoding/binary"
	"hash/crc32"
	"time"

	"github.com/google/uuid"

	"fieldbridge/bridge"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// rowSum is the checksum of a row: CRC-32C over its kind and its fields, each
// with its length. It is what tells a row from damage.
type rowSum struct {
	crc uint32
}

func newSum(kind byte) rowSum {
	return rowSum{crc32.Update(0, castagnoli, []byte{kind})}
}

func (s rowSum) int(n int64) rowSum {
	var b [9]byte
	b[0] = 'i'
	binary.LittleEndian.PutUint64(b[1:], uint64(n))
	return rowSum{crc32.Update(s.crc, castagnoli, b[:])}
}

func (s rowSum) bytes(p []byte) rowSum {
	s = s.int(int64(len(p)))
	return rowSum{crc32.Update(s.crc, castagnoli, p)}
}

func (s rowSum) str(p string) rowSum { return s.bytes([]byte(p)) }

// value sums a column that may be NULL.
func (s rowSum) nullable(v driver.Value) rowSum {
	switch v := v.(type) {
	case int64:
		return s.int(v)
	case string:
		return s.str(v)
	case []byte:
		return s.bytes(v)
	}
	return rowSum{crc32.Update(s.crc, castagnoli, []byte{'n'})}
}

func (s rowSum) value() int64 { return int64(s.crc) }

// splitTime returns an instant as two columns, both NULL for the zero time. One
// column of nanoseconds would end in the year 2262; senders name any year.
func splitTime(t time.Time) (s, ns driver.Value) {
	if t.IsZero() {
		return nil, nil
	}
	return t.Unix(), int64(t.Nanosecond())
}

func joinTime(s, ns driver.Value) time.Time {
	if s == nil || ns == nil {
		return time.Time{}
	}
	return time.Unix(asInt(s), asInt(ns)).UTC()
}

func millis(t time.Time) driver.Value {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}

func fromMillis(v driver.Value) time.Time {
	if v == nil {
		return time.Time{}
	}
	return time.UnixMilli(asInt(v)).UTC()
}

// blob returns p, or an empty blob: nil would be NULL.
func blob(p []byte) []byte {
	if p == nil {
		return []byte{}
	}
	return p
}

func nilText(s string) driver.Value {
	if s == "" {
		return nil
	}
	return s
}

// readingOverhead is what a stored reading costs beside its payload and names:
// fixed columns, record header and checksum.
const readingOverhead = 80

// sizeOf is what a reading counts against the limits.
func sizeOf(r *bridge.Reading) int64 {
	return readingOverhead + int64(len(r.Payload)+len(r.Device)+len(r.Subtopic)+len(r.ContentType)+
		len(r.ResponseTopic)+len(r.CorrelationData))
}

// storedReading is a row of the table readings.
type storedReading struct {
	bridge.Stored
	accepted time.Time    // zero: the clock was not trusted
	boot     driver.Value // NULL once the time is known
	mono     driver.Value
}

const readingColumns = "seq, device, accepted_ms, id, subtopic, content_type, time_s, time_ns, boot_id, mono_ns, payload, crc, response_topic, correlation_data"

// scanReading reads readingColumns; ok says that the checksum is right.
func scanReading(row []driver.Value) (r storedReading, ok bool) {
	r.Seq = asInt(row[0])
	r.Device = bridge.DeviceID(asString(row[1]))
	r.accepted = fromMillis(row[2])
	id := asBytes(row[3])
	copy(r.ID[:], id)
	r.Subtopic = bridge.Subtopic(asString(row[4]))
	r.ContentType = asString(row[5])
	r.Time = joinTime(row[6], row[7])
	r.boot, r.mono = row[8], row[9]
	if r.boot != nil {
		r.Boot, r.Mono = asString(r.boot), time.Duration(asInt(r.mono))
	}
	r.Payload = asBytes(row[10])
	r.ResponseTopic, r.CorrelationData = asString(row[12]), asBytes(row[13])
	return r, len(id) == len(uuid.UUID{}) && r.sum() == asInt(row[11])
}

// sum is as in schema 1 for a reading that answers nothing.
func (r *storedReading) sum() int64 {
	s, ns := splitTime(r.Time)
	sum := newSum('R').int(r.Seq).nullable(millis(r.accepted)).bytes(r.ID[:]).str(string(r.Device)).
		str(string(r.Subtopic)).str(r.ContentType).nullable(s).nullable(ns).
		nullable(r.boot).nullable(r.mono).bytes(r.Payload)
	if r.ResponseTopic != "" || len(r.CorrelationData) > 0 {
		sum = sum.str(r.ResponseTopic).bytes(r.CorrelationData)
	}
	return sum.value()
}

const insertReading = `INSERT INTO readings (seq, size, device, accepted_ms, id, subtopic, content_type,
	time_s, time_ns, boot_id, mono_ns, payload, crc, response_topic, correlation_data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

func (r *storedReading) insert(c *conn) error {
	s, ns := splitTime(r.Time)
	return c.exec(insertReading, r.Seq, sizeOf(&r.Reading), string(r.Device), millis(r.accepted), r.ID[:],
		string(r.Subtopic), r.ContentType, s, ns, r.boot, r.mono, blob(r.Payload), r.sum(), nilText(r.ResponseTopic), nilBlob(r.CorrelationData))
}
