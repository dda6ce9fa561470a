package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/adapters/serial"
	"fieldbridge/bridge/config"
)

// somePorts are those of a machine with two adapters that look alike, one with
// two interfaces, one with a good name, and a UART that this user may not open.
func somePorts() []serial.Found {
	usb := func(vid, pid, number, iface string) *serial.USB {
		return &serial.USB{VID: vid, PID: pid, Serial: number, Interface: iface}
	}
	const id, socket = "/dev/serial/by-id/", "/dev/serial/by-path/"
	return []serial.Found{
		{Path: "/dev/ttyAMA0", Denied: "dialout"},
		{Path: "/dev/ttyUSB0", Stable: id + "usb-FTDI_A50285BI-if00-port0", Socket: socket + "1-1", USB: usb("0403", "6001", "A50285BI", "00"), Product: "FT232R USB UART"},
		{Path: "/dev/ttyUSB1", Stable: id + "usb-1a86-if00", Socket: socket + "1-2", USB: usb("1a86", "7523", "", "00"), Product: "USB Serial"},
		{Path: "/dev/ttyUSB2", Stable: socket + "1-3", Socket: socket + "1-3", USB: usb("1a86", "7523", "", "00"), Product: "USB Serial"},
		{Path: "/dev/ttyUSB3", USB: usb("10c4", "ea70", "00F1", "00"), Product: "CP2105 \"\x1b[31m"},
		{Path: "/dev/ttyUSB4", USB: usb("10c4", "ea70", "00F1", "01"), Product: "CP2105 \"\x1b[31m"},
	}
}

func TestPortsText(t *testing.T) {
	want, err := os.ReadFile("testdata/ports.txt")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printPorts(&out, describePorts(somePorts()), false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// Once the device is filled in, it is a configuration.
	text := docConnector + docDevices + strings.ReplaceAll(out.String(), `device = ""`, `device = "d"`)
	cfg, err := config.Load(writeConfig(t, text, map[string]string{"secret": "doc-secret"}))
	if err != nil || len(cfg.Serials) != 6 || cfg.Serials[5].USB.Interface != "01" || cfg.Serials[2].Port != "/dev/serial/by-path/1-2" {
		t.Errorf("%+v, %v", cfg, err)
	}
}

func TestPortsJSON(t *testing.T) {
	var out bytes.Buffer
	if err := printPorts(&out, describePorts(somePorts()), true); err != nil {
		t.Fatal(err)
	}
	var got []foundPort
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != 6 || got[1].USB.Serial != "A50285BI" || got[0].Notes[0] == "" {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNoPorts(t *testing.T) {
	for asJSON, want := range map[bool]string{false: "# no serial port was found on this machine", true: "[]\n"} {
		var out bytes.Buffer
		if err := printPorts(&out, describePorts(nil), asJSON); err != nil || !strings.HasPrefix(out.String(), want) {
			t.Errorf("%q, %v", &out, err)
		}
	}
	if code, _, stderr := cli("ports"); code != 0 {
		t.Errorf("ports here: %d, %s", code, stderr)
	}
}
