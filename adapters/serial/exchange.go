package serial

import (
	"context"
	"errors"
	"fmt"

	"fieldbridge/adapters/serial/modbus"
)

var _ modbus.Line = (*Port)(nil)

// Exchange implements modbus.Line: the request and its answer pass the port's
// framing by.
func (p *Port) Exchange(ctx context.Context, x modbus.Exchange) (answer []byte, err error) {
	j := newJob(ctx, x.Request, p.writeLimit(len(x.Request)))
	j.silence, j.strict, j.timeout = x.Silence, true, x.Timeout
	if j.raw = x.Done; j.raw == nil {
		j.raw = func([]byte) bool { return false } // a broadcast: nobody answers
	}
	r := p.do(j)
	switch {
	case errors.Is(r.err, errNoAnswer) && x.Done == nil:
		return nil, nil
	case errors.Is(r.err, errNoAnswer):
		return r.answer, modbus.ErrTimeout
	case errors.Is(r.err, errBusy):
		return nil, modbus.ErrBusy
	case r.err != nil:
		return nil, fmt.Errorf("serial port %q: %w", p.opts.Name, r.err)
	}
	return r.answer, nil
}
