package main

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
	"fieldbridge/bridge/devbroker"
	"fieldbridge/bridge/token"
)

type brokerFlags struct {
	config, listen, audience string
	devices, connectors      map[string]string
	certFile, keyFile        string
}

func newBrokerCommand() *cobra.Command {
	var f brokerFlags
	c := &cobra.Command{
		Use:   "broker",
		Short: "Run the akenza-like broker alone, for developing against",
		Long: `Run an MQTT v5 broker with akenza's rules: who may connect, publish and subscribe,
and which content types are taken. It prints each reading that it accepts and
keeps nothing. With --config it knows the devices and connectors of that
configuration; otherwise name them by --device and --connector.`,
		Example: `  fieldbridge broker --config fieldbridge.toml --listen 127.0.0.1:1883
  fieldbridge broker --device pump-1=keys/pump-1.pub.pem --connector yard=secrets/yard`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runBroker(c, f) },
	}
	c.Flags().StringVar(&f.config, "config", "", "take devices and connectors from this configuration file")
	c.Flags().StringVar(&f.listen, "listen", "127.0.0.1:1883", "host:port to listen on; port 0 takes a free one")
	c.Flags().StringVar(&f.audience, "audience", "",
		"claim aud that tokens must have; {device} stands for the device id (default: the configuration's, or "+devbroker.DefaultAudience+")")
	c.Flags().StringToStringVar(&f.devices, "device", nil, "ID=FILE: a device and its public key or certificate (PEM); may be repeated")
	c.Flags().StringToStringVar(&f.connectors, "connector", nil, "ID=FILE: a connector and the file with its secret; may be repeated")
	c.Flags().StringVar(&f.certFile, "cert", "", "certificate chain (PEM): listen with TLS")
	c.Flags().StringVar(&f.keyFile, "key", "", "private key of --cert (PEM)")
	_ = c.MarkFlagFilename("config", "toml")
	c.MarkFlagsRequiredTogether("cert", "key")
	return c
}

func runBroker(c *cobra.Command, f brokerFlags) error {
	if _, _, err := net.SplitHostPort(f.listen); err != nil {
		return usagef("--listen: %w", err)
	}
	o, several, err := f.options()
	if err != nil {
		return err
	}
	o.Logger = newLogger(c.ErrOrStderr(), config.Log{Level: slog.LevelInfo, Format: "auto"})
	var tlsConf *tls.Config
	scheme := "mqtt"
	if f.certFile != "" {
		cert, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
		if err != nil {
			return usagef("--cert, --key: %w", err)
		}
		tlsConf, scheme = &tls.Config{Certificates: []tls.Certificate{cert}}, "mqtts"
	}
	b, err := devbroker.New(o)
	if err != nil {
		return err
	}
	defer b.Close()
	for device, keys := range several {
		if err := b.SetDevice(device, keys...); err != nil {
			return fmt.Errorf("device %s: %w", device, err)
		}
	}
	sub := b.Subscribe()
	addr, err := b.Listen(f.listen, tlsConf)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	out := c.OutOrStdout()
	fmt.Fprintf(out, "listening on %s://%s, %d devices, %d connectors; ctrl-c stops\n", scheme, addr, len(o.Devices), len(o.Connectors))
	for {
		m, err := sub.Next(c.Context())
		if errors.Is(err, context.Canceled) {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s  %s  %s\n", m.RedactedTopic(), m.ContentType, printable(m.Payload))
	}
}

// publicKeys are the keys of devices that have more than one.
type publicKeys map[bridge.DeviceID][]crypto.PublicKey

// options gathers who may connect.
func (f brokerFlags) options() (devbroker.Options, publicKeys, error) {
	several := publicKeys{}
	o := devbroker.Options{
		Audience:   f.audience,
		Devices:    map[bridge.DeviceID]crypto.PublicKey{},
		Connectors: map[string]bridge.Secret{},
	}
	if f.config != "" {
		if err := fromConfig(f.config, &o, several); err != nil {
			return o, nil, err
		}
	}
	for id, file := range f.devices {
		device, err := bridge.ParseDeviceID(id)
		if err != nil {
			return o, nil, usagef("--device: %w", err)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return o, nil, usagef("--device %s: %w", id, err)
		}
		if o.Devices[device], err = token.ParsePublicKey(data); err != nil {
			return o, nil, usagef("--device %s: %s: %w", id, file, err)
		}
	}
	for id, file := range f.connectors {
		data, err := os.ReadFile(file)
		if err != nil {
			return o, nil, usagef("--connector %s: %w", id, err)
		}
		o.Connectors[id] = bridge.NewSecret(strings.TrimRight(string(data), "\r\n"))
	}
	if len(o.Devices)+len(o.Connectors) == 0 {
		return o, nil, usagef("nobody could connect: give --config, --device or --connector")
	}
	return o, several, nil
}

// fromConfig adds the devices, with the public halves of their keys, and the
// connectors of a configuration.
func fromConfig(path string, o *devbroker.Options, several publicKeys) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	var first string // the connector whose audience is taken; none with --audience
	for _, d := range cfg.Devices {
		c := cfg.Connector(d.ConnectorName)
		if c.Auth != config.AuthDeviceCredentials {
			continue
		}
		for i, k := range d.Keys() {
			key, err := token.ParsePrivateKey([]byte(k.PEM.Reveal()))
			if err != nil {
				return usagef("%s: %w", k.File, err)
			}
			if i == 0 {
				o.Devices[d.ID] = key.Public()
			}
			if len(d.NextKeys) > 0 {
				several[d.ID] = append(several[d.ID], key.Public())
			}
		}
		audience := strings.ReplaceAll(c.Token.Audience, "{connector}", c.Name)
		switch {
		case o.Audience == "":
			o.Audience, first = audience, c.Name
		case first != "" && o.Audience != audience:
			return usagef("connectors %s and %s have tokens for different audiences, and this broker checks for one: give --audience", first, c.Name)
		}
	}
	for _, c := range cfg.Connectors {
		if c.Auth == config.AuthUplinkSecret && !c.Secret.IsZero() {
			o.Connectors[c.ID] = c.Secret
		}
	}
	return nil
}
