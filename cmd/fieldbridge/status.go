package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"fieldbridge/bridge/config"
)

// statusTimeout bounds the whole question: the daemon may wait for its disk.
const statusTimeout = 10 * time.Second

func newStatusCommand() *cobra.Command {
	var at endpointFlags
	var asJSON bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the running daemon is: sessions, spool, ports, clock",
		Long: `Ask the running daemon how it is, over its HTTP endpoint (http.listen in the
configuration), and show its sessions and why some are down, when tokens expire,
what waits, the serial ports, and whether the clock is trusted.

It exits with 0 if a daemon answers, however it is, with 1 if none does, and with
2 if the configuration is wrong. To see each device, ask
GET /v1/devices?limit=1000.`,
		Example: `  fieldbridge status --config /etc/fieldbridge/fieldbridge.toml
  fieldbridge status --address 127.0.0.1:8080
  fieldbridge status --json | jq '.connectors[] | select(.up < .sessions)'`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			e, _, err := at.find(func(cfg *config.Config) (string, error) { return readToken(cfg), nil })
			if err != nil {
				return err
			}
			doc, raw, err := e.status(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				var out bytes.Buffer
				if err := json.Indent(&out, raw, "", "  "); err != nil {
					return err
				}
				_, err = fmt.Fprintln(c.OutOrStdout(), string(bytes.TrimSpace(out.Bytes())))
				return err
			}
			return printStatus(c.OutOrStdout(), e.address, doc)
		},
	}
	at.add(c)
	c.Flags().BoolVar(&asJSON, "json", false, "the daemon's answer as it is (GET /v1/status)")
	return c
}

// status gets the status, as it came, too.
func (e endpoint) status(ctx context.Context) (doc *statusDocument, raw []byte, err error) {
	a, err := e.ask(ctx, statusTimeout, http.MethodGet, "/v1/status", nil, nil)
	switch {
	case err != nil:
		return nil, nil, err
	case a.StatusCode == http.StatusUnauthorized || a.StatusCode == http.StatusForbidden:
		return nil, nil, fmt.Errorf("the daemon at %s does not let this command in (%s): give a token for reading with --token-file, or reload the daemon if its tokens have changed", e.address, shown(a.Status))
	case a.StatusCode == http.StatusBadRequest && e.tls == nil:
		return nil, nil, fmt.Errorf("the daemon at %s does not take this request (%s): if its endpoint has TLS, give --address https://%s", e.address, shown(a.Status), e.address)
	case a.StatusCode != http.StatusOK:
		return nil, nil, e.stranger(fmt.Errorf("GET /v1/status gave %s", shown(a.Status)))
	}
	if doc, err = parseStatus(a.body); err != nil {
		return nil, nil, e.stranger(err)
	}
	return doc, a.body, nil
}

// parseStatus reads the body of GET /v1/status. What is unknown in it comes from
// a newer daemon.
func parseStatus(raw []byte) (*statusDocument, error) {
	var doc statusDocument
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("the answer is not a status: %w", err)
	}
	if doc.Version == "" || doc.Clock.Source == "" {
		return nil, errors.New("the answer is not a status: it has no version or no clock")
	}
	return &doc, nil
}
