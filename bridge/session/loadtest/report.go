//go:build linux

package main

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }

// slope is how much y grows with each x, by least squares.
func slope(xs, ys []float64) float64 {
	var mx, my, xy, xx float64
	for i := range xs {
		mx += xs[i] / float64(len(xs))
		my += ys[i] / float64(len(xs))
	}
	for i := range xs {
		xy += (xs[i] - mx) * (ys[i] - my)
		xx += (xs[i] - mx) * (xs[i] - mx)
	}
	if xx == 0 {
		return 0
	}
	return xy / xx
}

// perSession are the bytes and goroutines that one more session costs.
func (r *result) perSession() (bytes, goroutines float64) {
	points := r.points
	if len(points) > 2 {
		points = points[1:] // the first sessions also bring what all need once
	}
	var n, rss, gs []float64
	for _, p := range points {
		n = append(n, float64(p.Sessions))
		rss = append(rss, float64(p.Usage.RSS))
		gs = append(gs, float64(p.Usage.Goroutines))
	}
	return slope(n, rss), slope(n, gs)
}

// perConnection is how many of the bytes of perSession come with the connection;
// the others are the device's: its lane, its key, and the session without one.
func (r *result) perConnection() float64 {
	connections, first := r.connections, 0
	if len(connections) > 1 {
		connections, first = connections[1:], r.points[1].Sessions
	}
	var sum int64
	for _, n := range connections {
		sum += n
	}
	return float64(sum) / float64(r.o.Sessions-first)
}

// bound is how long a storm may last.
func (o *options) bound() time.Duration { return o.connecting(o.Sessions) + 10*time.Second }

// budgetWindow is the time over which the budget is checked. A process that was
// held up for a moment catches up, so that a shorter one says little.
const budgetWindow = 5 * time.Second

// err says what a run has shown to be wrong.
func (r *result) err() error {
	errs := []error{r.balance.err()}
	if n := r.done.Refused; n > 0 {
		errs = append(errs, fmt.Errorf("%d readings were not accepted", n))
	}
	if n := r.done.Dropped; n > 0 {
		errs = append(errs, fmt.Errorf("%d readings were dropped", n))
	}
	if most := float64(peak(r.done.Dials, budgetWindow)); most > float64(r.o.Rate)*budgetWindow.Seconds()*1.1+1 {
		errs = append(errs, fmt.Errorf("%.0f connects within %s, the budget is %d/s", most, budgetWindow, r.o.Rate))
	}
	if r.o.Mode == modeStorm && r.back > r.o.bound() {
		errs = append(errs, fmt.Errorf("back after %s, the bound is %s", r.back, r.o.bound()))
	}
	return errors.Join(errs...)
}

type column struct{ name, value string }

func (r *result) common() []column {
	transport := "plain"
	if r.o.TLS {
		transport = "TLS"
	}
	return []column{{"sessions", fmt.Sprint(r.o.Sessions)}, {"transport", transport}, {"budget, connects/s", fmt.Sprint(r.o.Rate)}}
}

func (r *result) ledger() []column {
	return []column{
		{"readings", fmt.Sprint(r.balance.Accepted)}, {"lost", fmt.Sprint(r.balance.Lost)},
		{"out of order", fmt.Sprint(r.balance.Disordered)}, {"repeated", fmt.Sprint(r.balance.Repeated)},
		{"spooled", fmt.Sprint(r.done.Spooled)},
	}
}

func (r *result) columns() []column {
	cs := r.common()
	last := r.points[len(r.points)-1]
	most := column{"most connects in 1 s", fmt.Sprint(peak(r.done.Dials, time.Second))}
	downlinks := column{"downlinks", fmt.Sprintf("%d of %d", r.done.Reached, r.o.Sessions)}
	switch r.o.Mode {
	case modeStorm:
		cs = append(cs, column{"readings/s", fmt.Sprintf("%.0f", float64(r.o.Sessions)/r.o.Period.Seconds())},
			column{"broker away, s", fmt.Sprintf("%.0f", r.o.Away.Seconds())},
			column{"all back after, s", fmt.Sprintf("%.1f", r.back.Seconds())}, column{"bound, s", fmt.Sprintf("%.1f", r.o.bound().Seconds())}, most)
		return append(append(cs, r.ledger()...), downlinks)
	case modeRotation:
		g := spreadOf(r.gaps)
		cs = append(cs, column{"token life, s", fmt.Sprintf("%.0f", r.o.Life.Seconds())}, column{"rotations", fmt.Sprint(len(r.gaps))},
			column{"gap p50 / p99 / max, ms", ms(g.P50) + " / " + ms(g.P99) + " / " + ms(g.Max)},
			column{"all readings p50 / p99, ms", ms(r.latency.P50) + " / " + ms(r.latency.P99)})
		return append(cs, r.ledger()...)
	}
	bytes, goroutines := r.perSession()
	var took time.Duration
	for _, p := range r.points {
		took += p.Took
	}
	cs = append(cs, column{"all up after, s", fmt.Sprintf("%.1f", took.Seconds())}, most,
		column{"RSS, MiB", fmt.Sprintf("%.1f", mib(last.Usage.RSS))}, column{"KiB/session", fmt.Sprintf("%.1f", bytes/1024)},
		column{"of it the connection", fmt.Sprintf("%.1f", r.perConnection()/1024)},
		column{"goroutines/session", fmt.Sprintf("%.2f", goroutines)})
	if r.idle != nil {
		cs = append(cs, column{"idle CPU, % of a core", fmt.Sprintf("%.2f", 100*r.idle.CPU.Seconds()/r.idle.Took.Seconds())})
	}
	cs = append(cs, r.ledger()...)
	return append(cs, column{"p50 / p99, ms", ms(r.latency.P50) + " / " + ms(r.latency.P99)}, downlinks)
}

// table is the run as a Markdown table of one row.
func (r *result) table() string {
	var head, rule, row strings.Builder
	for _, c := range r.columns() {
		fmt.Fprintf(&head, "| %s ", c.name)
		rule.WriteString("| --- ")
		fmt.Fprintf(&row, "| %s ", c.value)
	}
	return head.String() + "|\n" + rule.String() + "|\n" + row.String() + "|\n"
}
