// Package spool keeps on disk what the broker does not have yet: readings on
// their way up, downlinks on their way to a device, dead letters, and the
// idempotency keys of senders. It is one SQLite database per gateway, in WAL
// mode with synchronous=FULL (https://www.sqlite.org/wal.html), and a single
// writer that turns what is asked of it at the same time into one transaction.
//
// DESIGN.md says what is guaranteed, how it is kept and what is assumed of the
// disk.
package spool
