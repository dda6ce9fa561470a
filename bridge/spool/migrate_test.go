package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"fieldbridge/bridge"
)

// writeSchema1 makes a spool as the first version of the schema was written,
// with two readings, a dead letter and a downlink.
func writeSchema1(t *testing.T, dir string) (rs []bridge.Reading) {
	t.Helper()
	path := filepath.Join(dir, fileName)
	if _, err := (&DB{}).create(path); err != nil {
		t.Fatal(err)
	}
	c, err := openConn(path, connOptions{pragmas: []string{
		fmt.Sprintf("page_size(%d)", pageSize), "auto_vacuum(INCREMENTAL)", "journal_mode(WAL)"}})
	if err != nil {
		t.Fatal(err)
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(c.script(schema1))
	do(c.script(fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = 1", applicationID)))
	do(setMeta(c, metaSchema, 1))
	do(setMeta(c, metaNextSeq, 100))
	at := time.Date(2024, 5, 6, 7, 8, 9, 10, time.UTC)
	// The checksums are as that version had them.
	for i, crc := range []int64{crcOfSeq7, crcOfSeq8} {
		r := bridge.Reading{ID: uuid.UUID{15: byte(i + 1)}, Device: "a", Subtopic: "x/y", ContentType: "text/plain",
			Payload: fmt.Appendf(nil, "value %d", i), Time: at}
		rs = append(rs, r)
		do(c.exec(`INSERT INTO readings (seq, size, device, accepted_ms, id, subtopic, content_type,
			time_s, time_ns, boot_id, mono_ns, payload, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			int64(7+i), sizeOf(&r), string(r.Device), int64(1_714_972_000_000), r.ID[:], string(r.Subtopic), r.ContentType,
			at.Unix(), int64(at.Nanosecond()), nil, nil, r.Payload, crc))
	}
	do(deadReading(bridge.Stored{Seq: 3, Reading: rs[0]}, bridge.Epitaph{Code: 0x99, Reason: "no"}).insert(c))
	do(insertDownlink(c, &bridge.StoredDownlink{Seq: 5, Target: "t", Downlink: bridge.Downlink{ID: "d", Device: "a", Payload: []byte("on")}}))
	do(c.close())
	return rs
}

const (
	crcOfSeq7 = 1168406618
	crcOfSeq8 = 1424088045
)

// A spool of an earlier version is brought up to date with all that it has.
func TestMigrate(t *testing.T) {
	dir := t.TempDir()
	rs := writeSchema1(t, dir)
	if _, err := OpenReadOnly(dir); err == nil || !strings.Contains(err.Error(), "brings it up to date") {
		t.Errorf("looking into it: %v", err)
	}
	for range 2 { // the second time nothing is left to do
		d := open(t, Options{Dir: dir})
		diff(t, "readings", readings(loadAll(t, d, "a")), rs)
		dead, err := d.DeadLetters(0, 10)
		if err != nil || len(dead) != 1 || string(dead[0].Reading.Payload) != "value 0" || dead[0].Code != 0x99 {
			t.Errorf("dead letters %+v, %v", dead, err)
		}
		if s := d.Stats(); s.Databases != 0 || s.Readings != 2 || s.Downlinks != 1 {
			t.Errorf("%+v", s)
		}
		flush(t, d)
		checkInvariants(t, d)
		shut(t, d)
	}
	d := open(t, Options{Dir: dir})
	want := answer("a", 9)
	if seq := mustAppend(t, d, want); seq < 100 {
		t.Errorf("seq %d was given before", seq)
	}
	diff(t, "with an answer", readings(loadAll(t, d, "a")), append(rs, want))
	shut(t, d)
}

// A damaged spool of an earlier version is salvaged into one of this version.
func TestSalvageSchema1(t *testing.T) {
	dir := t.TempDir()
	rs := writeSchema1(t, dir)
	path := filepath.Join(dir, fileName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(b, "SQLite format 9") // the magic
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, Options{Dir: dir, Logger: quiet()})
	diff(t, "salvaged", readings(loadAll(t, d, "a")), rs)
	if s := d.Stats(); s.Databases != 1 || s.Salvaged != 2 || s.Downlinks != 1 || s.DeadReadings != 1 {
		t.Errorf("%+v", s)
	}
	shut(t, d)
}

// A migration that is cut off is made again.
func TestMigrateAgain(t *testing.T) {
	dir := t.TempDir()
	rs := writeSchema1(t, dir)
	c, err := openConn(filepath.Join(dir, fileName), connOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.exec("BEGIN IMMEDIATE"), c.script(schema2), c.exec("ROLLBACK"), c.close()); err != nil {
		t.Fatal(err)
	}
	d := open(t, Options{Dir: dir})
	diff(t, "readings", readings(loadAll(t, d, "a")), rs)
	shut(t, d)
}

// An answer keeps its topic and correlation data on every way through the spool.
func TestAnswersAreKept(t *testing.T) {
	d := open(t, Options{})
	plain, one, bare := reading("a", 0), answer("a", 1), answer("a", 2)
	bare.CorrelationData = nil
	first := mustAppend(t, d, plain, one, bare)
	diff(t, "loaded", readings(loadAll(t, d, "a")), []bridge.Reading{plain, one, bare})
	bury(t, d, bridge.Stored{Seq: first + 1, Reading: one}, bridge.Epitaph{Code: 0x87})
	dead, err := d.DeadLetters(0, 1)
	if err != nil || len(dead) != 1 {
		t.Fatal(dead, err)
	}
	diff(t, "dead", dead[0].Reading.Reading, one)
	if err := d.Retry([]int64{dead[0].No}); err != nil {
		t.Fatal(err)
	}
	dir := d.opts.Dir
	shut(t, d)
	d = open(t, Options{Dir: dir})
	diff(t, "retried", readings(loadAll(t, d, "a")), []bridge.Reading{plain, bare, one})
	checkInvariants(t, d)
	shut(t, d)
	r, err := OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var seen []bridge.Reading
	if err := r.Readings("a", func(s bridge.Stored, _ time.Time) error { seen = append(seen, s.Reading); return nil }); err != nil {
		t.Fatal(err)
	}
	diff(t, "seen from outside", seen, []bridge.Reading{plain, bare, one})
}

// Damage in what makes a reading an answer is noticed like any other.
func TestDamagedAnswer(t *testing.T) {
	for _, change := range []string{
		"response_topic = NULL, correlation_data = NULL", "response_topic = '/else'", "correlation_data = x'00'", "correlation_data = NULL",
	} {
		d := open(t, Options{Logger: quiet()})
		first := mustAppend(t, d, answer("a", 1), answer("a", 2))
		if err := d.do(func(t *tx) error {
			return t.c.script(fmt.Sprintf("UPDATE readings SET %s WHERE seq = %d", change, first))
		}); err != nil {
			t.Fatal(err)
		}
		diff(t, change, readings(loadAll(t, d, "a")), []bridge.Reading{answer("a", 2)})
		shut(t, d)
	}
}
