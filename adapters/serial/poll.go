package serial

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"
)

// Poll asks a sensor at an interval. Its answer is the next good frame.
type Poll struct {
	// Send is written with the port's framing, or as it is if Raw.
	Send []byte
	Raw  bool
	// Every is the interval between the beginnings of two questions, which do
	// not drift: one that cannot be asked in time is left out.
	Every time.Duration
	// Timeout is how long an answer may take once the question has been sent.
	// Default DefaultAnswerTimeout.
	Timeout time.Duration
	// Retries is how often a question without an answer is asked again at once.
	Retries int
	// Expect, if set, must match the answering frame. Other frames are refused
	// while the answer is waited for.
	Expect *regexp.Regexp
}

// DefaultAnswerTimeout is how long an answer may take.
const DefaultAnswerTimeout = time.Second

// MinEvery is the shortest interval between two questions.
const MinEvery = 10 * time.Millisecond

// poller is a Poll on an open port.
type poller struct {
	*Poll
	due    time.Time
	asked  time.Time // the last time
	failed int       // times in a row, of this question
	silent bool
}

// job asks.
func (p *poller) job(port *Port) *job {
	f := p.Send
	if !p.Raw {
		f, _ = port.opts.Frame.Encode(p.Send) // checked by New
	}
	j := newJob(context.Background(), f, port.writeLimit(len(f)))
	j.poll, j.keep, j.timeout = p, true, p.Timeout
	j.wants = func(frame []byte) bool { return p.Expect == nil || p.Expect.Match(frame) }
	return j
}

// polled notes how a question went and when the next is due.
func (o *opening) polled(j *job, r jobResult) {
	p := j.poll
	port := o.port
	switch {
	case r.err == nil:
		port.counters.poll(PollAnswered)
		if p.silent {
			p.silent = false
			port.log.Info("sensor answers again", "poll", fmt.Sprintf("%q", p.Send))
		}
	case errors.Is(r.err, errNoAnswer):
		port.counters.poll(PollTimeout)
		if p.failed < p.Retries {
			p.failed++
			return // it is due still
		}
		if !p.silent {
			p.silent = true
			port.log.Warn("sensor does not answer", "poll", fmt.Sprintf("%q", p.Send), "timeout", p.Timeout,
				"retries", p.Retries, "hint", "check baud, mode, and that poll.send is what the sensor waits for")
		}
	default:
		port.counters.poll(PollNotSent)
	}
	p.failed = 0
	now := time.Now()
	for !p.due.After(now) {
		p.due = p.due.Add(max(p.Every, now.Sub(p.due)/p.Every*p.Every))
	}
}

// PollOutcome is what became of a question; fit for a metric's label.
type PollOutcome string

// The outcomes.
const (
	PollAnswered PollOutcome = "answered"
	PollTimeout  PollOutcome = "timeout"
	PollNotSent  PollOutcome = "not_sent"
)
