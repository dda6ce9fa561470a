package modbus

import (
	"context"
	"errors"
	"time"
)

var (
	// ErrTimeout is a Line's: the answer was not whole in time.
	ErrTimeout = errors.New("no whole answer in time")
	// ErrBusy is a Line's: it did not fall silent, and nothing was written.
	ErrBusy = errors.New("the line does not fall silent")
)

// Line is the half-duplex line as the master sees it.
//
// Exchange waits for its turn, then until nothing has come for x.Silence, drops
// what came before, writes the request and returns when x.Done says that the
// answer is whole, with all bytes that came. It returns:
//
//   - ErrTimeout, with what did come, when x.Timeout has passed since the
//     request's last byte left
//   - ErrBusy when the line has not fallen silent within x.Silence and a second
//   - ctx's cause soon after ctx is done
//   - any other error when the port is not open or was lost
//
// The answer holds no echo of the request: the line takes it away, since the
// answer to functions 5 and 6 looks the same. Exchange may be called from several
// goroutines; the exchanges do not mix.
type Line interface {
	Exchange(ctx context.Context, x Exchange) (answer []byte, err error)
}

// Exchange is one request and what is to come back.
type Exchange struct {
	// Request is written as it is. It stays the caller's.
	Request []byte
	// Silence is how long the line must have been silent before: t3.5 at least.
	Silence time.Duration
	// Timeout is how long the answer may take until it is whole, counted from
	// when the request's last byte left.
	Timeout time.Duration
	// Done reports whether the answer is whole, given all bytes that came since
	// the request. Nil means that there is no answer (broadcast): Exchange then
	// returns nothing when Timeout has passed, in which the slaves do what they
	// were told.
	Done func(answer []byte) bool
}

// Silence is the time t3.5 that separates two frames: 3.5 characters of 11 bits,
// and 1.75 ms above 19,200 baud (MSL section 2.5.1.1).
func Silence(baud int) time.Duration {
	if baud > 19200 {
		return 1750 * time.Microsecond
	}
	return wireTime(7, baud) / 2
}

// wireTime is how long n characters of 11 bits take.
func wireTime(n, baud int) time.Duration {
	return time.Duration(n) * 11 * time.Second / time.Duration(max(baud, 1))
}
