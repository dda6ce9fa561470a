package serial

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	bugst "go.bug.st/serial"
)

// candidates are where serial ports are found, best names first. The library's
// list is not used: to tell real ports from placeholders it opens every
// /dev/ttyS*, which changes the mode of one that is in use.
var candidates = []string{
	"/dev/serial/by-id/*", "/dev/ttyUSB*", "/dev/ttyACM*", "/dev/ttyAMA*", "/dev/ttymxc*",
}

const maxListed = 8 // ports in an error text

// explainOpen adds to an error of openConn what to do about it.
func explainOpen(path string, err error) error {
	var pe *fs.PathError // would repeat the path
	if errors.As(err, &pe) {
		err = pe.Err
	}
	var se *bugst.PortError
	code := bugst.PortErrorCode(-1)
	if errors.As(err, &se) {
		code = se.Code()
	}
	const what = "open serial port %s: "
	switch {
	case errors.Is(err, fs.ErrNotExist), code == bugst.PortNotFound:
		return fmt.Errorf(what+"%w; %s", path, err, listPorts(candidates))
	case errors.Is(err, fs.ErrPermission), code == bugst.PermissionDenied:
		return fmt.Errorf(what+"%w: add the user that runs this program to the group %s and start it again",
			path, err, groupOf(path))
	case errors.Is(err, syscall.EBUSY), code == bugst.PortBusy:
		return fmt.Errorf(what+"%w: another program has it open (fuser %s tells which)", path, err, path)
	case errors.Is(err, syscall.ENOTTY), errors.Is(err, syscall.EISDIR), errors.Is(err, os.ErrNoDeadline),
		code == bugst.InvalidSerialPort:
		return fmt.Errorf(what+"not usable as a serial port with this baud and mode: %w", path, err)
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf(what+"%w: there is no hardware behind this name", path, err)
	default:
		return fmt.Errorf(what+"%w", path, err)
	}
}

// listPorts names the ports that match the patterns.
func listPorts(patterns []string) string {
	var found []string
	for _, p := range patterns {
		matches, _ := filepath.Glob(p) // fails for bad patterns only
		found = append(found, matches...)
	}
	switch n := len(found); {
	case n == 0:
		return "no serial port was found on this machine: is the adapter plugged in?"
	case n > maxListed:
		return fmt.Sprintf("ports here: %s and %d more", strings.Join(found[:maxListed], ", "), n-maxListed)
	default:
		return "ports here: " + strings.Join(found, ", ")
	}
}

// groupOf is the name of the group that owns the device file, or of the one that
// usually does.
func groupOf(path string) string {
	if info, err := os.Stat(path); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			if g, err := user.LookupGroupId(strconv.Itoa(int(st.Gid))); err == nil && g.Name != "root" {
				return g.Name
			}
		}
	}
	return "dialout"
}
