package spool

import (
	"database/sql/driver"
	"fmt"
)

// What a spool database says of itself
// (https://www.sqlite.org/fileformat2.html#application_id).
const (
	applicationID = 0x46425350 // "FBSP"
	schemaVersion = 2
	pageSize      = 4096
)

// The order of the columns is part of the schema: the salvage reads records
// without SQLite's help. Each row has a checksum of what it says.
const schema1 = `
CREATE TABLE meta (
	name TEXT NOT NULL UNIQUE,
	value INTEGER NOT NULL,
	crc INTEGER NOT NULL
);
CREATE TABLE readings (
	seq INTEGER PRIMARY KEY,
	size INTEGER NOT NULL,
	device TEXT NOT NULL,
	accepted_ms INTEGER,
	id BLOB NOT NULL,
	subtopic TEXT NOT NULL,
	content_type TEXT NOT NULL,
	time_s INTEGER,
	time_ns INTEGER,
	boot_id TEXT,
	mono_ns INTEGER,
	payload BLOB NOT NULL,
	crc INTEGER NOT NULL
);
CREATE INDEX readings_without_age ON readings (seq) WHERE accepted_ms IS NULL;
CREATE INDEX readings_without_time ON readings (boot_id, seq) WHERE boot_id IS NOT NULL;
CREATE TABLE keys (
	no INTEGER PRIMARY KEY,
	device TEXT NOT NULL,
	key TEXT NOT NULL,
	seq INTEGER NOT NULL,
	at_ms INTEGER,
	id BLOB NOT NULL,
	time_s INTEGER,
	time_ns INTEGER,
	digest BLOB NOT NULL,
	crc INTEGER NOT NULL,
	UNIQUE (device, key)
);
CREATE INDEX keys_by_seq ON keys (seq);
CREATE INDEX keys_without_age ON keys (no) WHERE at_ms IS NULL;
CREATE TABLE downlinks (
	seq INTEGER PRIMARY KEY,
	target TEXT NOT NULL,
	id TEXT NOT NULL,
	device TEXT NOT NULL,
	subtopic TEXT NOT NULL,
	content_type TEXT NOT NULL,
	response_topic TEXT NOT NULL,
	correlation_data BLOB,
	expires_s INTEGER,
	expires_ns INTEGER,
	received_s INTEGER,
	received_ns INTEGER,
	tries INTEGER NOT NULL,
	payload BLOB NOT NULL,
	crc INTEGER NOT NULL
);
CREATE INDEX downlinks_of_target ON downlinks (target, seq);
CREATE TABLE origins (
	no INTEGER PRIMARY KEY,
	session TEXT NOT NULL,
	packet_id INTEGER NOT NULL,
	digest BLOB NOT NULL,
	at_ms INTEGER,
	crc INTEGER NOT NULL,
	UNIQUE (session, packet_id)
);
CREATE TABLE dead (
	no INTEGER PRIMARY KEY,
	kind TEXT NOT NULL,
	seq INTEGER NOT NULL,
	died_ms INTEGER,
	code INTEGER NOT NULL,
	reason TEXT NOT NULL,
	size INTEGER NOT NULL,
	target TEXT,
	id BLOB NOT NULL,
	device TEXT NOT NULL,
	subtopic TEXT NOT NULL,
	content_type TEXT NOT NULL,
	time_s INTEGER,
	time_ns INTEGER,
	boot_id TEXT,
	mono_ns INTEGER,
	response_topic TEXT,
	correlation_data BLOB,
	expires_s INTEGER,
	expires_ns INTEGER,
	tries INTEGER NOT NULL,
	payload BLOB NOT NULL,
	crc INTEGER NOT NULL
);
CREATE INDEX dead_by_seq ON dead (seq);
`

// schema2 is for readings that answer a downlink. Rows of before have no such
// columns in their record, and their checksums stay right. The table dead has the
// columns for its downlinks already.
const schema2 = `
ALTER TABLE readings ADD COLUMN response_topic TEXT;
ALTER TABLE readings ADD COLUMN correlation_data BLOB;
`

// migrations[v] turns schema v into v+1. The first one makes the schema.
var migrations = []string{schema1, schema2}

// Names in the table meta.
const (
	metaSchema      = "schema"       // the schema version once more, to tell a newer one from a damaged header
	metaNextSeq     = "next_seq"     // no seq from here on was ever given to anything
	metaLastTrusted = "last_trusted" // Unix seconds
)

// migrate brings the database to this version's schema, in one transaction.
func migrate(c *conn) error {
	version, err := c.integer("PRAGMA user_version")
	if err != nil {
		return err
	}
	if version == schemaVersion {
		return nil
	}
	if version < 0 || version > schemaVersion {
		return fmt.Errorf("schema version %d is not known", version)
	}
	if err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err = func() error {
		for v := version; v < schemaVersion; v++ {
			if err := c.script(migrations[v]); err != nil {
				return err
			}
		}
		if err := setMeta(c, metaSchema, schemaVersion); err != nil {
			return err
		}
		return c.script(fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, schemaVersion))
	}()
	if err == nil {
		err = c.exec("COMMIT")
	}
	if err != nil {
		_ = c.exec("ROLLBACK") // the first error says it
	}
	return err
}

func setMeta(c *conn, name string, value int64) error {
	return c.exec("INSERT INTO meta (name, value, crc) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value, crc = excluded.crc",
		name, value, newSum('M').str(name).int(value).value())
}

// getMeta returns 0 for what is not there or is damaged.
func getMeta(c *conn, name string) (value int64, err error) {
	err = c.query("SELECT value, crc FROM meta WHERE name = ?", func(row []driver.Value) error {
		if v := asInt(row[0]); newSum('M').str(name).int(v).value() == asInt(row[1]) {
			value = v
		}
		return errStop
	}, name)
	return value, err
}
