package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	// statusTimeout bounds the whole question: the daemon may wait for its disk.
	statusTimeout = 10 * time.Second
	// maxStatus is more than the largest answer; see maxTroubles.
	maxStatus = 4 << 20
)

func newStatusCommand() *cobra.Command {
	var path string
	var f endpointFlags
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
			e, err := f.endpoint(path)
			if err != nil {
				return err
			}
			doc, raw, err := askStatus(c.Context(), e)
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
	configFlag(c, &path)
	f.add(c)
	c.Flags().BoolVar(&asJSON, "json", false, "the daemon's answer as it is (GET /v1/status)")
	return c
}

// dialAddress is where a listener's address can be reached from this machine.
func dialAddress(listen string) (string, error) {
	if strings.HasPrefix(listen, unixPrefix) {
		return listen, nil
	}
	host, port, err := net.SplitHostPort(listen)
	switch {
	case err != nil:
		return "", usagef("%q is not host:port: %w", listen, err)
	case port == "0":
		return "", usagef("http.listen is %q: port 0 stands for any free one, so where the daemon listens is not known; take the address from its log (msg=ready) and give it with --address", listen)
	case host == "":
		return net.JoinHostPort("127.0.0.1", port), nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		if ip.Is4() {
			return net.JoinHostPort("127.0.0.1", port), nil
		}
		return net.JoinHostPort("::1", port), nil
	}
	return listen, nil
}

// askStatus gets the status, as it came, too.
func askStatus(ctx context.Context, e endpoint) (doc *statusDocument, raw []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	address, url := e.address, e.url("/v1/status")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, usagef("%w", err)
	}
	if e.token != "" {
		req.Header.Set("Authorization", "Bearer "+e.token)
	}
	client := &http.Client{
		Transport:     e.transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, e.noAnswer(err)
	}
	defer resp.Body.Close()
	raw, err = io.ReadAll(io.LimitReader(resp.Body, maxStatus+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("the answer from %s breaks off: %w", url, err)
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return nil, nil, fmt.Errorf("the daemon at %s does not let this command in (%s): give a token for reading with --token-file, or reload the daemon if its tokens have changed", address, resp.Status)
	case resp.StatusCode == http.StatusBadRequest && e.tls == nil:
		return nil, nil, fmt.Errorf("the daemon at %s does not take this request (%s): if its endpoint has TLS, give --address https://%s", address, resp.Status, address)
	case resp.StatusCode != http.StatusOK:
		return nil, nil, fmt.Errorf("no daemon of this version answers at %s: GET /v1/status gave %s; is another program or an older fieldbridge listening there?", address, resp.Status)
	case len(raw) > maxStatus:
		return nil, nil, fmt.Errorf("no daemon of this version answers at %s: the answer is longer than %d bytes", address, maxStatus)
	}
	if doc, err = parseStatus(raw); err != nil {
		return nil, nil, fmt.Errorf("no daemon of this version answers at %s: %w; is another program listening there?", address, err)
	}
	return doc, raw, nil
}

// cause takes the address off an error of http.Client, which is told already.
func cause(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", statusTimeout)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
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
