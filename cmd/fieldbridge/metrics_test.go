package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"fieldbridge/bridge"
	"fieldbridge/bridge/devbroker"
	"fieldbridge/bridge/session"
)

// scrape gets the metrics as Prometheus would: the value of each series, by its
// name with its labels.
func (g *testGateway) scrape() map[string]float64 {
	g.t.Helper()
	resp, err := g.client.Get("http://" + g.HTTP + "/metrics")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		g.t.Fatalf("GET /metrics: %s, %s: %s", resp.Status, resp.Header.Get("Content-Type"), body)
	}
	for _, private := range []string{"pump-1", "pump-2", "\"app\"", yardID, yardSecret, "127.0.0.1", "/dev/"} {
		if strings.Contains(string(body), private) {
			g.t.Errorf("the metrics show %s", private)
		}
	}
	series := map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(string(body))); lines.Scan(); {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			g.t.Fatalf("%q: %v", line, err)
		}
		series[strings.TrimPrefix(line[:i], "fieldbridge_")] = v
	}
	return series
}

// awaitMetrics waits until every one of these series has a value that is fine.
func (g *testGateway) awaitMetrics(what string, fine map[string]func(float64) bool) {
	g.t.Helper()
	var wrong []string
	defer func() {
		if len(wrong) > 0 {
			g.t.Logf("series that are wrong or missing: %q", wrong)
		}
	}()
	eventually(g.t, what, func() bool {
		wrong = nil
		series := g.scrape()
		for name, ok := range fine {
			if v, there := series[name]; !there || !ok(v) {
				wrong = append(wrong, fmt.Sprintf("%s: %v %v", name, there, v))
			}
		}
		return len(wrong) == 0
	})
}

func is(want float64) func(float64) bool { return func(v float64) bool { return v == want } }

func positive(v float64) bool { return v > 0 }

// metricsText takes the path of a serial port and the URL of a webhook.
const metricsText = `
[[device]]
id = "pump-1"
connector = "plant"
[[device.downlink]]
serial = "scale"
[[device]]
id = "pump-2"
connector = "plant"
[[device.downlink]]
webhook = %[2]q
[[device]]
id = "app"
connector = "yard"
[[serial]]
name = "scale"
port = %[1]q
device = "pump-1"
`

func TestMetrics(t *testing.T) {
	s := newSite(t)
	port := openPTY(t)
	hook := newWebhook(t, func(c hookCall) int {
		if c.Body == "bad" {
			return http.StatusGone
		}
		return http.StatusNoContent
	})
	s.Broker.RefusePublishes(func(m devbroker.Message) byte {
		if strings.HasPrefix(string(m.Payload), "bad") {
			return 0x99
		}
		return 0
	})
	g := startGateway(t, s.config("", "", fmt.Sprintf(metricsText, port.Path, hook.URL)), s.Files)
	g.awaitUp()

	g.awaitMetrics("what is there from the start", map[string]func(float64) bool{
		`readings_total{adapter="http",outcome="delivered"}`:           is(0),
		`readings_total{adapter="serial",outcome="accepted"}`:          is(0),
		`publish_seconds_count`:                                        is(0),
		`puback_total{code="0x00"}`:                                    is(0),
		`spool_readings`:                                               is(0),
		`spool_bytes`:                                                  is(0),
		`spool_oldest_seconds`:                                         is(0),
		`spool_dropped_total{cause="full"}`:                            is(0),
		`spool_dropped_total{cause="age"}`:                             is(0),
		`spool_dropped_total{cause="not_stored"}`:                      is(0),
		`sessions{connector="plant",state="up"}`:                       is(2),
		`sessions{connector="plant",state="down"}`:                     is(0),
		`sessions{connector="yard",state="up"}`:                        is(1),
		`reconnects_total{connector="plant",reason="connection_lost"}`: is(0),
		`reconnects_total{connector="plant",reason="renewal"}`:         is(0),
		`token_expiry_seconds{connector="plant"}`:                      func(v float64) bool { return v > 3000 && v <= 3600 },
		`downlinks_total{outcome="delivered",target="serial"}`:         is(0),
		`dead_letters{kind="reading"}`:                                 is(0),
		`dead_letters{kind="downlink"}`:                                is(0),
		`serial_frames_total{outcome="good",port="scale"}`:             is(0),
		`serial_port_up{port="scale"}`:                                 is(1),
		`clock_trusted`:                                                is(1),
		`go_goroutines`:                                                positive,
		`process_resident_memory_bytes`:                                positive,
	})
	before := g.scrape()
	if _, ok := before[`token_expiry_seconds{connector="yard"}`]; ok {
		t.Error("a connector with a secret has tokens that expire")
	}

	for range 3 {
		g.post("app", "", "text/plain", "good")
	}
	if a := g.post("app", "", "text/plain", "bad"); a.Status != http.StatusUnprocessableEntity {
		t.Fatalf("answer %+v for a reading that the broker refuses", a)
	}
	port.write("21.5\n\xff\xfe\nbad\n")
	s.down(devbroker.Message{Device: "pump-1", Payload: []byte("tare")})
	s.down(devbroker.Message{Device: "pump-2", Payload: []byte("open")})
	s.down(devbroker.Message{Device: "pump-2", Payload: []byte("bad")})
	g.awaitMetrics("the traffic", map[string]func(float64) bool{
		`readings_total{adapter="http",outcome="delivered"}`:       is(3),
		`readings_total{adapter="http",outcome="refused"}`:         is(1),
		`readings_total{adapter="serial",outcome="accepted"}`:      is(2),
		`publish_seconds_count`:                                    is(4),
		`publish_seconds_sum`:                                      positive,
		`publish_seconds_bucket{le="+Inf"}`:                        is(4),
		`puback_total{code="0x00"}`:                                is(4),
		`puback_total{code="0x99"}`:                                is(2),
		`downlinks_total{outcome="delivered",target="serial"}`:     is(1),
		`downlinks_total{outcome="delivered",target="webhook"}`:    is(1),
		`downlinks_total{outcome="refused",target="webhook"}`:      is(1),
		`dead_letters{kind="reading"}`:                             is(1),
		`dead_letters{kind="downlink"}`:                            is(1),
		`serial_frames_total{outcome="good",port="scale"}`:         is(2),
		`serial_frames_total{outcome="invalid_text",port="scale"}`: is(1),
		`spool_readings`:                                           is(0),
		`spool_written_bytes_total`:                                positive, // of the downlinks
		`readings_in_memory`:                                       is(0),
	})

	s.Broker.RefuseConnects(0x88)
	s.Broker.DropAll()
	g.awaitMetrics("all sessions down", map[string]func(float64) bool{
		`sessions{connector="plant",state="down"}`: is(2),
		`sessions{connector="yard",state="up"}`:    is(0),
		`sessions{connector="yard",state="down"}`:  is(1),
	})
	if a := g.post("app", "", "text/plain", "later"); a.Status != http.StatusAccepted {
		t.Fatalf("answer %+v without a broker", a)
	}
	written := before[`spool_written_bytes_total`]
	g.awaitMetrics("a reading in the spool", map[string]func(float64) bool{
		`readings_total{adapter="http",outcome="stored"}`: is(1),
		`publish_seconds_count`:                           is(4),
		`readings_spooled_total`:                          is(1),
		`spool_readings`:                                  is(1),
		`spool_bytes`:                                     positive,
		`spool_oldest_seconds`:                            positive,
		`spool_written_bytes_total`:                       func(v float64) bool { return v > written },
		`reconnects_total{connector="yard",reason="connection_lost"}`: positive,
		`reconnects_total{connector="yard",reason="not_logged_in"}`:   positive,
	})
	s.Broker.RefuseConnects(0)
	s.awaitPayload("later")
	g.awaitMetrics("an empty spool", map[string]func(float64) bool{
		`spool_readings`:            is(0),
		`spool_oldest_seconds`:      is(0),
		`puback_total{code="0x00"}`: is(5),
		`publish_seconds_count`:     is(4), // the one in the spool has no known beginning
	})
}

// TestMetricsAreWellFormed: as promtool check metrics.
func TestMetricsAreWellFormed(t *testing.T) {
	s := newSite(t)
	port := openPTY(t)
	g := startGateway(t, s.config("", "", fmt.Sprintf(metricsText, port.Path, "http://127.0.0.1:1/")), s.Files)
	g.awaitUp()
	var names []string
	families, err := g.gw.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "fieldbridge_") {
			names = append(names, f.GetName())
		}
	}
	if len(names) < 20 {
		t.Errorf("only %d metrics: %v", len(names), names)
	}
	checkDocumented(t, names)
	problems, err := testutil.GatherAndLint(g.gw.metrics.registry, names...)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// checkDocumented looks for metrics, and for the values of their labels, in
// docs/metrics.md.
func checkDocumented(t *testing.T, names []string) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if !strings.Contains(string(doc), "`"+n+"`") && !strings.Contains(string(doc), "`"+n+"{") {
			t.Errorf("docs/metrics.md does not tell of %s", n)
		}
	}
	values := slices.Concat(readingOutcomes, serialOutcomes)
	for why := range (&session.Counts{}).Reconnects() {
		values = append(values, why.String())
	}
	for _, v := range values {
		if !strings.Contains(string(doc), "\n| `"+v+"` |") {
			t.Errorf("docs/metrics.md does not explain %s", v)
		}
	}
}

func TestReadingOutcome(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, "accepted"},
		{&bridge.RejectedError{Code: 0x99}, "refused"},
		{fmt.Errorf("max_bytes: %w", bridge.ErrSpoolFull), "spool_full"},
		{&bridge.UnavailableError{}, "unavailable"},
		{fmt.Errorf("%w: 9 bytes", bridge.ErrTooLarge), "too_large"},
		{bridge.ErrKeyReused, "key_reused"},
		{fmt.Errorf("accept: %w", context.Canceled), "aborted"},
		{fmt.Errorf("accept: %w", context.DeadlineExceeded), "aborted"},
		{errors.New("something"), "error"},
	} {
		if got := readingOutcome(c.err); got != c.want {
			t.Errorf("%v is %q, want %q", c.err, got, c.want)
		}
	}
}

// answering is a Deliverer that always says the same.
type answering struct{ err error }

func (a *answering) Deliver(context.Context, bridge.Downlink) (*bridge.Answer, error) {
	return &bridge.Answer{Payload: []byte("a")}, a.err
}

func TestCountedDeliverer(t *testing.T) {
	s := newSite(t)
	g := startGateway(t, s.config("", "", devicesText), s.Files).gw
	m := g.metrics
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name    string
		ctx     context.Context
		err     error
		outcome string // "": none is counted
	}{
		{"delivered", t.Context(), nil, "delivered"},
		{"delivered at the last moment", stopped, nil, "delivered"},
		{"refused", t.Context(), &bridge.DeliveryError{Err: errors.New("410"), Permanent: true}, "refused"},
		{"later", t.Context(), &bridge.DeliveryError{Err: errors.New("503")}, "retry"},
		{"something else", t.Context(), errors.New("what"), "retry"},
		{"stopping", stopped, context.Canceled, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := &answering{c.err}
			one, other := g.counted(targetSerial, to), g.counted(targetSerial, to)
			if one != other {
				t.Error("two of one target are not equal: they would not share an order")
			}
			before := map[string]float64{}
			for _, o := range []string{"delivered", "refused", "retry"} {
				before[o] = testutil.ToFloat64(m.downlinks.WithLabelValues(targetSerial, o))
			}
			if _, err := one.Deliver(c.ctx, bridge.Downlink{}); !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
			for o, n := range before {
				if o == c.outcome {
					n++
				}
				if got := testutil.ToFloat64(m.downlinks.WithLabelValues(targetSerial, o)); got != n {
					t.Errorf("%s: %v, want %v", o, got, n)
				}
			}
		})
	}
}
