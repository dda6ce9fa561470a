package modbus

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// command is a downlink's payload, understood but for its place: either Set or a
// function.
type command struct {
	slave    *int
	set      []assignment
	function Function
	address  *int
	count    *int
	value    any
	values   []any
	has      map[string]bool
}

// assignment is one name and value of "set", in the payload's order. Numbers are
// json.Numbers.
type assignment struct {
	name  string
	value any
}

// maxPayload bounds a payload in bytes: the longest write, 1,968 coils, fits.
const maxPayload = 64 << 10

const forms = `write it as {"set":{"name":value}} or {"function":6,"address":1,"value":3}`

// parseCommand reads a payload. Keys that are not known, or there twice, are
// errors.
func parseCommand(payload []byte) (*command, error) {
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("the payload has %d bytes, at most %d are allowed", len(payload), maxPayload)
	}
	if !utf8.Valid(payload) {
		return nil, fmt.Errorf("the payload is not UTF-8: %s", forms)
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	c := &command{has: map[string]bool{}}
	if err := object(d, c.field); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the payload goes on behind its JSON object")
	}
	return c, c.valid()
}

// object reads a JSON object key by key; each must be there once.
func object(d *json.Decoder, field func(d *json.Decoder, key string) error) error {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("the payload is no JSON object: %s", forms)
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return fmt.Errorf("the payload is not valid JSON: %s", forms)
		}
		if seen[key] {
			return fmt.Errorf("%q is there twice", short(key))
		}
		seen[key] = true
		if err := field(d, key); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("the payload is not valid JSON: %s", forms)
	}
	return nil
}

func (c *command) field(d *json.Decoder, key string) error {
	c.has[key] = true
	if key == "set" {
		return object(d, func(d *json.Decoder, name string) error {
			var v any
			if err := d.Decode(&v); err != nil {
				return fmt.Errorf("the payload is not valid JSON: %s", forms)
			}
			c.set = append(c.set, assignment{name: name, value: v})
			return nil
		})
	}
	var v any
	if err := d.Decode(&v); err != nil {
		return fmt.Errorf("the payload is not valid JSON: %s", forms)
	}
	var err error
	switch key {
	case "slave":
		c.slave, err = integer(v, 0, maxSlave)
	case "function":
		var n *int
		if n, err = integer(v, 1, 0x7F); err == nil {
			c.function = Function(*n)
		}
	case "address":
		c.address, err = integer(v, 0, 1<<16-1)
	case "count":
		c.count, err = integer(v, 1, limits[ReadCoils])
	case "value":
		c.value = v
	case "values":
		var ok bool
		if c.values, ok = v.([]any); !ok {
			err = fmt.Errorf("must be an array (got %s)", show(v))
		}
	default:
		return fmt.Errorf("%q is not known: %s", short(key), forms)
	}
	if err != nil {
		return fmt.Errorf("%s %w", key, err)
	}
	return nil
}

// integer takes an integer between low and high.
func integer(v any, low, high int) (*int, error) {
	if n, ok := v.(json.Number); ok {
		if i, err := strconv.Atoi(string(n)); err == nil && i >= low && i <= high {
			return &i, nil
		}
	}
	return nil, fmt.Errorf("must be an integer of %d to %d (got %s)", low, high, show(v))
}

func (c *command) valid() error {
	if c.has["set"] {
		for _, key := range []string{"function", "address", "count", "value", "values"} {
			if c.has[key] {
				return fmt.Errorf(`"set" and %q do not go together: %s`, key, forms)
			}
		}
		if len(c.set) == 0 {
			return errors.New(`"set" is empty: name at least one register`)
		}
		return nil
	}
	if _, known := limits[c.function]; !known {
		return fmt.Errorf("function must be 1 to 6, 15 or 16: %s", forms)
	}
	if c.address == nil {
		return errors.New("address is missing")
	}
	want, others := "value", []string{"values", "count"}
	switch {
	case c.function.reads():
		want, others = "count", []string{"value", "values"}
	case c.function == WriteMultipleCoils || c.function == WriteMultipleRegisters:
		want, others = "values", []string{"value", "count"}
	}
	if !c.has[want] {
		return fmt.Errorf("%s is missing: function %d needs it", want, c.function)
	}
	for _, key := range others {
		if c.has[key] {
			return fmt.Errorf("%s is not for function %d", key, c.function)
		}
	}
	return nil
}

// request makes the request of a command with a function.
func (c *command) request(slave byte) (*Request, error) {
	r := &Request{Slave: slave, Function: c.function, Address: uint16(*c.address)}
	values := c.values
	switch {
	case c.function.reads():
		r.Count = uint16(*c.count)
	case c.has["value"]:
		values = []any{c.value}
	}
	for i, v := range values {
		if c.function.bits() {
			on, ok := asBool(v)
			if !ok {
				return nil, fmt.Errorf("value %d must be true or false (got %s)", i, show(v))
			}
			r.Bits = append(r.Bits, on)
			continue
		}
		// Below zero it is the two's complement that many devices mean.
		n, err := integer(v, -1<<15, 1<<16-1)
		if err != nil {
			return nil, fmt.Errorf("value %d %w", i, err)
		}
		r.Words = append(r.Words, uint16(*n))
	}
	return r, r.Valid()
}

// writing makes the request that sets a register.
func (u *unit) writing(r *register, value any) (*Request, error) {
	q := &Request{Slave: byte(u.Address), Address: uint16(r.address)}
	switch {
	case r.function == ReadDiscreteInputs || r.function == ReadInputRegisters:
		return nil, fmt.Errorf("%q is read-only: function %d is for inputs", r.name, r.function)
	case r.kind == Bool && !r.function.bits():
		return nil, fmt.Errorf("%q is one bit of a register, which cannot be written alone: map the whole register and write that", r.name)
	}
	var err error
	if q.Bits, q.Words, err = r.encode(value); err != nil {
		return nil, fmt.Errorf("%q: %w", r.name, err)
	}
	switch {
	case r.function.bits() && u.WriteMultiple:
		q.Function = WriteMultipleCoils
	case r.function.bits():
		q.Function = WriteSingleCoil
	case len(q.Words) > 1 || u.WriteMultiple:
		q.Function = WriteMultipleRegisters
	default:
		q.Function = WriteSingleRegister
	}
	if err := q.Valid(); err != nil {
		return nil, fmt.Errorf("%q: %w", r.name, err)
	}
	return q, nil
}
