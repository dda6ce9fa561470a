package config

import (
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"fieldbridge/bridge"
)

// The ways to authenticate towards a broker (key auth of a connector).
const (
	// AuthDeviceCredentials: every device signs its own JWT, one session each.
	AuthDeviceCredentials = "device-credentials"
	// AuthUplinkSecret: a secret from a file. One session for all devices, or one
	// for each.
	AuthUplinkSecret = "uplink-secret"
	// AuthCertificate: the client certificate of the TLS connection is all there
	// is; no password. One session for each device, or one for all.
	AuthCertificate = "certificate"
)

// What the defaults of a connector are made for (key profile).
const (
	ProfileAkenza  = "akenza"
	ProfileGeneric = "generic" // any broker: topics and audience must be given
)

// When a session is connected (key connect of a connector).
const (
	ConnectAlways   = "always"    // from the start on, and again after each loss
	ConnectOnDemand = "on-demand" // while there is something to send
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

// HTTP is the endpoint for apps.
type HTTP struct {
	Pos Position
	// Listen is host:port; port 0 takes any free one. The host is a loopback
	// address or "localhost", unless there is a Cert, and Tokens or ClientCAPEM:
	// then it may be any address of this machine, or empty for all. Or it is
	// "unix:" and the absolute path of a socket.
	Listen string
	// SocketMode are the permissions of the socket; 0 without one.
	SocketMode fs.FileMode
	// MaxBody is the largest request body in bytes.
	MaxBody int64
	// MaxConnections is how many connections may be open.
	MaxConnections int
	// Cert is shown in the TLS handshake; nil: the endpoint is not encrypted.
	Cert *KeyPair
	// ClientCAPEM are certificates (PEM), one of which must have signed that of
	// each client; nil: clients need none.
	ClientCAPEM []byte
	// Tokens are who may use it; none: everyone who reaches it.
	Tokens []HTTPToken
}

// HTTPToken is a client of the HTTP endpoint and what it may do.
type HTTPToken struct {
	Name string
	// Secrets are its tokens: several while the client changes to the next.
	// File is the path that they were read from.
	Secrets []bridge.Secret
	File    string
	// Devices are ids, or beginnings of ids with a "*" behind them.
	Devices []string
	// Directions are of "uplink", "downlink" and "read".
	Directions []string
	// Rate is in requests a second; 0 is no limit.
	Rate int64
}

// Connector is one broker endpoint with one way to authenticate.
type Connector struct {
	Pos  Position
	Name string
	// Gateway is the Config's, for Expand.
	Gateway string
	// Profile is ProfileAkenza or ProfileGeneric.
	Profile string
	// Broker is the URL with its port: mqtt://host:1883 or mqtts://host:8883, or
	// with its port and path: wss://host:443/mqtt.
	Broker string
	// Address is the host:port of Broker, Host the name for its certificate.
	Address string
	Host    string
	// TLS is set for mqtts and wss.
	TLS bool
	// Path is what the WebSocket is opened at, for ws and wss; else "".
	Path string
	// Auth is AuthDeviceCredentials, AuthUplinkSecret or AuthCertificate.
	Auth string
	// PerDevice: each device has a session of its own, else all share one.
	PerDevice bool
	// ClientID and Username are templates for Expand. An empty ClientID, of a
	// shared session only, leaves the choice to the program; an empty Username
	// means none. One with {secret} in it stands in for the password
	// (SecretIsUsername).
	ClientID string
	Username string
	// ClientCert is shown to the broker in the TLS handshake; nil for none, or if
	// each Device has its own.
	ClientCert *KeyPair
	// TopicAlias has numbers stand for topics where the broker allows it.
	TopicAlias bool
	// CAFile is the path of CAPEM, or "". CAPEM holds certificates that are
	// trusted beside those of the system; nil means none.
	CAFile string
	CAPEM  []byte
	// KeyFile is the template from which devices without a key file of their own
	// got their key, as it is written in the file. Only for device credentials.
	KeyFile string
	// ID is the device connector's id, the usual MQTT user name; Secret its
	// secret, or zero if each Device has its own. Only for the uplink secret.
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
	// Connect is ConnectAlways or ConnectOnDemand; with the latter a session
	// leaves after IdleTimeout without traffic.
	Connect     string
	IdleTimeout time.Duration
	// ConnectRate is how many CONNECTs the connector's sessions send in a second,
	// all together.
	ConnectRate int
	// AllowedServers are the hosts, or host:port, that the broker may send its
	// sessions to (MQTT v5 section 4.11); credentials go along. In lower case.
	AllowedServers []string
	// UplinkTopic and DownlinkTopic are templates for Expand. DownlinkTopic ends
	// in "/#" or "/+", or is empty if no device has downlinks. Unless the session
	// is the device's own, both name it: DownlinkTopic as a whole level.
	UplinkTopic   string
	DownlinkTopic string
	// Token is for device credentials only.
	Token Token
}

// Token says how the JWTs of a connector's devices are made.
type Token struct {
	// Audience and Subject are templates for Connector.Expand.
	Audience string
	Subject  string
	Lifetime time.Duration
	// KeyID is KeyIDNone or KeyIDSHA256.
	KeyID string
	// Claims are further ones: texts (templates), whole numbers, fractions,
	// booleans, and arrays and tables of these; see Connector.Claims.
	Claims map[string]any
}

// KeyPair is a certificate, with those that lead to its root, and the private
// key that belongs to it.
type KeyPair struct {
	// CertFile and KeyFile are the paths of CertPEM and KeyPEM.
	CertFile string
	CertPEM  []byte
	KeyFile  string
	KeyPEM   bridge.Secret
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
	// NextKeys are those after it, to be used when the broker refuses it.
	NextKeys []Key
	// Secret and ClientCert are the device's own, if its connector has one for
	// each device.
	Secret     bridge.Secret
	ClientCert *KeyPair
	// Durability is DurabilityAuto or DurabilityAlways: the device's, or else
	// that of the Config.
	Durability string
	Downlinks  []Downlink
}

// Key is a private key in a file.
type Key struct {
	// File is the path of PEM, which has not been parsed.
	File string
	PEM  bridge.Secret
}

// Keys are the keys of a device, the one to begin with first.
func (d *Device) Keys() []Key {
	if d.KeyFile == "" {
		return nil
	}
	return append([]Key{{File: d.KeyFile, PEM: d.KeyPEM}}, d.NextKeys...)
}

// Downlink sends the downlinks that match a filter to one target.
type Downlink struct {
	Pos Position
	// Subtopic is an MQTT filter on the sub topic; "" matches everything.
	Subtopic string
	// Webhook is an http or https URL, Serial the name of an existing serial
	// port; exactly one of them and Mailbox is set.
	Webhook string
	Serial  string
	// Mailbox: apps fetch the downlinks over HTTP.
	Mailbox bool
	// What follows is for a webhook, and the same in every block with its URL.
	// Secrets, in the bytes that their base64 stands for, sign what is sent, each
	// by itself; SecretFile is where they are, or "".
	SecretFile string
	Secrets    []bridge.Secret
	// CAFile is the path of CAPEM, or ""; see Connector.
	CAFile string
	CAPEM  []byte
	// Proxy is "" for none, ProxyEnvironment, or an http, https or socks5 URL.
	Proxy string
}

// ProxyEnvironment as a Downlink's Proxy is what HTTP_PROXY, HTTPS_PROXY and
// NO_PROXY say.
const ProxyEnvironment = "environment"

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

// Expand fills a template of the connector for a device. The result is a secret
// because a topic or a user name may hold the connector's one.
func (c *Connector) Expand(template string, device bridge.DeviceID) bridge.Secret {
	// One pass: a device that is named "{secret}" stays what it is.
	return bridge.NewSecret(strings.NewReplacer(
		placeDevice, string(device),
		placeSecret, c.Secret.Reveal(),
		placeConnector, c.Name,
		placeGateway, c.Gateway,
		placeID, c.ID,
	).Replace(template))
}

// SecretIsUsername reports whether the secret is sent as the user name, and no
// password.
func (c *Connector) SecretIsUsername() bool { return strings.Contains(c.Username, placeSecret) }

// For returns the connector as one of its devices has it: with the device's own
// secret and client certificate, if it has them.
func (c *Connector) For(d *Device) *Connector {
	own := *c
	if !d.Secret.IsZero() {
		own.Secret = d.Secret
	}
	if d.ClientCert != nil {
		own.ClientCert = d.ClientCert
	}
	return &own
}
