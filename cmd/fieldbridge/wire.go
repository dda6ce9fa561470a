package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
	"fieldbridge/bridge/session"
	"fieldbridge/bridge/token"
)

// signers reads the keys of all devices with credentials of their own and
// reports every mistake in them at once, as a *config.Errors. The log is told
// when a key file changes later.
func signers(cfg *config.Config, log *slog.Logger) (map[bridge.DeviceID]*token.Ring, error) {
	out := map[bridge.DeviceID]*token.Ring{}
	errs := &config.Errors{}
	for _, d := range cfg.Devices {
		conn := cfg.Connector(d.ConnectorName)
		if conn.Auth != config.AuthDeviceCredentials {
			continue
		}
		ring, err := newRing(conn, d, log)
		if err != nil {
			key := "key_file"
			if len(d.NextKeys) > 0 {
				key = "key_files"
			}
			at := cfg.At(d.Pos, key)
			errs.Mistakes = append(errs.Mistakes, config.Mistake{File: at.File, Line: at.Line, Key: at.Key, Problem: err.Error()})
			continue
		}
		out[d.ID] = ring
	}
	if len(errs.Mistakes) > 0 {
		return nil, errs
	}
	return out, nil
}

func newRing(conn *config.Connector, d config.Device, log *slog.Logger) (*token.Ring, error) {
	o := token.Options{
		Device:   d.ID,
		Subject:  conn.Expand(conn.Token.Subject, d.ID).Reveal(),
		Audience: conn.Expand(conn.Token.Audience, d.ID).Reveal(),
		Claims:   conn.Claims(d.ID),
		Lifetime: conn.Token.Lifetime,
		KeyID:    conn.Token.KeyID,
	}
	report := func(name string, err error) {
		if err != nil {
			log.Error("key file changed and is of no use: the key that was in it before signs on", "device", d.ID, "key", name, "error", err)
			return
		}
		log.Info("key file changed and was read again", "device", d.ID, "key", name)
	}
	var keys []*token.KeyFile
	for _, k := range d.Keys() {
		key, err := token.NewKeyFile(token.KeyFileOptions{Path: k.File, PEM: k.PEM, Read: config.ReadKey, Report: report}, o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.File, err)
		}
		keys = append(keys, key)
	}
	return token.NewRing(keys...)
}

// wiring is what the sessions of a configuration have in common.
type wiring struct {
	cfg       *config.Config
	signers   map[bridge.DeviceID]*token.Ring
	log       *slog.Logger
	downlinks func(bridge.Downlink, bridge.Origin, func())
	acked     func(session string, packetID uint16) // nil: nobody wants to know
	forgotten func(session string)                  // nil: nobody wants to know
	down      func(*session.Session)                // nil: nobody wants to know
	trusted   func() error                          // nil: the clock is right
	when      func(*bridge.Reading) time.Time       // nil: always known
	metrics   *metrics                              // nil: nothing is counted

	shared map[string]common // by connector; made when asked for
}

// common is what all sessions of a connector share: the address, with the TLS
// sessions that can be resumed, and the budget of connects.
type common struct {
	endpoint *session.Endpoint
	pacer    *session.Pacer
}

func (w *wiring) common(c *config.Connector) (common, error) {
	if known, ok := w.shared[c.Name]; ok {
		return known, nil
	}
	cert, err := clientCert(w.cfg.Connector(c.Name))
	if err != nil {
		return common{}, err
	}
	ep, err := session.NewEndpoint(session.EndpointOptions{
		Address: c.Address, TLS: c.TLS, Path: c.Path, CAFile: c.CAFile, CAPEM: c.CAPEM, Cert: cert,
	})
	if err != nil {
		return common{}, fmt.Errorf("connector %s: %w", c.Name, err)
	}
	if w.shared == nil {
		w.shared = map[string]common{}
	}
	w.shared[c.Name] = common{ep, session.NewPacer(c.ConnectRate)}
	return w.shared[c.Name], nil
}

// clientCert is the connector's certificate, or nil.
func clientCert(c *config.Connector) (*session.ClientCert, error) {
	if c.ClientCert == nil {
		return nil, nil
	}
	cert, err := session.NewClientCert(c.ClientCert.CertFile, c.ClientCert.CertPEM, c.ClientCert.KeyPEM)
	if err != nil {
		return nil, fmt.Errorf("connector %s: %w", c.Name, err)
	}
	return cert, nil
}

// options are those of the connector's sessions, without what tells one from
// the other.
func (w *wiring) options(c *config.Connector) (session.Options, error) {
	shared, err := w.common(c)
	if err != nil {
		return session.Options{}, err
	}
	if c.ClientCert != w.cfg.Connector(c.Name).ClientCert { // the device's own
		cert, err := clientCert(c)
		if err != nil {
			return session.Options{}, err
		}
		shared.endpoint = shared.endpoint.WithCert(cert)
	}
	known := map[string]string{"secret": c.Secret.Reveal(), "connector": c.Name}
	return session.Options{
		Endpoint: shared.endpoint,
		Topics: session.Topics{
			Uplink:   session.Expand(c.UplinkTopic, known),
			Downlink: session.Expand(c.DownlinkTopic, known),
		},
		Downlinks:      w.downlinks,
		Acked:          w.acked,
		Forgotten:      w.forgotten,
		Down:           w.down,
		Counts:         w.metrics.counts(c.Name),
		Connector:      c.Name,
		KeepAlive:      c.KeepAlive,
		SessionExpiry:  c.SessionExpiry,
		ReceiveMaximum: c.ReceiveMaximum,
		UserProperties: c.UserProperties,
		TopicAlias:     c.TopicAlias,
		Gateway:        w.cfg.Gateway,
		When:           w.when,
		Secrets:        []bridge.Secret{c.Secret},
		Pacer:          shared.pacer,
		OnDemand:       c.Connect == config.ConnectOnDemand,
		IdleTimeout:    c.IdleTimeout,
		AllowedServers: c.AllowedServers,
		Logger:         w.log,
	}, nil
}

// deviceSession is the session of one device.
func (w *wiring) deviceSession(c *config.Connector, d config.Device) (*session.Session, error) {
	c = c.For(&d)
	o, err := w.options(c)
	if err != nil {
		return nil, err
	}
	o.ClientID = c.Expand(c.ClientID, d.ID).Reveal()
	o.Topics.Device = d.ID
	username := c.Expand(c.Username, d.ID).Reveal()
	if c.Auth == config.AuthDeviceCredentials {
		o.Credentials = w.tokens(w.signers[d.ID], username)
	} else {
		o.Credentials = fixed(c, username)
	}
	if len(d.Downlinks) > 0 {
		o.Subscribe = []bridge.DeviceID{d.ID}
	}
	return session.New(o)
}

// tokens are credentials with a fresh token each.
func (w *wiring) tokens(ring *token.Ring, username string) func() (session.Credentials, error) {
	return func() (session.Credentials, error) {
		if w.trusted != nil {
			if err := w.trusted(); err != nil {
				return session.Credentials{}, err
			}
		}
		t, key, err := ring.Mint()
		if err != nil {
			return session.Credentials{}, err
		}
		name := ""
		if ring.Len() > 1 {
			name = key.Name()
		}
		return session.Credentials{
			Username: username,
			Password: t.Value,
			Renew:    token.RenewAt(t, rand.Float64),
			Expires:  t.Expires,
			Key:      name,
			Answered: func(accepted bool) bool { return ring.Answered(key, accepted) },
		}, nil
	}
}

// fixed are credentials that stay the same: a secret, or none beside the
// client certificate.
func fixed(c *config.Connector, username string) func() (session.Credentials, error) {
	creds := session.Credentials{Username: username, Password: c.Secret}
	if c.SecretIsUsername() {
		creds.Password = bridge.Secret{}
	}
	return func() (session.Credentials, error) { return creds, nil }
}

// sharedSession is the one session of a connector for all its devices.
func (w *wiring) sharedSession(c *config.Connector) (*session.Session, error) {
	o, err := w.options(c)
	if err != nil {
		return nil, err
	}
	o.ClientID = c.Expand(c.ClientID, "").Reveal()
	if o.ClientID == "" {
		o.ClientID = sharedClientID(w.cfg.Gateway, cmp.Or(c.ID, c.Name))
	}
	o.Credentials = fixed(c, c.Expand(c.Username, "").Reveal())
	for _, d := range w.cfg.Devices {
		if d.ConnectorName == c.Name && len(d.Downlinks) > 0 {
			o.Subscribe = append(o.Subscribe, d.ID)
		}
	}
	return session.New(o)
}

// sharedClientID names the session of a connector: the same at each start, so
// that the broker finds its session again, and another one on each machine, so
// that two gateways do not throw each other out. The machine id is hashed
// because it should not leave the machine as it is (machine-id(5)).
func sharedClientID(gateway, connector string) string {
	machine, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		machine = []byte(gateway)
	}
	sum := sha256.Sum256([]byte("fieldbridge\x00" + strings.TrimSpace(string(machine)) + "\x00" + connector))
	return "fieldbridge-" + hex.EncodeToString(sum[:8])
}
