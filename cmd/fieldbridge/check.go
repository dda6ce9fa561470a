package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
	"fieldbridge/bridge/session"
	"fieldbridge/bridge/token"
)

func newCheckCommand() *cobra.Command {
	var path string
	var live bool
	c := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration",
		Long: `Check a configuration, with the keys and secrets that it names, and report all
mistakes at once.

With --live also open every serial port and connect once for every connector,
and say what the broker answered. A gateway that runs with this configuration at
the same time has its ports open and loses the session of that device for a
moment, because the client id is the same.`,
		Example: `  fieldbridge check --config /etc/fieldbridge/fieldbridge.toml
  fieldbridge check --config fieldbridge.toml --live`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(path)
			if err != nil {
				return err
			}
			keys, err := validate(cfg, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: no mistakes; %d connectors, %d devices, %d serial ports\n",
				path, len(cfg.Connectors), len(cfg.Devices), len(cfg.Serials))
			if !live {
				return nil
			}
			return checkLive(c.Context(), c.OutOrStdout(), &wiring{
				cfg: cfg, signers: keys, log: newLogger(io.Discard, cfg.Log),
				// A probe may be sent what waits at the broker. It is not
				// acknowledged, so the broker keeps it for the daemon.
				downlinks: func(bridge.Downlink, bridge.Origin, func()) {},
			})
		},
	}
	configFlag(c, &path)
	c.Flags().BoolVar(&live, "live", false, "also open the ports and connect once per connector")
	return c
}

var errLive = errors.New("check --live: not everything works, see above")

// checkLive tries what the configuration names and prints a line for each.
func checkLive(ctx context.Context, out io.Writer, w *wiring) error {
	var result error
	say := func(what string, err error) {
		if err != nil {
			result = errLive
			fmt.Fprintf(out, "FAIL  %s: %v\n", what, err)
			return
		}
		fmt.Fprintf(out, "ok    %s\n", what)
	}
	for _, s := range w.cfg.Serials {
		port, err := newLine(s, lineOptions{to: nobody{}, log: w.log})
		if err == nil {
			err = port.Probe()
		}
		say(fmt.Sprintf("serial port %s (%s)", s.Name, portName(s)), err)
	}
	for i := range w.cfg.Connectors {
		c := &w.cfg.Connectors[i]
		s, as, err := probeSession(w, c)
		if s == nil && err == nil {
			fmt.Fprintf(out, "skip  connector %s: no device uses it\n", c.Name)
			continue
		}
		if err == nil {
			pctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			err = s.Probe(pctx)
			cancel()
		}
		say(fmt.Sprintf("connector %s (%s%s)", c.Name, c.Broker, as), err)
	}
	return result
}

// probeSession picks a session of the connector: the shared one or that of its
// first device. It returns nil if there is none.
func probeSession(w *wiring, c *config.Connector) (s *session.Session, as string, err error) {
	if !c.PerDevice {
		s, err = w.sharedSession(c)
		return s, "", err
	}
	for _, d := range w.cfg.Devices {
		if d.ConnectorName == c.Name {
			s, err = w.deviceSession(c, d)
			return s, fmt.Sprintf(", as device %s", d.ID), err
		}
	}
	return nil, "", nil
}

// validate checks what the configuration package leaves to others, the keys of
// devices and the details of serial ports, and reports every mistake at once, as
// a *config.Errors.
func validate(cfg *config.Config, log *slog.Logger) (map[bridge.DeviceID]*token.Ring, error) {
	keys, err := signers(cfg, log)
	var all config.Errors
	for _, err := range []error{err, serialMistakes(cfg)} {
		var some *config.Errors
		if errors.As(err, &some) {
			all.Mistakes = append(all.Mistakes, some.Mistakes...)
		} else if err != nil {
			return nil, err
		}
	}
	if len(all.Mistakes) > 0 {
		return nil, &all
	}
	return keys, nil
}

// nobody takes the readings of a port that is only probed.
type nobody struct{}

func (nobody) Submit(context.Context, bridge.Reading) error { return nil }
