package config

import (
	"fmt"
	"slices"
	"strings"

	"fieldbridge/bridge"
)

// Directions of HTTP tokens.
const (
	DirectionUplink   = "uplink"
	DirectionDownlink = "downlink"
	DirectionRead     = "read"
)

var directions = []string{DirectionUplink, DirectionDownlink, DirectionRead}

// Bounds of HTTP tokens.
const (
	// minToken is in bytes: 16 random characters cannot be guessed.
	minToken = 16
	maxRate  = 100_000
	// maxTokens bounds the digests that each request is compared with.
	maxTokens = 1000
)

func (v *validator) httpTokens() {
	names := make(map[string]Position)
	owners := make(map[string]string) // token: name of its block
	if n := len(v.raw.HTTP.Tokens); n > maxTokens {
		v.raw.HTTP.In.wrong("token", fmt.Sprintf("there are %d blocks, at most %d are allowed", n, maxTokens), "give apps with the same devices one token")
		return
	}
	for i := range v.raw.HTTP.Tokens {
		raw := &v.raw.HTTP.Tokens[i]
		checkUnique(raw.In, "name", raw.Name, names)
		checkTokenDevices(raw)
		checkTokenDirections(raw)
		if raw.In.gives("rate") {
			checkInt(raw.In, "rate", raw.Rate, 1, maxRate)
		}
		v.cfg.HTTP.Tokens = append(v.cfg.HTTP.Tokens, HTTPToken{
			Name: raw.Name, Secrets: readTokens(raw, owners),
			Devices: raw.Devices, Directions: raw.Directions, Rate: raw.Rate,
		})
	}
}

// readTokens reads the lines of a token file. owners are of the tokens of the
// blocks before: two with the same one could not be told apart.
func readTokens(raw *rawHTTPToken, owners map[string]string) []bridge.Secret {
	in := raw.In
	if raw.TokenFile == "" {
		in.missing("token_file", "the path of a file with the token")
		return nil
	}
	if !in.ok("token_file") {
		return nil
	}
	path, content, f := in.src.readSecret(raw.TokenFile)
	if !in.flawed("token_file", f) {
		return nil
	}
	var secrets []bridge.Secret
	for i, line := range strings.Split(content, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" {
			continue
		}
		at := fmt.Sprintf("line %d of %s", i+1, path)
		owner, taken := owners[line]
		switch {
		case !isBearerToken(line):
			in.wrong("token_file", at+" is not a token", "letters A to Z, digits and -._~+/ are allowed, with = at the end; make one with: openssl rand -hex 32")
		case len(line) < minToken:
			in.wrong("token_file", fmt.Sprintf("%s has %d characters, at least %d are needed", at, len(line), minToken), "make one with: openssl rand -hex 32")
		case len(line) > maxText:
			in.wrong("token_file", fmt.Sprintf("%s has more than %d characters", at, maxText), "make one with: openssl rand -hex 32")
		case taken:
			in.wrong("token_file", fmt.Sprintf("%s is already a token of %q", at, owner), "give each its own")
		default:
			owners[line] = raw.Name
			secrets = append(secrets, bridge.NewSecret(line))
			continue
		}
		return nil
	}
	return secrets
}

// isBearerToken accepts what can be sent as a token: b64token of RFC 6750,
// section 2.1.
func isBearerToken(s string) bool {
	body := strings.TrimRight(s, "=")
	return body != "" && !strings.ContainsFunc(body, func(c rune) bool {
		return c > 0x7f || !isBare(byte(c)) && !strings.ContainsRune(".~+/", c)
	})
}

func checkTokenDevices(raw *rawHTTPToken) {
	in := raw.In
	if !in.ok("devices") {
		return
	}
	if len(raw.Devices) == 0 {
		in.missing("devices", `ids, beginnings of ids such as "hall-a-*", or "*" for all`)
		return
	}
	for _, pattern := range raw.Devices {
		prefix, some := strings.CutSuffix(pattern, "*")
		if some && prefix == "" {
			continue
		}
		if strings.Contains(prefix, "*") {
			in.wrong("devices", fmt.Sprintf("%q has a * that is not at its end", pattern), `write the beginning of ids and then *, such as "hall-a-*"`)
			return
		}
		if _, err := bridge.ParseDeviceID(prefix); err != nil {
			in.wrong("devices", err.Error(), "")
			return
		}
	}
}

func checkTokenDirections(raw *rawHTTPToken) {
	in := raw.In
	if !in.gives("directions") {
		raw.Directions = slices.Clone(directions)
	}
	if in.ok("directions") && len(raw.Directions) == 0 {
		in.wrong("directions", "is empty, so that the token could do nothing", "one or more of "+quoted(directions))
	}
	for _, d := range raw.Directions {
		if slices.Contains(directions, d) {
			continue
		}
		oneOf(in, "directions", d, directions)
		return
	}
}
