package serial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"fieldbridge/adapters/serial/frame"
	"fieldbridge/bridge"
)

var _ bridge.Deliverer = (*Port)(nil)

// Deliver writes the downlink's payload to the port, with the port's framing,
// when the line is quiet, and returns once the line has sent the last byte:
// whether the device understood it, only the device knows. If the downlink has a
// response topic, the next good frame within AnswerTimeout is the Answer, and no
// reading; without one the downlink is delivered all the same. With ExpectAnswer
// every downlink waits for a frame that matches, and is not delivered without
// one; other frames are readings as always. With Decode.DeviceFrom only a frame of
// the downlink's device is an answer.
//
// A payload that
// already ends with the delimiter gets no second one. A delimiter inside the
// payload is passed on: the device sees several frames, as with a script of
// several lines.
//
// A payload that the framing cannot carry is refused for good. Every other error
// is worth another attempt: the port is not open, or was lost, or took no bytes
// within WriteTimeout, or ctx was done. Then no further byte of the payload is
// sent. That is so, too, when the port was lost, or ctx done, while the answer was
// waited for: the device may get the payload twice. Deliver may be called from several goroutines; their frames do not mix.
func (p *Port) Deliver(ctx context.Context, d bridge.Downlink) (*bridge.Answer, error) {
	out, err := p.outgoing(d.Payload)
	if err != nil {
		return nil, &bridge.DeliveryError{Err: fmt.Errorf("write to serial port %q: %w", p.opts.Name, err), Permanent: true}
	}
	j := newJob(ctx, out, p.writeLimit(len(out)))
	expect := p.opts.ExpectAnswer
	asks := d.ResponseTopic != "" || expect != nil
	if asks {
		j.timeout, j.keep = p.opts.AnswerTimeout, d.ResponseTopic == ""
		j.wants = func(frame []byte) bool { return expect == nil || expect.Match(frame) }
		if p.opts.Decode.DeviceFrom != "" {
			j.device = d.Device
		}
	}
	r := p.do(j)
	silent := errors.Is(r.err, errNoAnswer)
	if silent {
		r.err = nil // it has been sent
	}
	if asks && r.err == nil && r.reading == nil && !silent {
		r.err = errNotOpen // since it was sent
	}
	if err := p.settle(r); err != nil {
		return nil, err
	}
	switch {
	case silent && expect != nil:
		return nil, &bridge.DeliveryError{Err: fmt.Errorf("serial port %q: %w: no frame like %q within %s",
			p.opts.Name, errNoAnswer, expect, p.opts.AnswerTimeout)}
	case silent:
		p.log.Debug("downlink written, the device did not answer", "bytes", len(d.Payload), "timeout", p.opts.AnswerTimeout)
	default:
		p.log.Debug("downlink written", "bytes", len(d.Payload))
	}
	p.counters.update(func(s *Stats) { s.Delivered++ })
	if r.reading == nil || j.keep {
		return nil, nil
	}
	return &bridge.Answer{Payload: r.reading.Payload, ContentType: r.reading.ContentType}, nil
}

// settle notes whether the device holds the beginning of a frame, and returns
// why a frame was not delivered.
func (p *Port) settle(r jobResult) error {
	err := r.err
	if errors.Is(err, os.ErrClosed) {
		err = errNotOpen
	}
	p.mu.Lock()
	p.torn = err != nil && (p.torn || r.touched)
	p.mu.Unlock()
	if err != nil {
		return &bridge.DeliveryError{Err: fmt.Errorf("write to serial port %q: %w", p.opts.Name, err)}
	}
	return nil
}

// outgoing frames a payload.
//
// After a write that was cut off, the device holds the beginning of a frame. If
// frames end with a delimiter, ending it could make a valid command of it ("SET
// 10" of "SET 100"), and the next frame alone would be taken for its
// continuation and lost. So the next frame is sent twice: the first one spoils
// the remainder, the second one stands alone. A device that never saw the
// remainder gets a duplicate, which "at least once" allows.
func (p *Port) outgoing(payload []byte) ([]byte, error) {
	f := &p.opts.Frame
	var framed []byte
	var err error
	if f.Kind == frame.Line && f.Check == nil {
		framed = payload
		if !bytes.HasSuffix(payload, f.Delimiter) {
			framed = slices.Concat(payload, f.Delimiter)
		}
	} else if framed, err = f.Encode(payload); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.torn && f.Kind == frame.Line {
		framed = slices.Concat(framed, framed)
	}
	return framed, nil
}

// perByte is the time one byte takes on the line: 12 bits at most (start bit, 8
// data bits, parity, 2 stop bits).
func (p *Port) perByte() time.Duration {
	return 12 * time.Second / time.Duration(p.opts.Baud)
}

// writeLimit bounds the write of n bytes.
func (p *Port) writeLimit(n int) time.Duration {
	return p.opts.WriteTimeout + 2*time.Duration(n)*p.perByte()
}
