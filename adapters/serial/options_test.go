package serial

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	bugst "go.bug.st/serial"

	"fieldbridge/adapters/serial/decode"
	"fieldbridge/adapters/serial/frame"
)

func TestDefaults(t *testing.T) {
	o, err := Options{Name: "n", Port: "/dev/x", Device: "d"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if o.Baud != 9600 || o.Mode != "8N1" || string(o.Frame.Delimiter) != "\n" || o.Frame.MaxFrame != 4096 ||
		o.Decode.Kind != "text" || o.WriteTimeout <= 0 || o.Logger == nil {
		t.Errorf("defaults %+v", o)
	}
	if want := 4375 * time.Microsecond; o.Turnaround != want {
		t.Errorf("turnaround %s, want %s: 3.5 characters", o.Turnaround, want)
	}
}

func TestMistakesAreAllNamed(t *testing.T) {
	_, err := New(Options{
		Baud: -1, Mode: "9N1", Frame: frame.Options{Delimiter: []byte("123456789"), MaxFrame: -1},
		Decode: decode.Options{Kind: "xml", ContentType: "image/png"},
		Device: "a/b", Subtopic: "a//b", WriteTimeout: -1, Turnaround: -1, IdleTimeout: -1,
		Polls: []Poll{{Every: -1, Timeout: -1, Retries: -1}},
	}, nil)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"name is missing", "port is missing", "baud must be 1 to", `"9N1"`, "delimiter must have 1 to 8 bytes", "max frame must be",
		"raw, text, json", "turnaround must", "idle timeout must", "every must", "timeout must", "retries must", "send is missing", `"a/b"`, "sub topic level is empty", "image/png", "write timeout must be",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error does not say %q:\n%v", want, err)
		}
	}
	if _, err := New(Options{Name: "n", Port: "p", Device: "d"}, nil); err == nil {
		t.Error("a port without an accepter was made")
	}
}

func TestParseMode(t *testing.T) {
	good := map[string]bugst.Mode{
		"8N1": {DataBits: 8},
		"7e2": {DataBits: 7, Parity: bugst.EvenParity, StopBits: bugst.TwoStopBits},
		"5O1": {DataBits: 5, Parity: bugst.OddParity},
		"6M1": {DataBits: 6, Parity: bugst.MarkParity},
		"8S1": {DataBits: 8, Parity: bugst.SpaceParity},
	}
	for s, want := range good {
		if got, err := parseMode(s); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", s, got, err)
		}
	}
	bad := map[string]string{
		"": "such as", "8N": "such as", "9N1": "data bits", "8X1": "parity", "8N3": "stop bits", "8N1.5": "1.5 stop bits", "8N12": "such as",
	}
	for s, want := range bad {
		if _, err := parseMode(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error about %s", s, err, want)
		}
	}
}

func TestExplainOpen(t *testing.T) {
	owned := filepath.Join(t.TempDir(), "ttyUSB9")
	if err := os.WriteFile(owned, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path := func(err error) error { return &fs.PathError{Op: "open", Path: "/dev/x", Err: err} }
	tests := []struct {
		err  error
		want string
	}{
		{path(syscall.ENOENT), "serial port"},
		{path(syscall.EACCES), "to the group "},
		{path(syscall.EPERM), "to the group "},
		{path(syscall.EBUSY), "another program has it open"},
		{path(syscall.EIO), "no hardware behind this name"},
		{path(syscall.EMFILE), syscall.EMFILE.Error()},
		{&bugst.PortError{}, "another program has it open"}, // the zero code is PortBusy
		{errMoved, errMoved.Error()},
	}
	for _, tt := range tests {
		err := explainOpen(owned, tt.err)
		if !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "open serial port "+owned+": ") {
			t.Errorf("%v: got %q, want %q in it", tt.err, err, tt.want)
		}
		if strings.Contains(err.Error(), "/dev/x") {
			t.Errorf("%v: path is repeated in %q", tt.err, err)
		}
		var pe *fs.PathError
		if errors.As(tt.err, &pe) && !errors.Is(err, pe.Err) {
			t.Errorf("%v: cause is lost in %q", tt.err, err)
		}
	}
}

func TestListPorts(t *testing.T) {
	dir := t.TempDir()
	pattern := []string{filepath.Join(dir, "ttyUSB*")}
	if got := listPorts(pattern); !strings.Contains(got, "no serial port was found") {
		t.Error(got)
	}
	for i := range maxListed + 2 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("ttyUSB%02d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		got := listPorts(pattern)
		if !strings.Contains(got, "ttyUSB00") || strings.Contains(got, " more") != (i >= maxListed) {
			t.Errorf("with %d ports: %s", i+1, got)
		}
	}
}
