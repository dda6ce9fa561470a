package config

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// The raw structs are the file as it is written. Their tags are the accepted
// keys; their values before decoding are the defaults. In names the block's
// place in the file.

type rawConfig struct {
	In         place
	Include    []string       `toml:"include"`
	Gateway    string         `toml:"gateway"`
	StateDir   string         `toml:"state_dir"`
	Durability string         `toml:"durability"`
	AckTimeout time.Duration  `toml:"ack_timeout"`
	Log        rawLog         `toml:"log"`
	Spool      rawSpool       `toml:"spool"`
	Clock      rawClock       `toml:"clock"`
	HTTP       rawHTTP        `toml:"http"`
	Connectors []rawConnector `toml:"connector"`
	Devices    []rawDevice    `toml:"device"`
	Serials    []rawSerial    `toml:"serial"`
}

type rawLog struct {
	In     place
	Level  string `toml:"level"`
	Format string `toml:"format"`
}

type rawSpool struct {
	In                place
	MaxBytes          Size          `toml:"max_bytes"`
	MaxBytesPerDevice optionalSize  `toml:"max_bytes_per_device"`
	MaxAge            time.Duration `toml:"max_age"`
	WhenFull          string        `toml:"when_full"`
	MinFree           Size          `toml:"min_free"`
}

type rawClock struct {
	In          place
	RequireSync bool `toml:"require_sync"`
}

type rawHTTP struct {
	In           place
	Listen       string         `toml:"listen"`
	MaxBody      Size           `toml:"max_body"`
	MaxConns     int64          `toml:"max_connections"`
	SocketMode   string         `toml:"socket_mode"`
	TLSCertFile  string         `toml:"tls_cert_file"`
	TLSKeyFile   string         `toml:"tls_key_file"`
	ClientCAFile string         `toml:"client_ca_file"`
	Tokens       []rawHTTPToken `toml:"token"`
}

type rawHTTPToken struct {
	In         place
	Name       string   `toml:"name"`
	TokenFile  string   `toml:"token_file"`
	Devices    []string `toml:"devices"`
	Directions []string `toml:"directions"`
	Rate       int64    `toml:"rate"`
}

type rawConnector struct {
	In             place
	Name           string        `toml:"name"`
	Broker         string        `toml:"broker"`
	Profile        string        `toml:"profile"`
	Auth           string        `toml:"auth"`
	CAFile         string        `toml:"ca_file"`
	KeyFile        string        `toml:"key_file"`
	ID             string        `toml:"id"`
	SecretFile     string        `toml:"secret_file"`
	Devices        string        `toml:"devices"`
	KeepAlive      time.Duration `toml:"keep_alive"`
	SessionExpiry  time.Duration `toml:"session_expiry"`
	ReceiveMaximum int64         `toml:"receive_maximum"`
	MaxPayload     Size          `toml:"max_payload"`
	UserProperties bool          `toml:"user_properties"`
	Connect        string        `toml:"connect"`
	IdleTimeout    time.Duration `toml:"idle_timeout"`
	ConnectRate    int64         `toml:"connect_rate"`
	AllowedServers []string      `toml:"allowed_servers"`
	UplinkTopic    string        `toml:"uplink_topic"`
	DownlinkTopic  string        `toml:"downlink_topic"`
	ClientID       string        `toml:"client_id"`
	Username       string        `toml:"username"`
	PerDevice      bool          `toml:"per_device_sessions"`
	TopicAlias     bool          `toml:"topic_alias"`
	ClientCertFile string        `toml:"client_cert_file"`
	ClientKeyFile  string        `toml:"client_key_file"`
	Token          rawToken      `toml:"token"`
}

type rawToken struct {
	In       place
	Audience string         `toml:"audience"`
	Sub      string         `toml:"sub"`
	Lifetime time.Duration  `toml:"lifetime"`
	KeyID    string         `toml:"key_id"`
	Claims   map[string]any `toml:"claims"`
}

type rawDevice struct {
	In         place
	ID         string        `toml:"id"`
	Connector  string        `toml:"connector"`
	KeyFile    string        `toml:"key_file"`
	KeyFiles   []string      `toml:"key_files"`
	Durability string        `toml:"durability"`
	Downlinks  []rawDownlink `toml:"downlink"`
}

type rawDownlink struct {
	In         place
	Subtopic   string `toml:"subtopic"`
	Webhook    string `toml:"webhook"`
	SecretFile string `toml:"secret_file"`
	CAFile     string `toml:"ca_file"`
	Proxy      string `toml:"proxy"`
	Serial     string `toml:"serial"`
	Mailbox    bool   `toml:"mailbox"`
}

const (
	defaultStateDir   = "/var/lib/fieldbridge" // what StateDirectory=fieldbridge gives (systemd.exec(5))
	defaultMaxPayload = 256 << 10
	defaultMaxFrame   = 4 << 10
	defaultAudience   = "https://akenza.io/devices/{device}"
)

func (c *rawConfig) setDefaults() {
	c.StateDir = defaultStateDir
	c.Durability = DurabilityAuto
	c.AckTimeout = time.Second
	c.Log = rawLog{Level: "info", Format: "auto"}
	c.Spool = rawSpool{
		MaxBytes: 256 << 20, MaxBytesPerDevice: noSize,
		MaxAge: 7 * 24 * time.Hour, WhenFull: WhenFullReject, MinFree: 64 << 20,
	}
	c.HTTP = rawHTTP{Listen: "127.0.0.1:8080", MaxBody: defaultMaxPayload, MaxConns: 1024}
}

func (c *rawConnector) setDefaults() {
	c.Profile = ProfileAkenza
	c.Devices = "listed"
	c.KeepAlive = time.Minute
	c.SessionExpiry = 24 * time.Hour
	// The MQTT library allocates by it, for each session.
	c.ReceiveMaximum = 32
	c.MaxPayload = defaultMaxPayload
	c.Connect = ConnectAlways
	c.IdleTimeout = 30 * time.Second
	c.ConnectRate = 20
	c.Token = rawToken{Audience: defaultAudience, Sub: placeDevice, Lifetime: time.Hour, KeyID: KeyIDNone}
}

// includable are the blocks that an included file may hold.
var includable = []string{"connector", "device", "serial"}

// inlineSecrets are keys under which people write a secret into the file, and
// the keys that are right in each block.
var (
	inlineSecrets = []string{"secret", "password", "passphrase", "token", "key", "private_key"}
	secretKeys    = map[string][]string{
		"device": {"key_file"}, "connector": {"secret_file", "key_file"}, "device.downlink": {"secret_file"}, "http.token": {"token_file"},
	}
)

// tag returns the key of a field of a raw struct, or "".
func tag(f reflect.StructField) string { return f.Tag.Get("toml") }

// keysOf returns the accepted keys of a raw struct, in its order.
func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		if k := tag(t.Field(i)); k != "" {
			keys = append(keys, k)
		}
	}
	return keys
}

// blocksWith returns the blocks that accept a key; "" is the top of the file.
func blocksWith(key string) []string {
	var found []string
	var walk func(t reflect.Type, block string)
	walk = func(t reflect.Type, block string) {
		if slices.Contains(keysOf(t), key) {
			found = append(found, block)
		}
		for i := range t.NumField() {
			f := t.Field(i)
			ft := f.Type
			if ft.Kind() == reflect.Slice {
				ft = ft.Elem()
			}
			if tag(f) != "" && ft.Kind() == reflect.Struct {
				walk(ft, joinPath(block, tag(f)))
			}
		}
	}
	walk(reflect.TypeFor[rawConfig](), "")
	return found
}

// blockOf turns the full key of a block into its name: "device[3].downlink[0]"
// into "device.downlink".
func blockOf(path string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(path, ".") {
		name, _, _ := strings.Cut(part, "[")
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(name)
	}
	return b.String()
}
