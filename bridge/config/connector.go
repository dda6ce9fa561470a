package config

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What templates can hold.
const (
	placeDevice    = "{device}"    // the device's id
	placeSecret    = "{secret}"    // the connector's secret
	placeConnector = "{connector}" // the connector's name
	placeGateway   = "{gateway}"   // this machine's name
	placeID        = "{id}"        // the connector's id
)

// maxExpiry is the largest session expiry interval that is not "never" (MQTT v5
// section 3.1.2.11.2).
const maxExpiry = 0xFFFFFFFE * time.Second

func (v *validator) connectors() {
	v.connectorNames = make(map[string]int)
	if len(v.raw.Connectors) == 0 && !v.incomplete && v.raw.In.ok("connector") {
		v.raw.In.wrong("connector", "no connector is defined", "add a [[connector]] block with name, broker and auth")
	}
	names := make(map[string]Position)
	anyDevice := ""
	for i := range v.raw.Connectors {
		raw := &v.raw.Connectors[i]
		if checkUnique(raw.In, "name", raw.Name, names) {
			v.connectorNames[raw.Name] = i
		}
		c := v.connector(raw)
		if c.AnyDevice {
			if anyDevice != "" {
				raw.In.wrong("devices", fmt.Sprintf("%q is already the value of the connector at %s", "any", anyDevice), "a device that is not listed can go to one connector only")
			} else {
				anyDevice = raw.In.pos("").String()
			}
		}
		v.cfg.Connectors = append(v.cfg.Connectors, c)
	}
}

// checkUnique checks a required name against those that were seen before.
func checkUnique(in place, key, name string, seen map[string]Position) bool {
	if name == "" {
		in.missing(key, "letters A to Z, digits, _ and - are allowed")
		return false
	}
	if !in.ok(key) || !in.flawed(key, checkName(name)) {
		return false
	}
	if first, ok := seen[name]; ok {
		in.wrong(key, fmt.Sprintf("the name %q is taken", name), "by "+first.String())
		return false
	}
	seen[name] = in.pos("")
	return true
}

func (v *validator) connector(raw *rawConnector) Connector {
	in := raw.In
	c := Connector{
		Pos: in.pos(""), Name: raw.Name, Gateway: v.cfg.Gateway, Profile: raw.Profile, Auth: raw.Auth,
		KeyFile: raw.KeyFile, ID: raw.ID,
		KeepAlive: raw.KeepAlive, SessionExpiry: raw.SessionExpiry,
		ReceiveMaximum: uint16(raw.ReceiveMaximum), MaxPayload: int64(raw.MaxPayload),
		UserProperties: raw.UserProperties, TopicAlias: raw.TopicAlias,
		Connect: raw.Connect, IdleTimeout: raw.IdleTimeout, ConnectRate: int(raw.ConnectRate),
		UplinkTopic: raw.UplinkTopic, DownlinkTopic: raw.DownlinkTopic,
	}
	checkDuration(in, "keep_alive", raw.KeepAlive, durationRange{min: 5 * time.Second, max: 65535 * time.Second, whole: true})
	checkDuration(in, "session_expiry", raw.SessionExpiry, durationRange{min: time.Minute, max: maxExpiry, whole: true})
	checkInt(in, "receive_maximum", raw.ReceiveMaximum, 1, 65535)
	checkSize(in, "max_payload", raw.MaxPayload, maxMQTTPayload)
	checkConnect(raw)
	c.AllowedServers = checkServers(in, raw.AllowedServers)
	v.broker(raw, &c)
	v.caFile(raw, &c)

	oneOf(in, "profile", raw.Profile, []string{ProfileAkenza, ProfileGeneric})
	auths := []string{AuthDeviceCredentials, AuthUplinkSecret, AuthCertificate}
	switch {
	case raw.Auth == "":
		in.missing("auth", "one of "+quoted(auths))
	case oneOf(in, "auth", raw.Auth, auths):
		v.login(raw, &c)
		v.topics(raw, &c)
	}
	return c
}

// broker checks the URL. No message shows it: people write passwords into URLs.
func (v *validator) broker(raw *rawConnector, c *Connector) {
	in := raw.In
	if raw.Broker == "" {
		in.missing("broker", `such as broker = "mqtts://mqtt.akenza.io:8883"`)
		return
	}
	const example = `write it as "mqtts://host:8883"`
	u, err := url.Parse(raw.Broker)
	if err != nil {
		in.wrong("broker", "is not a URL", example)
		return
	}
	port := ""
	switch u.Scheme {
	case "mqtt":
		port = "1883"
	case "mqtts":
		port, c.TLS = "8883", true
	case "ws":
		port, c.Path = "80", defaultPath
	case "wss":
		port, c.TLS, c.Path = "443", true, defaultPath
	default:
		in.wrong("broker", "does not start with mqtts://, mqtt://, wss:// or ws://", example)
		return
	}
	if c.Path != "" && u.Path != "" {
		c.Path, u.Path = u.EscapedPath(), ""
	}
	switch {
	case u.User != nil:
		in.wrong("broker", "contains a user name or password", "credentials are given by auth and its keys")
	case u.Opaque != "" || u.Hostname() == "":
		in.wrong("broker", "names no host", example)
	case u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		problem := "has something behind the port"
		if c.Path != "" {
			problem = "has something behind the path"
		}
		in.wrong("broker", problem, example)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		in.wrong("broker", "has a port that is not 1 to 65535", example)
	}
	c.Host = u.Hostname()
	c.Address = net.JoinHostPort(c.Host, port)
	c.Broker = u.Scheme + "://" + c.Address + c.Path
}

// defaultPath is where brokers have their WebSocket, by custom.
const defaultPath = "/mqtt"

func (v *validator) caFile(raw *rawConnector, c *Connector) {
	in := raw.In
	if raw.CAFile == "" || !in.ok("ca_file") {
		return
	}
	if !c.TLS && c.Address != "" {
		in.wrong("ca_file", "has no effect without encryption", "use mqtts:// or wss://, or remove it")
		return
	}
	c.CAFile, c.CAPEM = readCA(in, "ca_file", raw.CAFile)
}

// readCA reads the certificates of the file that a key names; after a mistake
// there are none.
func readCA(in place, key, value string) (path string, pem []byte) {
	path, _, f := in.src.resolve(value)
	if !in.flawed(key, f) {
		return "", nil
	}
	data, f := readRegular(path, maxCAFile)
	if f == nil {
		f = checkCertificates(path, data)
	}
	if !in.flawed(key, f) {
		return "", nil
	}
	return path, data
}

// checkCertificates accepts PEM (RFC 7468) with certificates and nothing else.
func checkCertificates(path string, data []byte) *flaw {
	const hint = `it must hold PEM blocks "-----BEGIN CERTIFICATE-----"`
	n := 0
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		n++
		if block.Type != "CERTIFICATE" {
			return &flaw{fmt.Sprintf("%s: block %d is a %q, not a certificate", path, n, block.Type), hint}
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return &flaw{fmt.Sprintf("%s: certificate %d cannot be read: %v", path, n, err), "export it again as PEM"}
		}
	}
	switch {
	case n == 0:
		return &flaw{fmt.Sprintf("%s holds no certificate", path), hint}
	case bytes.Contains(data, []byte("-----BEGIN")):
		return &flaw{fmt.Sprintf("%s: block %d is damaged", path, n+1), hint}
	}
	return nil
}

// onlyFor records keys that mean nothing with the connector's auth.
func onlyFor(in place, auth string, keys ...string) {
	for _, key := range keys {
		if in.gives(key) && in.ok(key) {
			in.wrong(key, fmt.Sprintf("is only for auth = %q", auth), "remove it")
		}
	}
}

// topics checks the templates. No message shows one: it may hold the secret
// where the placeholder should be.
func (v *validator) topics(raw *rawConnector, c *Connector) {
	up, down := "/up/device/id/{device}", "/down/device/id/{device}/#"
	places := []string{placeDevice, placeConnector}
	if raw.Auth == AuthUplinkSecret {
		up, down = "/up/{secret}/id/{device}", "/down/{secret}/id/{device}/#"
		places = append(places, placeSecret)
	}
	rules := topicRules{up: up, down: down}
	if raw.Profile == ProfileGeneric {
		rules = topicRules{up: "up/{device}", down: "down/{device}/#", own: c.PerDevice}
		if c.UplinkTopic == "" {
			raw.In.missing("uplink_topic", fmt.Sprintf("such as %q", rules.up))
		}
	}
	check := func(key, value string, special func(string) *flaw) {
		if !raw.In.ok(key) {
			return
		}
		f := checkText(value)
		if f == nil {
			f = checkTemplate(value, places...)
		}
		if f == nil && !c.Secret.IsZero() && strings.Contains(value, c.Secret.Reveal()) {
			f = &flaw{"contains the secret itself", "write {secret} in its place"}
		}
		if f == nil {
			f = special(value)
		}
		raw.In.flawed(key, f)
	}
	if raw.Profile != ProfileGeneric {
		c.UplinkTopic = cmp.Or(c.UplinkTopic, up)
		c.DownlinkTopic = cmp.Or(c.DownlinkTopic, down)
	}
	if c.UplinkTopic != "" {
		check("uplink_topic", c.UplinkTopic, rules.uplink)
	}
	if c.DownlinkTopic != "" {
		check("downlink_topic", c.DownlinkTopic, rules.downlink)
	}
}

// topicRules are what a connector's topics must be like.
type topicRules struct {
	up, down string // examples
	own      bool   // the session is the device's own: its topics need not name it
}

func (r topicRules) uplink(s string) *flaw {
	hint := fmt.Sprintf("such as %q", r.up)
	switch {
	case strings.ContainsAny(s, "+#"):
		return &flaw{"contains a wildcard (+ or #)", hint}
	case !r.own && !strings.Contains(s, placeDevice):
		return &flaw{"does not contain {device}", hint}
	case strings.HasSuffix(s, "/"):
		return &flaw{"ends in /", "sub topics are appended with a / of their own"}
	}
	return nil
}

func (r topicRules) downlink(s string) *flaw {
	hint := fmt.Sprintf("such as %q", r.down)
	head, ok := strings.CutSuffix(s, "/#")
	if !ok {
		head, ok = strings.CutSuffix(s, "/+")
	}
	switch {
	case !ok:
		return &flaw{"does not end in /# or /+", hint}
	case strings.ContainsAny(head, "+#"):
		return &flaw{"contains a wildcard (+ or #) before its last level", hint}
	case !r.own && !slices.Contains(strings.Split(head, "/"), placeDevice):
		return &flaw{"does not contain {device} as a whole level", hint}
	}
	return nil
}

// checkTemplate accepts the given placeholders and no other braces.
func checkTemplate(s string, allowed ...string) *flaw {
	rest := s
	for _, p := range allowed {
		rest = strings.ReplaceAll(rest, p, " ") // "{dev{secret}ice}" must not become one
	}
	if !strings.ContainsAny(rest, "{}") {
		return nil
	}
	for _, p := range []struct{ place, what string }{{placeSecret, "secret"}, {placeID, "id"}} {
		if strings.Contains(rest, p.place) {
			return &flaw{fmt.Sprintf("contains %s, but this connector has no %s to put there", p.place, p.what), "allowed are " + strings.Join(allowed, ", ")}
		}
	}
	return &flaw{"contains { or } outside of a known placeholder", "allowed are " + strings.Join(allowed, ", ")}
}
