package modbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"fieldbridge/bridge"
)

// WrongPayload is the outcome in the result of a downlink that cannot be carried
// out as it is written. Nothing was sent.
const WrongPayload Outcome = "wrong_payload"

// result is what goes to a downlink's response topic.
type result struct {
	Outcome  Outcome         `json:"outcome"`
	Slave    *int            `json:"slave,omitempty"`
	Set      json.RawMessage `json:"set,omitempty"`
	Function Function        `json:"function,omitempty"`
	Address  *int            `json:"address,omitempty"`
	Values   any             `json:"values,omitempty"`
	Register string          `json:"register,omitempty"`
	Error    string          `json:"error,omitempty"`
}

// Write carries out a downlink of a device: its payload is one of
//
//	{"set": {"setpoint": 21.5, "fan": true}}
//	{"function": 6, "address": 1, "value": 3}
//	{"function": 16, "address": 1, "values": [3, 4]}
//	{"function": 3, "address": 0, "count": 2}
//
// "set" names registers of the device's slaves, with values as they are in its
// readings; all of them are checked before the first is written, and they are
// written one after the other. A function works on addresses and raw values. If
// the device has several slaves, "slave" tells which is meant; for "set" it is
// needed only for a name that more than one has.
//
// The response is a JSON object with the outcome, for the downlink's response
// topic; it is empty only if ctx was done or the line failed, when nothing can be
// said yet. The error is nil once each slave has answered that it did it, or, for
// a broadcast, all was sent; otherwise it is a *bridge.DeliveryError: permanent
// for a wrong payload and for an exception that stays. Another attempt writes all
// of "set" anew.
func (m *Master) Write(ctx context.Context, device bridge.DeviceID, payload []byte) (response []byte, err error) {
	steps, res, err := m.plan(device, payload)
	if err != nil {
		res = result{Outcome: WrongPayload, Error: err.Error()}
		return appendJSON(nil, res), &bridge.DeliveryError{Err: fmt.Errorf("modbus downlink: %w", err), Permanent: true}
	}
	for _, s := range steps {
		a, err := m.ask(ctx, s.unit, s.request, 1+s.unit.retries)
		if err != nil {
			return notWritten(ctx, res, s, err)
		}
		switch {
		case a.Bits != nil:
			res.Values = a.Bits
		case a.Words != nil:
			res.Values = a.Words
		}
	}
	return appendJSON(nil, res), nil
}

// notWritten is the response and error after a request failed.
func notWritten(ctx context.Context, res result, s step, err error) ([]byte, error) {
	out := &bridge.DeliveryError{Err: err}
	var failed *RequestError
	if ctx.Err() != nil || !errors.As(err, &failed) || failed.Outcome == LineFailed {
		return nil, out
	}
	out.Permanent = failed.Exception != 0 && !failed.Exception.passing()
	address := int(s.request.Slave)
	res.Set, res.Values = nil, nil
	res.Outcome, res.Slave, res.Register, res.Error = failed.Outcome, &address, s.register, err.Error()
	return appendJSON(nil, res), out
}

// step is one request of a downlink.
type step struct {
	unit     *unit
	request  *Request
	register string // its name, for "set"
}

// plan makes the requests of a downlink and the result if all goes well.
func (m *Master) plan(device bridge.DeviceID, payload []byte) ([]step, result, error) {
	c, err := parseCommand(payload)
	if err != nil {
		return nil, result{}, err
	}
	units, err := m.targets(device, c.slave)
	if err != nil {
		return nil, result{}, err
	}
	if len(c.set) > 0 {
		return planSet(c, units)
	}
	for _, u := range units {
		if u.Address != units[0].Address {
			return nil, result{}, errors.New(`the device has several slaves: say which with "slave"`)
		}
	}
	u := units[0]
	r, err := c.request(byte(u.Address))
	if err != nil {
		return nil, result{}, err
	}
	res := result{Outcome: OK, Slave: &u.Address, Function: c.function, Address: c.address}
	if r.Bits != nil {
		res.Values = r.Bits
	} else if r.Words != nil {
		res.Values = r.Words
	}
	return []step{{unit: u, request: r}}, res, nil
}

// targets are the slaves of a device, or the one that is asked for.
func (m *Master) targets(device bridge.DeviceID, slave *int) ([]*unit, error) {
	var units []*unit
	var known []string
	for _, p := range m.polls {
		if p.Device != device {
			continue
		}
		if slave == nil || *slave == p.Address {
			units = append(units, p.unit)
		}
		known = append(known, fmt.Sprint(p.Address))
	}
	switch {
	case len(known) == 0:
		return nil, errors.New("no slave of this line belongs to the device")
	case len(units) == 0:
		return nil, fmt.Errorf("slave %d is none of the device's: %s", *slave, strings.Join(known, ", "))
	}
	return units, nil
}

func planSet(c *command, units []*unit) ([]step, result, error) {
	res := result{Outcome: OK}
	var steps []step
	set := []byte{'{'}
	for _, a := range c.set {
		u, r, err := find(units, a.name)
		if err != nil {
			return nil, result{}, err
		}
		q, err := u.writing(r, a.value)
		if err != nil {
			return nil, result{}, err
		}
		steps = append(steps, step{unit: u, request: q, register: a.name})
		if len(set) > 1 {
			set = append(set, ',')
		}
		set = append(append(appendJSON(set, a.name), ':'), r.appendValue(nil, Answer{Bits: q.Bits, Words: q.Words})...)
	}
	res.Slave = &steps[0].unit.Address
	for _, s := range steps {
		if s.unit.Address != *res.Slave {
			res.Slave = nil // there are several
			break
		}
	}
	res.Set = append(set, '}')
	return steps, res, nil
}

// find is the register of a name among a device's slaves.
func find(units []*unit, name string) (u *unit, r *register, err error) {
	var names []string
	for _, candidate := range units {
		for i := range candidate.registers {
			reg := &candidate.registers[i]
			names = append(names, reg.name)
			if reg.name != name {
				continue
			}
			if r != nil && u.Address != candidate.Address {
				return nil, nil, fmt.Errorf(`%q is a register of more than one slave: say which with "slave"`, short(name))
			}
			if r == nil {
				u, r = candidate, reg
			}
		}
	}
	if r == nil {
		const most = 10
		if len(names) > most {
			names = append(names[:most], "…")
		}
		return nil, nil, fmt.Errorf("no register is called %q; there are: %s", short(name), strings.Join(names, ", "))
	}
	return u, r, nil
}
