package serial

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// USB identifies an adapter by what its descriptors say, whatever name the
// kernel gives it. Empty fields are not compared; at least VID and PID, or
// Serial, should be there.
type USB struct {
	// VID and PID are the vendor's and the product's ids, four hexadecimal
	// digits.
	VID, PID string
	// Serial is the adapter's serial number; many cheap ones have none.
	Serial string
	// Interface is the number of the interface, two hexadecimal digits, of an
	// adapter with several ports.
	Interface string
}

func (u USB) String() string {
	s := fmt.Sprintf("vid %s, pid %s", orAny(u.VID), orAny(u.PID))
	if u.Serial != "" {
		s += ", serial " + u.Serial
	}
	if u.Interface != "" {
		s += ", interface " + u.Interface
	}
	return s
}

func orAny(s string) string {
	if s == "" {
		return "any"
	}
	return s
}

// matches reports whether the adapter is the one that u describes.
func (u USB) matches(a USB) bool {
	same := func(want, got string) bool { return want == "" || strings.EqualFold(want, got) }
	return same(u.VID, a.VID) && same(u.PID, a.PID) && (u.Serial == "" || u.Serial == a.Serial) && same(u.Interface, a.Interface)
}

// Found is a serial port of this machine.
type Found struct {
	// Path is the device file, such as /dev/ttyUSB0.
	Path string
	// Stable is a link to it that stays the same when adapters change places,
	// or "".
	Stable string
	// Socket is the link that says which socket it is plugged into, or "".
	Socket string
	// Denied is the group whose members may open it, if this user may not.
	Denied string
	// USB is set if it is an adapter on USB, and Product then is its name.
	USB     *USB
	Product string
}

// System is where the kernel and udev tell of serial ports.
type System struct {
	// Sys and Dev are "/sys" and "/dev" unless set.
	Sys, Dev string
}

// Ports lists the serial ports, USB or not, in the order of their names. It
// opens none of them: that would disturb one that is in use.
func (s System) Ports() ([]Found, error) {
	sys, dev := s.roots()
	class := filepath.Join(sys, "class", "tty")
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil, fmt.Errorf("list serial ports: %w", err)
	}
	ids, sockets := links(dev, "by-id"), links(dev, "by-path")
	var found []Found
	for _, e := range entries {
		// Terminals of no device are consoles; those of the platform bus driver
		// serial8250 with port type 0 are placeholders for UARTs that are not
		// there.
		device, err := filepath.EvalSymlinks(filepath.Join(class, e.Name(), "device"))
		if err != nil || readLine(filepath.Join(class, e.Name(), "type")) == "0" {
			continue
		}
		path := filepath.Join(dev, e.Name())
		if _, err := os.Stat(path); err != nil {
			continue // not in this container, say
		}
		f := Found{Path: path, Stable: ids[path], Socket: sockets[path]}
		setDefault(&f.Stable, f.Socket)
		if unix.Access(path, unix.R_OK|unix.W_OK) != nil {
			f.Denied = groupOf(path)
		}
		f.USB, f.Product = usbOf(device, sys)
		found = append(found, f)
	}
	slices.SortFunc(found, func(a, b Found) int { return strings.Compare(a.Path, b.Path) })
	return found, nil
}

func (s System) roots() (sys, dev string) {
	sys, dev = s.Sys, s.Dev
	setDefault(&sys, "/sys")
	setDefault(&dev, "/dev")
	return sys, dev
}

// usbOf climbs from a terminal's device to the USB interface and device that it
// belongs to, if it does.
func usbOf(device, sys string) (u *USB, product string) {
	number := ""
	for dir := device; len(dir) > len(sys); dir = filepath.Dir(dir) {
		if n := readLine(filepath.Join(dir, "bInterfaceNumber")); n != "" && number == "" {
			number = n
		}
		vid := readLine(filepath.Join(dir, "idVendor"))
		if vid == "" {
			continue
		}
		return &USB{
			VID: vid, PID: readLine(filepath.Join(dir, "idProduct")),
			Serial: readLine(filepath.Join(dir, "serial")), Interface: number,
		}, readLine(filepath.Join(dir, "product"))
	}
	return nil, ""
}

// readLine reads a small file of sysfs; "" if there is none.
func readLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSpace(line)
}

// links maps device files to their links in a directory of udev's: by-id says
// which adapter it is, by-path which socket it is in.
func links(dev, dir string) map[string]string {
	found := map[string]string{}
	dir = filepath.Join(dev, "serial", dir)
	entries, _ := os.ReadDir(dir) // absent: udev made no links
	for _, e := range entries {
		link := filepath.Join(dir, e.Name())
		if to, err := filepath.EvalSymlinks(link); err == nil {
			found[to] = link
		}
	}
	return found
}

// errAmbiguous: the description fits several adapters.
var errAmbiguous = errors.New("several adapters fit")

// Locate finds the one adapter that u describes. If there is none, or if there
// are several, the error lists what is there: to take one of two would send a
// sensor's readings under another one's name.
func (s System) Locate(u USB) (path string, err error) {
	ports, err := s.Ports()
	if err != nil {
		return "", err
	}
	var fit []string
	for _, p := range ports {
		if p.USB != nil && u.matches(*p.USB) {
			fit = append(fit, p.Path)
		}
	}
	switch len(fit) {
	case 1:
		return fit[0], nil
	case 0:
		return "", fmt.Errorf("open serial port with usb %s: %w; %s", u, fs.ErrNotExist, describe(ports))
	default:
		return "", fmt.Errorf("open serial port with usb %s: %w: %s; tell them apart by serial or interface, or by port = one of /dev/serial/by-path; %s",
			u, errAmbiguous, strings.Join(fit, ", "), describe(ports))
	}
}

// describe names the adapters that are there.
func describe(ports []Found) string {
	var out []string
	for _, p := range ports {
		if p.USB != nil {
			out = append(out, fmt.Sprintf("%s (%s)", p.Path, p.USB))
		}
	}
	switch n := len(out); {
	case n == 0:
		return "no USB serial adapter was found on this machine: is it plugged in?"
	case n > maxListed:
		return fmt.Sprintf("adapters here: %s and %d more", strings.Join(out[:maxListed], ", "), n-maxListed)
	}
	return "adapters here: " + strings.Join(out, ", ")
}
