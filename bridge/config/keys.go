package config

import (
	"fmt"
	"slices"
	"strings"

	"fieldbridge/bridge"
)

// maxKeys bounds the keys of a device: each is tried before a refusal counts.
const maxKeys = 4

// deviceKey reads the private keys of a device. Whether they are any is for the
// token package to say.
func (v *validator) deviceKey(raw *rawDevice, conn *rawConnector, d *Device) {
	in := raw.In
	if conn.Auth == AuthUplinkSecret || conn.Auth == AuthCertificate {
		onlyFor(in, AuthDeviceCredentials, "key_file", "key_files")
	}
	if conn.Auth != AuthDeviceCredentials || d.ID == "" || !in.ok("key_file") || !in.ok("key_files") {
		return
	}
	if in.gives("key_files") {
		v.deviceKeys(raw, d)
		return
	}
	value, src, from := raw.KeyFile, in.src, ""
	if value == "" {
		if !conn.In.ok("key_file") {
			return
		}
		value, src = conn.KeyFile, conn.In.src
		from = fmt.Sprintf("key_file of connector %q: ", conn.Name)
	}
	if value == "" {
		in.missing("key_file", fmt.Sprintf("give it here, or key_file = %q to connector %q; fieldbridge keys new --device %s makes a key",
			"keys/{device}.pem", conn.Name, shellQuote(raw.ID)))
		return
	}
	key, f := src.readKey(value, raw.ID)
	if f != nil {
		in.wrong("key_file", from+f.problem, f.hint)
		return
	}
	d.KeyFile, d.KeyPEM = key.File, key.PEM
}

// deviceKeys reads the keys of key_files, in their order.
func (v *validator) deviceKeys(raw *rawDevice, d *Device) {
	in := raw.In
	switch n := len(raw.KeyFiles); {
	case in.gives("key_file"):
		in.wrong("key_files", "stands beside key_file", "list all files here and remove key_file")
		return
	case n == 0:
		in.wrong("key_files", "is empty", `such as key_files = ["keys/current.pem", "keys/next.pem"]`)
		return
	case n > maxKeys:
		in.wrong("key_files", fmt.Sprintf("has %d files, at most %d are tried", n, maxKeys), "")
		return
	}
	var keys []Key
	for _, value := range raw.KeyFiles {
		if value == "" {
			in.wrong("key_files", "has an empty name", "")
			return
		}
		key, f := in.src.readKey(value, raw.ID)
		if f != nil {
			in.wrong("key_files", f.problem, f.hint)
			return
		}
		if slices.ContainsFunc(keys, func(k Key) bool { return k.File == key.File }) {
			in.wrong("key_files", fmt.Sprintf("%s is listed twice", key.File), "")
			return
		}
		keys = append(keys, key)
	}
	d.KeyFile, d.KeyPEM, d.NextKeys = keys[0].File, keys[0].PEM, keys[1:]
}

// readKey reads the key file of a device; {device} in its name is the id.
func (s *source) readKey(value, id string) (Key, *flaw) {
	path, content, f := s.readSecret(strings.ReplaceAll(value, placeDevice, id))
	if f != nil && f.hint == "" {
		f.hint = fmt.Sprintf("fieldbridge keys new --device %s makes a key", shellQuote(id))
	}
	return Key{File: path, PEM: bridge.NewSecret(content)}, f
}

// ReadKey reads a key file again, by its path in a Key: with the limits that
// Load keeps, so that a key that other users can read is not taken. The error
// shows nothing of the content.
func ReadKey(path string) (bridge.Secret, error) {
	content, f := readAgain(path)
	if f != nil {
		return bridge.Secret{}, f.err()
	}
	return bridge.NewSecret(content), nil
}
