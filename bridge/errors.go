package bridge

import (
	"errors"
	"fmt"
	"time"
)

// What callers branch on. Everything else is internal.
var (
	// ErrInvalid: a device id, sub topic or filter that MQTT does not allow.
	ErrInvalid = errors.New("invalid")
	// ErrContentType: not one of ContentTypes.
	ErrContentType = errors.New("unsupported content type")
	// ErrUnknownDevice: no [[device]] block has this id.
	ErrUnknownDevice = errors.New("unknown device")
	// ErrTooLarge: the payload is above the connector's limit.
	ErrTooLarge = errors.New("payload too large")
)

func errInvalidf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// UnavailableError: the reading was not accepted because the broker did not
// acknowledge it in time, or because no more readings can be held meanwhile.
// Sending it again later is right.
type UnavailableError struct {
	// Reason is for people; it names no secret.
	Reason string
	// RetryAfter is when another attempt makes sense.
	RetryAfter time.Duration
}

func (e *UnavailableError) Error() string { return "not accepted: " + e.Reason }

// RejectedError: the broker refused the reading for good.
type RejectedError struct {
	// Code is the PUBACK's reason code (MQTT v5 section 3.4.2.1), 0x80 or above.
	Code byte
	// Reason is the code's name and what the broker added to it, for people; it
	// names no secret.
	Reason string
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("refused by the broker with reason code 0x%02X (%s)", e.Code, e.Reason)
}

// DeliveryError is how a Deliverer says what another attempt is worth.
type DeliveryError struct {
	Err error
	// Permanent: no attempt will ever succeed.
	Permanent bool
	// RetryAfter, if above zero, is the earliest time for the next attempt, as
	// the target asked.
	RetryAfter time.Duration
}

func (e *DeliveryError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *DeliveryError) Unwrap() error { return e.Err }
