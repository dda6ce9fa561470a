package serial

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"fieldbridge/adapters/serial/frame"
)

// opening is one opening of a port. One goroutine, that of run, owns the line:
// it cuts what comes into frames and decides who may write and when. A second
// one reads and a third one writes, so that neither holds the other up.
type opening struct {
	port    *Port
	wire    wire
	workers sync.WaitGroup

	chunks  chan chunk        // what was read
	buffers chan []byte       // for the reader, which has two
	lost    chan error        // why reading ended; capacity 1
	jobs    chan *job         // what others want to be written
	orders  chan *job         // what the writer is to write
	written chan writeOutcome // what became of it
	done    chan struct{}     // closed when the opening ends

	// What follows belongs to run.
	split  frame.Splitter
	echo   frame.Echo
	in     intake
	heard  time.Time // when the last bytes came
	sent   time.Time // when the last bytes had been sent
	active *job      // being written, or waiting for its answer
	next   *job      // of others; waits until it may be written
	wanted time.Time // since when
	polls  []*poller
	asked  bool // the last job was a poll
}

type chunk struct {
	b  []byte
	at time.Time
}

type writeOutcome struct {
	job     *job
	touched bool
	err     error
}

func newOpening(p *Port, w wire) *opening {
	now := time.Now()
	o := &opening{
		port: p, wire: w,
		chunks: make(chan chunk), buffers: make(chan []byte, 2), lost: make(chan error, 1),
		jobs: make(chan *job), orders: make(chan *job, 1), written: make(chan writeOutcome),
		done:  make(chan struct{}),
		split: p.opts.Frame.New(),
		in:    newIntake(p),
		heard: now, sent: now,
	}
	for i := range p.opts.Polls {
		o.polls = append(o.polls, &poller{Poll: &p.opts.Polls[i], due: now})
	}
	o.buffers <- make([]byte, readSize)
	o.buffers <- make([]byte, readSize)
	o.workers.Go(o.read)
	o.workers.Go(o.write)
	return o
}

// read passes on what comes from the port until that fails.
func (o *opening) read() {
	for buf := range o.buffers {
		n, err := o.wire.read(buf[:readSize])
		if n > 0 {
			select {
			case o.chunks <- chunk{buf[:n], time.Now()}:
			case <-o.done:
				return
			}
		}
		if err != nil {
			o.lost <- err
			return
		}
	}
}

// write writes what run orders, one frame at a time.
func (o *opening) write() {
	for {
		var j *job
		select {
		case j = <-o.orders:
		case <-o.done:
			return
		}
		ctx, cancel := context.WithTimeoutCause(j.ctx, j.limit, errNotTaken)
		touched, err := o.wire.write(ctx, j.frame, o.port.perByte())
		if err == nil && j.ctx.Err() == nil {
			o.port.opts.observe(Event{Kind: BytesOut, Bytes: j.frame, At: time.Now()})
		}
		cancel()
		j.outcome = jobResult{touched: touched, err: err}
		close(j.wrote)
		select {
		case o.written <- writeOutcome{j, touched, err}:
		case <-o.done:
			if err == nil {
				j.finish(jobResult{}) // sent, though nobody waits for an answer any more
			} else {
				j.finish(jobResult{touched: touched, err: err})
			}
			return
		}
	}
}

// errSilent: nothing came for longer than the sensor is ever silent.
var errSilent = errors.New("the port was silent for too long")

// run owns the line until reading fails, which it does soon after ctx is done.
func (o *opening) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer o.abandon()
	for {
		timer.Reset(o.work(time.Now()))
		jobs := o.jobs
		if o.next != nil {
			jobs = nil
		}
		select {
		case c := <-o.chunks:
			o.take(ctx, c)
		case err := <-o.lost:
			o.split.Flush(o.emit(ctx, o.heard))
			return describeLoss(err)
		case w := <-o.written:
			o.wrote(w)
		case j := <-jobs:
			o.next, o.wanted = j, time.Now()
		case <-timer.C:
			// What has come in meanwhile is older than the silence.
			select {
			case c := <-o.chunks:
				o.take(ctx, c)
			default:
				if err := o.tick(ctx, time.Now()); err != nil {
					return err
				}
			}
		}
	}
}

// take handles bytes that came.
func (o *opening) take(ctx context.Context, c chunk) {
	o.heard = c.at
	o.port.opts.observe(Event{Kind: BytesIn, Bytes: c.b, At: c.at})
	b := o.echo.Filter(c.b, c.at)
	if j := o.active; j != nil && j.raw != nil && len(b) > 0 {
		j.collect(b)
		if j.sent && j.raw(j.answer) {
			o.end(jobResult{answer: j.answer})
		}
	} else if len(b) > 0 {
		o.split.Feed(b, c.at, o.emit(ctx, c.at))
	}
	o.buffers <- c.b[:readSize]
}

// emit handles the frames that end at the time at.
func (o *opening) emit(ctx context.Context, at time.Time) frame.Emit {
	return func(b []byte, why frame.Refusal) {
		if why == "" && o.port.opts.ExchangeOnly {
			why = RefusedUnexpected
		}
		if why != "" {
			o.in.refuse(b, why, "", at)
			return
		}
		o.frame(ctx, b, at)
	}
}

// frame handles a good frame: the answer that is waited for, or a reading.
func (o *opening) frame(ctx context.Context, b []byte, at time.Time) {
	j := o.active
	// A quick device answers before we know that the last byte has left.
	waits := j != nil && j.timeout > 0 && j.raw == nil && j.early == nil
	wanted := waits && j.wants(b)
	if waits && !wanted && j.poll != nil {
		o.in.refuse(b, RefusedUnexpected, "it is not the answer that expect describes", at)
		return
	}
	r, ok := o.in.decode(b, at)
	if !ok {
		return
	}
	answers := wanted && (j.device == "" || j.device == r.Device)
	if !answers || j.keep {
		o.in.submit(ctx, r)
	}
	switch {
	case answers && j.sent:
		o.end(jobResult{reading: &r})
	case answers:
		j.early = &r
	}
}

// tick does what is due by time.
func (o *opening) tick(ctx context.Context, now time.Time) error {
	if w := o.split.Wait(); w > 0 && now.Sub(o.heard) >= w {
		o.split.Silence(now, o.emit(ctx, o.heard))
	}
	if j := o.active; j != nil && j.sent && !now.Before(j.deadline) {
		o.end(jobResult{answer: j.answer, err: errNoAnswer})
	}
	if d := o.port.opts.IdleTimeout; d > 0 && now.Sub(o.heard) >= d {
		return fmt.Errorf("%w: nothing came for %s (idle_timeout)", errSilent, d)
	}
	return nil
}

// work starts what may be written now and returns how long run can wait until
// time makes a difference.
func (o *opening) work(now time.Time) time.Duration {
	next := now.Add(time.Hour)
	soon := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	if w := o.split.Wait(); w > 0 && o.split.Pending() > 0 {
		soon(o.heard.Add(w))
	}
	if d := o.port.opts.IdleTimeout; d > 0 {
		soon(o.heard.Add(d))
	}
	if j := o.active; j != nil {
		if j.sent {
			soon(j.deadline)
		}
	} else if poll, since := o.turn(now); poll != nil || o.next != nil {
		if at := o.quiet(poll, since); at.After(now) {
			soon(at)
		} else {
			o.begin(poll, now)
		}
	} else {
		for _, p := range o.polls {
			soon(p.due)
		}
	}
	return max(next.Sub(now), 0)
}

// turn says whose turn it is, and since when it waits: a poll that is due, or, if
// that is nil, the next job. Neither goes twice before the other.
func (o *opening) turn(now time.Time) (poll *poller, since time.Time) {
	if o.next != nil && o.asked {
		return nil, o.wanted
	}
	for _, p := range o.polls {
		if !p.due.After(now) && (poll == nil || p.due.Before(poll.due) || p.due.Equal(poll.due) && p.asked.Before(poll.asked)) {
			poll = p
		}
	}
	if poll != nil {
		return poll, poll.due
	}
	return nil, o.wanted
}

// quiet is when the one whose turn it is may write: after enough silence, and
// not within a frame, unless the line never falls silent.
func (o *opening) quiet(poll *poller, since time.Time) time.Time {
	last := o.heard
	if o.sent.After(last) {
		last = o.sent
	}
	silence := o.port.opts.Turnaround
	if poll == nil {
		silence = max(silence, o.next.silence)
	}
	if o.split.Pending() > 0 {
		silence = max(silence, midFrame)
	}
	at, most := last.Add(silence), since.Add(silence+maxBusy)
	if at.After(most) {
		return most
	}
	return at
}

const (
	// midFrame is how long the rest of a frame may take to come.
	midFrame = 50 * time.Millisecond
	// maxBusy is how long a job waits for a line that is never quiet.
	maxBusy = time.Second
)

// begin gives the writer what is to be written.
func (o *opening) begin(poll *poller, now time.Time) {
	j := o.next
	if poll != nil {
		j = poll.job(o.port)
		poll.asked = now
	} else {
		o.next = nil
	}
	o.asked = poll != nil
	if !j.start() {
		return // its sender has given up
	}
	if j.strict && now.Sub(o.heard) < j.silence {
		j.finish(jobResult{err: errBusy})
		return
	}
	o.active = j
	if j.raw != nil {
		o.split.Silence(now, func([]byte, frame.Refusal) {}) // what came before is no answer
	}
	if o.port.opts.Echo {
		o.echo.Sent(j.frame, now.Add(j.limit))
	}
	o.orders <- j
}

// wrote handles the end of a write.
func (o *opening) wrote(w writeOutcome) {
	o.sent = time.Now()
	j := w.job
	if w.err != nil {
		if j.ctx.Err() == nil {
			o.wire.fail(w.err)
		}
		o.end(jobResult{touched: w.touched, err: w.err})
		return
	}
	if j.timeout <= 0 || j.early != nil {
		o.end(jobResult{reading: j.early})
		return
	}
	j.sent, j.deadline = true, o.sent.Add(j.timeout)
	if j.raw != nil && j.raw(j.answer) {
		o.end(jobResult{answer: j.answer})
	}
}

// end finishes the active job.
func (o *opening) end(r jobResult) {
	j := o.active
	o.active = nil
	if j.poll != nil {
		o.polled(j, r)
	}
	j.finish(r)
}

// abandon tells those whose jobs are open that the port is not. A job that is
// being written is for the writer to end.
func (o *opening) abandon() {
	if j := o.next; j != nil {
		j.finish(jobResult{err: errNotOpen})
	}
	if j := o.active; j != nil && j.sent {
		j.finish(jobResult{err: errNotOpen})
	}
}
