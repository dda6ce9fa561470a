package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"fieldbridge/adapters/serial"
	"fieldbridge/adapters/serial/decode"
	"fieldbridge/adapters/serial/frame"
	"fieldbridge/adapters/serial/modbus"
	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
)

// line is a serial port and, if it has one, the Modbus master on it.
type line struct {
	*serial.Port
	polls   bool           // it asks sensors
	master  *modbus.Master // nil unless decode = "modbus"
	dropped atomic.Uint64  // readings of the master that were not taken
}

// lineOptions are what a line has beside its configuration.
type lineOptions struct {
	to        serial.Accepter
	log       *slog.Logger
	timeKnown func() bool        // nil: always
	observe   func(serial.Event) // nil: nobody looks on
}

// newLine makes the port of a configuration, without opening it.
func newLine(s config.Serial, o lineOptions) (*line, error) {
	opts, err := serialOptions(s)
	if err != nil {
		return nil, err
	}
	opts.TimeKnown, opts.Observe, opts.Logger = o.timeKnown, o.observe, o.log
	l := &line{polls: len(s.Polls) > 0}
	if l.Port, err = serial.New(opts, o.to); err != nil || s.Decode != config.DecodeModbus {
		return l, err
	}
	stamper, err := decode.New(decode.Options{Kind: decode.JSON, Stamp: s.Stamp})
	if err != nil {
		return nil, err
	}
	log := cmp.Or(o.log, slog.New(slog.DiscardHandler)).With("port", s.Name)
	l.master, err = modbus.New(modbus.Options{
		Line: l.Port, Baud: s.Baud, Slaves: slaves(s), Logger: log,
		Emit: (&pollIntake{line: l, to: o.to, log: log, timeKnown: o.timeKnown, stamper: stamper}).emit,
	})
	return l, err
}

// Run runs the port, and the master on it.
func (l *line) Run(ctx context.Context) error {
	if l.master == nil {
		return l.Port.Run(ctx)
	}
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error { return l.Port.Run(ctx) })
	both.Go(func() error {
		// The first polls would fail, and the next may be hours away.
		if !l.opened(ctx) {
			return nil
		}
		return l.master.Run(ctx)
	})
	return both.Wait()
}

// opened waits until the port has been opened, and reports whether ctx was not
// done before.
func (l *line) opened(ctx context.Context) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for l.Port.Stats().Opens == 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Deliver implements bridge.Deliverer: what goes to a Modbus line is a command to
// the device's slaves, and what became of it the answer.
func (l *line) Deliver(ctx context.Context, d bridge.Downlink) (*bridge.Answer, error) {
	if l.master == nil {
		return l.Port.Deliver(ctx, d)
	}
	response, err := l.master.Write(ctx, d.Device, d.Payload)
	if len(response) == 0 {
		return nil, err
	}
	return &bridge.Answer{Payload: response, ContentType: "application/json"}, err
}

// Stats are those of the port, with the readings of the master.
func (l *line) Stats() serial.Stats {
	s := l.Port.Stats()
	if l.master == nil {
		return s
	}
	s.Dropped += l.dropped.Load()
	for _, slave := range l.master.Stats().Slaves {
		if slave.LastAnswer.After(s.LastFrame) {
			s.LastFrame = slave.LastAnswer
		}
	}
	return s
}

// pollIntake hands in what a master has read. It belongs to the master's Run.
type pollIntake struct {
	line      *line
	to        serial.Accepter
	log       *slog.Logger
	timeKnown func() bool // nil: always
	stamper   *decode.Decoder
	dropping  bool // the last reading was not taken
}

func (in *pollIntake) emit(ctx context.Context, p modbus.Poll) {
	at := p.Time
	if in.timeKnown != nil && !in.timeKnown() {
		at = time.Time{}
	}
	res, err := in.stamper.Decode(p.Payload, at)
	if err == nil {
		err = in.to.Submit(ctx, bridge.Reading{
			Device: p.Device, Subtopic: p.Subtopic, ContentType: res.ContentType, Payload: res.Payload, Time: p.Time,
		})
	}
	switch {
	case err == nil && in.dropping:
		in.dropping = false
		in.log.Info("readings are taken again")
	case err != nil:
		in.line.dropped.Add(1)
		level := slog.LevelDebug
		if !in.dropping && ctx.Err() == nil {
			in.dropping, level = true, slog.LevelWarn
		}
		in.log.Log(ctx, level, "reading dropped", "device", p.Device, "error", err)
	}
}

// portName says which port it is.
func portName(s config.Serial) string {
	if s.USB != nil {
		return "usb " + usb(s).String()
	}
	return s.Port
}

func usb(s config.Serial) serial.USB {
	return serial.USB{VID: s.USB.VID, PID: s.USB.PID, Serial: s.USB.Serial, Interface: s.USB.Interface}
}

// serialOptions are those of a port, without what a line adds.
func serialOptions(s config.Serial) (serial.Options, error) {
	o := serial.Options{
		Name: s.Name, Port: s.Port, Baud: s.Baud, Mode: s.Mode, DTR: s.DTR, RTS: s.RTS,
		Device: s.Device, Subtopic: s.Subtopic,
		Turnaround: s.Turnaround, Echo: s.Echo, IdleTimeout: s.IdleTimeout, WriteTimeout: s.WriteTimeout, AnswerTimeout: s.Answer.Timeout,
	}
	if s.USB != nil {
		o.Locate = func() (string, error) { return serial.System{}.Locate(usb(s)) }
	}
	if s.Decode == config.DecodeModbus {
		// What comes unasked is cut by silence, to be shown and forgotten.
		o.ExchangeOnly, o.Device = true, ""
		o.Frame = frame.Options{Kind: frame.Gap, Gap: modbus.Silence(s.Baud), MaxFrame: 256}
		o.Decode = decode.Options{Kind: decode.Raw}
		return o, nil
	}
	check, err := frame.ParseCheck(s.Check)
	if err != nil {
		return o, err
	}
	if s.Answer.Expect != "" {
		if o.ExpectAnswer, err = regexp.Compile(s.Answer.Expect); err != nil {
			return o, err
		}
	}
	o.Frame = frame.Options{
		Kind: s.Framing, Delimiter: s.Delimiter, Length: s.Length, Start: s.Start, End: s.End,
		Field: frame.LengthField{
			Offset: s.LengthField.Offset, Size: s.LengthField.Size, LittleEndian: s.LengthField.LittleEndian, Counts: s.LengthField.Counts,
		},
		Gap: s.Gap, MaxFrame: int(s.MaxFrame), Check: check, CheckAfterEnd: s.CheckAfterEnd,
	}
	o.Decode = decode.Options{
		Kind: s.Decode, ContentType: s.ContentType, Columns: s.Columns, Separator: s.Separator, Assign: s.Assign,
		Pattern: s.Pattern, Types: s.Types, Stamp: s.Stamp, DeviceFrom: s.DeviceFrom, SubtopicFrom: s.SubtopicFrom,
		Drop: s.DropFrom, OnError: s.OnError,
	}
	for _, f := range s.Fields {
		o.Decode.Fields = append(o.Decode.Fields, decode.Field{
			Name: f.Name, Offset: f.Offset, Type: f.Type, Length: f.Length, LittleEndian: f.LittleEndian,
			Scale: f.Scale, Add: f.Add, Bit: f.Bit, Bits: f.Bits,
		})
	}
	for _, p := range s.Polls {
		q := serial.Poll{Send: p.Send, Raw: p.Raw, Every: p.Every, Timeout: p.Timeout, Retries: p.Retries}
		if p.Expect != "" {
			if q.Expect, err = regexp.Compile(p.Expect); err != nil {
				return o, err
			}
		}
		o.Polls = append(o.Polls, q)
	}
	return o, nil
}

func slaves(s config.Serial) []modbus.Slave {
	var out []modbus.Slave
	for _, c := range s.Slaves {
		m := modbus.Slave{
			Address: c.Address, Device: c.Device, Subtopic: c.Subtopic, Every: c.Every, Timeout: c.Timeout,
			Retries: &c.Retries, MaxRegisters: c.MaxRegisters, MaxBits: c.MaxBits, MaxGap: c.MaxGap, WriteMultiple: c.WriteMultiple,
		}
		for _, r := range c.Registers {
			m.Registers = append(m.Registers, modbus.Register{
				Name: r.Name, Function: r.Function, Address: r.Address, Type: r.Type, Length: r.Length, Bit: r.Bit,
				Order: r.Order, Swap: r.Swap, Scale: r.Scale, Offset: r.Offset, Unit: r.Unit,
			})
		}
		out = append(out, m)
	}
	return out
}

// serialMistakes asks the adapters what they would refuse, and reports all of it
// as a *config.Errors.
func serialMistakes(cfg *config.Config) error {
	errs := &config.Errors{}
	for _, s := range cfg.Serials {
		add := func(block config.Position, key, problem string) {
			errs.Mistakes = append(errs.Mistakes, cfg.At(block, key).Mistake(problem, ""))
		}
		o, err := serialOptions(s)
		if err == nil {
			_, err = serial.New(o, nobody{})
			err = errors.Unwrap(err) // without the port's name, which the position has
		}
		for _, one := range leaves(err) {
			key, problem := keyOf(one.Error())
			add(s.Pos, key, problem)
		}
		for i, slave := range slaves(s) {
			for _, one := range leaves(slave.Valid()) {
				var f *modbus.FieldError
				if errors.As(one, &f) {
					add(s.Slaves[i].Pos, f.Field, f.Problem)
				} else {
					add(s.Slaves[i].Pos, "", one.Error())
				}
			}
		}
	}
	if len(errs.Mistakes) > 0 {
		return errs
	}
	return nil
}

// leaves takes joined errors apart.
func leaves(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, leaves(e)...)
	}
	return out
}

// phrases are how the adapters begin to complain about a key that is written in
// another way in the configuration.
var phrases = map[string]string{
	"max frame": "max_frame", "the length field": "length_field", "the length counts": "length_field.counts", "the groups of pattern": "pattern",
}

var (
	wordsOfKey = regexp.MustCompile(`^(max frame|the length field|the length counts|the groups of pattern)\b`)
	firstKey   = regexp.MustCompile(`^[a-z_]+(\[\d+\])?`)
)

// keyOf is the key of a [[serial]] block that a complaint begins with, and the
// rest of it.
func keyOf(complaint string) (key, problem string) {
	begin := wordsOfKey.FindString(complaint)
	if key = phrases[begin]; begin == "" {
		begin = firstKey.FindString(complaint)
		key = begin
	}
	return key, strings.TrimLeft(strings.TrimPrefix(complaint, begin), ": ")
}
