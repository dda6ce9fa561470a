package bridge

import (
	"errors"
	"time"

	"github.com/google/uuid"
)

// What a Spool answers.
var (
	// ErrSpoolFull: a limit of the spool or of its file system is reached. The
	// error that wraps it says which.
	ErrSpoolFull = errors.New("spool full")
	// ErrKeyReused: the idempotency key belongs to another body.
	ErrKeyReused = errors.New("idempotency key used before with another body")
)

// Key is an Idempotency-Key of a sender, for one device.
type Key struct {
	// Value is what the sender chose; "" means no key.
	Value string
	// Digest is of everything that must be the same when the key comes again.
	Digest [32]byte
}

// Stored is a reading with its place in the spool.
type Stored struct {
	// Seq is greater than that of every reading spooled before.
	Seq int64
	Reading
}

// StoredDownlink is a downlink on its way to one target.
type StoredDownlink struct {
	Seq int64
	// Target is the stable name of the target, as in the configuration.
	Target string
	// Tries is how often delivery was attempted.
	Tries int
	Downlink
}

// Backlog is what the spool holds of one device.
type Backlog struct {
	Device   DeviceID
	Readings int64
	// Bytes of payloads and what comes with them.
	Bytes int64
	// Oldest is the lowest Seq, Accepted when that reading was spooled.
	Oldest   int64
	Accepted time.Time
}

// Epitaph is why a reading or a downlink is a dead letter.
type Epitaph struct {
	// Code is the broker's reason code, or 0.
	Code byte
	// Reason is for people and names no secret.
	Reason string
}

// Remembered is a reading that was accepted under a Key.
type Remembered struct {
	ID     uuid.UUID
	Time   time.Time
	Digest [32]byte
	// Waiting: the spool still holds the reading; else the broker has it, or Dead
	// says why it never will.
	Waiting bool
	// Dead is set if the reading has become a dead letter.
	Dead *Epitaph
}
