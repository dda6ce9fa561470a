package serial

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"fieldbridge/bridge"
)

var (
	errNotOpen  = errors.New("the port is not open")
	errNotTaken = errors.New("the device did not take the bytes in time")
	errBusy     = errors.New("the line does not fall silent")
	errNoAnswer = errors.New("the device did not answer in time")
)

// job is one frame to be written and, if timeout is above zero, an answer to be
// waited for. Who makes one fills in the first part.
type job struct {
	ctx     context.Context // ends the write; of the one who asked
	frame   []byte
	limit   time.Duration // of the write
	silence time.Duration // on the line before it
	strict  bool          // rather not written than without that silence
	timeout time.Duration // for the answer, once the frame has been sent
	// raw, if set, gets all that comes meanwhile, past the framing, and says
	// whether it is the whole answer. Otherwise wants says of each good frame
	// whether it is the answer.
	raw   func(answer []byte) bool
	wants func(frame []byte) bool
	poll  *poller // nil: somebody else wants it
	// keep: the answer is a reading all the same; it is that of a poll, too.
	keep bool
	// device, if set, is the only one whose frames can be the answer.
	device bridge.DeviceID

	state   atomic.Int32
	wrote   chan struct{}  // closed when nothing of it will be written any more
	outcome jobResult      // of the write; to be read once wrote is closed
	result  chan jobResult // capacity 1

	// What follows belongs to the owner of the line.
	sent     bool // and the answer is waited for
	deadline time.Time
	answer   []byte
	early    *bridge.Reading // the answer, before the write had ended
}

const (
	jobWaiting int32 = iota
	jobStarted
	jobCancelled
	jobFinished
)

type jobResult struct {
	// touched: after an error, a part of the frame may have reached the device.
	touched bool
	err     error
	answer  []byte          // of raw
	reading *bridge.Reading // the answer that wants has taken
}

func newJob(ctx context.Context, frame []byte, limit time.Duration) *job {
	return &job{ctx: ctx, frame: frame, limit: limit, wrote: make(chan struct{}), result: make(chan jobResult, 1)}
}

// start reports whether the job is still wanted. After it, bytes may be on the
// line until there is a result.
func (j *job) start() bool { return j.state.CompareAndSwap(jobWaiting, jobStarted) }

// cancel reports whether the job had not been started, and will not be.
func (j *job) cancel() bool { return j.state.CompareAndSwap(jobWaiting, jobCancelled) }

// finish gives the result, once.
func (j *job) finish(r jobResult) {
	if j.state.Swap(jobFinished) != jobFinished {
		j.result <- r
	}
}

// maxAnswer bounds an answer that raw collects: four of the longest Modbus
// frames.
const maxAnswer = 1024

func (j *job) collect(b []byte) {
	j.answer = append(j.answer, b[:min(len(b), maxAnswer-len(j.answer))]...)
}

// do has a job done by the opening that there is now.
func (p *Port) do(j *job) jobResult {
	o := p.getOpen()
	if err := j.ctx.Err(); err != nil {
		return jobResult{err: context.Cause(j.ctx)}
	}
	if o == nil {
		return jobResult{err: errNotOpen}
	}
	select {
	case o.jobs <- j:
	case <-o.done:
		return jobResult{err: errNotOpen}
	case <-j.ctx.Done():
		return jobResult{err: context.Cause(j.ctx)}
	}
	select {
	case r := <-j.result:
		return r
	case <-j.ctx.Done():
		if j.cancel() {
			return jobResult{err: context.Cause(j.ctx)}
		}
	}
	// The write ends soon, since its context is done.
	select {
	case r := <-j.result:
		return r
	case <-j.wrote:
	}
	if j.outcome.err != nil {
		return j.outcome
	}
	select {
	case r := <-j.result:
		return r
	default:
		return jobResult{err: context.Cause(j.ctx)} // only the answer is missing
	}
}
