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
	ErrKeyReused = errors.New("idempotency key used before for another reading")
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
	// Oldest and Newest are the lowest and the highest Seq, Accepted is when the
	// oldest reading was spooled.
	Oldest   int64
	Newest   int64
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

// Append is what Spool.Append is called with.
type Append struct {
	Readings []Reading
	Keys     []Key
	Done     func(first int64, err error)
}

// Spool is the durable store of readings. Append, AppendAll, Delete, Bury and Load do not
// block; their done functions are called later from goroutines of the spool,
// those of Append, AppendAll and Bury in the order of the calls, and must not block
// either. What done reports is durable: it survives a power cut.
type Spool interface {
	// Append stores readings, all or none, under consecutive numbers from first
	// on, each with its key, if keys is not nil and the key has a value. An error
	// that wraps ErrSpoolFull says which limit is reached. The readings'
	// payloads are not changed or kept after done.
	Append(rs []Reading, keys []Key, done func(first int64, err error))
	// AppendAll is Append for several at once, in this order, each with its own
	// end. The disk is synced once for all of them, if there are not too many.
	AppendAll(as []Append)
	// Delete removes readings. A crash can undo it: then they are sent twice.
	Delete(seqs []int64)
	// Bury makes a dead letter of a reading, spooled or not (Seq 0). done may be
	// nil.
	Bury(s Stored, e Epitaph, done func(error))
	// Load reads a device's readings behind a number, oldest first, about
	// maxBytes of them, but at least one if there is one.
	Load(device DeviceID, after int64, maxBytes int, done func([]Stored, error))
	// Backlogs lists the devices of which something is stored.
	Backlogs() ([]Backlog, error)
	// Remembered finds the reading that was accepted under a key.
	Remembered(device DeviceID, key string) (Remembered, bool, error)
}

// Origin is how a downlink came: enough to know it again when the broker repeats
// it because it has not seen its PUBACK. The zero value is for one that is never
// repeated (QoS 0).
type Origin struct {
	// Session is the client id.
	Session  string
	PacketID uint16
	// Digest is of topic, properties and payload.
	Digest [32]byte
	// Duplicate is the DUP flag.
	Duplicate bool
}

// Downlinks stores downlinks until their targets have them. Methods do not
// block, except SeenDownlink, which reads; done functions are as in Spool.
type Downlinks interface {
	// AppendDownlinks stores a downlink for each of its targets, all or none.
	// Seq and Tries are not looked at.
	AppendDownlinks(ds []StoredDownlink, o Origin, done func(error))
	// SeenDownlink reports whether what came is stored, or was, and its PUBACK
	// has not been sent.
	SeenDownlink(o Origin) (bool, error)
	// DownlinkAcked: the PUBACK is sent, so the packet id can come anew.
	DownlinkAcked(session string, packetID uint16)
	// LoadDownlinks reads up to limit downlinks of a target behind a number, in
	// the order of their coming.
	LoadDownlinks(target string, after int64, limit int, done func([]StoredDownlink, error))
	// TriedDownlink notes the number of attempts.
	TriedDownlink(seq int64, tries int)
	// DeleteDownlink: the target has it. done may be nil; after its error the
	// downlink is stored as before.
	DeleteDownlink(seq int64, done func(error))
	// BuryDownlink makes a dead letter of it. done may be nil.
	BuryDownlink(seq int64, e Epitaph, done func(error))
}
