package main

import (
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
// reports every mistake in them at once, as a *config.Errors.
func signers(cfg *config.Config) (map[bridge.DeviceID]*token.Signer, error) {
	out := map[bridge.DeviceID]*token.Signer{}
	errs := &config.Errors{}
	for _, d := range cfg.Devices {
		conn := cfg.Connector(d.ConnectorName)
		if conn.Auth != config.AuthDeviceCredentials {
			continue
		}
		s, err := newSigner(conn, d)
		if err != nil {
			at := cfg.At(d.Pos, "key_file")
			errs.Mistakes = append(errs.Mistakes, config.Mistake{
				File: at.File, Line: at.Line, Key: at.Key,
				Problem: fmt.Sprintf("%s: %v", d.KeyFile, err),
			})
			continue
		}
		out[d.ID] = s
	}
	if len(errs.Mistakes) > 0 {
		return nil, errs
	}
	return out, nil
}

func newSigner(conn *config.Connector, d config.Device) (*token.Signer, error) {
	key, err := token.ParsePrivateKey([]byte(d.KeyPEM.Reveal()))
	if err != nil {
		return nil, err
	}
	return token.NewSigner(key, token.Options{
		Device:   d.ID,
		Audience: conn.Expand(conn.Token.Audience, d.ID).Reveal(),
		Lifetime: conn.Token.Lifetime,
		KeyID:    conn.Token.KeyID,
	})
}

// wiring is what the sessions of a configuration have in common.
type wiring struct {
	cfg       *config.Config
	signers   map[bridge.DeviceID]*token.Signer
	log       *slog.Logger
	downlinks func(bridge.Downlink, bridge.Origin, func())
	acked     func(session string, packetID uint16) // nil: nobody wants to know
	forgotten func(session string)                  // nil: nobody wants to know
	down      func(*session.Session)                // nil: nobody wants to know
	trusted   func() error                          // nil: the clock is right
	when      func(*bridge.Reading) time.Time       // nil: always known
	metrics   *metrics                              // nil: nothing is counted
}

// options are those of the connector's sessions, without what tells one from
// the other.
func (w *wiring) options(c *config.Connector) (session.Options, error) {
	ep, err := session.NewEndpoint(session.EndpointOptions{
		Address: c.Address, TLS: c.TLS, CAFile: c.CAFile, CAPEM: c.CAPEM,
	})
	if err != nil {
		return session.Options{}, fmt.Errorf("connector %s: %w", c.Name, err)
	}
	known := map[string]string{"secret": c.Secret.Reveal(), "connector": c.Name}
	return session.Options{
		Endpoint: ep,
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
		Gateway:        w.cfg.Gateway,
		When:           w.when,
		Secrets:        []bridge.Secret{c.Secret},
		Logger:         w.log,
	}, nil
}

// deviceSession is the session of one device that signs its own tokens.
func (w *wiring) deviceSession(c *config.Connector, d config.Device) (*session.Session, error) {
	o, err := w.options(c)
	if err != nil {
		return nil, err
	}
	signer := w.signers[d.ID]
	o.ClientID = string(d.ID)
	o.Credentials = func() (session.Credentials, error) {
		if w.trusted != nil {
			if err := w.trusted(); err != nil {
				return session.Credentials{}, err
			}
		}
		t, err := signer.Mint()
		if err != nil {
			return session.Credentials{}, err
		}
		return session.Credentials{
			// Unused by akenza, but some stacks drop the password without it.
			Username: "unused",
			Password: t.Value,
			Renew:    token.RenewAt(t, rand.Float64),
			Expires:  t.Expires,
		}, nil
	}
	if len(d.Downlinks) > 0 {
		o.Subscribe = []bridge.DeviceID{d.ID}
	}
	return session.New(o)
}

// sharedSession is the one session of a connector with a secret.
func (w *wiring) sharedSession(c *config.Connector) (*session.Session, error) {
	o, err := w.options(c)
	if err != nil {
		return nil, err
	}
	o.ClientID = sharedClientID(w.cfg.Gateway, c.ID)
	creds := session.Credentials{Username: c.ID, Password: c.Secret}
	o.Credentials = func() (session.Credentials, error) { return creds, nil }
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
