package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"fieldbridge/bridge"
)

// eventBatch is how many events are written at once.
const eventBatch = 64

// eventsRetry is what clients wait before they come back.
const eventsRetry = 2 * time.Second

// missedEvents is the data of an event "missed".
type missedEvents struct {
	// Missed is how many events were lost, of any kind and device; without it
	// their number is not known.
	Missed uint64 `json:"missed,omitempty"`
}

// eventFilter is which events a stream shows. Empty: all.
type eventFilter struct {
	devices []bridge.DeviceID
	kinds   []string
	// client sees its devices; events without one are for those with all. nil
	// sees everything.
	client *client
}

func (f *eventFilter) shows(e *Event) bool {
	if c := f.client; c != nil && !c.mayUseAll() && (e.Device == "" || !c.MayUse(e.Device)) {
		return false
	}
	if len(f.devices) > 0 && !slices.Contains(f.devices, e.Device) {
		return false
	}
	return len(f.kinds) == 0 || slices.Contains(f.kinds, e.Kind)
}

// parseEventFilter reads ?device= and ?kind=, each as often as wanted. A kind
// is a whole one or a group.
func parseEventFilter(query string) (eventFilter, error) {
	var f eventFilter
	values, err := url.ParseQuery(query)
	if err != nil {
		return f, badRequest("query: %v", err)
	}
	for key := range values {
		if key != "device" && key != "kind" {
			return f, badRequest("query parameter %q is unknown; there are %q and %q", clip(key), "device", "kind")
		}
	}
	for _, v := range values["device"] {
		id, err := bridge.ParseDeviceID(v)
		if err != nil {
			return f, err
		}
		f.devices = append(f.devices, id)
	}
	for _, v := range values["kind"] {
		before := len(f.kinds)
		for _, kind := range eventKinds {
			if group, _, _ := strings.Cut(kind, "."); v == kind || v == group {
				f.kinds = append(f.kinds, kind)
			}
		}
		if len(f.kinds) == before {
			return f, badRequest("kind %q is unknown; there are %s, and the word before the dot for all of a group", clip(v), strings.Join(eventKinds, ", "))
		}
	}
	return f, nil
}

// eventFilter is what a request asks for and its token may see.
func (s *Server) eventFilter(r *http.Request) (eventFilter, error) {
	f, err := parseEventFilter(r.URL.RawQuery)
	if err != nil {
		return f, err
	}
	for _, d := range f.devices {
		if err := s.mayUse(r, d); err != nil {
			return f, err
		}
	}
	f.client = clientOf(r)
	return f, nil
}

// events answers GET /v1/events. The stream ends when the client is gone or
// takes nothing, or the server ends.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	filter, err := s.eventFilter(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	watch, ok := s.opts.Events.watch(r.Header.Get("Last-Event-ID"))
	if !ok {
		refuse(w, &problem{status: http.StatusServiceUnavailable, retryAfter: stopRetry,
			detail: fmt.Sprintf("%d streams of events are open already; close one, or try again after the time in Retry-After", maxStreams)})
		return
	}
	defer watch.end()
	st, err := openStream(w, r, eventsRetry)
	if err != nil {
		return
	}
	beat := time.NewTicker(keepAlive)
	defer beat.Stop()
	if watch.gap {
		st.add("", "missed", []byte("{}"))
	}
	for batch := make([]Event, 0, eventBatch); ; {
		client, others, err := s.holder(r)
		if err != nil {
			_ = st.comment("the token is not valid any more")
			return
		}
		filter.client = client
		more, err := st.addEvents(watch, filter, batch)
		if err == nil {
			err = st.flush()
		}
		if err != nil {
			return
		}
		var again <-chan struct{} = watch.wake
		if more {
			again = closed
		}
		select {
		case <-s.ending: // first: it can be at the same time as others
			return
		default:
		}
		select {
		case <-again:
		case <-others:
		case <-beat.C:
			if st.comment("") != nil {
				return
			}
		case <-s.ending:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// closed is ready at any time.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// addEvents adds what is new; more says that there may be others.
func (st *stream) addEvents(w *watch, filter eventFilter, batch []Event) (more bool, err error) {
	batch, first, missed := w.take(batch)
	if missed > 0 {
		data, err := json.Marshal(missedEvents{missed})
		if err != nil {
			return false, err
		}
		st.add("", "missed", data)
	}
	for i := range batch {
		if !filter.shows(&batch[i]) {
			continue
		}
		data, err := json.Marshal(&batch[i])
		if err != nil {
			return false, err
		}
		st.add(w.id(first+uint64(i)), batch[i].Kind, data)
	}
	return len(batch) == cap(batch), nil
}
