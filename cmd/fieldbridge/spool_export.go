package main

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"fieldbridge/bridge"
	"fieldbridge/bridge/spool"
)

func newSpoolExportCommand(at *spoolPlace) *cobra.Command {
	var device string
	c := &cobra.Command{
		Use:   "export",
		Short: "Print the readings that wait, as NDJSON",
		Long: `Print the readings that wait, oldest first, as one JSON object a line: id, device,
subtopic, contentType, timestamp and payload, or payloadBase64 where the payload
is not JSON. The answer to a downlink has response: true; its topic, which may hold
a secret, is not shown. Nothing is taken out of the spool. A reading without a timestamp was
stored when the clock could not be trusted.`,
		Example: `  fieldbridge spool export --config /etc/fieldbridge/fieldbridge.toml >readings.ndjson
  fieldbridge spool export --device 0004A30B001C1B03`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var id bridge.DeviceID
			if c.Flags().Changed("device") {
				var err error
				if id, err = bridge.ParseDeviceID(device); err != nil {
					return usagef("--device: %w", err)
				}
			}
			return at.read(func(r *spool.Reader) error { return exportReadings(c.OutOrStdout(), r, id) })
		},
	}
	c.Flags().StringVar(&device, "device", "", "only the readings of this device")
	return c
}

// readingDocument is a reading as NDJSON carries it. It has one of the two
// payloads.
type readingDocument struct {
	ID            string          `json:"id"`
	Device        bridge.DeviceID `json:"device"`
	Subtopic      bridge.Subtopic `json:"subtopic,omitempty"`
	ContentType   string          `json:"contentType"`
	Timestamp     string          `json:"timestamp,omitempty"` // RFC 3339; empty: not known
	Payload       json.RawMessage `json:"payload,omitempty"`
	PayloadBase64 *string         `json:"payloadBase64,omitempty"`
	Response      bool            `json:"response,omitempty"` // the answer to a downlink
}

func newReadingDocument(r *bridge.Reading) readingDocument {
	d := readingDocument{ID: r.ID.String(), Device: r.Device, Subtopic: r.Subtopic, ContentType: r.ContentType, Response: r.ResponseTopic != ""}
	if !r.Time.IsZero() {
		d.Timestamp = r.Time.UTC().Format(time.RFC3339Nano)
	}
	if bridge.MediaType(r.ContentType) == "application/json" && utf8.Valid(r.Payload) && json.Valid(r.Payload) {
		d.Payload = r.Payload
	} else {
		text := base64.StdEncoding.EncodeToString(r.Payload)
		d.PayloadBase64 = &text
	}
	return d
}

// newLineEncoder writes one JSON value a line, as it is.
func newLineEncoder(out io.Writer) *json.Encoder {
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return enc
}

func exportReadings(out io.Writer, r *spool.Reader, device bridge.DeviceID) error {
	enc := newLineEncoder(out)
	return r.Readings(device, func(s bridge.Stored, _ time.Time) error {
		return enc.Encode(newReadingDocument(&s.Reading))
	})
}
