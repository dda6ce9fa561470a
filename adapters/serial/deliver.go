package serial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"fieldbridge/bridge"
)

var (
	errNotOpen  = errors.New("the port is not open")
	errNotTaken = errors.New("the device did not take the bytes in time")
)

var _ bridge.Deliverer = (*Port)(nil)

// Deliver writes the downlink's payload and the delimiter to the port and
// returns nil once the line has sent the last byte: whether the device understood
// it, only the device knows. A payload that already ends with the delimiter gets
// no second one. A delimiter inside the payload is passed on: the device sees
// several frames, as with a script of several lines.
//
// Every error is worth another attempt: the port is not open, or was lost, or
// took no bytes within WriteTimeout, or ctx was done. Then no further byte of the
// payload is sent. Deliver may be called from several goroutines; their frames
// do not mix.
func (p *Port) Deliver(ctx context.Context, d bridge.Downlink) error {
	perByte := p.perByte()
	limit := p.opts.WriteTimeout + 2*time.Duration(len(d.Payload)+len(p.opts.Delimiter))*perByte
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errNotTaken)
	defer cancel()

	select {
	case p.writing <- struct{}{}:
		defer func() { <-p.writing }()
	case <-ctx.Done():
		return p.notDelivered(context.Cause(ctx))
	}
	if ctx.Err() != nil {
		return p.notDelivered(context.Cause(ctx))
	}
	c := p.getConn()
	if c == nil {
		return p.notDelivered(errNotOpen)
	}
	touched, err := c.write(ctx, p.outgoing(d.Payload), perByte)
	if errors.Is(err, os.ErrClosed) {
		err = errNotOpen
	}
	if err != nil {
		p.torn = p.torn || touched
		if ctx.Err() == nil {
			c.fail(err)
		}
		return p.notDelivered(err)
	}
	p.torn = false
	p.counters.update(func(s *Stats) { s.Delivered++ })
	p.log.Debug("downlink written", "bytes", len(d.Payload))
	return nil
}

// outgoing frames a payload.
//
// After a write that was cut off, the device holds the beginning of a frame.
// Ending it with a delimiter could make a valid command of it ("SET 10" of "SET
// 100"), and the next frame alone would be taken for its continuation and lost.
// So the next frame is sent twice: the first one spoils the remainder, the second
// one stands alone. A device that never saw the remainder gets a duplicate,
// which "at least once" allows.
func (p *Port) outgoing(payload []byte) []byte {
	frame := payload
	if !bytes.HasSuffix(payload, p.opts.Delimiter) {
		frame = slices.Concat(payload, p.opts.Delimiter)
	}
	if p.torn {
		frame = slices.Concat(frame, frame)
	}
	return frame
}

// perByte is the time one byte takes on the line: 12 bits at most (start bit, 8
// data bits, parity, 2 stop bits).
func (p *Port) perByte() time.Duration {
	return 12 * time.Second / time.Duration(p.opts.Baud)
}

func (p *Port) notDelivered(err error) error {
	return &bridge.DeliveryError{Err: fmt.Errorf("write to serial port %q: %w", p.opts.Name, err)}
}
