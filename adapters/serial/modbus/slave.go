package modbus

import (
	"errors"
	"fmt"
	"time"

	"fieldbridge/bridge"
)

// Defaults of Slave.
const (
	DefaultTimeout = 500 * time.Millisecond
	DefaultRetries = 2
)

// Bounds of Slave.
const (
	minEvery   = 10 * time.Millisecond
	maxTimeout = time.Minute
	maxRetries = 10
)

// Slave is one slave and what is read from it, or a part of that: the same
// address may be there again with other registers and another interval.
type Slave struct {
	// Address is 1 to 247, or Broadcast for a block that is only written: every
	// slave on the line obeys, and none answers.
	Address int `toml:"address"`
	// Device and Subtopic are what its readings are submitted for. Downlinks of
	// the device are written to it.
	Device   bridge.DeviceID `toml:"device"`
	Subtopic bridge.Subtopic `toml:"subtopic"`
	// Every is the interval between two polls; 0 means that it is only written.
	Every time.Duration `toml:"every"`
	// Timeout is how long an answer may take, its time on the wire not counted.
	// Default DefaultTimeout.
	Timeout time.Duration `toml:"timeout"`
	// Retries is how often a request without a good answer is sent again.
	// Default DefaultRetries.
	Retries *int `toml:"retries"`
	// MaxRegisters and MaxBits bound one request, for slaves that take less than
	// the 125 and 2000 of the specification, which are the defaults.
	MaxRegisters int `toml:"max_registers"`
	MaxBits      int `toml:"max_bits"`
	// MaxGap is how many addresses that nobody asked for a request may read
	// along, so that one does where two would be needed. Default 0.
	MaxGap int `toml:"max_gap"`
	// WriteMultiple: single values are written with functions 15 and 16, too,
	// for slaves that do not know 5 and 6.
	WriteMultiple bool `toml:"write_multiple"`
	// Registers are in the object in this order.
	Registers []Register `toml:"registers"`
}

// Valid says all that is wrong, as *FieldErrors joined by errors.Join, or nil.
func (s Slave) Valid() error {
	_, err := s.compile()
	return err
}

// unit is a Slave made ready.
type unit struct {
	Slave
	retries   int
	registers []register
}

func (s Slave) compile() (*unit, error) {
	u := &unit{Slave: s, retries: DefaultRetries}
	if s.Retries != nil {
		u.retries = *s.Retries
	}
	setDefault(&u.Timeout, DefaultTimeout)
	setDefault(&u.MaxRegisters, limits[ReadHoldingRegisters])
	setDefault(&u.MaxBits, limits[ReadCoils])
	m := &mistakes{}
	u.check(m)
	names := map[string]int{}
	for i, r := range s.Registers {
		rm := &mistakes{path: fmt.Sprintf("registers[%d]", i)}
		reg := r.compile(rm)
		if first, twice := names[r.Name]; twice && r.Name != "" {
			rm.add("name", "%q is that of registers[%d], too", r.Name, first)
		} else {
			names[r.Name] = i
		}
		if limit := u.limit(reg.function); len(rm.errs) == 0 && reg.size > limit {
			rm.add("type", "takes %d registers, and max_registers is %d", reg.size, limit)
		}
		m.errs = append(m.errs, rm.errs...)
		u.registers = append(u.registers, reg)
	}
	return u, errors.Join(m.errs...)
}

func (u *unit) check(m *mistakes) {
	if u.Address < 0 || u.Address > maxSlave {
		m.add("address", "must be 1 to %d, or 0 for all slaves at once (got %d)", maxSlave, u.Address)
	}
	if _, err := bridge.ParseDeviceID(string(u.Device)); err != nil {
		m.add("device", "%v", err)
	}
	if _, err := bridge.ParseSubtopic(string(u.Subtopic)); err != nil {
		m.add("subtopic", "%v", err)
	}
	switch {
	case u.Every != 0 && u.Every < minEvery:
		m.add("every", "must be at least %s, or 0 for a slave that is only written (got %s)", minEvery, u.Every)
	case u.Every != 0 && u.Address == Broadcast:
		m.add("every", "must be 0 for address 0: all slaves at once cannot answer (got %s)", u.Every)
	case u.Every != 0 && len(u.Registers) == 0:
		m.add("registers", "is missing: what is to be read every %s?", u.Every)
	}
	if u.Timeout < 0 || u.Timeout > maxTimeout {
		m.add("timeout", "must be above 0 and at most %s (got %s)", maxTimeout, u.Timeout)
	}
	if u.retries < 0 || u.retries > maxRetries {
		m.add("retries", "must be 0 to %d (got %d)", maxRetries, u.retries)
	}
	for _, f := range []struct {
		name       string
		got, limit int
	}{{"max_registers", u.MaxRegisters, limits[ReadHoldingRegisters]}, {"max_bits", u.MaxBits, limits[ReadCoils]}} {
		if f.got < 1 || f.got > f.limit {
			m.add(f.name, "must be 1 to %d (got %d)", f.limit, f.got)
		}
	}
	if u.MaxGap < 0 || u.MaxGap > limits[ReadCoils] {
		m.add("max_gap", "must be 0 to %d (got %d)", limits[ReadCoils], u.MaxGap)
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// limit is how many values a read may have.
func (u *unit) limit(f Function) int {
	if f.bits() {
		return u.MaxBits
	}
	return u.MaxRegisters
}
