package serial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	bugst "go.bug.st/serial"

	"fieldbridge/adapters/serial/decode"
	"fieldbridge/adapters/serial/frame"
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
	DefaultDecode       = decode.Text
	DefaultWriteTimeout = 10 * time.Second
)

const maxBaud = 100_000_000 // far above any UART; keeps the value in the kernel's 32 bits

// Options describe a port. Name, Port (or Locate) and Device (or
// Decode.DeviceFrom) are needed, the zero value of everything else is its
// default.
type Options struct {
	// Name is what people call the port: in logs and in errors.
	Name string
	// Port is the path of the device file, best one below /dev/serial/by-id,
	// which stays the same when adapters change places. A symbolic link is
	// followed anew at each opening. "replay:FILE" plays a recording (see
	// Recorder).
	Port string
	// Locate, if set, finds the device file at each opening instead.
	Locate func() (path string, err error)
	// Baud is the speed in bits per second. Speeds that are not standard ones
	// are asked of the driver as they are (BOTHER).
	Baud int
	// Mode is data bits, parity (N, E, O, M or S) and stop bits, as in "8N1".
	Mode string
	// DTR and RTS are what the lines are set to at each opening. Nil leaves
	// them as the kernel sets them, which is on.
	DTR, RTS *bool

	// Frame says how frames are cut, and made for downlinks and polls. Default:
	// lines that end with "\n".
	Frame frame.Options
	// Decode says how a frame becomes a payload. Default: text.
	Decode decode.Options
	// Device and Subtopic are what the readings are submitted for, unless the
	// frame names them.
	Device   bridge.DeviceID
	Subtopic bridge.Subtopic

	// ExchangeOnly: there are no readings but what Exchange gets. Frames that
	// come without being asked for are refused, and Device is not needed.
	ExchangeOnly bool
	// Polls are what the sensors are asked.
	Polls []Poll
	// Turnaround is how long the line must have been silent before something is
	// written. Default: 3.5 characters.
	Turnaround time.Duration
	// Echo: the adapter hears what it sends, which is taken out.
	Echo bool
	// IdleTimeout closes and opens the port again when nothing has come for so
	// long; 0 never.
	IdleTimeout time.Duration
	// WriteTimeout bounds one downlink from the first byte written until the
	// line has sent the last one, on top of the time its bytes take at Baud.
	WriteTimeout time.Duration

	// AnswerTimeout is how long the answer to a downlink may take once the
	// downlink has been sent. Default DefaultAnswerTimeout.
	AnswerTimeout time.Duration
	// ExpectAnswer, if set, must match the frame that answers a downlink, and no
	// downlink counts as delivered without one.
	ExpectAnswer *regexp.Regexp

	// TimeKnown says whether the wall clock can be trusted; frames are not
	// stamped otherwise. Nil means always.
	TimeKnown func() bool
	// Observe, if set, is told what happens on the port. It must not block, and
	// is called from several goroutines, one at a time for each kind.
	Observe func(Event)
	// Logger gets changes of the port's state. Nil means no logging.
	Logger *slog.Logger
}

// withDefaults returns o with every empty field set, and all mistakes in it.
func (o Options) withDefaults() (Options, error) {
	setDefault(&o.Baud, DefaultBaud)
	setDefault(&o.Mode, DefaultMode)
	setDefault(&o.Frame.Kind, frame.Line)
	setDefault(&o.Frame.MaxFrame, DefaultMaxFrame)
	setDefault(&o.Decode.Kind, DefaultDecode)
	setDefault(&o.WriteTimeout, DefaultWriteTimeout)
	setDefault(&o.AnswerTimeout, DefaultAnswerTimeout)
	if o.Frame.Kind == frame.Line && len(o.Frame.Delimiter) == 0 {
		o.Frame.Delimiter = []byte(DefaultDelimiter)
	}
	if o.Frame.Gap == 0 {
		switch o.Frame.Kind {
		case frame.Fixed, frame.Length, frame.Delimited:
			o.Frame.Gap = frame.DefaultGap
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Polls = slices.Clone(o.Polls)
	for i := range o.Polls {
		setDefault(&o.Polls[i].Timeout, DefaultAnswerTimeout)
	}
	err := o.check()
	if err == nil && o.Turnaround == 0 {
		o.Turnaround = 35 * 12 * time.Second / time.Duration(10*o.Baud)
	}
	return o, err
}

// check names every mistake.
func (o *Options) check() error {
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if o.Name == "" {
		wrong("name is missing")
	}
	if o.Port == "" && o.Locate == nil {
		wrong("port is missing: give the path of a device file, such as /dev/ttyUSB0")
	}
	if o.Baud < 1 || o.Baud > maxBaud {
		wrong("baud must be 1 to %d (got %d)", maxBaud, o.Baud)
	}
	if _, err := parseMode(o.Mode); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, o.Frame.Valid(), o.Decode.Valid())
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"turnaround", o.Turnaround}, {"idle timeout", o.IdleTimeout}, {"write timeout", o.WriteTimeout}, {"answer timeout", o.AnswerTimeout}} {
		if d.d < 0 {
			wrong("%s must be above zero (got %s)", d.name, d.d)
		}
	}
	if o.Device != "" || o.Decode.DeviceFrom == "" && !o.ExchangeOnly {
		if _, err := bridge.ParseDeviceID(string(o.Device)); err != nil {
			errs = append(errs, err)
		}
	}
	if _, err := bridge.ParseSubtopic(string(o.Subtopic)); err != nil {
		errs = append(errs, err)
	}
	for i := range o.Polls {
		errs = append(errs, o.Polls[i].check(&o.Frame))
	}
	return errors.Join(errs...)
}

// check says what is wrong with a poll.
func (p *Poll) check(f *frame.Options) error {
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("poll %q: "+format, append([]any{p.Send}, args...)...))
	}
	if p.Every < MinEvery {
		wrong("every must be at least %s (got %s)", MinEvery, p.Every)
	}
	if p.Timeout < 0 {
		wrong("timeout must be above zero (got %s)", p.Timeout)
	}
	if p.Retries < 0 {
		wrong("retries must not be below zero (got %d)", p.Retries)
	}
	switch {
	case len(p.Send) == 0:
		wrong("send is missing: what the sensor waits for")
	case !p.Raw && f.Valid() == nil:
		if _, err := f.Encode(p.Send); err != nil {
			wrong("%w", err)
		}
	}
	return errors.Join(errs...)
}

// stampTime is when a frame was measured, as far as that is known.
func (o *Options) stampTime(at time.Time) time.Time {
	if o.TimeKnown != nil && !o.TimeKnown() {
		return time.Time{}
	}
	return at
}

func (o *Options) statusBits() *bugst.ModemOutputBits {
	if o.DTR == nil && o.RTS == nil {
		return nil
	}
	return &bugst.ModemOutputBits{DTR: o.DTR == nil || *o.DTR, RTS: o.RTS == nil || *o.RTS}
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
