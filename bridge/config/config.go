package config

import (
	"log/slog"
	"strings"
	"time"

	"fieldbridge/bridge"
)

// The ways to authenticate towards a broker (key auth of a connector).
const (
	// AuthDeviceCredentials: every device signs its own JWT, one session each.
	AuthDeviceCredentials = "device-credentials"
	// AuthUplinkSecret: one secret and one session for all devices.
	AuthUplinkSecret = "uplink-secret"
)

// The ways to name a key in a JWT header (key key_id).
const (
	KeyIDNone   = "none"   // no kid
	KeyIDSHA256 = "sha256" // lower-case hex SHA-256 of the public key (SubjectPublicKeyInfo, DER)
)

// What is safe once a reading is taken (key durability).
const (
	// DurabilityAuto: a reading goes to the spool only if the broker does not
	// confirm it in time. Until then it is nowhere but in memory: over HTTP its
	// sender has no 2xx yet, from a serial port a crash or a power cut loses it.
	DurabilityAuto = "auto"
	// DurabilityAlways: every reading is in the spool before it is sent.
	DurabilityAlways = "always"
)

// What to do with a reading for which the spool has no room (key when_full).
const (
	WhenFullReject     = "reject"      // refuse the new one
	WhenFullDropOldest = "drop-oldest" // make room by dropping what waits longest
)

// Config is a whole configuration without mistakes: defaults are filled in,
// references resolved, secrets read. It is not changed after Load and may be
// read from many goroutines. Printing it shows no secret.
type Config struct {
	// File is the main file, as it was given to Load.
	File string
	// Gateway is this machine's name in user properties; never empty.
	Gateway string
	// StateDir is the absolute path of the directory for what must outlast a
	// restart. It need not exist now.
	StateDir string
	// Durability is DurabilityAuto or DurabilityAlways, for the devices that are
	// not in Devices; those have their own.
	Durability string
	Log        Log
	// AckTimeout is how long a reading waits for the broker's PUBACK before it
	// goes to the spool.
	AckTimeout time.Duration
	Spool      Spool
	Clock      Clock
	HTTP       HTTP
	// Connectors, Devices and Serials are in the order of the files: the main
	// file first, then the included ones.
	Connectors []Connector
	Devices    []Device
	Serials    []Serial

	lines map[string]map[string]int // file, then key: line
}

// Log says what is logged and how.
type Log struct {
	Level slog.Level
	// Format is "auto", "text" or "json".
	Format string
}

// Spool bounds what is held on disk until the broker has it.
type Spool struct {
	Pos Position
	// MaxBytes is for all devices together, in bytes; MaxBytesPerDevice for each,
	// 0 for no limit of its own.
	MaxBytes          int64
	MaxBytesPerDevice int64
	// MaxAge is how long a reading is kept.
	MaxAge time.Duration
	// WhenFull is WhenFullReject or WhenFullDropOldest.
	WhenFull string
	// MinFree is what the spool leaves free of its file system, in bytes.
	MinFree int64
}

// Clock says when the wall clock can be trusted.
type Clock struct {
	Pos Position
	// RequireSync: only once the kernel says that it is synchronised.
	RequireSync bool
}

// HTTP is the endpoint for apps on this machine.
type HTTP struct {
	Pos Position
	// Listen is host:port; the host is a loopback address or "localhost", port 0
	// takes any free one.
	Listen string
	// MaxBody is the largest request body in bytes.
	MaxBody int64
}

// Connector is one broker endpoint with one way to authenticate.
type Connector struct {
	Pos  Position
	Name string
	// Broker is the URL with its port: mqtt://host:1883 or mqtts://host:8883.
	Broker string
	// Address is the host:port of Broker, Host the name for its certificate.
	Address string
	Host    string
	// TLS is set for mqtts.
	TLS bool
	// Auth is AuthDeviceCredentials or AuthUplinkSecret.
	Auth string
	// CAFile is the path of CAPEM, or "". CAPEM holds certificates that are
	// trusted beside those of the system; nil means none.
	CAFile string
	CAPEM  []byte
	// KeyFile is the template from which devices without a key file of their own
	// got their key, as it is written in the file. Only for device credentials.
	KeyFile string
	// ID is the device connector's id, the MQTT user name; Secret its secret.
	// Only for the uplink secret.
	ID     string
	Secret bridge.Secret
	// AnyDevice accepts readings of devices that are not in Devices. At most one
	// connector has it.
	AnyDevice bool
	// KeepAlive and SessionExpiry are whole seconds (MQTT v5 sections 3.1.2.10
	// and 3.1.2.11.2).
	KeepAlive     time.Duration
	SessionExpiry time.Duration
	// ReceiveMaximum is how many unacknowledged downlinks the broker may have
	// under way to us (MQTT v5 section 3.1.2.11.3), and how many readings we
	// have under way to it, if it does not ask for fewer.
	ReceiveMaximum uint16
	// MaxPayload is the largest payload of a reading in bytes.
	MaxPayload int64
	// UserProperties adds id, time and gateway to each reading.
	UserProperties bool
	// UplinkTopic and DownlinkTopic are templates for Expand. DownlinkTopic has
	// the device as a whole level and ends in "/#".
	UplinkTopic   string
	DownlinkTopic string
	// Token is for device credentials only.
	Token Token
}

// Token says how the JWTs of a connector's devices are made.
type Token struct {
	// Audience is a template for Connector.Expand.
	Audience string
	Lifetime time.Duration
	// KeyID is KeyIDNone or KeyIDSHA256.
	KeyID string
}

// Device is one device and where its downlinks go.
type Device struct {
	Pos Position
	ID  bridge.DeviceID
	// ConnectorName is the name of an existing connector.
	ConnectorName string
	// KeyFile is the path of KeyPEM, the content of the private key's file; it
	// has not been parsed. Only for device credentials.
	KeyFile string
	KeyPEM  bridge.Secret
	// Durability is DurabilityAuto or DurabilityAlways: the device's, or else
	// that of the Config.
	Durability string
	Downlinks  []Downlink
}

// Downlink sends the downlinks that match a filter to one target.
type Downlink struct {
	Pos Position
	// Subtopic is an MQTT filter on the sub topic; "" matches everything.
	Subtopic string
	// Webhook is an http or https URL, Serial the name of an existing serial
	// port; exactly one of them is set.
	Webhook string
	Serial  string
}

// Connector returns the connector with this name, or nil. It belongs to c.
func (c *Config) Connector(name string) *Connector {
	for i := range c.Connectors {
		if c.Connectors[i].Name == name {
			return &c.Connectors[i]
		}
	}
	return nil
}

// At returns the position of a key inside a block ("key_file" of a Device.Pos),
// for a mistake that shows only when the value is used. If the file does not
// give the key, the line is that of the block. The zero block is the main file.
func (c *Config) At(block Position, key string) Position {
	if block.File == "" {
		block.File = c.File
	}
	p := Position{File: block.File, Key: joinPath(block.Key, key)}
	p.Line = lineOf(c.lines[p.File], p.Key)
	return p
}

// Expand fills a template of the connector (a topic or an audience) for a
// device. The result is a secret because a topic may hold the connector's one.
func (c *Connector) Expand(template string, device bridge.DeviceID) bridge.Secret {
	// One pass: a device that is named "{secret}" stays what it is.
	return bridge.NewSecret(strings.NewReplacer(
		placeDevice, string(device),
		placeSecret, c.Secret.Reveal(),
		placeConnector, c.Name,
	).Replace(template))
}
