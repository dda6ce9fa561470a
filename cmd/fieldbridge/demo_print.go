package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"fieldbridge/bridge/devbroker"
)

// demoPrinter writes what a demo shows. It belongs to one goroutine.
type demoPrinter struct {
	w     io.Writer
	color bool
}

func newDemoPrinter(w io.Writer) *demoPrinter {
	_, no := os.LookupEnv("NO_COLOR") // no-color.org
	return &demoPrinter{w: w, color: isTerminal(w) && !no}
}

// SGR parameters (ECMA-48, section 8.3.117).
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (p *demoPrinter) style(text, sgr string) string {
	if !p.color {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

func (p *demoPrinter) head(d *demoParts) {
	fmt.Fprintf(p.w, "%s  everything in this process, nothing is left behind; ctrl-c stops\n\n", p.style("fieldbridge demo", bold))
	row := func(name, what, note string) {
		fmt.Fprintf(p.w, "  %-8s %-34s %s\n", name, what, p.style(note, dim))
	}
	row("broker", "mqtt://"+d.brokerAddr, "MQTT v5 with akenza's rules")
	row("serial", d.sensor.path(), "a simulated scale; device "+demoScale+" signs a JWT")
	row("HTTP", "http://"+d.httpAddr, "an app; device "+demoApp+" has the connector's secret")
	row("webhook", "http://"+d.hookListen.Addr().String(), "the app's ear for downlinks")
	fmt.Fprintf(p.w, "\n  try it from another terminal:\n  %s\n", p.style(fmt.Sprintf(
		`curl -H 'Content-Type: text/plain' -d 'hello' http://%s/v1/devices/%s/uplink/greeting`, d.httpAddr, demoApp), cyan))
}

func (p *demoPrinter) round(n int) {
	fmt.Fprintf(p.w, "\n%s\n", p.style(fmt.Sprintf("round %d", n), bold))
}

// sent begins a leg: the first line of two or three.
func (p *demoPrinter) sent(leg string, up bool, who, what string) {
	arrow := "↓"
	if up {
		arrow = "↑"
	}
	fmt.Fprintf(p.w, "  %s %-8s %-13s %s\n", p.style(arrow, cyan), leg, who, what)
}

func (p *demoPrinter) line(who, what string) {
	fmt.Fprintf(p.w, "  %10s %-13s %s\n", "", who, what)
}

func (p *demoPrinter) arrived(who string, m devbroker.Message, took time.Duration) {
	p.line(who, fmt.Sprintf("%s  %s  %s", printable(m.Payload),
		p.style(m.ContentType+"  "+m.RedactedTopic(), green), p.style(took.Round(10*time.Microsecond).String(), dim)))
}

func (p *demoPrinter) hook(h demoHook) {
	p.line("webhook got", fmt.Sprintf("%s  %s", h.body,
		p.style(fmt.Sprintf("%s  device %s, sub topic %s", h.contentType, h.device, h.subtopic), green)))
}

// visitor shows a reading that is not the demo's own.
func (p *demoPrinter) visitor(m devbroker.Message) {
	p.sent("yours", true, "broker got", fmt.Sprintf("%s  %s", printable(m.Payload), p.style(m.ContentType+"  "+m.RedactedTopic(), green)))
}

func (p *demoPrinter) failed(leg string, err error) {
	fmt.Fprintf(p.w, "  %s %s: %v\n", p.style("✗", red), leg, err)
}

func (p *demoPrinter) balance(ok [legs]int, errs [legs]error) {
	fmt.Fprintln(p.w)
	for leg := range legs {
		mark := p.style("✓", green)
		if ok[leg] == 0 || errs[leg] != nil {
			mark = p.style("✗", red)
		}
		fmt.Fprintf(p.w, "  %s %-13s %d\n", mark, legNames[leg], ok[leg])
	}
}

func quote(b []byte) string { return strconv.Quote(string(b)) }

// printable shows a payload: text as it is, if it has nothing in it that would
// steer a terminal, anything else quoted.
func printable(b []byte) string {
	const most = 200
	if !utf8.Valid(b) {
		return fmt.Sprintf("%d bytes: % x", len(b), b[:min(len(b), 32)])
	}
	s := string(b)
	for _, r := range s {
		if !strconv.IsPrint(r) {
			s = strconv.Quote(s)
			break
		}
	}
	if len(s) > most {
		// Without the pieces of a character that has been cut.
		return fmt.Sprintf("%s… (%d bytes)", strings.ToValidUTF8(s[:most], ""), len(b))
	}
	return s
}
