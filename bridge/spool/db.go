package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrClosed answers every call after Close.
	ErrClosed = errors.New("spool is closed")
	// ErrLocked: another process has this directory's spool open for writing.
	// The error that wraps it names that process.
	ErrLocked = errors.New("state directory is in use")
)

// What to do with a new reading when a limit is reached.
const (
	Reject     = "reject"      // refuse the new reading
	DropOldest = "drop-oldest" // delete the oldest ones, count them
)

// Options are the settings of a DB. A limit of zero is none.
type Options struct {
	// Dir is the state directory; it is made if it is missing.
	Dir string
	// MaxBytes bounds the readings of all devices, in bytes of payload and of
	// what comes with it. Dead letters, downlinks and idempotency keys may each
	// have a quarter of it in addition.
	MaxBytes int64
	// MaxBytesPerDevice bounds the readings of each device in the same way.
	MaxBytesPerDevice int64
	// MinFree is how many bytes of the file system are left to others.
	MinFree int64
	// MaxAge is how long readings and dead letters are kept.
	MaxAge time.Duration
	// WhenFull is Reject, the default, or DropOldest.
	WhenFull string
	// Logger must not be nil.
	Logger *slog.Logger
	// Now is the wall clock, Trusted whether it can be believed. Rows that are
	// stored before it can have no age until it can, so that a jump of the
	// clock does not make them old. The defaults are time.Now and always.
	Now     func() time.Time
	Trusted func() bool

	// vfs names a VFS registered with SQLite, noSync trades every guarantee
	// away, freeSpace replaces statfs, onCommit is told of each transaction,
	// checkpointPages replaces the constant: for tests.
	vfs       string
	noSync    bool
	freeSpace func(dir string) (int64, error)
	onCommit  func(operations int)

	checkpointPages int64
}

// Names of files in the state directory.
const (
	fileName    = "spool.db"
	lockName    = "spool.lock"
	reserveName = "spool.reserve"
	salvageName = "spool.db.salvage"
)

// DB is an open spool. Its methods may be called from any goroutine. Those with
// a callback never block and take effect in the order of the calls; callbacks
// run on the writer's goroutine (those of the Load methods on a reader's), in
// the same order, once the change is durable. They must not block and must not
// call a method that has no callback; they may call those that have one.
type DB struct {
	opts   Options
	logger *slog.Logger
	path   string
	lock   *os.File

	w writer // owned by the writer's goroutine once it runs

	// gate is held for reading while one of pool's connections is used and for
	// writing while the database files are replaced.
	gate sync.RWMutex
	pool pool

	hidden hidden
	loads  loads

	generation atomic.Uint64 // of the files; recover makes a new one

	mu      sync.Mutex // guards what follows
	queue   []*op
	closed  bool
	use     usage     // what is committed
	stats   Stats     // the counts that only grow
	trusted time.Time // the last trusted time
	limits  *Limits   // for the writer to adopt; nil: nothing new
	foreign bool      // somebody else has written since Changed

	wake   chan struct{} // capacity 1: there is something in queue, or closed is set
	wg     sync.WaitGroup
	closer sync.Once
	closeE error
}

// Open opens the spool of a directory, making it if there is none. A database
// that SQLite cannot read or that fails its check is set aside under a dated
// name, and what can be read of it is taken over. The errors are ErrLocked, a
// schema that a later version made, and what the file system says.
func Open(opts Options) (*DB, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, wrap("make state directory (set state_dir to one that this user may write to)", err)
	}
	lock, err := takeLock(filepath.Join(opts.Dir, lockName))
	if err != nil {
		return nil, err
	}
	d := &DB{
		opts:   opts,
		logger: opts.Logger,
		path:   filepath.Join(opts.Dir, fileName),
		lock:   lock,
		wake:   make(chan struct{}, 1),
	}
	d.pool.open = func() (*conn, error) { return openConn(d.path, d.connOptions(false)) }
	d.hidden.init()
	d.loads.init()
	if err := d.openFile(); err != nil {
		lock.Close()
		return nil, err
	}
	d.wg.Go(d.write)
	for range loaders {
		d.wg.Go(d.serveLoads)
	}
	return d, nil
}

func (o *Options) complete() error {
	switch o.WhenFull {
	case "":
		o.WhenFull = Reject
	case Reject, DropOldest:
	default:
		return fmt.Errorf("spool: when_full: must be %q or %q (got %q)", Reject, DropOldest, o.WhenFull)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return wrap("find state directory", err)
	}
	o.Dir = dir
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Trusted == nil {
		o.Trusted = func() bool { return true }
	}
	if o.checkpointPages == 0 {
		o.checkpointPages = checkpointPages
	}
	if o.freeSpace == nil {
		o.freeSpace = freeSpace
	}
	return nil
}

// connOptions are the settings of the writer's connection or of a reader's.
func (d *DB) connOptions(writer bool) connOptions {
	o := connOptions{vfs: d.opts.vfs}
	if !writer {
		o.pragmas = []string{"busy_timeout(5000)", "query_only(1)", "cache_size(-1024)"}
		return o
	}
	o.pragmas = []string{
		"busy_timeout(5000)",
		fmt.Sprintf("page_size(%d)", pageSize),
		"auto_vacuum(INCREMENTAL)",
		"journal_mode(WAL)",
		"synchronous(FULL)",
		"wal_autocheckpoint(0)", // done by the writer, between transactions
		fmt.Sprintf("journal_size_limit(%d)", logLimit),
		"cache_size(-2048)",
		"temp_store(MEMORY)",
	}
	if d.opts.noSync {
		o.pragmas = append(o.pragmas, "synchronous(OFF)")
	}
	return o
}

// now is when something happens, or the zero time if nobody knows.
func (d *DB) now() time.Time {
	if !d.opts.Trusted() {
		return time.Time{}
	}
	return d.opts.Now()
}

// Close waits until all that was asked for is done and its callbacks have
// returned. Loads that have not begun get ErrClosed. A call that comes later
// is answered with ErrClosed by its own goroutine.
func (d *DB) Close() error {
	d.closer.Do(func() {
		d.mu.Lock()
		d.closed = true
		d.mu.Unlock()
		d.signal()
		d.loads.close()
		d.wg.Wait()
		d.closeE = errors.Join(d.pool.close(), wrap("close", d.w.close()), d.lock.Close())
	})
	return d.closeE
}

func (d *DB) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// enqueue hands an operation to the writer.
func (d *DB) enqueue(ops ...*op) {
	d.mu.Lock()
	closed := d.closed
	if !closed {
		d.queue = append(d.queue, ops...)
	}
	d.mu.Unlock()
	if closed {
		for _, o := range ops {
			o.end(ErrClosed)
		}
		return
	}
	d.signal()
}

// do hands an operation to the writer and waits for its end.
func (d *DB) do(run func(*tx) error) error {
	done := make(chan error, 1)
	d.enqueue(&op{run: run, end: func(err error) { done <- err }})
	return <-done
}
