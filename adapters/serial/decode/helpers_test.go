package decode_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"fieldbridge/adapters/serial/decode"
	"fieldbridge/bridge"
)

var (
	measured = time.Date(2026, 1, 2, 4, 4, 5, 678_999_999, time.FixedZone("", 3600))
	stamped  = `"2026-01-02T03:04:05.678Z"`
)

func decoder(t testing.TB, o decode.Options) *decode.Decoder {
	t.Helper()
	if err := o.Valid(); err != nil {
		t.Fatal(err)
	}
	d, err := decode.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// row is a frame and what becomes of it: a payload, or "!" and the reason.
type row struct {
	name        string
	opts        decode.Options
	frame, want string
}

func runRows(t *testing.T, rows []row) {
	t.Helper()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			d := decoder(t, row.opts)
			// The second time shows that nothing is left over from the first.
			for range 2 {
				if got := outcome(t, d, row.opts, []byte(row.frame)); got != row.want {
					t.Errorf("%s\n becomes %s\n    want %s", row.frame, got, row.want)
				}
			}
		})
	}
}

// outcome decodes, and checks what holds for any frame.
func outcome(t testing.TB, d *decode.Decoder, o decode.Options, b []byte) string {
	t.Helper()
	before := bytes.Clone(b)
	r, err := d.Decode(b, measured)
	if !bytes.Equal(b, before) {
		t.Fatalf("decode %s changed the frame", o.Kind)
	}
	if err != nil {
		var refused *decode.Error
		if !errors.As(err, &refused) || !slices.Contains(decode.Refusals, refused.Reason) {
			t.Fatalf("the error is %#v", err)
		}
		if refused.Detail == "" || len(refused.Detail) > 600 || !utf8.ValidString(refused.Detail) {
			t.Fatalf("the detail has %d bytes: %q", len(refused.Detail), refused.Detail)
		}
		if forward := o.OnError == decode.Forward; forward != (r.Payload != nil) || forward && !bytes.Equal(r.Payload, b) {
			t.Fatalf("refused with the payload %q", r.Payload)
		}
		if r.Device != "" || r.Subtopic != "" {
			t.Fatalf("refused with device %q, sub topic %q", r.Device, r.Subtopic)
		}
		return "!" + string(refused.Reason)
	}
	if ct, err := bridge.ParseContentType(r.ContentType); err != nil || ct != r.ContentType {
		t.Fatalf("content type %q: %v", r.ContentType, err)
	}
	if r.Device != "" {
		if _, err := bridge.ParseDeviceID(string(r.Device)); err != nil {
			t.Fatal(err)
		}
	}
	if (r.Device != "") != (o.DeviceFrom != "") || (r.Subtopic != "") != (o.SubtopicFrom != "") {
		t.Fatalf("device %q, sub topic %q", r.Device, r.Subtopic)
	}
	if o.Kind != decode.Raw && !utf8.Valid(r.Payload) {
		t.Fatalf("the payload is not UTF-8: %q", r.Payload)
	}
	switch o.Kind {
	case decode.Raw, decode.Text:
	default:
		if !json.Valid(r.Payload) {
			t.Fatalf("the payload is not JSON: %q", r.Payload)
		}
		if limit := 2*decode.DefaultMaxPayload + len(b); len(r.Payload) > limit {
			t.Fatalf("the payload has %d bytes", len(r.Payload))
		}
	}
	if len(r.Payload) > 0 {
		// The payload is the caller's own.
		kept := string(r.Payload)
		r.Payload[0] ^= 0xFF
		if !bytes.Equal(b, before) {
			t.Fatalf("decode %s: the payload shares the frame's memory", o.Kind)
		}
		return kept
	}
	return ""
}

// object reads a payload with its numbers as they are written, and its keys in
// order.
func object(t interface{ Fatalf(string, ...any) }, payload []byte) (keys []string, values map[string]any) {
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	values = make(map[string]any)
	if err := dec.Decode(&values); err != nil {
		t.Fatalf("%q: %v", payload, err)
	}
	dec = json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	depth := 0
	isKey := true
	for {
		tok, err := dec.Token()
		if err != nil {
			return keys, values
		}
		switch tok := tok.(type) {
		case json.Delim:
			if tok == '{' || tok == '[' {
				depth++
				continue
			}
			depth--
			isKey = true
		case string:
			if depth == 1 && isKey {
				keys = append(keys, tok)
				isKey = false
				continue
			}
			isKey = depth == 1
		default:
			isKey = depth == 1
		}
	}
}

func ref[T any](v T) *T { return &v }
