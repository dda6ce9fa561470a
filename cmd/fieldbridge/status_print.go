package main

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// printStatus shows a status to people. Errors stand below the tables, which
// they would make too wide.
func printStatus(out io.Writer, address string, d *statusDocument) error {
	now, _ := time.Parse(time.RFC3339, d.Time) // zero: times are shown as they are
	p := statusPrinter{now: now}
	p.line("fieldbridge %s, gateway %s, at %s, up for %s", shown(d.Version), shown(d.Gateway), address, span(time.Duration(d.UptimeSeconds)*time.Second))
	p.clock(d.Clock)
	p.queues(d)
	p.connectors(d.Connectors)
	if len(d.Ports) > 0 {
		p.ports(d.Ports)
	}
	_, err := out.Write(p.Bytes())
	return err
}

// statusPrinter gathers the text.
type statusPrinter struct {
	bytes.Buffer
	now time.Time // the daemon's
}

func (p *statusPrinter) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *statusPrinter) clock(c clockDocument) {
	word := "trusted"
	if !c.Trusted {
		word = "NOT TRUSTED, no token is made"
	}
	p.line("clock:   %s: %s", word, shown(c.Reason))
}

func (p *statusPrinter) queues(d *statusDocument) {
	s := d.Spool
	oldest := ", age of the oldest not known"
	if s.OldestSeconds != nil {
		oldest = ", the oldest for " + span(time.Duration(*s.OldestSeconds)*time.Second)
	}
	if s.Readings == 0 {
		oldest = ""
	}
	p.line("waiting: %d readings in memory, %d in the spool (%s of %s%s), %d downlinks",
		d.ReadingsInMemory, s.Readings, size(s.Bytes), size(s.MaxBytes), oldest, s.Downlinks)
	if m := d.Mailboxes; m != nil && m.Downlinks > 0 {
		p.line("         %d of the downlinks are in %d of %d mailboxes, the oldest, of %s, came %s",
			m.Downlinks, m.Holding, m.Count, shown(string(m.OldestDevice)), p.relative(m.Oldest))
	}
	if s.Full {
		p.line("         FULL: %s", shown(s.FullReason))
	}
	if s.DeadLetters > 0 {
		p.line("         %d dead letters: fieldbridge spool dead", s.DeadLetters)
	}
}

func (p *statusPrinter) connectors(list []connectorDocument) {
	p.line("")
	t := newTable(p, "CONNECTOR", "SESSIONS", "UP", "DOWN", "TOKEN EXPIRES", "BROKER")
	for _, c := range list {
		t.row(c.Name, strconv.Itoa(c.Sessions), strconv.Itoa(c.Up), strconv.Itoa(c.Sessions-c.Up-c.Idle), p.relative(c.TokenExpires), c.Broker)
	}
	_ = t.w.Flush() // into memory
	for _, c := range list {
		if c.Idle > 0 {
			p.line("  %s: %d idle, on demand", shown(c.Name), c.Idle)
		}
		for _, tr := range c.Troubles {
			who := ""
			if tr.Device != "" {
				who = " (such as " + shown(string(tr.Device)) + ")"
			}
			p.line("  %s: %d down%s: %s", shown(c.Name), tr.Sessions, who, shown(tr.Error))
		}
		if c.MoreDown > 0 {
			p.line("  %s: %d down for other reasons", shown(c.Name), c.MoreDown)
		}
		if e := c.LastError; e != nil && len(c.Troubles) == 0 {
			p.line("  %s: last error %s: %s", shown(c.Name), p.relative(e.Time), shown(e.Error))
		}
	}
}

func (p *statusPrinter) ports(list []portDocument) {
	p.line("")
	t := newTable(p, "PORT", "STATE", "GOOD", "BAD", "DROPPED", "LAST FRAME", "DEVICE")
	for _, s := range list {
		state := "up"
		if !s.Up {
			state = "down"
		}
		t.row(s.Name, state, strconv.FormatUint(s.FramesGood, 10), strconv.FormatUint(s.FramesBad, 10),
			strconv.FormatUint(s.Dropped, 10), p.relative(s.LastFrame), clip(string(s.Device), 40))
	}
	_ = t.w.Flush() // into memory
	for _, s := range list {
		switch {
		case s.LastError == "":
		case s.Up:
			p.line("  %s: last error: %s", shown(s.Name), shown(s.LastError))
		default:
			p.line("  %s: down: %s", shown(s.Name), shown(s.LastError))
		}
		p.portDetails(s)
	}
}

// portDetails tells more of a port that has more to tell.
func (p *statusPrinter) portDetails(s portDocument) {
	if s.Path != "" && s.Path != s.Port {
		p.line("  %s: %s is %s", shown(s.Name), shown(s.Port), shown(s.Path))
	}
	if r := s.LastRefused; r != nil {
		p.line("  %s: last refused %s: %s: %s", shown(s.Name), p.relative(r.Time), shown(r.Reason), shown(clip(r.Detail, 120)))
		p.line("  %s: its bytes: %s", shown(s.Name), shown(clip(r.Hex, 128)))
	}
	if len(s.Polls) > 0 {
		p.line("  %s: polls: %s", shown(s.Name), shown(countsOf(s.Polls)))
	}
	m := s.Modbus
	if m == nil {
		return
	}
	p.line("  %s: modbus requests: %s; %d polls left out", shown(s.Name), shown(countsOf(m.Requests)), m.Missed)
	for _, slave := range m.Slaves {
		state := "answers"
		switch {
		case slave.Silent:
			state = "SILENT"
		case slave.LastAnswer == "":
			state = "has not answered"
		}
		p.line("  %s: slave %d (%s) %s, last %s, polls: %d good, %d not", shown(s.Name), slave.Address, shown(string(slave.Device)),
			state, p.relative(slave.LastAnswer), slave.Polls, slave.Failed)
		if slave.LastError != "" {
			p.line("  %s: slave %d: last error: %s", shown(s.Name), slave.Address, shown(slave.LastError))
		}
	}
}

// relative shows a time of the document as people want it.
func (p *statusPrinter) relative(text string) string {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || p.now.IsZero() {
		return shown(clip(text, 40))
	}
	if d := at.Sub(p.now); d > 0 {
		return "in " + span(d)
	}
	return span(p.now.Sub(at)) + " ago"
}

// span is a duration in its two largest units.
func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}

// size is a number of bytes in the units of the configuration.
func size(n int64) string {
	const units = "KMGT"
	v, i := float64(n), -1
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	if i < 0 {
		return fmt.Sprintf("%d B", n)
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + units[i:i+1] + "iB"
}

// clip keeps a table's column at most n characters wide.
func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
