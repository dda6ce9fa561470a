package serial

import (
	"testing"
	"time"

	"fieldbridge/adapters/serial/decode"
	"fieldbridge/adapters/serial/frame"
)

// What comes unasked on a port for exchanges is shown and no reading.
func TestExchangeOnly(t *testing.T) {
	far := openPTY(t)
	r := start(t, Options{
		Port: far.path, ExchangeOnly: true,
		Frame: frame.Options{Kind: frame.Gap, Gap: 5 * time.Millisecond}, Decode: decode.Options{Kind: decode.Raw},
	})
	r.awaitOpen(t, 1)
	far.send(t, "late answer")
	r.log.await(t, 1, "frame refused", "unexpected")
	s := r.Stats()
	if s.FramesGood != 0 || s.FramesRefused[RefusedUnexpected] == 0 || len(r.tray.readings) > 0 {
		t.Errorf("%+v", s)
	}
}

// A pseudo-terminal has no modem lines: it is used without them.
func TestModemLinesThatAreNotThere(t *testing.T) {
	far := openPTY(t)
	off := false
	r := start(t, Options{Port: far.path, DTR: &off})
	r.log.await(t, 1, "the port has no DTR and RTS")
	r.awaitOpen(t, 1)
	far.send(t, "21.5\n")
	r.tray.expect(t, "21.5")
}
