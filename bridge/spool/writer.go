package spool

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"fieldbridge/bridge"
)

const (
	// maxBatch and maxBatchBytes bound a transaction, so that the first of many
	// callers does not wait for all the others.
	maxBatch      = 256
	maxBatchBytes = 1 << 20
	// maxBatchRows bounds what a transaction deletes, and so how many pages it
	// changes and remembers. maxDelete is how much of that one operation takes;
	// half a batch must have room for one.
	maxBatchRows = 4096
	maxDelete    = 1024
	// sweepEvery is how often what has become old is looked for.
	sweepEvery = time.Minute
	// retryDeletes is how long deletes wait for another try when the disk does
	// not take them.
	retryDeletes = time.Second
	// seqBlock is how many sequence numbers are reserved on disk at a time.
	seqBlock = 1 << 16
)

// op is something for the writer to do.
type op struct {
	// run makes its changes. A refusal must come before the first change; any
	// other error ends the whole transaction.
	run func(*tx) error
	// end is called once, after the commit or with the error.
	end func(error)
	// bytes is about how much it writes; 0 if it only frees.
	bytes int64
	// rows is how many it deletes; 0 for a few.
	rows int
	// frees: it only deletes, and is tried alone when there is no room.
	frees bool

	err error
}

// refusal is an error that ends one operation and not its transaction.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func refuse(err error) error { return refusal{err} }

// writer is what the writer's goroutine owns.
type writer struct {
	c           *conn
	next        int64 // the next seq
	reserved    int64 // seqs below are ours, as the database says
	dataVersion int64
	logPages    int64 // pages in the write-ahead log, about
	moved       int64 // frames of the log that the last checkpoint found in the database
	counted     int64 // pages of c that are in Stats.WrittenBytes
	stuck       []*op // deletes that the disk did not take
	retryAt     time.Time
	reserve     reserve
	reopenAt    time.Time // when c is nil: the next try to open the database
	reopenErr   error     // and what the last one said
}

func (w *writer) close() error {
	if w.c == nil {
		return nil
	}
	// The last connection to close moves the log into the database and removes it.
	err := w.c.close()
	w.c = nil
	return err
}

// write is the writer's goroutine.
func (d *DB) write() {
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		batch, closed := d.take()
		if len(batch) > 0 {
			d.commit(batch)
			d.maintain()
			continue
		}
		if closed {
			d.unstick()
			return
		}
		if d.tidy() {
			continue
		}
		var again <-chan time.Time
		if len(d.w.stuck) > 0 {
			retry.Reset(retryDeletes)
			again = retry.C
		}
		select {
		case <-d.wake:
		case <-again:
		case <-sweep.C:
			d.commit([]*op{{run: (*tx).sweep, end: d.swept}})
		}
	}
}

// unstick tries once more, at the end, what the disk did not take before. It
// gives up at the first part of which nothing is taken.
func (d *DB) unstick() {
	for before := -1; len(d.w.stuck) > 0 && len(d.w.stuck) != before; {
		before = len(d.w.stuck)
		var b bounds
		n := b.fit(d.w.stuck)
		batch := slices.Clone(d.w.stuck[:n])
		d.w.stuck = d.w.stuck[n:]
		d.commit(batch)
		d.maintain()
	}
}

// bounds is how much of a batch is taken.
type bounds struct {
	n, rows int
	bytes   int64
}

// fit counts in the operations that still fit into a batch and returns how many
// they are. An empty batch takes at least one.
func (b *bounds) fit(ops []*op) (n int) {
	for _, o := range ops {
		if b.n > 0 && (b.n >= maxBatch || b.rows+o.rows > maxBatchRows || b.bytes+o.bytes > maxBatchBytes) {
			break
		}
		b.n++
		b.rows += o.rows
		b.bytes += o.bytes
		n++
	}
	return n
}

// take returns the next operations in order, up to the bounds: of those that
// are stuck at most half a batch, so that new ones do not wait for them all,
// and of all that wait. Once a part is taken, the next one follows at once.
func (d *DB) take() (batch []*op, closed bool) {
	var b bounds
	if len(d.w.stuck) > 0 && !time.Now().Before(d.w.retryAt) {
		b = bounds{n: maxBatch / 2, rows: maxBatchRows / 2}
		n := b.fit(d.w.stuck)
		b.n -= maxBatch / 2
		b.rows -= maxBatchRows / 2
		batch = slices.Clone(d.w.stuck[:n])
		clear(d.w.stuck[:n])
		if d.w.stuck = d.w.stuck[n:]; len(d.w.stuck) == 0 {
			d.w.stuck = nil
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.adopt()
	n := b.fit(d.queue)
	batch = append(batch, d.queue[:n]...)
	clear(d.queue[:n])
	d.queue = d.queue[n:]
	if len(d.queue) == 0 {
		d.queue = nil
	}
	return batch, d.closed
}

// commit does a batch in one transaction if it can and ends its operations in
// order.
func (d *DB) commit(batch []*op) {
	d.tryCommit(batch, true)
	for _, o := range batch {
		if o.err != nil && o.frees {
			// It is lost only if the process ends before there is room: then it
			// costs a duplicate.
			d.w.stuck = append(d.w.stuck, o)
			d.w.retryAt = time.Now().Add(retryDeletes)
			continue
		}
		var r refusal
		if errors.As(o.err, &r) {
			o.err = r.error
		}
		o.end(o.err)
	}
}

// tryCommit sets err of each operation. If the transaction fails, first says
// that parts of it may be tried once more.
func (d *DB) tryCommit(batch []*op, first bool) {
	err := d.transact(batch)
	if err == nil {
		return
	}
	kind := d.classify(err)
	switch {
	case first && kind == failedDamaged:
		if rerr := d.recover(err); rerr != nil {
			err = errors.Join(err, rerr)
			break
		}
		d.tryCommit(batch, false)
		return
	case first && kind == failedFull:
		d.relieve(batch, err)
		return
	case first && kind == failedOther && len(batch) > 1:
		for _, o := range batch {
			d.tryCommit([]*op{o}, false)
		}
		return
	}
	for _, o := range batch {
		o.err = d.explain(kind, err)
	}
}

// relieve goes on without room: what frees some is tried alone, and the rest
// once more if that has helped.
func (d *DB) relieve(batch []*op, cause error) {
	d.w.reserve.release(d.logger)
	var frees, rest []*op
	for _, o := range batch {
		if o.frees {
			frees = append(frees, o)
		} else {
			rest = append(rest, o)
		}
	}
	helped := false
	if len(frees) > 0 {
		d.tryCommit(frees, false)
		helped = frees[0].err == nil
	}
	d.checkpoint()
	if helped && len(rest) > 0 {
		d.tryCommit(rest, false)
		return
	}
	for _, o := range rest {
		o.err = d.explain(failedFull, cause)
	}
}

type failure int

const (
	failedOther failure = iota
	failedFull
	failedDamaged
	failedBusy
)

// classify tells what a failed transaction means.
func (d *DB) classify(err error) failure {
	switch resultCode(err) {
	case codeFull:
		return failedFull
	case codeCorrupt, codeNotADB:
		return failedDamaged
	case codeBusy, codeLocked:
		return failedBusy
	case codeIOErr, codeCantOpen:
		// Where SQLite makes room by other means than write(2) it cannot say
		// that the disk is full.
		if free, ferr := d.opts.freeSpace(d.opts.Dir); ferr == nil && free < 1<<20 {
			return failedFull
		}
	}
	return failedOther
}

func (d *DB) explain(kind failure, err error) error {
	switch kind {
	case failedFull:
		return fmt.Errorf("spool: write: %w: the file system has no room: %v", bridge.ErrSpoolFull, err)
	case failedBusy:
		return fmt.Errorf("spool: write: another process holds the database: %w", err)
	}
	return wrap("write", err)
}

// transact runs the operations in one transaction. An error means that none of
// them was done; refusals are in the operations.
func (d *DB) transact(batch []*op) error {
	w := &d.w
	for _, o := range batch {
		o.err = nil
	}
	if err := d.connect(); err != nil {
		return err
	}
	t := &tx{db: d, c: w.c, next: w.next, now: d.now()}
	if err := w.c.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := d.noticeOthers(t)
	for i := 0; i < len(batch) && err == nil; i++ {
		err = batch[i].run(t)
		var r refusal
		if errors.As(err, &r) {
			batch[i].err, err = err, nil
		}
	}
	reserved := w.reserved
	if err == nil && t.next > reserved {
		reserved = t.next + seqBlock
		err = setMeta(w.c, metaNextSeq, reserved)
	}
	if err == nil {
		err = w.c.exec("COMMIT")
	}
	if err != nil {
		_ = w.c.exec("ROLLBACK") // SQLite may have done so already
		return err
	}
	w.next, w.reserved = t.next, reserved
	d.account(t)
	if d.opts.onCommit != nil {
		d.opts.onCommit(len(batch))
	}
	return nil
}

// noticeOthers looks at the beginning of a transaction whether another process
// has written, such as the spool command, and counts again if so. Its seqs are
// below the reserved one that it found, and those to come must be above.
func (d *DB) noticeOthers(t *tx) error {
	version, err := t.c.integer("PRAGMA data_version")
	if err != nil || version == d.w.dataVersion {
		return err
	}
	next, err := getMeta(t.c, metaNextSeq)
	if err != nil {
		return err
	}
	var others usage
	if err := others.surveyOthers(t.c); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.foreign = true
	d.use.keys, d.use.downlinks, d.use.deadUp, d.use.deadDown = others.keys, others.downlinks, others.deadUp, others.deadDown
	if err := d.use.surveyReadings(t.c, d.w.next); err != nil {
		return err
	}
	d.w.dataVersion = version
	d.w.next = max(d.w.next, next)
	d.w.reserved = d.w.next // the next transaction that needs one reserves again
	t.next = d.w.next
	return nil
}

// account makes what a transaction has changed visible.
func (d *DB) account(t *tx) {
	pages := d.w.c.pagesWritten()
	n := pages - d.w.counted
	d.w.counted = pages
	d.w.logPages += n
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.WrittenBytes += n * (pageSize + frameHeader)
	if t.recounted != nil {
		d.use = *t.recounted
	}
	d.use.apply(&t.use)
	d.stats.DroppedFull += t.droppedFull
	d.stats.DroppedAge += t.droppedAge
	d.stats.DroppedDead += t.droppedDead
	d.stats.Damaged += t.damaged
	if !t.trusted.IsZero() {
		d.trusted = t.trusted
	}
}
