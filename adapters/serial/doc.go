// Package serial joins devices on serial ports to the Bridge: bytes from the
// port are cut into frames, checked against the declared decoding and submitted
// as readings; downlinks are written to the port with the same framing.
//
// A [Port] owns one port for as long as its Run is running. It opens the port,
// opens it again after any error with a growing pause, and never gives up: a
// port that is missing, busy or broken costs a log line and nothing else, and no
// port knows of any other.
//
// The port is opened with go.bug.st/serial, which sets speed, mode and exclusive
// access, and a second descriptor of the same device carries the bytes. The
// second one is there because closing a descriptor does not end a write that
// blocks on it in another thread (close(2)), and because the library's Close
// frees the descriptor's number while a Read may still be about to use it. A
// non-blocking descriptor under the runtime's poller has deadlines and is safe
// to close, and an idle port costs one parked goroutine and no wake-ups.
package serial
