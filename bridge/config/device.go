package config

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"fieldbridge/bridge"
)

func (v *validator) devices() {
	v.deviceIDs = make(map[string]Position)
	for i := range v.raw.Devices {
		raw := &v.raw.Devices[i]
		d := Device{Pos: raw.In.pos("")}
		d.ID = v.deviceID(raw)
		if conn := v.deviceConnector(raw); conn != nil {
			d.ConnectorName = conn.Name
			v.deviceKey(raw, conn, &d)
			v.deviceLogin(raw, conn, &d)
		}
		d.Durability = v.cfg.Durability
		if raw.In.gives("durability") {
			d.Durability = raw.Durability
			oneOf(raw.In, "durability", raw.Durability, durabilities)
		}
		for j := range raw.Downlinks {
			d.Downlinks = append(d.Downlinks, v.downlink(&raw.Downlinks[j]))
		}
		v.cfg.Devices = append(v.cfg.Devices, d)
	}
	v.renewals()
	v.clientIDs()
}

func (v *validator) deviceID(raw *rawDevice) bridge.DeviceID {
	in := raw.In
	if raw.ID == "" {
		in.missing("id", "the device's id at the broker")
		return ""
	}
	id, err := bridge.ParseDeviceID(raw.ID)
	if err != nil {
		in.wrong("id", plain(err, bridge.ErrInvalid), "")
		return ""
	}
	if first, ok := v.deviceIDs[raw.ID]; ok {
		in.wrong("id", fmt.Sprintf("the device %q is listed already", raw.ID), "by "+first.String())
		return ""
	}
	v.deviceIDs[raw.ID] = in.pos("")
	return id
}

// plain drops the sentinel before the text: the key before it says as much.
func plain(err, sentinel error) string {
	return strings.TrimPrefix(err.Error(), sentinel.Error()+": ")
}

// deviceConnector returns the connector of a device, or nil after a mistake.
func (v *validator) deviceConnector(raw *rawDevice) *rawConnector {
	in := raw.In
	names := slices.Sorted(maps.Keys(v.connectorNames))
	if raw.Connector == "" {
		switch {
		case !in.ok("connector") || v.incomplete || len(v.raw.Connectors) == 0:
			return nil // that is a mistake already
		case len(v.raw.Connectors) == 1:
			return &v.raw.Connectors[0]
		}
		in.missing("connector", "there are several: one of "+quoted(names))
		return nil
	}
	if i, ok := v.connectorNames[raw.Connector]; ok {
		return &v.raw.Connectors[i]
	}
	v.noSuch(in, "connector", raw.Connector, names)
	return nil
}

// noSuch records a reference to a connector or serial port that is not there.
func (v *validator) noSuch(in place, kind, name string, names []string) {
	if v.incomplete {
		return
	}
	hint := didYouMean(name, names)
	switch {
	case hint == "" && len(names) > 0:
		hint = "one of " + quoted(names)
	case hint == "":
		hint = fmt.Sprintf("add a [[%s]] block with this name", kind)
	}
	in.wrong(kind, fmt.Sprintf("no %s is named %q", words[kind], name), hint)
}

// words are what people call the things that a key refers to.
var words = map[string]string{"connector": "connector", "serial": "serial port"}

func (v *validator) downlink(raw *rawDownlink) Downlink {
	in := raw.In
	if err := bridge.CheckFilter(raw.Subtopic); err != nil && in.ok("subtopic") {
		in.wrong("subtopic", plain(err, bridge.ErrInvalid), `such as "valve/#", or remove it for everything`)
	}
	switch {
	case !in.ok("webhook") || !in.ok("serial") || !in.ok("mailbox"):
	case raw.Webhook == "" && raw.Serial == "":
		in.wrong("", "has no target", "give webhook or serial")
	case raw.Webhook != "" && raw.Serial != "":
		in.wrong("", "has two targets, webhook and serial", "write a second [[device.downlink]] block for one of them")
	case raw.Webhook != "":
		in.flawed("webhook", checkWebhook(raw.Webhook))
	default:
		if _, ok := v.serialPorts[raw.Serial]; !ok {
			v.noSuch(in, "serial", raw.Serial, slices.Sorted(maps.Keys(v.serialPorts)))
		}
	}
	return Downlink{Pos: in.pos(""), Subtopic: raw.Subtopic, Webhook: raw.Webhook, Serial: raw.Serial}
}

// checkWebhook accepts an absolute http or https URL. The flaw does not show it:
// people write passwords into URLs.
func checkWebhook(s string) *flaw {
	const example = `such as "http://127.0.0.1:9000/valve"`
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return &flaw{"is not a URL", example}
	case u.Scheme != "http" && u.Scheme != "https":
		return &flaw{"does not start with http:// or https://", example}
	case u.Hostname() == "":
		return &flaw{"names no host", example}
	case u.User != nil:
		return &flaw{"contains a user name or password", example}
	case u.Fragment != "":
		return &flaw{"contains #, which is never sent", example}
	}
	return nil
}

func (v *validator) serialNames() {
	v.serialPorts = make(map[string]Position)
	for i := range v.raw.Serials {
		raw := &v.raw.Serials[i]
		checkUnique(raw.In, "name", raw.Name, v.serialPorts)
	}
}

// serialMode is data bits, parity and stop bits; 1.5 of them cannot be set on
// Linux (termios(3)).
var serialMode = regexp.MustCompile(`^[5-8][NEOMS][12]$`)

const (
	maxDelimiter = 8
	maxMaxFrame  = 16 << 20
)

func (v *validator) serials() {
	ports := make(map[string]Position)
	for i := range v.raw.Serials {
		raw := &v.raw.Serials[i]
		in := raw.In
		s := Serial{
			Pos: in.pos(""), Name: raw.Name, Port: raw.Port,
			Baud: int(raw.Baud), Mode: raw.Mode,
			Framing: raw.Framing, Delimiter: []byte(raw.Delimiter), MaxFrame: int64(raw.MaxFrame),
			Decode: raw.Decode, Device: bridge.DeviceID(raw.Device),
		}
		v.serialPort(raw, ports)
		checkInt(in, "baud", raw.Baud, 1, math.MaxInt32)
		if in.ok("mode") && !serialMode.MatchString(raw.Mode) {
			in.wrong("mode", fmt.Sprintf("%q is not data bits, parity and stop bits", raw.Mode), `such as "8N1" or "7E1"`)
		}
		notYet(in, "framing", raw.Framing, []string{FramingLine}, laterFramings)
		if n := len(raw.Delimiter); in.ok("delimiter") && (n < 1 || n > maxDelimiter) {
			in.wrong("delimiter", fmt.Sprintf("must have 1 to %d bytes (got %d)", maxDelimiter, n), `such as "\n" or "\r\n"`)
		}
		checkSize(in, "max_frame", raw.MaxFrame, maxMaxFrame)
		notYet(in, "decode", raw.Decode, []string{DecodeRaw, DecodeText, DecodeJSON}, laterDecodes)
		v.serialReading(raw, &s)
		v.cfg.Serials = append(v.cfg.Serials, s)
	}
}

func (v *validator) serialPort(raw *rawSerial, ports map[string]Position) {
	in := raw.In
	if raw.Port == "" {
		in.missing("port", `such as port = "/dev/ttyUSB0", or better one of /dev/serial/by-id`)
		return
	}
	path := filepath.Clean(raw.Port)
	if !filepath.IsAbs(path) {
		in.wrong("port", fmt.Sprintf("%q is not an absolute path", raw.Port), fmt.Sprintf("such as %q", "/dev/"+filepath.Base(path)))
		return
	}
	if first, ok := ports[path]; ok {
		in.wrong("port", fmt.Sprintf("%s is opened already", path), "by "+first.String())
		return
	}
	ports[path] = in.pos("")
}

// serialReading checks what a reading from the port is made with.
func (v *validator) serialReading(raw *rawSerial, s *Serial) {
	in := raw.In
	if raw.Device == "" {
		in.missing("device", "the id of the device that the readings belong to")
	} else if _, ok := v.deviceIDs[raw.Device]; !ok && !v.incomplete {
		hint := didYouMean(raw.Device, slices.Sorted(maps.Keys(v.deviceIDs)))
		if hint == "" {
			hint = "add a [[device]] block with this id"
		}
		in.wrong("device", fmt.Sprintf("no device has the id %q", raw.Device), hint)
	}
	sub, err := bridge.ParseSubtopic(raw.Subtopic)
	if err != nil {
		in.wrong("subtopic", plain(err, bridge.ErrInvalid), `such as "alerts" or "alerts/critical"`)
	}
	s.Subtopic = sub
	if raw.ContentType == "" {
		s.ContentType = map[string]string{
			DecodeRaw: "application/octet-stream", DecodeText: "text/plain", DecodeJSON: "application/json",
		}[raw.Decode]
		return
	}
	ct, err := bridge.ParseContentType(raw.ContentType)
	if err != nil {
		in.wrong("content_type", plain(err, bridge.ErrContentType), didYouMean(raw.ContentType, bridge.ContentTypes))
	}
	s.ContentType = ct
}

// notYet checks a key some of whose values a later version brings.
func notYet(in place, key, value string, now, later []string) {
	if in.ok(key) && slices.Contains(later, value) {
		in.wrong(key, fmt.Sprintf("%q is not supported yet by this version", value), "one of "+quoted(now))
		return
	}
	oneOf(in, key, value, now)
}
