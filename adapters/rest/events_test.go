package rest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge"
)

// told is an event as a client gets it.
type told struct {
	id, event string
	data      string
}

// events reads a stream.
type eventReader struct {
	t    testing.TB
	body io.ReadCloser
	r    *bufio.Reader
}

// watchEvents opens a stream; query may be "". header is of names and values.
func watchEvents(t testing.TB, s *running, query, last string, header ...string) *eventReader {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.url("/v1/events"+query), nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := newClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if ct := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || ct != "text/event-stream" {
		t.Fatalf("status %d, Content-Type %q", resp.StatusCode, ct)
	}
	r := &eventReader{t, resp.Body, bufio.NewReader(resp.Body)}
	for _, want := range []string{"retry: 2000\n", "\n"} {
		if line, err := r.r.ReadString('\n'); line != want {
			t.Fatalf("the stream begins with %q (%v), want %q", line, err, want)
		}
	}
	return r
}

// next is the next event; comments are passed over.
func (r *eventReader) next() told {
	r.t.Helper()
	var e told
	for {
		line, err := r.r.ReadString('\n')
		if err != nil {
			r.t.Fatalf("stream: %v", err)
		}
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch key {
		case "id":
			e.id = value
		case "event":
			e.event = value
		case "data":
			e.data = value
		case "":
			if e.event != "" {
				return e
			}
		}
	}
}

func tell(h *Events, kind string, device bridge.DeviceID) {
	h.Tell(Event{Kind: kind, Device: device})
}

func TestEventsAreFiltered(t *testing.T) {
	h := &Events{}
	s := start(t, Options{Events: h}, newIntake())
	tell(h, ReadingDelivered, "before") // nobody watches
	all := watchEvents(t, s, "", "")
	some := watchEvents(t, s, "?device=d1&device=d2&kind=reading&kind=downlink.dead", "")
	for _, kind := range eventKinds {
		for _, d := range []bridge.DeviceID{"d1", "d2", "d3"} {
			tell(h, kind, d)
			e := all.next()
			var got Event
			if err := json.Unmarshal([]byte(e.data), &got); err != nil || e.event != kind || got.Kind != kind || got.Device != d {
				t.Fatalf("%+v (%v), want %s of %s", e, err, kind, d)
			}
			if at, err := time.Parse(time.RFC3339Nano, got.Time); err != nil || time.Since(at) > patience {
				t.Errorf("time %q", got.Time)
			}
			if d == "d3" || !strings.HasPrefix(kind, "reading.") && kind != DownlinkDead {
				continue
			}
			if f := some.next(); f != e {
				t.Errorf("with a filter %+v, want %+v", f, e)
			}
		}
	}
}

func TestEventsAreScopedToTokens(t *testing.T) {
	h := &Events{}
	s := start(t, Options{Events: h, Tokens: someTokens()}, newIntake())
	all := watchEvents(t, s, "", "", "Authorization", "Bearer "+readToken)
	hall := watchEvents(t, s, "", "", "Authorization", "Bearer "+hallToken)
	for _, d := range []bridge.DeviceID{"", "d1", "d2", "a b", "x", "d3"} {
		tell(h, SessionUp, d)
		e := all.next()
		var got Event
		if err := json.Unmarshal([]byte(e.data), &got); err != nil || got.Device != d {
			t.Fatalf("%+v (%v), want one of %q", e, err, d)
		}
		if d == "" || d == "d2" || d == "x" {
			continue
		}
		if f := hall.next(); f != e {
			t.Errorf("the token for some devices sees %+v, want %+v", f, e)
		}
	}
	for token, want := range map[string]struct {
		status int
		detail string
	}{
		"":                                     {http.StatusUnauthorized, "a token is needed"},
		"Authorization: Bearer " + hallToken:   {http.StatusForbidden, "not for this device"},
		"Authorization: Bearer " + "not-known": {http.StatusUnauthorized, "not one of this gateway's"},
	} {
		var header []string
		if token != "" {
			header = []string{token}
		}
		checkProblem(t, sendRaw(t, s.Addr(), request("GET", "/v1/events?device=d1&device=d2", "", header...)), want.status, want.detail)
	}
}

func TestEventsGoOnBehindTheLast(t *testing.T) {
	h := &Events{}
	s := start(t, Options{Events: h}, newIntake())
	first := watchEvents(t, s, "", "")
	tell(h, PortUp, "")
	seen := first.next()
	first.body.Close()
	tell(h, PortDown, "") // while nobody is there
	second := watchEvents(t, s, "", seen.id)
	if e := second.next(); e.event != PortDown {
		t.Errorf("behind %s comes %+v", seen.id, e)
	}
	for _, unknown := range []string{"x", "-1", "00000000-0", seen.id + "9999", strings.Repeat("9", 100)} {
		r := watchEvents(t, s, "", unknown)
		tell(h, SpoolRoom, "")
		if e := r.next(); e != (told{"", "missed", "{}"}) {
			t.Errorf("behind %q comes %+v, want missed", unknown, e)
		}
		if e := r.next(); e.event != SpoolRoom {
			t.Errorf("then comes %+v", e)
		}
		r.body.Close()
	}
}

func TestEventsThatAreMissedAreCounted(t *testing.T) {
	h := &Events{}
	w, ok := h.watch("")
	if !ok {
		t.Fatal("too many")
	}
	defer w.end()
	for i := range eventRing + 7 {
		h.Tell(Event{Kind: PortUp, Reason: fmt.Sprint(i)})
	}
	st := &stream{}
	if more, err := st.addEvents(w, eventFilter{}, make([]Event, 0, 2)); !more || err != nil {
		t.Errorf("more %v, error %v", more, err)
	}
	want := "event: missed\ndata: {\"missed\":7}\n\nid: " + w.id(7) + "\n"
	if got := st.buf.String(); !strings.HasPrefix(got, want) || !strings.Contains(got, `"reason":"8"`) || strings.Contains(got, `"reason":"9"`) {
		t.Errorf("stream %q, want it to begin with %q", got, want)
	}
}

func TestEventStreamsAreBounded(t *testing.T) {
	h := &Events{}
	s := start(t, Options{Events: h}, newIntake())
	var first *eventReader
	for range maxStreams {
		first = watchEvents(t, s, "", "")
	}
	a := sendRaw(t, s.Addr(), request("GET", "/v1/events", ""))
	checkProblem(t, a, http.StatusServiceUnavailable, "16 streams of events are open")
	if a.header.Get("Retry-After") != "5" {
		t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
	}
	first.body.Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if a := sendHead(t, s, "/v1/events"); a == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a stream that has ended keeps its place")
		}
	}
}

// sendHead is the status of a GET whose body is not read.
func sendHead(t testing.TB, s *running, path string) int {
	t.Helper()
	resp, err := newClient(t).Get(s.url(path))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestEventStreamOutlivesTheLimitsAndEndsWithTheServer(t *testing.T) {
	h := &Events{}
	// Much less than the stream lasts: net/http ends requests then.
	s := start(t, Options{Events: h, ReadTimeout: 200 * time.Millisecond, ReadHeaderTimeout: 200 * time.Millisecond}, newIntake())
	r := watchEvents(t, s, "", "")
	time.Sleep(500 * time.Millisecond)
	tell(h, PortUp, "")
	if e := r.next(); e.event != PortUp {
		t.Errorf("%+v", e)
	}
	began := time.Now()
	s.stop()
	if _, err := r.r.ReadByte(); err != io.EOF {
		t.Errorf("the stream ends with %v, want EOF", err)
	}
	if err := within(t, s.done); err != nil || time.Since(began) > DefaultDrainTimeout/2 {
		t.Errorf("Run ended after %v: %v", time.Since(began), err)
	}
}

func TestEventRequestsThatAreWrong(t *testing.T) {
	s := start(t, Options{Events: &Events{}}, newIntake())
	for query, detail := range map[string]string{
		"?kind=readings": `kind "readings" is unknown; there are reading.accepted`,
		"?kind=":         `kind "" is unknown`,
		"?device=a/b":    "separates MQTT topic levels",
		"?payload=1":     `query parameter "payload" is unknown`,
		"?kind=%zz":      "query:",
	} {
		checkProblem(t, sendRaw(t, s.Addr(), request("GET", "/v1/events"+query, "")), http.StatusBadRequest, detail)
	}
	checkProblem(t, sendRaw(t, s.Addr(), request("POST", "/v1/events", "")), http.StatusMethodNotAllowed, "use GET")
	without := start(t, Options{}, newIntake())
	checkProblem(t, sendRaw(t, without.Addr(), request("GET", "/v1/events", "")), http.StatusNotFound, "nothing is at this path")
}

func TestEventsCostNothingUnwatched(t *testing.T) {
	h := &Events{}
	if n := testing.AllocsPerRun(100, func() {
		if h.Watched() {
			t.Error("watched by nobody")
		}
		h.Tell(Event{Kind: PortUp})
	}); n != 0 || h.ring != nil {
		t.Errorf("%v allocations, ring %d", n, len(h.ring))
	}
}

func FuzzEventRequest(f *testing.F) {
	for _, query := range []string{"", "device=d1", "device=d1&device=%C3%BC", "kind=reading", "kind=spool.full&kind=spool", "kind=reading.", "device=", "device=a%2Fb", "payload=1", "a;b", "&&", "kind=%zz"} {
		f.Add(query, "")
	}
	for _, last := range []string{"x", "-", "-1", "00000000-0", "this-0", "this-1", "this-2", "this-3", "this--1", "this-+1", "this-18446744073709551615", "this-18446744073709551616"} {
		f.Add("", last)
	}
	h := &Events{}
	held, _ := h.watch("") // the ring stays
	f.Cleanup(held.end)
	for range 3 {
		h.Tell(Event{Kind: PortUp})
	}
	f.Fuzz(func(t *testing.T, query, last string) {
		checkEventFilter(t, query)
		// An epoch is drawn anew each time: "this" stands for it.
		if number, ok := strings.CutPrefix(last, "this-"); ok {
			last = h.epoch + "-" + number
		}
		w, ok := h.watch(last)
		if !ok {
			t.Fatal("too many")
		}
		defer w.end()
		switch {
		case w.at > 3 || w.gap && w.at != 3:
			t.Fatalf("behind %q: at %d, gap %v", last, w.at, w.gap)
		case last != "" && !w.gap && w.id(w.at-1) != last && !strings.HasPrefix(last, h.epoch+"-0"):
			t.Fatalf("behind %q: at %d", last, w.at)
		}
		at := w.at
		if events, first, missed := w.take(make([]Event, 0, 4)); first != at || missed != 0 || uint64(len(events)) != 3-at {
			t.Fatalf("behind %q: first %d, missed %d, %d events", last, first, missed, len(events))
		}
	})
}

// checkEventFilter holds for every query: it is refused with words that can be
// shown, or it shows what it names.
func checkEventFilter(t *testing.T, query string) {
	t.Helper()
	filter, err := parseEventFilter(query)
	if err != nil {
		if p := problemOf(err); p == nil || p.status != http.StatusBadRequest || len(p.detail) > 1000 {
			t.Fatalf("%q: error %v", query, err)
		}
		return
	}
	for _, d := range filter.devices {
		if again, err := bridge.ParseDeviceID(string(d)); err != nil || again != d {
			t.Fatalf("%q: device %q (%v)", query, d, err)
		}
	}
	for _, kind := range eventKinds {
		wanted := len(filter.kinds) == 0 || slices.Contains(filter.kinds, kind)
		if e := (&Event{Kind: kind, Device: "none of them\x00"}); filter.shows(e) != (wanted && len(filter.devices) == 0) {
			t.Fatalf("%q shows %s of a device that it does not name", query, kind)
		}
		for _, d := range filter.devices {
			if filter.shows(&Event{Kind: kind, Device: d}) != wanted {
				t.Fatalf("%q: %s of %q", query, kind, d)
			}
		}
	}
}
