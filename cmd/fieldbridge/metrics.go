package main

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
	"fieldbridge/bridge/session"
)

const metricsPrefix = "fieldbridge"

// Values of labels. No label has a value that comes from outside.
const (
	adapterHTTP   = "http"
	adapterSerial = "serial"
	targetSerial  = "serial"
	targetWebhook = "webhook"
	targetMailbox = "mailbox"

	outcomeAccepted  = "accepted"
	outcomeDelivered = "delivered"
	outcomeRetry     = "retry"
	outcomeRefused   = "refused"
)

// metrics are what is counted where it happens. The rest is read from the
// gateway's parts when somebody asks; see collector.
type metrics struct {
	registry  *prometheus.Registry
	readings  *prometheus.CounterVec // adapter, outcome
	publish   prometheus.Histogram
	downlinks *prometheus.CounterVec // target, outcome
	reloads   *prometheus.CounterVec // outcome
	denials   *prometheus.CounterVec // reason
	yields    *prometheus.CounterVec // waiting_for
	reloaded  prometheus.Gauge       // 1: the last reload worked
	reloadAt  prometheus.Gauge       // when one last worked

	mu       sync.Mutex                 // guards sessions
	sessions map[string]*session.Counts // by connector
}

// publishBuckets are in seconds: a broker in the same house answers within the
// first ones; after ack_timeout, 1 s by default, the reading is in the spool, too,
// and after 30 s without a PUBACK the session connects again.
var publishBuckets = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}

// newMetrics makes the metrics of a gateway, in a registry of its own. Nothing
// is read from g before the first scrape, so its parts may come later.
func newMetrics(cfg *config.Config, g *gateway) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		readings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: metricsPrefix, Name: "readings_total",
			Help: "Readings that were handed in, by what their sender was told.",
		}, []string{"adapter", "outcome"}),
		publish: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: metricsPrefix, Name: "publish_seconds",
			Help:    "Time from a reading's coming in to its PUBACK, but of those that only the spool had meanwhile.",
			Buckets: publishBuckets,
		}),
		downlinks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: metricsPrefix, Name: "downlinks_total",
			Help: "Attempts to deliver a downlink, by their outcome.",
		}, []string{"target", "outcome"}),
		sessions: map[string]*session.Counts{},
	}
	// A rate needs a zero to start from.
	for _, outcome := range readingOutcomes {
		m.readings.WithLabelValues(adapterHTTP, outcome)
	}
	for _, outcome := range serialOutcomes {
		m.readings.WithLabelValues(adapterSerial, outcome)
	}
	for _, target := range []string{targetSerial, targetWebhook} {
		for _, outcome := range []string{outcomeDelivered, outcomeRetry, outcomeRefused} {
			m.downlinks.WithLabelValues(target, outcome)
		}
	}
	for _, outcome := range []string{outcomeDelivered, outcomeRefused} {
		m.downlinks.WithLabelValues(targetMailbox, outcome)
	}
	m.addReloads()
	m.addDenials()
	m.addGaveWay()
	for i := range cfg.Connectors {
		m.counts(cfg.Connectors[i].Name)
	}
	m.registry.MustRegister(m.readings, m.publish, m.downlinks, m.reloads, m.reloaded, m.reloadAt, m.denials, m.yields, newCollector(g, m),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// scrapes bounds the answers that are being made: each asks the disk.
const scrapes = 4

// handler answers scrapes. What could be collected is told even if something
// could not.
func (m *metrics) handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(log.Handler(), slog.LevelError),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: scrapes,
	})
}

// published is bridge.Options.Published.
func (m *metrics) published(took time.Duration) { m.publish.Observe(took.Seconds()) }

// fetched counts a downlink that has left a mailbox.
func (m *metrics) fetched(delivered bool) {
	outcome := outcomeRefused
	if delivered {
		outcome = outcomeDelivered
	}
	m.downlinks.WithLabelValues(targetMailbox, outcome).Inc()
}

// counts are those of a connector's sessions. It may be called without metrics.
func (m *metrics) counts(connector string) *session.Counts {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sessions[connector] == nil {
		m.sessions[connector] = &session.Counts{}
	}
	return m.sessions[connector]
}

// allCounts are those of every connector that there was since the start.
func (m *metrics) allCounts() map[string]*session.Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.sessions)
}

// countingIntake is the Bridge as the adapters see it. It counts their readings.
type countingIntake struct {
	*bridge.Bridge
	m      *metrics
	events *happenings
}

// Accept implements rest.Accepter.
func (c countingIntake) Accept(ctx context.Context, r bridge.Reading, how bridge.Handling) (bridge.Receipt, error) {
	receipt, err := c.Bridge.Accept(ctx, r, how)
	c.count(r, receipt, err)
	return receipt, err
}

// AcceptAll implements rest.Accepter.
func (c countingIntake) AcceptAll(ctx context.Context, rs []bridge.Reading, keys []bridge.Key, async bool) []bridge.Accepted {
	all := c.Bridge.AcceptAll(ctx, rs, keys, async)
	for i, a := range all {
		c.count(rs[i], a.Receipt, a.Err)
	}
	return all
}

func (c countingIntake) count(r bridge.Reading, receipt bridge.Receipt, err error) {
	outcome := readingOutcome(err)
	if err == nil {
		outcome = string(receipt.State)
	}
	c.m.readings.WithLabelValues(adapterHTTP, outcome).Inc()
	if c.events.watched() {
		r.ID = receipt.ID
		c.events.handedIn(adapterHTTP, &r, err)
	}
}

// Submit implements serial.Accepter.
func (c countingIntake) Submit(ctx context.Context, r bridge.Reading) error {
	if r.ID == uuid.Nil {
		r.ID = uuid.Must(uuid.NewV7()) // as the Bridge would; events tell it
	}
	err := c.Bridge.Submit(ctx, r)
	if c.events.watched() {
		c.events.handedIn(adapterSerial, &r, err)
	}
	c.m.readings.WithLabelValues(adapterSerial, readingOutcome(err)).Inc()
	return err
}

// What becomes of a reading that is not accepted.
const (
	outcomeSpoolFull   = "spool_full"
	outcomeUnavailable = "unavailable"
	outcomeTooLarge    = "too_large"
	outcomeKeyReused   = "key_reused"
	outcomeAborted     = "aborted"
	outcomeError       = "error"
)

// readingOutcomes are those of HTTP, serialOutcomes those of serial ports.
var (
	readingOutcomes = []string{
		string(bridge.Delivered), string(bridge.Spooled), outcomeRefused, outcomeSpoolFull, outcomeUnavailable,
		outcomeTooLarge, outcomeKeyReused, outcomeAborted, outcomeError,
	}
	serialOutcomes = []string{outcomeAccepted, outcomeSpoolFull, outcomeUnavailable, outcomeTooLarge, outcomeError}
)

func readingOutcome(err error) string {
	var rejected *bridge.RejectedError
	var unavailable *bridge.UnavailableError
	switch {
	case err == nil:
		return outcomeAccepted
	case errors.As(err, &rejected):
		return outcomeRefused
	case errors.Is(err, bridge.ErrSpoolFull):
		return outcomeSpoolFull
	case errors.As(err, &unavailable):
		return outcomeUnavailable
	case errors.Is(err, bridge.ErrTooLarge):
		return outcomeTooLarge
	case errors.Is(err, bridge.ErrKeyReused):
		return outcomeKeyReused
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return outcomeAborted
	default:
		return outcomeError
	}
}

// countedDeliverer counts the attempts of a Deliverer. Two of the same one are
// equal, as the Bridge requires of what shares one order.
type countedDeliverer struct {
	to     bridge.Deliverer
	m      *metrics
	events *happenings
	target string // targetSerial or targetWebhook
}

// counted is a Deliverer that is counted; to must be a pointer.
func (g *gateway) counted(target string, to bridge.Deliverer) bridge.Deliverer {
	return countedDeliverer{to: to, m: g.metrics, events: g.events, target: target}
}

// Deliver implements bridge.Deliverer.
func (c countedDeliverer) Deliver(ctx context.Context, d bridge.Downlink) (*bridge.Answer, error) {
	answer, err := c.to.Deliver(ctx, d)
	outcome := outcomeDelivered
	var failed *bridge.DeliveryError
	switch {
	case err == nil:
	case errors.As(err, &failed) && failed.Permanent:
		outcome = outcomeRefused
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, err // the gateway is stopping
	default:
		outcome = outcomeRetry
	}
	c.m.downlinks.WithLabelValues(c.target, outcome).Inc()
	c.events.attempted(&d, c.target, outcome, err)
	return answer, err
}
