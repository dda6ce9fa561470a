package devbroker

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"strings"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"

	"fieldbridge/bridge"
)

const (
	// DefaultAudience is the aud claim that akenza's public cloud asks for.
	DefaultAudience = "https://akenza.io/devices/{device}"
	// DefaultReceiveMaximum is the number of unacknowledged publishes that a
	// client may have, if Options.ReceiveMaximum is zero.
	DefaultReceiveMaximum = 1024
	// DefaultHistory is how many messages and connects are remembered, if
	// Options.History is zero.
	DefaultHistory = 100_000

	// hardPacketLimit keeps a client from making the broker allocate the 256 MiB
	// that MQTT allows, if no maximum packet size is set.
	hardPacketLimit = 16 << 20
)

// Options is what a Broker knows and how it behaves. The zero value is a broker
// that nobody may connect to.
type Options struct {
	// Devices are the devices that connect with a JWT and the keys that verify
	// it: *rsa.PublicKey (RS256) or *ecdsa.PublicKey on P-256 (ES256).
	Devices map[bridge.DeviceID]crypto.PublicKey
	// Audience is the aud claim that tokens must have, with {device} for the
	// device id; "" means DefaultAudience.
	Audience string
	// Connectors are the secrets of the connectors that connect with one, by
	// connector id.
	Connectors map[string]bridge.Secret

	// ReceiveMaximum, MaximumPacketSize (bytes of the whole packet) and
	// TopicAliasMaximum are announced in the CONNACK and enforced; zero means
	// DefaultReceiveMaximum, none announced, and no aliases.
	ReceiveMaximum    uint16
	MaximumPacketSize uint32
	TopicAliasMaximum uint16
	// ServerKeepAlive, if above zero, replaces the clients' keep alive.
	ServerKeepAlive time.Duration
	// MaximumSessionExpiry, if above zero, bounds the clients' session expiry.
	MaximumSessionExpiry time.Duration

	// History is how many messages and connects Messages and Connects go back.
	History int
	// Now is the wall clock for the tokens' times; nil means time.Now. It must
	// run as fast as time.Now does: expiry waits with real timers.
	Now func() time.Time
	// Logger gets one line for each connect, refusal and disconnect; nil
	// discards them. Neither secrets, tokens, topics nor payloads are logged.
	Logger *slog.Logger
}

func (o *Options) setDefaults() {
	if o.Audience == "" {
		o.Audience = DefaultAudience
	}
	if o.ReceiveMaximum == 0 {
		o.ReceiveMaximum = DefaultReceiveMaximum
	}
	if o.History <= 0 {
		o.History = DefaultHistory
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Devices = maps.Clone(o.Devices)
	o.Connectors = maps.Clone(o.Connectors)
}

func (o *Options) check() error {
	var errs []error
	for id, key := range o.Devices {
		if _, err := bridge.ParseDeviceID(string(id)); err != nil {
			errs = append(errs, err)
		} else if err := checkKey(key); err != nil {
			errs = append(errs, fmt.Errorf("device %q: %w", id, err))
		}
	}
	for id, secret := range o.Connectors {
		switch v := secret.Reveal(); {
		case id == "":
			errs = append(errs, errors.New("a connector id is empty"))
		case v == "" || v == "device" || strings.ContainsAny(v, "/+#\x00"):
			// It is a topic level, and "device" stands for device credentials there.
			errs = append(errs, fmt.Errorf("connector %q: the secret must be one MQTT topic level, not empty and not %q", id, "device"))
		}
	}
	if s := o.ServerKeepAlive; s < 0 || s > math.MaxUint16*time.Second || s%time.Second != 0 {
		errs = append(errs, fmt.Errorf("server keep alive must be whole seconds up to 65535 (got %v)", s))
	}
	return errors.Join(errs...)
}

func checkKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	}
	return errors.New("the key must be *rsa.PublicKey, or *ecdsa.PublicKey on P-256")
}

// capabilities translates the options for mochi.
func (o *Options) capabilities() *mqtt.Capabilities {
	c := mqtt.NewDefaultServerCapabilities()
	c.MinimumProtocolVersion = 5
	c.ReceiveMaximum = o.ReceiveMaximum
	c.TopicAliasMaximum = o.TopicAliasMaximum
	c.MaximumQos = 1
	// mochi closes without a word what is above its limit. The announced limit
	// is enforced by the hook, which can answer; this is the stop behind it.
	c.MaximumPacketSize = hardPacketLimit
	if o.MaximumPacketSize > hardPacketLimit/2 {
		c.MaximumPacketSize = 0
	}
	// Nothing passes mochi's own queue: downlinks are written by Broker.pump.
	c.MaximumClientWritesPending = 1
	c.Compatibilities.NoInheritedPropertiesOnAck = true
	if s := o.MaximumSessionExpiry / time.Second; s > 0 && s < math.MaxUint32 {
		c.MaximumSessionExpiryInterval = uint32(s)
	}
	return c
}
