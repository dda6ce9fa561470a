package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"fieldbridge/adapters/rest"
	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
)

const (
	// sendTimeout is longer than the daemon takes to say that it has no answer.
	sendTimeout = rest.DefaultAcceptTimeout + 15*time.Second
	// maxPayload is for daemons whose http.max_body is not known: the most that
	// it can be.
	maxPayload = 256 << 20
)

// outgoing is a reading as it is given on the command line.
type outgoing struct {
	device, subtopic, contentType, timestamp string
	payload                                  []byte
}

func newSendCommand() *cobra.Command {
	var at endpointFlags
	var o outgoing
	c := &cobra.Command{
		Use:   "send FILE|-",
		Short: "Send one reading through the running daemon",
		Long: `Send the content of a file, or of the standard input (-), as one reading through
the HTTP endpoint of the running daemon, and print the reading's id and how far
it is: "delivered" (the broker has acknowledged it) or "stored" (it is on this
machine's disk and will be delivered in its order).

The payload is sent as it is, with the end of its last line. Without
--content-type it is application/json if it is JSON, text/plain if it is text in
UTF-8, and else application/octet-stream.

It exits with 0 if the reading was accepted, with 1 if it was not, and with 2 if
the command line or the configuration is wrong.`,
		Example: `  printf '{"temperature":21.5}' | fieldbridge send --device 0004A30B001C1B03 -
  fieldbridge send --device 0004A30B001C1B03 --subtopic alerts/door --content-type text/plain message.txt
  fieldbridge send --address 127.0.0.1:8080 --token-file ~/token --device pump-1 --timestamp 2026-01-31T12:00:00Z reading.json`,
		Args: oneFile,
		RunE: func(c *cobra.Command, args []string) error {
			path, err := o.path()
			if err != nil {
				return err
			}
			e, cfg, err := at.find(func(cfg *config.Config) (string, error) { return uplinkToken(cfg, bridge.DeviceID(o.device)) })
			if err != nil {
				return err
			}
			limit := int64(maxPayload)
			if cfg != nil {
				limit = cfg.HTTP.MaxBody
			}
			if o.payload, err = readPayload(c.Context(), args[0], c.InOrStdin(), limit); err != nil {
				return err
			}
			receipt, err := e.send(c.Context(), path, &o)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), receipt.ID, receipt.State)
			return err
		},
	}
	at.add(c)
	c.Flags().StringVar(&o.device, "device", "", "device id (required)")
	c.Flags().StringVar(&o.subtopic, "subtopic", "", "sub topic, levels separated by /")
	c.Flags().StringVar(&o.contentType, "content-type", "", "one of "+strings.Join(bridge.ContentTypes, ", "))
	c.Flags().StringVar(&o.timestamp, "timestamp", "", "when it was measured, such as 2026-01-31T12:00:00Z; the default is now")
	_ = c.MarkFlagRequired("device")
	_ = c.RegisterFlagCompletionFunc("content-type", cobra.FixedCompletions(bridge.ContentTypes, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// oneFile takes the name of one file.
func oneFile(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return usagef("%s takes one file, or - for the standard input, and got %d\nsee %s --help", c.CommandPath(), len(args), c.CommandPath())
	}
	return nil
}

// path checks what can be told without the daemon, and returns where the reading
// is posted.
func (o *outgoing) path() (string, error) {
	if _, err := bridge.ParseDeviceID(o.device); err != nil {
		return "", usagef("--device: %w", err)
	}
	if _, err := bridge.ParseSubtopic(o.subtopic); err != nil {
		return "", usagef("--subtopic: %w", err)
	}
	path := "/v1/devices/" + url.PathEscape(o.device) + "/uplink"
	if o.subtopic != "" {
		for level := range strings.SplitSeq(o.subtopic, "/") {
			path += "/" + url.PathEscape(level)
		}
	}
	if o.contentType != "" {
		if _, err := bridge.ParseContentType(o.contentType); err != nil {
			return "", usagef("--content-type: %w", err)
		}
	}
	if o.timestamp != "" {
		if _, err := time.Parse(time.RFC3339, o.timestamp); err != nil {
			return "", usagef("--timestamp: %q is not ISO 8601 with date, time and zone, such as 2026-01-31T12:00:00Z", o.timestamp)
		}
		path += "?timestamp=" + url.QueryEscape(o.timestamp)
	}
	return path, nil
}

// takesReadings reports whether the configuration has a way for a device's readings.
func takesReadings(cfg *config.Config, device bridge.DeviceID) bool {
	return slices.ContainsFunc(cfg.Devices, func(d config.Device) bool { return d.ID == device }) ||
		slices.ContainsFunc(cfg.Connectors, func(c config.Connector) bool { return c.AnyDevice })
}

// uplinkToken is the first of the configured tokens with which readings of a
// device may be sent, or "" if none is needed.
func uplinkToken(cfg *config.Config, device bridge.DeviceID) (string, error) {
	for i, t := range httpTokens(cfg.HTTP.Tokens) {
		if t.Directions&rest.Uplink != 0 && t.MayUse(device) {
			return cfg.HTTP.Tokens[i].Secrets[0].Reveal(), nil
		}
	}
	if len(cfg.HTTP.Tokens) > 0 {
		if !takesReadings(cfg, device) {
			return "", usagef("%w: %q has no [[device]] block in %s, and no connector has devices = \"any\"; ids are case-sensitive", bridge.ErrUnknownDevice, device, cfg.File)
		}
		return "", usagef("no [[http.token]] of %s may send readings of %q: add to the devices and directions of one, or give another token with --token-file", cfg.File, device)
	}
	return "", nil
}

// readPayload reads a file, or stdin for "-", of at most limit bytes. It does not
// wait for more when ctx is done.
func readPayload(ctx context.Context, name string, stdin io.Reader, limit int64) ([]byte, error) {
	from := stdin
	if name == "-" {
		name = "the standard input"
	} else {
		f, err := os.Open(name)
		if err != nil {
			return nil, usagef("cannot read the payload: %w", err)
		}
		defer f.Close() // only read
		from = f
	}
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(from, limit+1))
		done <- result{data, err}
	}()
	var r result
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("nothing sent: %s had not ended", name)
	case r = <-done:
	}
	var bad *fs.PathError
	switch {
	case errors.As(r.err, &bad):
		return nil, usagef("cannot read the payload from %s: %w", name, bad.Err)
	case r.err != nil:
		return nil, fmt.Errorf("cannot read the payload from %s: %w", name, r.err)
	case int64(len(r.data)) > limit:
		return nil, fmt.Errorf("nothing sent: %s has more than %d bytes; send less at a time, or raise http.max_body", name, limit)
	case len(r.data) == 0:
		return nil, fmt.Errorf("nothing sent: %s is empty", name)
	}
	return r.data, nil
}

// guessType is the content type of a payload that was given none.
func guessType(payload []byte) string {
	switch {
	case !utf8.Valid(payload):
		return "application/octet-stream"
	case json.Valid(payload):
		return "application/json"
	default:
		return "text/plain"
	}
}

// receipt is what is used of the body of a 2xx.
type receipt struct {
	ID    uuid.UUID
	State bridge.State
}

// send posts a reading.
func (e endpoint) send(ctx context.Context, path string, o *outgoing) (*receipt, error) {
	contentType := o.contentType
	if contentType == "" {
		contentType = guessType(o.payload)
	}
	a, err := e.ask(ctx, sendTimeout, http.MethodPost, path, http.Header{
		"Content-Type": {contentType},
		// A daemon that does not want it says so before it is on its way.
		"Expect": {"100-continue"},
	}, o.payload)
	if err != nil {
		return nil, err
	}
	if a.StatusCode != http.StatusOK && a.StatusCode != http.StatusAccepted {
		return nil, e.refusal(a)
	}
	var r receipt
	if err := json.Unmarshal(a.body, &r); err != nil || r.State != bridge.Delivered && r.State != bridge.Spooled {
		return nil, e.stranger(errors.New("the answer is not a receipt"))
	}
	return &r, nil
}

// refusal makes an error of the daemon's reason (RFC 9457).
func (e endpoint) refusal(a *daemonAnswer) error {
	var problem struct{ Detail string }
	if bridge.MediaType(a.Header.Get("Content-Type")) != "application/problem+json" || json.Unmarshal(a.body, &problem) != nil || problem.Detail == "" {
		return e.stranger(fmt.Errorf("the reading was answered with %s", shown(a.Status)))
	}
	text := fmt.Sprintf("the daemon at %s does not take the reading (%s): %s", e.address, shown(a.Status), shown(problem.Detail))
	if after := a.Header.Get("Retry-After"); after != "" {
		text += fmt.Sprintf(" (Retry-After: %s seconds)", shown(after))
	}
	if a.StatusCode == http.StatusUnauthorized || a.StatusCode == http.StatusForbidden {
		text += "\ngive a token with --token-file, or reload the daemon if its tokens have changed"
	}
	return errors.New(text)
}
