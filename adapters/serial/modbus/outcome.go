package modbus

import "fmt"

// Outcome is what became of a request. It is one of Outcomes, fit for a metric's
// label.
type Outcome string

// The outcomes that are no exceptions.
const (
	// OK: the slave did what it was asked.
	OK Outcome = "ok"
	// Timeout: no byte came.
	Timeout Outcome = "timeout"
	// Incomplete: an answer began and did not end.
	Incomplete Outcome = "incomplete"
	// BadCheck: an answer came whole, and its CRC does not fit.
	BadCheck Outcome = "bad_check"
	// Garbage: bytes came that are no answer.
	Garbage Outcome = "garbage"
	// WrongSlave: only another slave answered.
	WrongSlave Outcome = "wrong_slave"
	// WrongFunction: the answer is to another function.
	WrongFunction Outcome = "wrong_function"
	// WrongLength: the answer has more or fewer values than were asked for.
	WrongLength Outcome = "wrong_length"
	// WrongEcho: the answer to a write names another address or value.
	WrongEcho Outcome = "wrong_echo"
	// LineBusy: the line did not fall silent, so nothing was asked.
	LineBusy Outcome = "line_busy"
	// LineFailed: the port is not open, or was lost.
	LineFailed Outcome = "line_failed"
)

// exceptionPrefix stands before an exception's name in an Outcome.
const exceptionPrefix = "exception_"

// unknownException is the outcome of a code that no specification names.
const unknownException Outcome = exceptionPrefix + "unknown"

// Exception is the code with which a slave refuses a request (MAP section 7).
type Exception byte

// The exceptions. NegativeAcknowledge is from editions before V1.1.
const (
	IllegalFunction     Exception = 0x01
	IllegalDataAddress  Exception = 0x02
	IllegalDataValue    Exception = 0x03
	ServerDeviceFailure Exception = 0x04
	Acknowledge         Exception = 0x05
	ServerDeviceBusy    Exception = 0x06
	NegativeAcknowledge Exception = 0x07
	MemoryParityError   Exception = 0x08
	GatewayPath         Exception = 0x0A
	GatewayTarget       Exception = 0x0B
)

var exceptions = []struct {
	code       Exception
	label      string
	name, hint string
}{
	{IllegalFunction, "illegal_function", "illegal function", "the device does not know this function: check the register's function in its manual"},
	{IllegalDataAddress, "illegal_data_address", "illegal data address", "the device has no such register: check address and function; addresses count from 0"},
	{IllegalDataValue, "illegal_data_value", "illegal data value", "the device does not take this value, or this many registers at once: see max_registers"},
	{ServerDeviceFailure, "server_device_failure", "server device failure", "the device failed while it did it"},
	{Acknowledge, "acknowledge", "acknowledge", "the device is still at it"},
	{ServerDeviceBusy, "server_device_busy", "server device busy", "the device is busy"},
	{NegativeAcknowledge, "negative_acknowledge", "negative acknowledge", "the device cannot do it"},
	{MemoryParityError, "memory_parity_error", "memory parity error", "the device's memory is damaged"},
	{GatewayPath, "gateway_path_unavailable", "gateway path unavailable", "the gateway is set up wrongly, or overloaded"},
	{GatewayTarget, "gateway_target_failed_to_respond", "gateway target device failed to respond", "the device behind the gateway does not answer"},
}

// String is the exception's name in the specification and its code.
func (e Exception) String() string {
	for _, x := range exceptions {
		if x.code == e {
			return fmt.Sprintf("%s (exception %02X)", x.name, byte(e))
		}
	}
	return fmt.Sprintf("unknown exception %02X", byte(e))
}

// Outcome is the exception as a metric's label, such as
// "exception_illegal_data_address".
func (e Exception) Outcome() Outcome {
	for _, x := range exceptions {
		if x.code == e {
			return Outcome(exceptionPrefix + x.label)
		}
	}
	return unknownException
}

// hint says what to do about the exception, or "".
func (e Exception) hint() string {
	for _, x := range exceptions {
		if x.code == e {
			return x.hint
		}
	}
	return ""
}

// passing: the same request may succeed soon.
func (e Exception) passing() bool {
	switch e {
	case Acknowledge, ServerDeviceBusy, GatewayPath, GatewayTarget:
		return true
	default:
		return false
	}
}

// Outcomes are all that there are.
func Outcomes() []Outcome {
	all := []Outcome{OK, Timeout, Incomplete, BadCheck, Garbage, WrongSlave, WrongFunction,
		WrongLength, WrongEcho, LineBusy, LineFailed}
	for _, x := range exceptions {
		all = append(all, x.code.Outcome())
	}
	return append(all, unknownException)
}

// RequestError is why a request failed. It names the slave and what was asked.
type RequestError struct {
	Outcome Outcome
	// Exception is the slave's, or 0 if it sent none.
	Exception Exception
	// Slave, Function and Address are those of the request, Count how many
	// registers or bits it was for.
	Slave          byte
	Function       Function
	Address, Count uint16
	// Err is the line's error, or nil.
	Err error
}

var meanings = map[Outcome]string{
	Timeout:       "no answer: check wiring, slave address, baud and mode",
	Incomplete:    "the answer ended too early: raise timeout, or check the wiring",
	BadCheck:      "the answer's CRC does not fit: check wiring, termination, baud and mode",
	Garbage:       "what came is no answer: check baud and mode, and whether another master is on the line",
	WrongSlave:    "another slave answered: check that each address is there once",
	WrongFunction: "the answer is to another function",
	WrongLength:   "the answer has another number of values than was asked for",
	WrongEcho:     "the answer names another address or value than was written",
	LineBusy:      "the line does not fall silent: another master, or a device that sends unasked",
}

func (e *RequestError) Error() string {
	what := meanings[e.Outcome]
	switch {
	case e.Exception != 0:
		what = e.Exception.String()
		if h := e.Exception.hint(); h != "" {
			what += ": " + h
		}
	case e.Err != nil && e.Outcome == LineFailed:
		what = e.Err.Error()
	}
	return fmt.Sprintf("modbus slave %d, function %d, address %d (%d): %s", e.Slave, e.Function, e.Address, e.Count, what)
}

// Unwrap gives the line's error.
func (e *RequestError) Unwrap() error { return e.Err }

// retry: asking the same again at once may help.
func (e *RequestError) retry() bool {
	if e.Exception != 0 {
		return e.Exception.passing()
	}
	return e.Outcome != LineFailed
}

// late: the answer may still come.
func (e *RequestError) late() bool {
	if e == nil || e.Exception != 0 {
		return false
	}
	switch e.Outcome {
	case BadCheck, LineBusy, LineFailed:
		return false
	default:
		return true
	}
}
