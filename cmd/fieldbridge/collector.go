package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"fieldbridge/adapters/serial"
	"fieldbridge/adapters/serial/modbus"
	"fieldbridge/bridge/spool"
)

// collector reads the figures that the gateway's parts keep themselves, at the
// moment of a scrape. It does not change and may be used by several scrapes at
// the same time.
type collector struct {
	g *gateway
	m *metrics

	inMemory, spooledTotal, answers                         *prometheus.Desc
	pubacks, sessions, reconnects, tokenExpiry              *prometheus.Desc
	codes, alarms                                           *prometheus.Desc
	spoolReadings, spoolBytes, spoolOldest, spoolDownlinks  *prometheus.Desc
	spoolWritten, spoolDropped, spoolDamaged, spoolSalvaged *prometheus.Desc
	deadLetters, deadDropped                                *prometheus.Desc
	serialFrames, serialUp, serialDropped, serialPolls      *prometheus.Desc
	modbusRequests, modbusPolls, clockTrusted               *prometheus.Desc
	connections                                             *prometheus.Desc
}

func newCollector(g *gateway, m *metrics) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(metricsPrefix, "", name), help, labels, nil)
	}
	return &collector{
		g: g, m: m,

		inMemory:     desc("readings_in_memory", "Readings on their way to the broker or to the spool."),
		spooledTotal: desc("readings_spooled_total", "Readings that were written to the spool."),

		answers: desc("answers_total", "Answers to downlinks that have a response topic, by whether they go up.", "outcome"),

		pubacks:     desc("puback_total", "PUBACKs of readings, by reason code.", "code"),
		sessions:    desc("sessions", "MQTT sessions, by whether they are connected; idle: on demand, and not needed now.", "connector", "state"),
		codes:       desc("reason_codes_total", "Answers and disconnects of the broker, by packet and reason code.", "packet", "code"),
		alarms:      desc("session_alarms", "MQTT sessions that are down until a person changes something, here or at the broker.", "connector"),
		reconnects:  desc("reconnects_total", "Connects after the first one, also those that failed, by what made them necessary.", "connector", "reason"),
		tokenExpiry: desc("token_expiry_seconds", "Time until the first of the tokens in use expires; below zero once it has.", "connector"),

		spoolReadings:  desc("spool_readings", "Readings that wait in the spool."),
		spoolBytes:     desc("spool_bytes", "Bytes of the readings that wait in the spool, as max_bytes counts them."),
		spoolOldest:    desc("spool_oldest_seconds", "Age of the oldest reading in the spool; 0 if there is none."),
		spoolDownlinks: desc("spool_downlinks", "Downlinks that wait for their target."),
		spoolWritten:   desc("spool_written_bytes_total", "Bytes written to the disk for the spool, about."),
		spoolDropped:   desc("spool_dropped_total", "Readings that were accepted and then lost, by cause.", "cause"),
		spoolDamaged:   desc("spool_damaged_total", "Rows of the spool with a wrong checksum, and databases that were set aside.", "what"),
		spoolSalvaged:  desc("spool_salvaged_total", "Readings that were taken over from a damaged database."),

		deadLetters: desc("dead_letters", "Readings and downlinks that can never be delivered, kept with the reason.", "kind"),
		deadDropped: desc("dead_letters_dropped_total", "Dead letters that were deleted for lack of room or for their age."),

		serialFrames:  desc("serial_frames_total", "Frames from a serial port, by whether they could be used.", "port", "outcome"),
		serialUp:      desc("serial_port_up", "1 while the serial port is open.", "port"),
		serialDropped: desc("serial_dropped_total", "Good frames from a serial port that there was no room for.", "port"),

		serialPolls: desc("serial_polls_total", "Questions to sensors on a serial port, by whether they were answered.", "port", "outcome"),

		modbusRequests: desc("modbus_requests_total", "Modbus requests, each retry as one of its own, by what became of them.", "port", "outcome"),
		modbusPolls:    desc("modbus_polls_total", "Polls of Modbus slaves, by whether every register came.", "port", "outcome"),

		connections: desc("http_connections", "Connections to the HTTP endpoint that are open."),

		clockTrusted: desc("clock_trusted", "1 while the wall clock is trusted: without it no token can be made."),
	}
}

func (c *collector) descs() []*prometheus.Desc {
	return []*prometheus.Desc{
		c.inMemory, c.spooledTotal, c.answers, c.pubacks, c.sessions, c.reconnects, c.tokenExpiry, c.codes, c.alarms,
		c.spoolReadings, c.spoolBytes, c.spoolOldest, c.spoolDownlinks,
		c.spoolWritten, c.spoolDropped, c.spoolDamaged, c.spoolSalvaged, c.deadLetters, c.deadDropped,
		c.serialFrames, c.serialUp, c.serialDropped, c.serialPolls, c.modbusRequests, c.modbusPolls, c.clockTrusted,
		c.connections,
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs() {
		ch <- d
	}
}

// samples sends values of one scrape.
type samples chan<- prometheus.Metric

func (s samples) count(d *prometheus.Desc, n float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, n, labels...)
}

func (s samples) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// Collect implements prometheus.Collector. It waits for the disk.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := samples(ch)
	trusted := c.g.clock.State().Trusted
	s.gauge(c.clockTrusted, oneIf(trusted))
	s.gauge(c.inMemory, float64(c.g.bridge.Held()))
	s.gauge(c.connections, float64(c.g.now().http.Connections()))
	c.ofSessions(s)
	c.ofSpool(s, trusted)
	for name, port := range c.g.now().ports {
		st := port.Stats()
		s.gauge(c.serialUp, oneIf(st.Up), name)
		s.count(c.serialFrames, float64(st.FramesGood), name, "good")
		for why, n := range st.FramesRefused {
			s.count(c.serialFrames, float64(n), name, string(why))
		}
		s.count(c.serialDropped, float64(st.Dropped), name)
		if port.polls {
			for _, o := range []serial.PollOutcome{serial.PollAnswered, serial.PollTimeout, serial.PollNotSent} {
				s.count(c.serialPolls, float64(st.Polls[o]), name, string(o))
			}
		}
		if port.master != nil {
			c.ofModbus(s, name, port.master.Stats())
		}
	}
}

func (c *collector) ofModbus(s samples, name string, st modbus.Stats) {
	for _, o := range modbus.Outcomes() {
		if n := st.Requests[o]; n > 0 || o == modbus.OK || o == modbus.Timeout { // a rate needs a zero to start from
			s.count(c.modbusRequests, float64(n), name, string(o))
		}
	}
	var complete, failed uint64
	for _, slave := range st.Slaves {
		complete, failed = complete+slave.Polls, failed+slave.Failed
	}
	s.count(c.modbusPolls, float64(complete), name, "complete")
	s.count(c.modbusPolls, float64(failed), name, "failed")
	s.count(c.modbusPolls, float64(st.Missed), name, "missed")
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// ofSessions adds up what the sessions of each connector say.
func (c *collector) ofSessions(s samples) {
	type sum struct {
		up, down, idle, alarms int
		expires                time.Time // the nearest; zero: none does
	}
	sums := map[string]sum{}
	l := c.g.now()
	for _, one := range l.sessions {
		state, of := one.State(), sums[one.Connector()]
		switch {
		case state.Up:
			of.up++
		case state.Idle:
			of.idle++
		default:
			of.down++
		}
		if state.Alarm {
			of.alarms++
		}
		if e := state.TokenExpires; !e.IsZero() && (of.expires.IsZero() || e.Before(of.expires)) {
			of.expires = e
		}
		sums[one.Connector()] = of
	}
	codes := map[string]*[256]uint64{}
	for connector, counts := range c.m.allCounts() {
		of := sums[connector]
		// One that is not configured any more keeps its counts: they are added up.
		if l.cfg.Connector(connector) != nil {
			s.gauge(c.sessions, float64(of.up), connector, "up")
			s.gauge(c.sessions, float64(of.down), connector, "down")
			s.gauge(c.sessions, float64(of.idle), connector, "idle")
			s.gauge(c.alarms, float64(of.alarms), connector)
		}
		if !of.expires.IsZero() {
			s.gauge(c.tokenExpiry, time.Until(of.expires).Seconds(), connector)
		}
		for why, n := range counts.Reconnects() {
			s.count(c.reconnects, float64(n), connector, why.String())
		}
		for packet, came := range counts.Codes() {
			if codes[packet] == nil {
				codes[packet] = &[256]uint64{}
			}
			for code, n := range came {
				codes[packet][code] += n
			}
		}
	}
	for packet, sums := range codes {
		for code, n := range sums {
			// A rate needs a zero to start from; no DISCONNECT is expected.
			if n == 0 && (code != 0 || packet == "DISCONNECT") {
				continue
			}
			name := fmt.Sprintf("0x%02X", code)
			s.count(c.codes, float64(n), strings.ToLower(packet), name)
			if packet == "PUBACK" {
				s.count(c.pubacks, float64(n), name)
			}
		}
	}
}

func (c *collector) ofSpool(s samples, trusted bool) {
	st := c.g.spool.Stats()
	s.gauge(c.spoolReadings, float64(st.Readings))
	s.gauge(c.spoolBytes, float64(st.Bytes))
	switch {
	case st.Readings == 0:
		s.gauge(c.spoolOldest, 0)
	case trusted && !st.Oldest.IsZero(): // else nobody knows
		s.gauge(c.spoolOldest, max(time.Since(st.Oldest).Seconds(), 0))
	}
	s.gauge(c.spoolDownlinks, float64(st.Downlinks))
	s.count(c.spoolWritten, float64(st.WrittenBytes))
	s.count(c.spoolDamaged, float64(st.Damaged), "row")
	s.count(c.spoolDamaged, float64(st.Databases), "database")
	s.count(c.spoolSalvaged, float64(st.Salvaged))
	s.gauge(c.deadLetters, float64(st.DeadReadings), spool.KindReading)
	s.gauge(c.deadLetters, float64(st.DeadDownlinks), spool.KindDownlink)
	s.count(c.deadDropped, float64(st.DroppedDead))

	counts := c.g.bridge.Counts()
	s.count(c.spooledTotal, float64(counts.Spooled))
	s.count(c.answers, float64(counts.Answers), "taken")
	s.count(c.answers, float64(counts.AnswersDropped), "dropped")
	s.count(c.spoolDropped, float64(st.DroppedFull), "full")
	s.count(c.spoolDropped, float64(st.DroppedAge), "age")
	s.count(c.spoolDropped, float64(counts.Dropped), "not_stored")
}
