package rest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"fieldbridge/adapters/rest/openapitest"
	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

// TestOpenAPIHasNoStatusThatNeverComes makes every status of every operation come,
// so that the document lists no other. That it lists those that come is seen to by
// every test that has a server.
func TestOpenAPIHasNoStatusThatNeverComes(t *testing.T) {
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	d := newDriver(t)
	missing := map[openapitest.Pair]bool{}
	for _, o := range doc.Operations {
		for _, status := range o.Statuses() {
			missing[openapitest.Pair{Operation: o.String(), Status: status}] = true
			d.drive(o, status)
		}
	}
	d.release()
	for _, s := range []*running{d.whole, d.guarded, d.broken, d.busy, d.slow} {
		seen, _ := s.recorder.Result()
		for pair := range seen {
			delete(missing, pair)
		}
	}
	for pair := range missing {
		t.Errorf("%s never answers %d", pair.Operation, pair.Status)
	}
}

// driver has servers in all the states that statuses depend on.
type driver struct {
	t                                  *testing.T
	whole, guarded, broken, busy, slow *running
	release                            func() // frees what is in use at busy
}

const spentToken = "spent-0123456789abcdef"

func newDriver(t *testing.T) *driver {
	in := newIntake()
	in.answer = answerByPayload
	d := &driver{
		t: t, whole: startWhole(t, Options{}, in),
		broken: startWhole(t, Options{
			Ready: func() (bool, any) { panic("a mistake") }, States: broken{}, Mailboxes: broken{}, Metrics: broken{},
		}, broken{}),
		slow: startWhole(t, Options{ReadTimeout: 50 * time.Millisecond}, newIntake()),
	}
	spent := Token{Name: "spent", Digests: []TokenDigest{DigestToken(spentToken)}, Devices: []string{"*"}, Directions: AllDirections, Rate: 1e-6}
	d.guarded = startWhole(t, Options{Tokens: append(someTokens(), spent)}, newIntake())
	sendRaw(t, d.guarded.Addr(), request("GET", "/v1/status", "", authorization("Bearer "+spentToken)))

	gathers, let := make(chan struct{}, 1), make(chan struct{})
	slowly := prometheus.NewRegistry()
	slowly.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "x", Help: "x"}, func() float64 {
		gathers <- struct{}{}
		<-let
		return 0
	}))
	events := &Events{}
	d.busy = startWhole(t, Options{
		Ready: func() (bool, any) { return false, nil }, MaxConcurrent: 1, MaxPolls: 1, MaxStreams: 1, Events: events,
		Metrics: promhttp.HandlerFor(slowly, promhttp.HandlerOpts{MaxRequestsInFlight: 1}),
	}, newIntake())
	for range maxStreams {
		w, ok := events.watch("")
		if !ok {
			t.Fatal("too many watch")
		}
		t.Cleanup(w.end)
	}
	d.busy.slots <- struct{}{}
	d.busy.polls <- struct{}{}
	d.busy.streams <- struct{}{}
	scraped := make(chan answer, 1)
	go func() { scraped <- sendRaw(t, d.busy.Addr(), request("GET", "/metrics", "")) }()
	within(t, gathers)
	d.release = func() {
		<-d.busy.slots
		<-d.busy.polls
		<-d.busy.streams
		close(let)
		within(t, scraped)
	}
	return d
}

// startWhole runs a server with every route, and a mailbox for d1 with downlinks
// whose ids are what deleting them is answered with.
func startWhole(t *testing.T, o Options, a Accepter) *running {
	t.Helper()
	store := &faultyDownlinks{Spool: &bridgetest.Spool{}}
	b := bridge.New(bridge.Options{Spool: store.Spool, Downlinks: store})
	if err := b.Connect("d1", bridge.Connection{Uplink: &bridgetest.Uplink{}}); err != nil {
		t.Fatal(err)
	}
	if err := b.Route("d1", bridge.Route{}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"204", "500", "507"} {
		done := make(chan struct{})
		b.Downlink(bridge.Downlink{Device: "d1", ID: id, Payload: []byte("1"), Received: time.Now()}, bridge.Origin{}, func() { close(done) })
		within(t, done)
	}
	if o.Metrics == nil {
		registry := prometheus.NewRegistry()
		registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "x", Help: "x"}))
		o.Metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	}
	if o.States == nil {
		o.States = someStates{6}
	}
	if o.Events == nil {
		o.Events = &Events{}
	}
	if o.Mailboxes == nil {
		o.Mailboxes = b
	}
	o.MaxBody = 64
	return start(t, o, a)
}

// faultyDownlinks does not delete the second and the third downlink.
type faultyDownlinks struct{ *bridgetest.Spool }

func (f *faultyDownlinks) DeleteDownlink(seq int64, done func(error)) {
	switch seq {
	case 2:
		done(errors.New("disk on fire"))
	case 3:
		done(fmt.Errorf("%w: no room", bridge.ErrSpoolFull))
	default:
		f.Spool.DeleteDownlink(seq, done)
	}
}

// answerByPayload answers with the status that is the payload.
func answerByPayload(_ context.Context, r bridge.Reading) (bridge.Receipt, error) {
	switch string(r.Payload) {
	case "202":
		return bridge.Receipt{ID: delivered(r).ID, Time: r.Time, State: bridge.Spooled}, nil
	case "422":
		return bridge.Receipt{}, &bridge.RejectedError{Code: 0x99, Reason: "payload format invalid"}
	case "507":
		return bridge.Receipt{}, fmt.Errorf("%w: no room", bridge.ErrSpoolFull)
	}
	return delivered(r), nil
}

// broken panics whatever it is asked.
type broken struct{}

func (broken) Status() any                                      { panic("a mistake") }
func (broken) Device(bridge.DeviceID) (DeviceState, bool)       { panic("a mistake") }
func (broken) Devices(string, int) ([]DeviceState, bool)        { panic("a mistake") }
func (broken) Mailbox(bridge.DeviceID) (*bridge.Mailbox, error) { panic("a mistake") }
func (broken) ServeHTTP(http.ResponseWriter, *http.Request)     { panic("a mistake") }
func (broken) Known(bridge.DeviceID) bool                       { return true }
func (broken) Accept(context.Context, bridge.Reading, bridge.Handling) (bridge.Receipt, error) {
	panic("a mistake")
}
func (broken) AcceptAll(context.Context, []bridge.Reading, []bridge.Key, bool) []bridge.Accepted {
	panic("a mistake")
}

// drive makes a request that is answered with this status.
func (d *driver) drive(o *openapitest.Operation, status int) {
	t := d.t
	s, device, query, body := d.whole, "d1", "", ""
	kind, header := "Content-Type: text/plain", []string(nil)
	if o.Method == http.MethodPost {
		body = fmt.Sprint(status)
	}
	if o.Path == "/v1/uplinks" {
		kind, body = "Content-Type: application/x-ndjson", `{"device":"d1","payload":1}`
	}
	switch status {
	case http.StatusBadRequest:
		s, query, header = d.guarded, "access_token=x", []string{authorization("Bearer " + goodToken)}
	case http.StatusUnauthorized:
		s = d.guarded
	case http.StatusForbidden:
		header = []string{"Origin: http://evil.example"}
	case http.StatusNotFound:
		device = "nobody"
	case http.StatusRequestTimeout:
		s, header = d.slow, []string{"Content-Length: 10"}
	case http.StatusRequestEntityTooLarge:
		body = strings.Repeat("1", 65)
	case http.StatusUnsupportedMediaType:
		kind, body = "Content-Type: text/html", "<p>"
	case http.StatusTooManyRequests:
		s, header = d.guarded, []string{authorization("Bearer " + spentToken)}
	case http.StatusInternalServerError:
		s = d.broken
	case http.StatusServiceUnavailable:
		s = d.busy
	}
	path := strings.NewReplacer("{device}", device, "{subtopic}", "x/y", "{id}", fmt.Sprint(status)).Replace(o.Path)
	if o.Path == "/v3/capture" {
		query = strings.Trim("deviceId="+device+"&"+query, "&")
	}
	if query != "" {
		path += "?" + query
	}
	got := 0
	if o.Path == "/v1/events" && status == http.StatusOK {
		got = sendHead(t, s, path)
	} else {
		got = sendRaw(t, s.Addr(), request(o.Method, path, body, append(header, kind)...)).status
	}
	if got != status {
		t.Errorf("%s: status %d, want %d", o, got, status)
	}
}
