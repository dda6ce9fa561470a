package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
)

const serialGuide = "../../docs/serial.md"

// docBlock is a fenced block of a document.
type docBlock struct {
	line       int
	info, text string
}

func docBlocks(t *testing.T, path string) (found []docBlock) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var open *docBlock
	for i, text := range strings.Split(string(data), "\n") {
		fence, isFence := strings.CutPrefix(text, "```")
		switch {
		case isFence && open == nil:
			open = &docBlock{line: i + 1, info: fence}
		case isFence:
			found = append(found, *open)
			open = nil
		case open != nil:
			open.text += text + "\n"
		}
	}
	return found
}

const docConnector = `[[connector]]
name = "yard"
broker = "mqtt://127.0.0.1:1"
auth = "uplink-secret"
id = "c"
secret_file = "secret"
`

func loadDoc(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Load(writeConfig(t, docConnector+text, map[string]string{"secret": "doc-secret"}))
	if err == nil {
		err = serialMistakes(cfg)
	}
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// inTray is an Accepter whose readings a test takes out.
type inTray chan bridge.Reading

func (r inTray) Submit(_ context.Context, reading bridge.Reading) error {
	r <- reading
	return nil
}

func (r inTray) next(t *testing.T) bridge.Reading {
	t.Helper()
	select {
	case reading := <-r:
		return reading
	case <-time.After(patience):
		t.Fatal("no reading came")
		panic("unreachable")
	}
}

// startLine runs a line of a configuration on a pseudo-terminal.
func startLine(t *testing.T, s config.Serial, o lineOptions) (*line, *testPTY) {
	t.Helper()
	p := openDeafPTY(t)
	s.Port, s.USB = p.Path, nil
	l, err := newLine(s, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return l, p
}

// wantBytes reads what the gateway writes.
func (p *testPTY) wantBytes(want []byte) {
	p.t.Helper()
	got := make([]byte, len(want))
	_ = p.master.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.ReadFull(p.master, got); err != nil || !bytes.Equal(got, want) {
		p.t.Fatalf("the sensor got % x (%v), want % x", got[:n], err, want)
	}
}

var aStamp = regexp.MustCompile(`"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`)

// Every example of the guide is run as it stands there, over a pseudo-terminal;
// the other blocks are keys of a port that is fine.
func TestSerialGuide(t *testing.T) {
	var example *docExample
	examples, readings := 0, 0
	for _, b := range docBlocks(t, serialGuide) {
		switch {
		case b.info == "toml example":
			examples++
			example = &docExample{}
			cfg := loadDoc(t, b.text)
			example.tray = make(inTray, 100)
			example.line, example.pty = startLine(t, cfg.Serials[0], lineOptions{to: example.tray})
			example.device = cfg.Devices[0].ID
		case b.info == "toml":
			base := "[[device]]\nid = \"d\"\n[[serial]]\nname = \"s\"\nport = \"/dev/ttyS0\"\ndevice = \"d\"\n"
			loadDoc(t, base+b.text)
		case example != nil:
			readings += example.step(t, b)
		}
	}
	if examples != 5 || readings != 7 {
		t.Errorf("found %d examples with %d readings", examples, readings)
	}
}

type docExample struct {
	line   *line
	tray   inTray
	pty    *testPTY
	device bridge.DeviceID
}

func (e *docExample) step(t *testing.T, b docBlock) (readings int) {
	var raw []byte
	if strings.HasPrefix(b.info, "hex") {
		var err error
		if raw, err = hex.DecodeString(strings.Join(strings.Fields(b.text), "")); err != nil {
			t.Fatalf("line %d: %v", b.line, err)
		}
	}
	switch b.info {
	case "text":
		e.pty.write(strings.ReplaceAll(b.text, "\n", "\r\n"))
	case "hex", "hex answered":
		e.pty.write(string(raw))
	case "hex asked":
		e.pty.wantBytes(raw)
	case "json":
		for want := range strings.Lines(b.text) {
			readings++
			var r bridge.Reading
			select {
			case r = <-e.tray:
			case <-time.After(patience):
				t.Fatalf("line %d: no reading came: %+v", b.line, e.line.Stats())
			}
			got := aStamp.ReplaceAllString(string(r.Payload), `"timestamp":"2026-01-02T03:04:05.678Z"`)
			if got != strings.TrimSpace(want) || r.Device != e.device || r.ContentType != "application/json" {
				t.Errorf("line %d: %s (%s) for %s, want %s", b.line, got, r.ContentType, r.Device, want)
			}
		}
	default:
		t.Errorf("line %d: a block of %q", b.line, b.info)
	}
	return readings
}
