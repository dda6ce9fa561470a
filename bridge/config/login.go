package config

import (
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"fieldbridge/bridge"
)

// login checks what a connector's sessions log in with.
func (v *validator) login(raw *rawConnector, c *Connector) {
	in := raw.In
	c.PerDevice = raw.Auth != AuthUplinkSecret
	if in.gives("per_device_sessions") && in.ok("per_device_sessions") {
		c.PerDevice = raw.PerDevice
	}
	switch raw.Auth {
	case AuthDeviceCredentials:
		v.deviceCredentials(raw, c)
	case AuthUplinkSecret:
		v.uplinkSecret(raw, c)
	default:
		v.certificate(raw, c)
	}
	v.clientCert(raw, c)
	v.names(raw, c)
}

func (v *validator) deviceCredentials(raw *rawConnector, c *Connector) {
	in := raw.In
	onlyFor(in, AuthUplinkSecret, "id", "secret_file", "devices")
	if !c.PerDevice {
		in.wrong("per_device_sessions", "each device logs in with a token of its own, so it has a session of its own", "remove it")
		c.PerDevice = true
	}
	if in.ok("key_file") {
		in.flawed("key_file", checkTemplate(raw.KeyFile, placeDevice))
	}
	t := &raw.Token
	c.Token = Token{Audience: t.Audience, Subject: t.Sub, Lifetime: t.Lifetime, KeyID: t.KeyID}
	if len(t.Claims) > 0 {
		c.Token.Claims = t.Claims
	}
	if raw.Profile == ProfileGeneric && !t.In.gives("audience") {
		t.In.missing("audience", "the claim aud that the broker checks")
	}
	checkClaimText(t.In, "audience", t.Audience, defaultAudience)
	checkClaimText(t.In, "sub", t.Sub, placeDevice)
	checkDuration(t.In, "lifetime", t.Lifetime, durationRange{min: 2 * time.Second, max: 24 * time.Hour})
	oneOf(t.In, "key_id", t.KeyID, []string{KeyIDNone, KeyIDSHA256})
	checkClaims(t.In, t.Claims)
}

// checkClaimText checks a template that becomes a claim.
func checkClaimText(in place, key, value, example string) {
	if !in.ok(key) {
		return
	}
	f := checkText(value)
	switch {
	case value == "":
		f = &flaw{"is empty", fmt.Sprintf("such as %q", example)}
	case f == nil:
		f = checkTemplate(value, placeDevice, placeConnector, placeGateway)
	}
	in.flawed(key, f)
}

func (v *validator) uplinkSecret(raw *rawConnector, c *Connector) {
	in := raw.In
	onlyFor(in, AuthDeviceCredentials, "key_file", "token")
	switch {
	case raw.ID != "":
		in.flawed("id", checkText(raw.ID))
	case raw.Profile != ProfileGeneric:
		in.missing("id", "the device connector's id, which is the MQTT user name")
	case !in.gives("username"):
		in.missing("username", "or id, which is the user name unless username says otherwise")
	}
	v.anyDevice(raw, c)
	if raw.SecretFile == "" {
		in.missing("secret_file", "the file that holds the device connector's secret")
		return
	}
	if !in.ok("secret_file") || !in.flawed("secret_file", checkTemplate(raw.SecretFile, placeDevice)) {
		return
	}
	if strings.Contains(raw.SecretFile, placeDevice) {
		if !c.PerDevice {
			in.wrong("secret_file", "contains {device}, but one session with one secret serves all devices", "set per_device_sessions = true")
		}
		return // each device's is read with the device
	}
	secret, f := in.src.readUplinkSecret(raw.SecretFile, secretInTopic(raw))
	if in.flawed("secret_file", f) {
		c.Secret = secret
	}
}

// secretInTopic reports whether the secret becomes a topic level.
func secretInTopic(raw *rawConnector) bool {
	akenza := raw.Profile != ProfileGeneric && (raw.UplinkTopic == "" || raw.DownlinkTopic == "")
	return akenza || strings.Contains(raw.UplinkTopic+raw.DownlinkTopic, placeSecret)
}

func (v *validator) certificate(raw *rawConnector, c *Connector) {
	in := raw.In
	onlyFor(in, AuthUplinkSecret, "id", "secret_file")
	onlyFor(in, AuthDeviceCredentials, "key_file", "token")
	if raw.Profile == ProfileAkenza {
		in.wrong("auth", "akenza takes no certificate in place of a token or a secret", `set profile = "generic" for another broker`)
	}
	v.anyDevice(raw, c)
	if raw.ClientCertFile == "" {
		in.missing("client_cert_file", "the certificate (PEM) that the broker knows the client by")
	}
}

// anyDevice checks the key devices.
func (v *validator) anyDevice(raw *rawConnector, c *Connector) {
	in := raw.In
	c.AnyDevice = oneOf(in, "devices", raw.Devices, []string{"listed", "any"}) && raw.Devices == "any"
	if c.AnyDevice && c.PerDevice {
		in.wrong("devices", `"any" needs a session that all devices share`, "list the devices, or set per_device_sessions = false")
	}
}

// names checks the client id and the user name.
func (v *validator) names(raw *rawConnector, c *Connector) {
	in := raw.In
	places := []string{placeConnector, placeGateway}
	if raw.ID != "" && raw.Auth == AuthUplinkSecret {
		places = append(places, placeID)
	}
	if c.PerDevice {
		places = append([]string{placeDevice}, places...)
		c.ClientID = placeDevice
	}
	if in.gives("client_id") && in.ok("client_id") {
		c.ClientID = raw.ClientID
		f := checkText(raw.ClientID)
		switch {
		case raw.ClientID == "":
			f = &flaw{"is empty", "give a name, or remove it"}
		case !c.PerDevice && strings.Contains(raw.ClientID, placeDevice):
			f = &flaw{"contains {device}, but one session serves all devices", "set per_device_sessions = true, or take {gateway}"}
		case f == nil:
			f = checkTemplate(raw.ClientID, places...)
		}
		if f == nil && c.PerDevice && !strings.Contains(raw.ClientID, placeDevice) {
			f = &flaw{"does not contain {device}, but each device has a session of its own", `sessions with the same client id end each other; such as "{device}"`}
		}
		in.flawed("client_id", f)
	}

	switch {
	case in.gives("username") && in.ok("username"):
		if raw.Auth == AuthUplinkSecret {
			places = append(places, placeSecret)
		}
		f := checkText(raw.Username)
		if f == nil {
			f = checkTemplate(raw.Username, places...)
		}
		if f == nil && !c.Secret.IsZero() && strings.Contains(raw.Username, c.Secret.Reveal()) {
			f = &flaw{"contains the secret itself", "write {secret} in its place"}
		}
		if in.flawed("username", f) {
			c.Username = raw.Username
		}
	case raw.Auth == AuthUplinkSecret:
		c.Username = placeID
	case raw.Auth == AuthDeviceCredentials && raw.Profile == ProfileGeneric:
		c.Username = placeDevice
	case raw.Auth == AuthDeviceCredentials:
		// Unused by akenza, but some stacks drop the password without it.
		c.Username = "unused"
	}
}

// clientCert checks the certificate for the TLS handshake, with any auth.
func (v *validator) clientCert(raw *rawConnector, c *Connector) {
	in := raw.In
	cert, key := raw.ClientCertFile, raw.ClientKeyFile
	switch {
	case !in.ok("client_cert_file") || !in.ok("client_key_file") || cert == "" && key == "":
		return
	case key == "":
		in.missing("client_key_file", "the private key of client_cert_file")
		return
	case cert == "":
		in.missing("client_cert_file", "the certificate that belongs to client_key_file")
		return
	case !c.TLS && c.Address != "":
		in.wrong("client_cert_file", "has no effect without encryption", "use mqtts:// or wss://, or remove it")
		return
	}
	for _, k := range [][2]string{{"client_cert_file", cert}, {"client_key_file", key}} {
		f := checkTemplate(k[1], placeDevice)
		if f == nil && !c.PerDevice && strings.Contains(k[1], placeDevice) {
			f = &flaw{"contains {device}, but one session serves all devices", "set per_device_sessions = true, or name one file"}
		}
		in.flawed(k[0], f)
	}
	if !in.ok("client_cert_file") || !in.ok("client_key_file") || ownCert(raw) {
		return // each device's is read with the device
	}
	c.ClientCert = clientPair.read(in, cert, key, "")
}

// ownCert reports whether each device has a certificate of its own.
func ownCert(raw *rawConnector) bool {
	return strings.Contains(raw.ClientCertFile+raw.ClientKeyFile, placeDevice)
}

// pairFiles are the keys that name the files of a KeyPair.
type pairFiles struct{ cert, key string }

var clientPair = pairFiles{"client_cert_file", "client_key_file"}

// read reads the pair, or records what is wrong at the block.
func (p pairFiles) read(in place, cert, key, whose string) *KeyPair {
	certPath, _, f := in.src.resolve(cert)
	var certPEM []byte
	if f == nil {
		certPEM, f = readRegular(certPath, maxCAFile)
	}
	if f == nil {
		f = checkCertificates(certPath, certPEM)
	}
	if f != nil {
		in.wrong(p.cert, whose+f.problem, f.hint)
	}
	keyPath, keyPEM, kf := in.src.readSecret(key)
	if kf != nil {
		in.wrong(p.key, whose+kf.problem, kf.hint)
	}
	if f != nil || kf != nil {
		return nil
	}
	// The errors of this function have nothing of the key in them.
	if _, err := tls.X509KeyPair(certPEM, []byte(keyPEM)); err != nil {
		in.wrong(p.key, fmt.Sprintf("%s%s is not the key of %s: %v", whose, keyPath, certPath, err),
			"it must hold the private key (PEM, without a passphrase) of the first certificate")
		return nil
	}
	return &KeyPair{CertFile: certPath, CertPEM: certPEM, KeyFile: keyPath, KeyPEM: bridge.NewSecret(keyPEM)}
}

// deviceLogin reads the secret and the client certificate of a device whose
// connector has one of them for each, and checks that its downlinks have a topic.
func (v *validator) deviceLogin(raw *rawDevice, conn *rawConnector, d *Device) {
	if len(raw.Downlinks) > 0 && conn.Profile == ProfileGeneric && conn.DownlinkTopic == "" && conn.In.ok("downlink_topic") {
		raw.In.wrong("downlink", fmt.Sprintf("connector %q has no downlink_topic", conn.Name), "give it one, or remove the block")
	}
	if d.ID == "" {
		return
	}
	in, whose := conn.In, fmt.Sprintf("device %q: ", raw.ID)
	fill := func(s string) string { return strings.ReplaceAll(s, placeDevice, raw.ID) }
	if conn.Auth == AuthUplinkSecret && in.ok("secret_file") && strings.Contains(conn.SecretFile, placeDevice) {
		secret, f := in.src.readUplinkSecret(fill(conn.SecretFile), secretInTopic(conn))
		if f != nil {
			raw.In.wrong("connector", fmt.Sprintf("secret_file of connector %q: %s", conn.Name, f.problem), f.hint)
		}
		d.Secret = secret
	}
	if ownCert(conn) && conn.ClientCertFile != "" && conn.ClientKeyFile != "" && in.ok("client_cert_file") && in.ok("client_key_file") {
		before := len(in.src.out.mistakes)
		d.ClientCert = clientPair.read(in, fill(conn.ClientCertFile), fill(conn.ClientKeyFile), whose)
		if len(in.src.out.mistakes) > before {
			// The next device's files are to be looked at, too.
			delete(in.src.faulty, in.key("client_cert_file"))
			delete(in.src.faulty, in.key("client_key_file"))
		}
	}
}

// clientIDs finds sessions with the same client id: at one broker they end each
// other, and what is stored of a session is found by it.
func (v *validator) clientIDs() {
	seen := make(map[string]string)
	add := func(i int, id bridge.DeviceID, who string) bool {
		c, in := &v.cfg.Connectors[i], v.raw.Connectors[i].In
		name := c.Expand(c.ClientID, id).Reveal()
		if name == "" || !in.ok("client_id") {
			return true // chosen by the program, another one for each connector
		}
		if other, ok := seen[name]; ok {
			in.wrong("client_id", fmt.Sprintf("%s and %s both get the client id %q", other, who, name), "such as client_id = \"{connector}-{device}\"")
			return false
		}
		seen[name] = who
		return true
	}
	for i := range v.cfg.Connectors {
		c := &v.cfg.Connectors[i]
		if !c.PerDevice && c.Auth != "" {
			add(i, "", fmt.Sprintf("connector %q", c.Name))
		}
	}
	for i := range v.cfg.Devices {
		d := &v.cfg.Devices[i]
		at, ok := v.connectorNames[d.ConnectorName]
		if !ok || d.ID == "" || !v.cfg.Connectors[at].PerDevice {
			continue
		}
		if !add(at, d.ID, fmt.Sprintf("device %q", d.ID)) {
			return
		}
	}
}
