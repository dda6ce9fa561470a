package frame

import (
	"bytes"
	"time"
)

// delimited is the splitter of frames between start and end bytes.
//
// Without a check a frame ends at the first end and begins at the last start
// before it: what is in front of that was cut off. With a check the content may
// hold both, so that at each end all starts before it are tried, the oldest
// first, and if none fits the frame may end at a later one.
type delimited struct {
	opts *Options
	silence
	buf    []byte // begins with a start, or with what may become one
	starts []int  // where they are in buf
	skipped
}

// maxStarts bounds the work that noise can make.
const maxStarts = 64

func newDelimited(o *Options) *delimited {
	return &delimited{opts: o, silence: silence{gap: o.Gap}}
}

// Feed implements Splitter.
func (d *delimited) Feed(p []byte, at time.Time, emit Emit) {
	d.Silence(at, emit)
	d.came(at)
	for _, b := range p {
		d.add(b, emit)
	}
}

func (d *delimited) add(b byte, emit Emit) {
	o := d.opts
	d.buf = append(d.buf, b)
	if bytes.HasSuffix(d.buf, o.Start) { // they may overlap: which one it is shows later
		d.starts = append(d.starts, len(d.buf)-len(o.Start))
	}
	if len(d.starts) == 0 {
		d.outside(emit)
		return
	}
	end := len(d.buf)
	if o.CheckAfterEnd {
		end -= o.Check.Size()
	}
	first := d.starts[0] + len(o.Start)
	if end-len(o.End) >= first && bytes.HasSuffix(d.buf[:end], o.End) && d.ended(end, emit) {
		return
	}
	if len(d.buf)-first-len(o.End) > o.MaxFrame+o.Check.Size() {
		d.giveUp(TooLong, emit)
	} else if len(d.starts) > maxStarts {
		d.giveUp(Garbage, emit)
	}
}

// outside drops what cannot become a start.
func (d *delimited) outside(emit Emit) {
	keep := min(len(d.opts.Start)-1, len(d.buf))
	for _, b := range d.buf[:len(d.buf)-keep] {
		d.skip(b, Garbage)
	}
	d.buf = append(d.buf[:0], d.buf[len(d.buf)-keep:]...)
	if d.n >= maxRun {
		d.skipped.flush(emit)
	}
}

// ended looks for a frame that ends before end, with its end bytes, and reports
// whether it was found.
func (d *delimited) ended(end int, emit Emit) bool {
	o := d.opts
	if o.Check == nil {
		// Nothing can tell that an older start is the right one.
		for i := len(d.starts) - 1; i >= 0; i-- {
			if from := d.starts[i] + len(o.Start); from <= end-len(o.End) {
				d.found(d.starts[i], d.buf[from:end-len(o.End)], emit)
				return true
			}
		}
		return false
	}
	for _, start := range d.starts {
		from := start + len(o.Start)
		if from > end-len(o.End) {
			break
		}
		if content, ok := o.content(d.buf[from:], end-from); ok {
			d.found(start, content, emit)
			return true
		}
	}
	return false
}

// content takes a checked frame apart: b begins behind the start and ends with
// the frame, whose end bytes end at end.
func (o *Options) content(b []byte, end int) ([]byte, bool) {
	if !o.CheckAfterEnd {
		return o.Check.Strip(b[:end-len(o.End)])
	}
	covered, ok := o.Check.Strip(b)
	if !ok {
		return nil, false
	}
	return covered[:end-len(o.End)], true
}

// found emits a frame, and before it, as refused, what is older.
func (d *delimited) found(start int, content []byte, emit Emit) {
	why := Incomplete
	if d.opts.Check != nil {
		why = BadCheck
	}
	for _, b := range d.buf[:start] {
		d.skip(b, why)
	}
	d.skipped.flush(emit)
	switch {
	case len(content) > d.opts.MaxFrame:
		emit(shown(content), TooLong)
	case len(content) > 0:
		emit(content, "")
	}
	d.buf, d.starts = d.buf[:0], d.starts[:0]
}

// giveUp drops the oldest start and what belongs to it only, and looks at the
// rest anew.
func (d *delimited) giveUp(why Refusal, emit Emit) {
	cut := len(d.buf)
	if len(d.starts) > 1 {
		cut = d.starts[1]
	}
	for _, b := range d.buf[:cut] {
		d.skip(b, why)
	}
	if d.n >= maxRun {
		d.skipped.flush(emit)
	}
	d.buf = append(d.buf[:0], d.buf[cut:]...)
	if len(d.starts) > 0 {
		d.starts = append(d.starts[:0], d.starts[1:]...)
	}
	for i := range d.starts {
		d.starts[i] -= cut
	}
}

// Silence implements Splitter.
func (d *delimited) Silence(at time.Time, emit Emit) {
	if d.over(at) {
		d.Flush(emit)
	}
}

// Flush implements Splitter.
func (d *delimited) Flush(emit Emit) {
	why := Incomplete
	if d.opts.Check != nil && bytes.Contains(d.buf, d.opts.End) {
		why = BadCheck
	}
	if len(d.starts) == 0 {
		why = Garbage
	}
	for _, b := range d.buf {
		d.skip(b, why)
	}
	d.buf, d.starts = d.buf[:0], d.starts[:0]
	d.skipped.flush(emit)
}

// Pending implements Splitter.
func (d *delimited) Pending() int { return len(d.buf) + d.n }
