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
		t := HTTPToken{Name: raw.Name, Devices: raw.Devices, Directions: raw.Directions, Rate: raw.Rate}
		t.File, t.Secrets = readTokens(raw, owners)
		v.cfg.HTTP.Tokens = append(v.cfg.HTTP.Tokens, t)
	}
}

// readTokens reads the lines of a token file. owners are of the tokens of the
// blocks before: two with the same one could not be told apart.
func readTokens(raw *rawHTTPToken, owners map[string]string) (path string, secrets []bridge.Secret) {
	in := raw.In
	if raw.TokenFile == "" {
		in.missing("token_file", "the path of a file with the token")
		return "", nil
	}
	if !in.ok("token_file") {
		return "", nil
	}
	path, content, f := in.src.readSecret(raw.TokenFile)
	if !in.flawed("token_file", f) {
		return "", nil
	}
	secrets, f = parseTokens(path, content, raw.Name, owners)
	if !in.flawed("token_file", f) {
		return "", nil
	}
	return path, secrets
}

// LoadTokens reads a token file that is no part of a configuration as one that
// is: it must be its owner's alone, and each line a token. A relative path
// starts at the working directory; "credentials:NAME" is a systemd credential.
// There is at least one token if there is no error. The error names the file and
// what to do, and shows nothing of its content.
func LoadTokens(path string) ([]bridge.Secret, error) {
	path, content, f := (&source{}).readSecret(path)
	var secrets []bridge.Secret
	if f == nil {
		secrets, f = parseTokens(path, content, path, make(map[string]string))
	}
	if f != nil {
		return nil, f.err()
	}
	return secrets, nil
}

// ReadTokens reads a token file again, by its path in an HTTPToken, as ReadKey
// reads a key. Whether another block has one of the tokens is not looked at.
func ReadTokens(path string) ([]bridge.Secret, error) {
	content, f := readAgain(path)
	if f != nil {
		return nil, f.err()
	}
	secrets, f := parseTokens(path, content, path, map[string]string{})
	if f != nil {
		return nil, f.err()
	}
	return secrets, nil
}

// parseTokens reads the lines of a token file. owner is who they belong to, for
// owners.
func parseTokens(path, content, owner string, owners map[string]string) ([]bridge.Secret, *flaw) {
	var secrets []bridge.Secret
	for i, line := range strings.Split(content, "\n") {
		line = strings.TrimSuffix(line, "\r")
		if line == "" {
			continue
		}
		const remedy = "make one with: openssl rand -hex 32"
		at := fmt.Sprintf("line %d of %s", i+1, path)
		other, taken := owners[line]
		switch {
		case !isBearerToken(line):
			return nil, &flaw{at + " is not a token", "letters A to Z, digits and -._~+/ are allowed, with = at the end; " + remedy}
		case len(line) < minToken:
			return nil, &flaw{fmt.Sprintf("%s has %d characters, at least %d are needed", at, len(line), minToken), remedy}
		case len(line) > maxText:
			return nil, &flaw{fmt.Sprintf("%s has more than %d characters", at, maxText), remedy}
		case taken:
			return nil, &flaw{fmt.Sprintf("%s is already a token of %q", at, other), "give each its own"}
		}
		owners[line] = owner
		secrets = append(secrets, bridge.NewSecret(line))
	}
	return secrets, nil
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
