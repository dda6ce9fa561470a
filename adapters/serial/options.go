package serial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	bugst "go.bug.st/serial"

	"fieldbridge/bridge"
)

// Accepter takes readings over from a port; *bridge.Bridge is one.
//
// Submit returns nil once the Bridge holds the reading, which then owns its
// payload. It does not wait for the broker: nobody at a serial port could be
// told. A *bridge.UnavailableError says that there is no room: the port counts
// the reading as dropped and goes on. After any other error the reading is
// counted as dropped, too. Submit may wait for room, but not beyond ctx; bytes
// that arrive meanwhile wait in the kernel's buffer (4 KiB for most drivers).
// Different ports call Submit at the same time, one port does not.
type Accepter interface {
	Submit(ctx context.Context, r bridge.Reading) error
}

// Defaults of Options.
const (
	DefaultBaud         = 9600
	DefaultMode         = "8N1"
	DefaultDelimiter    = "\n"
	DefaultMaxFrame     = 4096
	DefaultDecode       = DecodeText
	DefaultWriteTimeout = 10 * time.Second
)

const (
	maxBaud      = 100_000_000 // far above any UART; keeps the value in the kernel's 32 bits
	maxDelimiter = 8
)

// Options describe a port. Name, Port and Device are needed, the zero value of
// everything else is its default.
type Options struct {
	// Name is what people call the port: in logs and in errors.
	Name string
	// Port is the path of the device file, best one below /dev/serial/by-id,
	// which stays the same when adapters change places. A symbolic link is
	// followed anew at each opening.
	Port string
	// Baud is the speed in bits per second. Speeds that are not standard ones
	// are asked of the driver as they are (BOTHER).
	Baud int
	// Mode is data bits, parity (N, E, O, M or S) and stop bits, as in "8N1".
	Mode string
	// Delimiter ends a frame, in both directions; 1 to 8 bytes. New copies it.
	Delimiter []byte
	// MaxFrame is the longest frame in bytes, its delimiter not counted. Longer
	// ones are refused.
	MaxFrame int
	// Decode is DecodeRaw, DecodeText or DecodeJSON.
	Decode string
	// Device and Subtopic are what the readings are submitted for.
	Device   bridge.DeviceID
	Subtopic bridge.Subtopic
	// ContentType of the readings. The default follows from Decode:
	// application/octet-stream, text/plain, application/json.
	ContentType string
	// WriteTimeout bounds one downlink from the first byte written until the
	// line has sent the last one, on top of the time its bytes take at Baud.
	WriteTimeout time.Duration
	// Logger gets changes of the port's state. Nil means no logging.
	Logger *slog.Logger
}

// withDefaults returns o with every empty field set, and all mistakes in it.
func (o Options) withDefaults() (Options, error) {
	setDefault(&o.Baud, DefaultBaud)
	setDefault(&o.Mode, DefaultMode)
	setDefault(&o.MaxFrame, DefaultMaxFrame)
	setDefault(&o.Decode, DefaultDecode)
	setDefault(&o.WriteTimeout, DefaultWriteTimeout)
	if len(o.Delimiter) == 0 {
		o.Delimiter = []byte(DefaultDelimiter)
	}
	o.Delimiter = slices.Clone(o.Delimiter)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}

	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Name == "" {
		wrong("name is missing")
	}
	if o.Port == "" {
		wrong("port is missing: give the path of a device file, such as /dev/ttyUSB0")
	}
	if o.Baud < 1 || o.Baud > maxBaud {
		wrong("baud must be 1 to %d (got %d)", maxBaud, o.Baud)
	}
	if _, err := parseMode(o.Mode); err != nil {
		errs = append(errs, err)
	}
	if len(o.Delimiter) > maxDelimiter {
		wrong("delimiter has %d bytes, at most %d are allowed", len(o.Delimiter), maxDelimiter)
	}
	if o.MaxFrame < 1 {
		wrong("max frame must be at least 1 byte (got %d)", o.MaxFrame)
	}
	if o.WriteTimeout < 0 {
		wrong("write timeout must be above zero (got %s)", o.WriteTimeout)
	}
	if _, err := bridge.ParseDeviceID(string(o.Device)); err != nil {
		errs = append(errs, err)
	}
	if _, err := bridge.ParseSubtopic(string(o.Subtopic)); err != nil {
		errs = append(errs, err)
	}
	if !slices.Contains(decodings, o.Decode) {
		wrong("decode must be one of %s (got %q)", strings.Join(decodings, ", "), o.Decode)
	} else if o.ContentType == "" {
		o.ContentType = defaultContentType(o.Decode)
	}
	if o.ContentType != "" {
		ct, err := bridge.ParseContentType(o.ContentType)
		if err != nil {
			errs = append(errs, err)
		}
		o.ContentType = ct
	}
	return o, errors.Join(errs...)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// parseMode reads data bits, parity and stop bits, such as "8N1" or "7E2".
func parseMode(s string) (bugst.Mode, error) {
	var m bugst.Mode
	if len(s) != 3 {
		if len(s) == 5 && strings.HasSuffix(s, "1.5") {
			return m, fmt.Errorf("mode %q: 1.5 stop bits cannot be set on this system: use 1 or 2", s)
		}
		return m, fmt.Errorf("mode %q must be data bits, parity and stop bits, such as %q or %q", s, "8N1", "7E2")
	}
	if s[0] < '5' || s[0] > '8' {
		return m, fmt.Errorf("mode %q: data bits must be 5, 6, 7 or 8 (got %q)", s, s[:1])
	}
	m.DataBits = int(s[0] - '0')
	switch s[1] {
	case 'N', 'n':
		m.Parity = bugst.NoParity
	case 'E', 'e':
		m.Parity = bugst.EvenParity
	case 'O', 'o':
		m.Parity = bugst.OddParity
	case 'M', 'm':
		m.Parity = bugst.MarkParity
	case 'S', 's':
		m.Parity = bugst.SpaceParity
	default:
		return m, fmt.Errorf("mode %q: parity must be N, E, O, M or S (got %q)", s, s[1:2])
	}
	switch s[2] {
	case '1':
		m.StopBits = bugst.OneStopBit
	case '2':
		m.StopBits = bugst.TwoStopBits
	default:
		return m, fmt.Errorf("mode %q: stop bits must be 1 or 2 (got %q)", s, s[2:])
	}
	return m, nil
}
