package serial

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// machine is a tree as sysfs and udev make it.
type machine struct {
	System
	t *testing.T
}

func newMachine(t *testing.T) *machine {
	root := t.TempDir()
	m := &machine{System{Sys: filepath.Join(root, "sys"), Dev: filepath.Join(root, "dev")}, t}
	m.write("sys/class/tty/console/active", "tty0") // no device behind it
	m.write("sys/devices/platform/serial8250/x", "")
	m.uart("ttyS0", "4")
	m.uart("ttyS1", "0")
	return m
}

func (m *machine) path(p string) string { return filepath.Join(filepath.Dir(m.Sys), p) }

func (m *machine) write(path, text string) {
	m.t.Helper()
	path = m.path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) link(from, to string) {
	m.t.Helper()
	from = m.path(from)
	if err := os.MkdirAll(filepath.Dir(from), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Symlink(m.path(to), from); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) uart(name, kind string) {
	m.write("sys/class/tty/"+name+"/type", kind)
	m.link("sys/class/tty/"+name+"/device", "sys/devices/platform/serial8250")
	m.write("dev/"+name, "")
}

// plug plugs an adapter into a socket: below usb-serial its port is one level
// deeper than that of a CDC ACM device.
func (m *machine) plug(socket, name string, u USB) {
	usb := "sys/devices/pci0/usb1/" + socket
	m.write(usb+"/idVendor", u.VID)
	m.write(usb+"/idProduct", u.PID)
	m.write(usb+"/product", "USB to UART")
	if u.Serial != "" {
		m.write(usb+"/serial", u.Serial)
	}
	iface := usb + "/" + socket + ":1." + u.Interface
	m.write(iface+"/bInterfaceNumber", u.Interface)
	device := iface
	if strings.HasPrefix(name, "ttyUSB") {
		device = iface + "/" + name
		m.write(device+"/port_number", "0")
	}
	m.link("sys/class/tty/"+name+"/device", device)
	m.write("dev/"+name, "")
	m.link("dev/serial/by-path/"+socket+"-"+u.Interface, "dev/"+name)
	if u.Serial != "" {
		m.link("dev/serial/by-id/usb-"+u.Serial+"-if"+u.Interface, "dev/"+name)
	}
}

func (m *machine) unplug(name string) {
	for _, p := range []string{"sys/class/tty/" + name, "dev/" + name} {
		if err := os.RemoveAll(m.path(p)); err != nil {
			m.t.Fatal(err)
		}
	}
	links, err := filepath.Glob(m.path("dev/serial/*/*"))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, l := range links {
		if to, _ := os.Readlink(l); to == m.path("dev/"+name) {
			_ = os.Remove(l)
		}
	}
}

var (
	ftdi  = USB{VID: "0403", PID: "6001", Serial: "A50285BI", Interface: "00"}
	ch340 = USB{VID: "1a86", PID: "7523", Interface: "00"} // without a serial number, as they come
)

func TestPorts(t *testing.T) {
	m := newMachine(t)
	m.plug("1-1", "ttyUSB0", ftdi)
	m.plug("1-2", "ttyACM0", ch340)
	got, err := m.Ports()
	if err != nil {
		t.Fatal(err)
	}
	dev := func(s string) string { return filepath.Join(m.Dev, s) }
	want := []Found{
		{Path: dev("ttyACM0"), Stable: dev("serial/by-path/1-2-00"), Socket: dev("serial/by-path/1-2-00"), USB: &ch340, Product: "USB to UART"},
		{Path: dev("ttyS0")},
		{Path: dev("ttyUSB0"), Stable: dev("serial/by-id/usb-A50285BI-if00"), Socket: dev("serial/by-path/1-1-00"), USB: &ftdi, Product: "USB to UART"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("ports (-want +got):\n%s", d)
	}
	if _, err := (System{Sys: "/missing"}).Ports(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without sysfs: %v", err)
	}
}

func TestLocate(t *testing.T) {
	m := newMachine(t)
	m.plug("1-1", "ttyUSB0", ftdi)
	m.plug("1-2", "ttyUSB1", ch340)
	for _, u := range []USB{ftdi, {VID: "0403", PID: "6001"}, {Serial: "A50285BI"}} {
		if path, err := m.Locate(u); err != nil || path != filepath.Join(m.Dev, "ttyUSB0") {
			t.Errorf("%s: %q, %v", u, path, err)
		}
	}
	if path, err := m.Locate(USB{VID: "1A86", PID: "7523"}); err != nil || path != filepath.Join(m.Dev, "ttyUSB1") {
		t.Errorf("letters in the other case: %q, %v", path, err)
	}
	_, err := m.Locate(USB{VID: "0403", PID: "6001", Serial: "OTHER"})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "serial OTHER") || !strings.Contains(err.Error(), "ttyUSB0 (vid 0403, pid 6001, serial A50285BI") {
		t.Errorf("one that is not there: %v", err)
	}

	m.plug("1-3", "ttyUSB2", ch340)
	_, err = m.Locate(USB{VID: "1a86", PID: "7523"})
	if !errors.Is(err, errAmbiguous) || !strings.Contains(err.Error(), "ttyUSB1") || !strings.Contains(err.Error(), "ttyUSB2") {
		t.Errorf("two alike: %v", err)
	}

	// It comes back under another name.
	m.unplug("ttyUSB0")
	if _, err := m.Locate(ftdi); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unplugged: %v", err)
	}
	m.plug("1-4", "ttyUSB7", ftdi)
	if path, err := m.Locate(ftdi); err != nil || path != filepath.Join(m.Dev, "ttyUSB7") {
		t.Errorf("plugged in elsewhere: %q, %v", path, err)
	}
}
