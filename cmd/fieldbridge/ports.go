package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"fieldbridge/adapters/serial"
)

func newPortsCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "ports",
		Short: "List the serial ports of this machine, as TOML ready to paste",
		Long: `List the serial ports of this machine as [[serial]] blocks ready to paste, with
names that stay the same when adapters are plugged in another order. No port is
opened. What needs attention stands above the block: adapters that look alike, and
ports that this user may not open.`,
		Example: `  fieldbridge ports
  fieldbridge ports --json | jq -r '.[].path'`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			found, err := serial.System{}.Ports()
			if err != nil {
				return err
			}
			return printPorts(c.OutOrStdout(), describePorts(found), asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "an array of objects: path, stable, socket, usb, product, name, notes")
	return c
}

// foundPort is what is told of a port.
type foundPort struct {
	Path    string    `json:"path"`
	Stable  string    `json:"stable,omitempty"`
	Socket  string    `json:"socket,omitempty"`
	USB     *foundUSB `json:"usb,omitempty"`
	Product string    `json:"product,omitempty"`
	// Name is one for the [[serial]] block.
	Name string `json:"name"`
	// Port is the value of its key port; "" if usb says better which it is.
	Port  string   `json:"port,omitempty"`
	Notes []string `json:"notes"`

	withInterface bool // usb fits another port, too, without it
}

type foundUSB struct {
	VID       string `json:"vid"`
	PID       string `json:"pid"`
	Serial    string `json:"serial,omitempty"`
	Interface string `json:"interface,omitempty"`
}

// describePorts says how each port is best named.
func describePorts(found []serial.Found) []foundPort {
	out := make([]foundPort, 0, len(found))
	names := map[string]int{}
	for i, f := range found {
		p := foundPort{Path: f.Path, Stable: f.Stable, Socket: f.Socket, Product: f.Product, Port: f.Stable, Notes: []string{}}
		p.Name = uniqueName(names, f)
		if p.Port == "" {
			p.Port = f.Path
		}
		if f.USB != nil {
			p.USB = &foundUSB{f.USB.VID, f.USB.PID, f.USB.Serial, f.USB.Interface}
			var alike []string
			for j, other := range found {
				if i == j || other.USB == nil || other.USB.VID != f.USB.VID || other.USB.PID != f.USB.PID || other.USB.Serial != f.USB.Serial {
					continue
				}
				p.withInterface = true
				if other.USB.Interface == f.USB.Interface {
					alike = append(alike, other.Path)
				}
			}
			switch {
			case len(alike) > 0 && f.Socket != "":
				p.Port = f.Socket
				p.Notes = append(p.Notes, fmt.Sprintf("looks just like %s: told apart only by the socket it is plugged into", strings.Join(alike, ", ")))
			case len(alike) > 0:
				p.Port = f.Path
				p.Notes = append(p.Notes, fmt.Sprintf("looks just like %s: nothing tells them apart, and this name can change", strings.Join(alike, ", ")))
			case f.Stable == "" || f.Stable == f.Socket:
				p.Port = "" // usb says which adapter it is, the links do not
			}
		} else if f.Stable == "" && strings.Contains(f.Path, "USB") {
			p.Notes = append(p.Notes, "this name changes when adapters are plugged in another order")
		}
		if f.Denied != "" {
			p.Notes = append(p.Notes, fmt.Sprintf(`this user may not open it: sudo usermod -aG %s "$USER", and log in again`, f.Denied))
		}
		out = append(out, p)
	}
	return out
}

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// uniqueName makes a name for the block of a port.
func uniqueName(taken map[string]int, f serial.Found) string {
	name := strings.Trim(notInName.ReplaceAllString(strings.ToLower(f.Product), "-"), "-")
	if name == "" || len(name) > 40 {
		name = strings.Trim(notInName.ReplaceAllString(strings.ToLower(filepath.Base(f.Path)), "-"), "-")
	}
	taken[name]++
	if n := taken[name]; n > 1 {
		name += "-" + strconv.Itoa(n)
	}
	return name
}

func printPorts(out io.Writer, ports []foundPort, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(ports)
	}
	var b strings.Builder
	if len(ports) == 0 {
		b.WriteString("# no serial port was found on this machine: is the adapter plugged in?\n# (dmesg tells what the kernel saw)\n")
	}
	for i, p := range ports {
		if i > 0 {
			b.WriteByte('\n')
		}
		p.toml(&b)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// toml writes the block. What adapters say of themselves is quoted: it comes from
// outside.
func (p *foundPort) toml(b *strings.Builder) {
	fmt.Fprintf(b, "# %s", shown(p.Path))
	if p.Product != "" {
		fmt.Fprintf(b, ", %s", shown(p.Product))
	}
	b.WriteByte('\n')
	for _, n := range p.Notes {
		fmt.Fprintf(b, "# %s\n", shown(n))
	}
	fmt.Fprintf(b, "[[serial]]\nname   = %s\n", tomlText(p.Name))
	usb := ""
	if p.USB != nil {
		usb = fmt.Sprintf("usb    = { vid = %s, pid = %s", tomlText(p.USB.VID), tomlText(p.USB.PID))
		if p.USB.Serial != "" {
			usb += ", serial = " + tomlText(p.USB.Serial)
		}
		if p.withInterface && p.USB.Interface != "" {
			usb += ", interface = " + tomlText(p.USB.Interface)
		}
		usb += " }"
	}
	switch {
	case p.Port == "":
		fmt.Fprintln(b, usb)
	default:
		fmt.Fprintf(b, "port   = %s\n", tomlText(p.Port))
		if usb != "" && !strings.Contains(strings.Join(p.Notes, " "), "looks just like") {
			fmt.Fprintf(b, "# or: %s\n", usb)
		}
	}
	b.WriteString("device = \"\" # the id of its device, which needs a [[device]] block\n")
}

// tomlText writes a basic string of TOML.
func tomlText(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\U%08X`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
