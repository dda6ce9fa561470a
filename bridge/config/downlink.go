package config

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"fieldbridge/bridge"
)

func (v *validator) downlink(raw *rawDownlink) Downlink {
	in := raw.In
	if err := bridge.CheckFilter(raw.Subtopic); err != nil && in.ok("subtopic") {
		in.wrong("subtopic", plain(err, bridge.ErrInvalid), `such as "valve/#", or remove it for everything`)
	}
	d := Downlink{Pos: in.pos(""), Subtopic: raw.Subtopic, Webhook: raw.Webhook, Serial: raw.Serial, Mailbox: raw.Mailbox}
	var targets []string
	for _, t := range []struct {
		key   string
		given bool
	}{{"webhook", raw.Webhook != ""}, {"serial", raw.Serial != ""}, {"mailbox", raw.Mailbox}} {
		if t.given {
			targets = append(targets, t.key)
		}
	}
	switch {
	case !in.ok("webhook") || !in.ok("serial") || !in.ok("mailbox"):
		return d
	case len(targets) == 0:
		in.wrong("", "has no target", "give webhook, serial or mailbox = true")
		return d
	case len(targets) > 1:
		in.wrong("", fmt.Sprintf("has %d targets, %s", len(targets), strings.Join(targets, " and ")),
			"write a [[device.downlink]] block for each")
		return d
	case raw.Serial != "":
		if _, ok := v.serialPorts[raw.Serial]; !ok {
			v.noSuch(in, "serial", raw.Serial, slices.Sorted(maps.Keys(v.serialPorts)))
		}
	}
	if raw.Webhook == "" {
		for _, key := range []string{"secret_file", "ca_file", "proxy"} {
			if in.gives(key) {
				in.wrong(key, "is for a webhook", "remove it")
			}
		}
		return d
	}
	if in.flawed("webhook", checkWebhook(raw.Webhook)) {
		v.webhook(raw, &d)
	}
	return d
}

// webhook reads what goes with a webhook.
func (v *validator) webhook(raw *rawDownlink, d *Downlink) {
	in := raw.In
	if in.gives("secret_file") && in.ok("secret_file") {
		path, content, f := in.src.readSecret(raw.SecretFile)
		if f == nil {
			d.Secrets, f = parseWebhookSecrets(path, content)
		}
		in.flawed("secret_file", f)
		d.SecretFile = path
	}
	if raw.CAFile != "" && in.ok("ca_file") {
		if strings.HasPrefix(raw.Webhook, "http:") {
			in.wrong("ca_file", "has no effect without encryption", "use https://, or remove it")
		} else {
			d.CAFile, d.CAPEM = readCA(in, "ca_file", raw.CAFile)
		}
	}
	if in.ok("proxy") && in.flawed("proxy", checkProxy(raw.Proxy)) {
		d.Proxy = raw.Proxy
	}
	// One order for all that goes to a URL needs one way to send it.
	first, ok := v.webhooks[d.Webhook]
	if !ok {
		v.webhooks[d.Webhook] = *d
		return
	}
	for _, c := range []struct {
		key      string
		now, was any
	}{{"secret_file", d.Secrets, first.Secrets}, {"ca_file", d.CAPEM, first.CAPEM}, {"proxy", d.Proxy, first.Proxy}} {
		if in.ok(c.key) && !reflect.DeepEqual(c.now, c.was) {
			in.wrong(c.key, "differs from that of another block with the same webhook", "give the same as "+first.Pos.String())
		}
	}
}

// Bounds of webhook secrets, in bytes, and of how many a file can list.
const (
	minWebhookSecret  = 24
	maxWebhookSecret  = 64
	maxWebhookSecrets = 8
	webhookSecretMark = "whsec_"
)

// parseWebhookSecrets reads one secret a line, as Standard Webhooks writes them
// (https://github.com/standard-webhooks/standard-webhooks, "Signature scheme").
// Empty lines and those that begin with # do not count. The flaw tells the line
// and nothing of what is in it.
func parseWebhookSecrets(path, content string) ([]bridge.Secret, *flaw) {
	const hint = `make one with: echo "whsec_$(head -c 32 /dev/urandom | base64)"`
	var secrets []bridge.Secret
	n := 0
	for line := range strings.Lines(content) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		wrong := func(format string, args ...any) *flaw {
			return &flaw{fmt.Sprintf("line %d of %s ", n, path) + fmt.Sprintf(format, args...), hint}
		}
		encoded, marked := strings.CutPrefix(line, webhookSecretMark)
		if !marked {
			return nil, wrong("does not start with %s", webhookSecretMark)
		}
		key, err := base64.StdEncoding.Strict().DecodeString(encoded)
		switch {
		case err != nil:
			return nil, wrong("is not base64 behind %s", webhookSecretMark)
		case len(key) < minWebhookSecret || len(key) > maxWebhookSecret:
			return nil, wrong("holds %d bytes, a secret has %d to %d", len(key), minWebhookSecret, maxWebhookSecret)
		case slices.ContainsFunc(secrets, func(s bridge.Secret) bool { return s.Equal(string(key)) }):
			return nil, wrong("repeats a secret")
		case len(secrets) == maxWebhookSecrets:
			return nil, wrong("is one secret too many, at most %d are allowed", maxWebhookSecrets)
		}
		secrets = append(secrets, bridge.NewSecret(string(key)))
	}
	if len(secrets) == 0 {
		return nil, &flaw{path + " holds no secret", hint}
	}
	return secrets, nil
}

// ReadWebhookSecrets reads a secret file again, by its path in a Downlink, as
// ReadKey reads a key.
func ReadWebhookSecrets(path string) ([]bridge.Secret, error) {
	content, f := readAgain(path)
	if f != nil {
		return nil, f.err()
	}
	secrets, f := parseWebhookSecrets(path, content)
	if f != nil {
		return nil, f.err()
	}
	return secrets, nil
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

// checkProxy accepts what a Downlink's Proxy can be. The flaw does not show it.
func checkProxy(s string) *flaw {
	const example = `such as "http://proxy.example:3128", "environment", or remove it for none`
	if s == "" || s == ProxyEnvironment {
		return nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Hostname() == "":
		return &flaw{"is not a URL", example}
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5":
		return &flaw{"does not start with http://, https:// or socks5://", example}
	case u.User != nil:
		return &flaw{"contains a user name or password", `set proxy = "environment" and HTTPS_PROXY for a proxy that wants them`}
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return &flaw{"has something behind the host and port", example}
	}
	return nil
}
