package rest

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"

	"fieldbridge/bridge"
)

// States tells how the gateway and its devices are. Its methods are called from
// many goroutines at once, may wait for the disk, and tell no secret and no
// topic.
type States interface {
	// Status is the gateway as a whole. It is shown as JSON, and its size does
	// not grow with the number of devices.
	Status() any
	// Device is the state of a device, and whether its readings are taken.
	Device(id bridge.DeviceID) (DeviceState, bool)
	// Devices are up to limit listed devices, in the order of their ids' bytes,
	// from the first above after on; more says that there are others behind.
	Devices(after string, limit int) (page []DeviceState, more bool)
}

// DeviceState is how a device is. Times are RFC 3339 in UTC, by this machine's
// clock; empty ones are left out.
type DeviceState struct {
	Device    bridge.DeviceID `json:"device"`
	Connector string          `json:"connector"`
	Session   SessionState    `json:"session"`
	Queue     Queue           `json:"queue"`
	// Mailbox is there if the device has one.
	Mailbox *MailboxState `json:"mailbox,omitempty"`
	// LastReading is when the last reading came in since the start.
	LastReading string `json:"lastReading,omitempty"`
	// LastError is the last thing that went wrong with a reading of the device
	// since the start.
	LastError *Trouble `json:"lastError,omitempty"`
}

// SessionState is how the MQTT session is that carries a device's readings; it
// may carry others, too.
type SessionState struct {
	// State is "up", "down", or "idle" for one on demand that has nothing to
	// send; Error is why it is down.
	State string `json:"state"`
	Error string `json:"error,omitempty"`
	// TokenExpires is when the token in use runs out.
	TokenExpires string `json:"tokenExpires,omitempty"`
	// LastError stays when the session is up again.
	LastError *Trouble `json:"lastError,omitempty"`
}

// Queue is what of a device waits for the broker. A reading can be in both
// places.
type Queue struct {
	Memory  int   `json:"memory"`
	Spooled int64 `json:"spooled"`
	// Bytes are of the spooled ones, as max_bytes counts them.
	Bytes int64 `json:"bytes"`
}

// MailboxState is what waits in a device's mailbox for an app to delete it.
type MailboxState struct {
	Downlinks int64 `json:"downlinks"`
	// Oldest is when the oldest of them was received.
	Oldest string `json:"oldest,omitempty"`
}

// Trouble is something that went wrong.
type Trouble struct {
	Time  string `json:"time"`
	Error string `json:"error"`
}

const (
	defaultPage = 100
	maxPage     = 1000
)

// devicePage is the body of GET /v1/devices.
type devicePage struct {
	Devices []DeviceState `json:"devices"`
	// Next is the "after" of the next page; without it this is the last.
	Next bridge.DeviceID `json:"next,omitempty"`
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) {
	if err := checkNoQuery(r.URL.RawQuery); err != nil {
		s.fail(w, err)
		return
	}
	writeJSON(w, http.StatusOK, "application/json", s.opts.States.Status())
}

func (s *Server) devices(w http.ResponseWriter, r *http.Request) {
	after, limit, err := parsePage(r.URL.RawQuery)
	if err != nil {
		s.fail(w, err)
		return
	}
	page, more := s.listDevices(clientOf(r), after, limit)
	body := devicePage{Devices: page}
	if page == nil {
		body.Devices = []DeviceState{} // an empty list is [], not null
	}
	if more && len(page) > 0 {
		body.Next = page[len(page)-1].Device
	}
	writeJSON(w, http.StatusOK, "application/json", body)
}

// listDevices is States.Devices of those that the client may use. nil is a
// client that may use all.
func (s *Server) listDevices(c *client, after string, limit int) (page []DeviceState, more bool) {
	if c == nil || c.mayUseAll() {
		return s.opts.States.Devices(after, limit)
	}
	for {
		all, others := s.opts.States.Devices(after, maxPage)
		for _, d := range all {
			switch {
			case !c.MayUse(d.Device):
			case len(page) == limit:
				return page, true
			default:
				page = append(page, d)
			}
		}
		if !others || len(all) == 0 {
			return page, false
		}
		after = string(all[len(all)-1].Device)
	}
}

func (s *Server) device(w http.ResponseWriter, r *http.Request) {
	id, err := parseDevice(chi.RouteContext(r.Context()).URLParam("device"))
	if err == nil {
		err = checkNoQuery(r.URL.RawQuery)
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	state, ok := s.opts.States.Device(id)
	if !ok {
		s.fail(w, fmt.Errorf("%w: %q", bridge.ErrUnknownDevice, id))
		return
	}
	writeJSON(w, http.StatusOK, "application/json", state)
}

func checkNoQuery(query string) error {
	if strings.Trim(query, "&") != "" {
		return badRequest("this path takes no query parameters, and there is %q", clip(query))
	}
	return nil
}

// parsePage reads ?limit= and ?after=. The id after which a page begins need not
// be that of a device that still is there.
func parsePage(query string) (after string, limit int, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", 0, badRequest("query: %v", err)
	}
	limit = defaultPage
	for key, all := range values {
		if len(all) > 1 {
			return "", 0, badRequest("query parameter %q is there more than once; send one", clip(key))
		}
		switch key {
		case "after":
			if after = all[0]; len(after) > bridge.MaxDeviceID {
				return "", 0, badRequest("after has %d bytes, a device id has at most %d", len(after), bridge.MaxDeviceID)
			}
		case "limit":
			limit, err = strconv.Atoi(all[0])
			if err != nil || limit < 1 || limit > maxPage {
				return "", 0, badRequest("limit %q is not a number from 1 to %d", clip(all[0]), maxPage)
			}
		default:
			return "", 0, badRequest("query parameter %q is unknown; there are %q and %q", clip(key), "limit", "after")
		}
	}
	return after, limit, nil
}
