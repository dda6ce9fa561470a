package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"fieldbridge/adapters/serial"
	"fieldbridge/bridge"
)

// view prints events for people. What comes from outside reaches the terminal
// only if it can be printed. It is used by one goroutine.
type view struct {
	out    *bufio.Writer
	hex    bool
	colour bool
}

func newView(out io.Writer, hex, colour bool) view {
	return view{out: bufio.NewWriter(out), hex: hex, colour: colour}
}

const yellow = "33" // as the other colours

// maxShownBytes bounds what is shown of a frame.
const maxShownBytes = 512

func (v *view) line(format string, args ...any) { fmt.Fprintf(v.out, format+"\n", args...) }

// row prints a time, a coloured word and text.
func (v *view) row(at, colour, word, text string) {
	word = fmt.Sprintf("%-8s", word)
	if v.colour && colour != "" {
		word = "\x1b[" + colour + "m" + word + "\x1b[0m"
	}
	v.line("%-12s  %s %s", at, word, text)
}

func clockOfDay(at time.Time) string { return at.Format("15:04:05.000") }

func (v *view) state(at time.Time, text string) { v.row(clockOfDay(at), yellow, "port", shown(text)) }

func (v *view) event(e sighting) {
	at := clockOfDay(e.At)
	switch {
	case e.reading != nil:
		v.reading(at, e.reading)
	case e.Kind == serial.BytesIn && v.hex:
		v.row(at, dim, "in", hexOf(e.Bytes))
	case e.Kind == serial.BytesOut:
		text := v.bytes(e.Bytes)
		v.row(at, dim, "out", text)
	case e.Kind == serial.FrameGood:
		v.row(at, green, "frame", v.bytes(e.Bytes))
		if e.Reading != nil {
			v.reading("", e.Reading)
		}
	case e.Kind == serial.FrameRefused:
		text := string(e.Reason)
		if e.Detail != "" {
			text += ": " + e.Detail
		}
		v.row(at, red, "refused", shown(text))
		v.row("", "", "", hexOf(e.Bytes))
	}
}

func (v *view) reading(at string, r *bridge.Reading) {
	to := string(r.Device)
	if r.Subtopic != "" {
		to += "/" + string(r.Subtopic)
	}
	v.row(at, green, "reading", fmt.Sprintf("%s  %s  %s", shown(to), shown(r.ContentType), plainOrHex(r.Payload)))
}

// bytes shows a frame.
func (v *view) bytes(b []byte) string {
	if v.hex {
		return hexOf(b)
	}
	return plainOrHex(b)
}

// plainOrHex shows bytes as text if all of it can be printed, but for the end of
// a line, and in hexadecimal otherwise.
func plainOrHex(b []byte) string {
	text := strings.TrimRight(string(b), "\r\n")
	if text == "" || !utf8.ValidString(text) ||
		strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return hexOf(b)
	}
	if len(text) > maxShownBytes {
		return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(text[:maxShownBytes], ""), len(b))
	}
	return text
}

// hexOf shows bytes in hexadecimal, and beside it what can be printed of them.
func hexOf(b []byte) string {
	if len(b) == 0 {
		return "(no bytes)"
	}
	cut := b[:min(len(b), maxShownBytes)]
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '.'
		}
		return r
	}, latin(cut))
	out := fmt.Sprintf("% x  |%s|", cut, text)
	if len(cut) < len(b) {
		out += fmt.Sprintf(" (%d bytes)", len(b))
	}
	return out
}

// latin makes one character of each byte.
func latin(b []byte) string {
	runes := make([]rune, len(b))
	for i, c := range b {
		runes[i] = rune(c)
	}
	return string(runes)
}
