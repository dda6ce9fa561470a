package frame

import "time"

// gap is the splitter of frames that end with silence.
type gap struct {
	opts     *Options
	buf      []byte
	skipping bool // too long: given up until the silence
	last     time.Time
}

// Feed implements Splitter.
func (g *gap) Feed(p []byte, at time.Time, emit Emit) {
	g.Silence(at, emit)
	g.last = at
	if g.skipping {
		return
	}
	n := min(len(p), g.opts.MaxFrame+1-len(g.buf))
	g.buf = append(g.buf, p[:n]...)
	if len(g.buf) > g.opts.MaxFrame {
		emit(g.opts.long(g.buf), TooLong)
		g.buf, g.skipping = g.buf[:0], true
	}
}

// Silence implements Splitter.
func (g *gap) Silence(at time.Time, emit Emit) {
	if !g.last.IsZero() && at.Sub(g.last) >= g.opts.Gap {
		if len(g.buf) > 0 {
			g.opts.pass(g.buf, emit)
		}
		g.buf, g.skipping = g.buf[:0], false
	}
}

// Wait implements Splitter.
func (g *gap) Wait() time.Duration { return g.opts.Gap }

// Flush implements Splitter. The end of the frame has not been seen.
func (g *gap) Flush(emit Emit) {
	if len(g.buf) > 0 {
		emit(shown(g.buf), Incomplete)
	}
	g.buf, g.skipping = g.buf[:0], false
}

// Pending implements Splitter.
func (g *gap) Pending() int { return len(g.buf) }
