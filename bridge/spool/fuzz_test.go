package spool

import (
	"bytes"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"fieldbridge/bridge"
)

// The reader behind the salvage ends with whatever it gets, and what it takes
// for a row of ours is one: its checksum says so.
func FuzzSalvage(f *testing.F) {
	f.Add([]byte("SQLite format 3\x00"), []byte{})
	f.Add(leafOf(reading("a", 1), 7), []byte{})
	f.Add([]byte{}, logOf(leafOf(reading("a", 1), 7)[pageSize:]))
	f.Add(leafOf(answer("a", 1), 7), []byte{})
	f.Fuzz(func(t *testing.T, db, log []byte) {
		if len(db)+len(log) > 1<<20 {
			t.Skip("too large to be of use")
		}
		im := newImage(bytes.NewReader(db), int64(len(db)), bytes.NewReader(log), int64(len(log)))
		rows := 0
		enough := errors.New("enough")
		w := walker{im: im, row: func(rowid int64, v []driver.Value) error {
			if len(v) == 13 || len(v) == 15 {
				sum := v[12]
				r, ok := scanReading(readingValues(rowid, append(v, nil, nil)[:15]))
				if ok && r.sum() != asInt(sum) {
					t.Errorf("row %v has another checksum", v)
				}
			}
			if rows++; rows > 1<<16 {
				return enough
			}
			return nil
		}}
		if err := w.walk(); err != nil && !errors.Is(err, enough) {
			t.Error(err)
		}
	})
}

// leafOf makes a file of two pages, the second a leaf with one reading that
// nothing leads to.
func leafOf(r bridge.Reading, seq int64) []byte {
	row := storedReading{Stored: bridge.Stored{Seq: seq, Reading: r}}
	s, ns := splitTime(r.Time)
	cell := recordOf(nil, sizeOf(&r), string(r.Device), nil, r.ID[:], string(r.Subtopic), r.ContentType, s, ns, nil, nil, r.Payload, row.sum())
	if r.ResponseTopic != "" { // schema 2
		cell = recordOf(nil, sizeOf(&r), string(r.Device), nil, r.ID[:], string(r.Subtopic), r.ContentType, s, ns, nil, nil, r.Payload, row.sum(),
			r.ResponseTopic, r.CorrelationData)
	}
	file := make([]byte, 2*pageSize)
	p := file[pageSize:]
	head := binary.AppendUvarint(nil, 0)[:0]
	head = append(appendVarint(head, uint64(len(cell))), byte(seq))
	at := pageSize - len(head) - len(cell)
	copy(p[at:], append(head, cell...))
	p[0], p[4] = leafTable, 1
	binary.BigEndian.PutUint16(p[8:], uint16(at))
	return file
}

// answer is a reading that answers a downlink.
func answer(device string, i int) bridge.Reading {
	r := reading(device, i)
	r.ResponseTopic, r.CorrelationData = "/answers/of/app-1", []byte{0, 1, 0xff}
	return r
}

func appendVarint(b []byte, v uint64) []byte {
	if v > 0x7f {
		b = append(b, byte(v>>7)|0x80)
	}
	return append(b, byte(v&0x7f))
}

// recordOf makes a record as in section 2.1 of the file format.
func recordOf(values ...driver.Value) []byte {
	var types, body []byte
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			types = append(types, 0)
		case int64:
			types = append(types, 6)
			body = binary.BigEndian.AppendUint64(body, uint64(v))
		case string:
			types = appendVarint(types, uint64(13+2*len(v)))
			body = append(body, v...)
		case []byte:
			types = appendVarint(types, uint64(12+2*len(v)))
			body = append(body, v...)
		}
	}
	return append(append([]byte{byte(len(types) + 1)}, types...), body...)
}

// logOf makes a log with one frame, of page 2.
func logOf(page []byte) []byte {
	b := make([]byte, logHeader, logHeader+frameBytes)
	binary.BigEndian.PutUint32(b[0:], 0x377f0682)
	binary.BigEndian.PutUint32(b[4:], 3007000)
	binary.BigEndian.PutUint32(b[8:], pageSize)
	sum := logSum{order: binary.LittleEndian}
	sum.add(b[:24])
	binary.BigEndian.PutUint32(b[24:], sum.s0)
	binary.BigEndian.PutUint32(b[28:], sum.s1)
	head := make([]byte, frameHeader)
	head[3], head[7] = 2, 2
	sum.add(head[:8])
	sum.add(page)
	binary.BigEndian.PutUint32(head[16:], sum.s0)
	binary.BigEndian.PutUint32(head[20:], sum.s1)
	return append(append(b, head...), page...)
}

// What the seeds of FuzzSalvage are made of is what the reader takes.
func TestReadersAgree(t *testing.T) {
	for schema, want := range map[int]bridge.Reading{1: reading("a", 1), 2: answer("a", 1)} {
		leaf := leafOf(want, 7)
		for name, im := range map[string]*image{
			"database": newImage(bytes.NewReader(leaf), int64(len(leaf)), nil, 0),
			"log":      newImage(bytes.NewReader(nil), 0, bytes.NewReader(logOf(leaf[pageSize:])), logHeader+frameBytes),
		} {
			var got []storedReading
			w := walker{im: im, row: func(rowid int64, v []driver.Value) error {
				r, ok := scanReading(readingValues(rowid, append(v, nil, nil)[:15]))
				if ok {
					got = append(got, r)
				}
				return nil
			}}
			if err := w.walk(); err != nil || len(got) != 1 {
				t.Fatalf("schema %d, %s: %v %v", schema, name, got, err)
			}
			diff(t, name, got[0].Stored, bridge.Stored{Seq: 7, Reading: want})
		}
	}
}

// Whatever a spool's files are changed to, it opens and has nothing that was not
// given to it. The input is a list of changes to a sample.
func FuzzOpen(f *testing.F) {
	s := newSample(f)
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 1, 0xff})          // the magic
	f.Add([]byte{1, 0, 0, 24, 3, 1, 2, 3})      // the log's checksum
	f.Add([]byte{2, 0, 10, 0})                  // cut the database off
	f.Add([]byte{0, 0, 0x10, 0, 4, 5, 0, 0, 0}) // a root page
	f.Add([]byte{0, 0, 0, 32, 4, 0, 0, 0, 5})   // the freelist
	f.Fuzz(func(t *testing.T, changes []byte) {
		dir := t.TempDir()
		for name, b := range s.files {
			if err := os.WriteFile(filepath.Join(dir, name), changed(b, changes, name != fileName), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s.check(t, dir)
	})
}

// changed applies changes: a byte that says what to do and to which file, three
// for the place, and for an overwrite the length and the bytes.
func changed(b, changes []byte, log bool) []byte {
	b = bytes.Clone(b)
	for len(changes) >= 4 {
		what, at := changes[0], int(changes[1])<<16|int(changes[2])<<8|int(changes[3])
		changes = changes[4:]
		mine := what&1 == 1 == log
		if what&2 != 0 {
			if mine {
				b = b[:min(len(b), at)]
			}
			continue
		}
		if len(changes) == 0 {
			break
		}
		n := min(int(changes[0]), len(changes)-1)
		if mine && at < len(b) {
			copy(b[at:], changes[1:1+n])
		}
		changes = changes[1+n:]
	}
	return b
}
