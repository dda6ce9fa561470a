package serial

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"time"

	"fieldbridge/adapters/serial/decode"
	"fieldbridge/adapters/serial/frame"
	"fieldbridge/bridge"
)

// Refusal is the reason why a frame was not submitted, fit for a metric's label:
// one of those of the packages frame and decode, or RefusedUnexpected.
type Refusal = frame.Refusal

// RefusedUnexpected: a frame that came while the answer to a poll was waited for
// and is not what the poll expects, or that came unasked with ExchangeOnly.
const RefusedUnexpected Refusal = "unexpected"

// hints tell people what usually is behind a refusal.
var hints = map[Refusal]string{
	frame.TooLong:      "no end of a frame within max_frame bytes: check framing, baud and mode, or raise max_frame",
	frame.Incomplete:   "the port went away or fell silent in the middle of a frame",
	frame.BadCheck:     "the check does not fit: check which one the device uses, and the wiring",
	frame.Garbage:      "bytes that belong to no frame: check framing, baud and mode",
	decode.InvalidText: `not valid UTF-8 text: check baud and mode; for another encoding use decode = "raw"`,
	decode.NotJSON:     "not valid JSON: check baud and mode, and what the device sends",
	RefusedUnexpected:  "the sensor answers something else than poll.expect says, or too late, or unasked",
	decode.BadDevice:   "device_from gives no device: see fieldbridge listen",
	decode.NoMatch:     "see fieldbridge listen for the frames as they come",
	decode.BadFields:   "see fieldbridge listen for the frames as they come",
	decode.TooShort:    "the frame has fewer bytes than fields needs: check framing and offsets",
}

// intake turns the frames of one opening into readings. It belongs to Run.
type intake struct {
	port     *Port
	decoder  *decode.Decoder
	warned   map[Refusal]bool // reasons already logged
	dropping bool             // the last reading was not taken
}

func newIntake(p *Port) intake {
	d, _ := decode.New(p.opts.Decode) // checked by New
	return intake{port: p, decoder: d, warned: map[Refusal]bool{}}
}

// decode makes a reading of a frame, which ended at the time at, and reports
// whether there is one.
func (in *intake) decode(b []byte, at time.Time) (r bridge.Reading, ok bool) {
	p := in.port
	res, err := in.decoder.Decode(b, p.opts.stampTime(at))
	var refused *decode.Error
	if errors.As(err, &refused) {
		in.refuse(b, refused.Reason, refused.Detail, at)
		if len(res.Payload) == 0 {
			return r, false
		}
	} else {
		p.counters.update(func(s *Stats) { s.FramesGood++; s.LastFrame = at })
	}
	r = bridge.Reading{
		Device: p.opts.Device, Subtopic: p.opts.Subtopic,
		ContentType: res.ContentType, Payload: res.Payload, Time: at,
	}
	if res.Device != "" {
		r.Device = res.Device
	}
	if res.Subtopic != "" {
		r.Subtopic = res.Subtopic
	}
	if err == nil {
		p.opts.observe(Event{Kind: FrameGood, Bytes: b, At: at, Reading: &r})
	}
	return r, true
}

func (in *intake) submit(ctx context.Context, r bridge.Reading) {
	in.submitted(ctx, r, in.port.accepter.Submit(ctx, r))
}

// submitted counts a reading that was not taken, and logs when that begins and
// ends.
func (in *intake) submitted(ctx context.Context, r bridge.Reading, err error) {
	p := in.port
	if err == nil {
		if in.dropping {
			in.dropping = false
			p.log.Info("readings are taken again")
		}
		return
	}
	p.counters.update(func(s *Stats) { s.Dropped++ })
	level := slog.LevelDebug
	// At the end of ctx a reading can be refused because of that alone.
	if !in.dropping && ctx.Err() == nil {
		in.dropping = true
		level = slog.LevelWarn
	}
	message := "reading dropped"
	var full *bridge.UnavailableError
	switch {
	case errors.As(err, &full):
		message = "reading dropped, no room"
	case errors.Is(err, bridge.ErrUnknownDevice):
		message = "reading dropped, its device is not configured"
	}
	p.log.Log(ctx, level, message, "device", r.Device, "error", err)
}

// refuse counts, keeps a few to be looked at, and logs the first refusal for
// each reason: a wrong speed would fill the log otherwise.
func (in *intake) refuse(b []byte, why Refusal, detail string, at time.Time) {
	p := in.port
	if detail == "" {
		detail = hints[why]
	}
	kept := RefusedFrame{At: at, Reason: why, Detail: detail, Hex: hex.EncodeToString(b[:min(len(b), maxRefusedHex)]), Bytes: len(b)}
	p.counters.update(func(s *Stats) { s.refused(kept) })
	p.opts.observe(Event{Kind: FrameRefused, Bytes: b, At: at, Reason: why, Detail: detail})
	level := slog.LevelDebug
	if !in.warned[why] {
		in.warned[why] = true
		level = slog.LevelWarn
	}
	p.log.Log(context.Background(), level, "frame refused", "reason", string(why), "hint", hints[why])
}
