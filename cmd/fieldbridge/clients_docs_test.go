package main

import (
	"fmt"
	"go/format"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge/devbroker"
)

const clientsGuide = "../../docs/clients.md"

// clientTest is a client, and what it works with: a gateway whose spool is small,
// and that knows the tokens hall-a, and slow with one request a second.
type clientTest struct {
	*docClient
	site    *site
	gateway *testGateway
	between *tap
}

// TestClients has every client of the guide post readings and batches and take
// downlinks, with all that can go wrong on the way.
func TestClients(t *testing.T) {
	t.Parallel()
	source := map[string]string{}
	for _, b := range docBlocks(t, clientsGuide) {
		_, file, _ := strings.Cut(b.info, " ")
		source[file] = b.text
	}
	if len(source) != len(clientKinds) {
		t.Fatalf("the guide has %d clients, %d are known", len(source), len(clientKinds))
	}
	if text, err := format.Source([]byte(source["client.go"])); err != nil || string(text) != source["client.go"] {
		t.Errorf("gofmt would change the client in Go: %v", err)
	}
	// They wait more than they work: side by side, whatever -parallel says.
	var all sync.WaitGroup
	for _, kind := range clientKinds {
		all.Go(func() {
			t.Run(kind.file, func(t *testing.T) {
				c, between := newDocClient(t, kind.file, source[kind.file], kind.make)
				testClient(t, c, between)
			})
		})
	}
	all.Wait()
}

// testClient has a client do everything, beside a gateway and a broker of its own.
func testClient(t *testing.T, c *docClient, between *tap) {
	s, listen := newLateSite(t)
	s.Files["tokens/hall-a"] = hallToken + "\n"
	s.Files["tokens/slow"] = slowToken + "\n"
	config := func(keepAlive string) string {
		return s.config("", "keep_alive = \""+keepAlive+"\"", smallSpool+clientTokens+listed("app", "yard")+
			listed("hall-a-1", "yard")+"[[device.downlink]]\nmailbox = true\n")
	}
	g := startGateway(t, config("60s"), s.Files)
	between.gateway = g.HTTP
	x := &clientTest{c, s, g, between}
	x.withoutBroker(func() {
		listen()
		g.reload(config("61s")) // it connects at once, and not when its pause is over
	})
	done := x.takeDownlinks()
	x.faults()
	done()
	x.more()
	x.slow()
	g.awaitEmpty()
	x.wantReadings()
	x.refused()
}

const (
	slowToken    = "slow-0123456789abcdef"
	clientTokens = `
[http]
listen = "127.0.0.1:0"
[[http.token]]
name = "hall-a"
token_file = "tokens/hall-a"
devices = ["hall-a-*", "app"]
[[http.token]]
name = "slow"
token_file = "tokens/slow"
devices = ["hall-a-*"]
rate = 1
`
)

const (
	aReading = `{"temperature":21.5}`
	aBatch   = `{"device":"hall-a-1","timestamp":"2026-01-31T12:00:00Z","payload":{"n":1}}

{"device":"hall-a-1","contentType":"text/plain","payload":"door\topen \\ \u2028"}
{"device":"hall-a-9","payload":1}
{"device":"hall-a-1","contentType":"application/octet-stream","payloadBase64":"AAEC"}`
	manyLines = 1100
)

// wantReadings fails unless the broker has each of the readings of hall-a-1 once.
func (x *clientTest) wantReadings() {
	x.t.Helper()
	want := append(slices.Repeat([]string{"application/json " + aReading}, 4), `application/json {"done":true}`,
		`application/json {"n":1}`, "text/plain door\topen \\ \u2028", "application/octet-stream \x00\x01\x02")
	for i := range manyLines {
		want = append(want, fmt.Sprintf("application/json %d", i))
	}
	var got []string
	for _, m := range x.site.messages("hall-a-1") {
		got = append(got, m.ContentType+" "+strings.ReplaceAll(string(m.Payload), ": ", ":"))
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		x.t.Errorf("readings at the broker (-want +got):\n%s", diff)
	}
}

// wantReading has the client post a reading, and returns its requests and what it
// says about them.
func (x *clientTest) wantReading(states ...string) (tries []exchange, said string) {
	x.t.Helper()
	x.between.reset()
	r := x.start("reading", aReading)
	out, err := r.wait(x.t)
	if err != nil {
		x.t.Error(err)
	}
	if !slices.Contains(states, strings.TrimSuffix(out, "\n")) {
		x.t.Errorf("it printed %q, want one of %q", out, states)
	}
	return x.between.of(http.MethodPost), r.errs.String()
}

// withoutBroker begins with a broker that is away, and then fills the spool. When
// the clients have been told so, the broker comes, and there is room again.
func (x *clientTest) withoutBroker(listen func()) {
	x.wantReading("stored")
	x.gateway.fillSpool()
	x.between.reset()
	reading, batch := x.start("reading", aReading), x.start("batch", aBatch)
	x.between.await("507", func(e exchange) bool { return e.status == http.StatusInsufficientStorage })
	x.between.await("507 of lines", func(e exchange) bool { return strings.Count(e.answer, `"status":507`) == 3 })
	listen()
	if out, err := reading.wait(x.t); err != nil || out != "stored\n" && out != "delivered\n" {
		x.t.Errorf("with a full spool: %v, %q", err, out)
	}
	out, err := batch.wait(x.t)
	if err != nil {
		x.t.Error(err)
	}
	x.wantResults(strings.Split(strings.TrimSuffix(out, "\n"), "\n"))
	x.wantPauses("/uplinks")
	x.wantPauses("/uplink?")
	for _, e := range x.between.of(http.MethodPost) {
		if batch := strings.HasSuffix(e.target, "/uplinks"); batch && e.contentType != "application/x-ndjson" ||
			batch && strings.Contains(e.body, "hall-a-9") != strings.Contains(e.answer, `"status":404`) {
			x.t.Errorf("a batch of %s, %q, with the answer %q", e.contentType, e.body, e.answer)
		}
	}
	x.gateway.awaitUp()
	x.gateway.awaitEmpty()
}

// wantPauses fails if requests whose target has this in it come sooner than the
// second that they were told to wait.
func (x *clientTest) wantPauses(target string) {
	x.t.Helper()
	all := slices.DeleteFunc(x.between.of(http.MethodPost), func(e exchange) bool { return !strings.Contains(e.target, target) })
	if len(all) < 2 {
		x.t.Errorf("%d requests to %s", len(all), target)
	}
	for i := range all[1:] {
		if gap := all[i+1].at.Sub(all[i].at); gap < 900*time.Millisecond { // timers may be early by a little
			x.t.Errorf("attempt %d comes %s after the one before", i+1, gap)
		}
	}
}

// wantResults checks what is printed of aBatch: what was refused for good is known
// first, the others when there was room for them.
func (x *clientTest) wantResults(printed []string) {
	x.t.Helper()
	lines := strings.Split(strings.Replace(aBatch, "\n\n", "\n", 1), "\n")
	if len(printed) != 4 || !strings.Contains(printed[0], "[[device]]") || !strings.HasSuffix(printed[0], " "+lines[2]) {
		x.t.Fatalf("it printed %q", printed)
	}
	for i, line := range slices.Delete(lines, 2, 3) {
		if state, ok := strings.CutSuffix(printed[i+1], " "+line); !ok || state != "stored" && state != "delivered" {
			x.t.Errorf("it printed %q for %s", printed[i+1], line)
		}
	}
}

// faults loses the answer to a reading, and then the gateway is busy.
func (x *clientTest) faults() {
	x.between.faultOn(http.MethodPost, swallow, busy)
	tries, said := x.wantReading("delivered", "stored")
	if len(tries) != 3 || !strings.Contains(said, "(again in 1 s)") {
		x.t.Fatalf("%d attempts: %+v: %s", len(tries), tries, said)
	}
	x.wantPauses("/uplink?")
	for _, e := range tries {
		if e.key == "" || e.key != tries[0].key || e.target != tries[0].target || e.body != tries[0].body {
			x.t.Errorf("attempts that are not the same: %+v", tries)
		}
		at, err := time.Parse(time.RFC3339Nano, e.query.Get("timestamp"))
		if err != nil || time.Since(at).Abs() > time.Hour {
			x.t.Errorf("the time of measurement is %s, %v", at, err)
		}
	}
}

// more sends more lines than go together.
func (x *clientTest) more() {
	var lines strings.Builder
	for i := range manyLines {
		fmt.Fprintf(&lines, "{\"device\":\"hall-a-1\",\"payload\":%d}\n", i)
	}
	out := x.run("batch", lines.String())
	if n := strings.Count(out, "stored ") + strings.Count(out, "delivered "); n != manyLines || strings.Count(out, "\n") != n {
		x.t.Errorf("of %d lines %d were accepted: %s", manyLines, n, out)
	}
}

// slow uses a token that may do less than the client would.
func (x *clientTest) slow() {
	x.use(slowToken)
	x.between.faultOn(http.MethodPost, spend(slowToken))
	tries, _ := x.wantReading("delivered", "stored")
	if !slices.ContainsFunc(tries, func(e exchange) bool { return e.status == http.StatusTooManyRequests }) {
		x.t.Errorf("no 429: %+v", tries)
	}
}

// refused: what does not get better is not repeated.
func (x *clientTest) refused() {
	x.use("none-0123456789abcdef")
	for _, what := range []string{"reading", "batch", "mailbox"} {
		before := len(x.between.all())
		r := x.start(what, aReading)
		out, err := r.wait(x.t)
		if n := len(x.between.all()) - before; err == nil || out != "" || !strings.Contains(r.errs.String(), "the token is not one of this gateway's") || n != 1 {
			x.t.Errorf("%s with a wrong token: %v, %q, %q after %d attempts", what, err, out, r.errs.String(), n)
		}
	}
}

// takeDownlinks has the client take downlinks that are there and one that comes
// while it waits; done waits until it has, once each, though it is not told that
// the first one is deleted.
func (x *clientTest) takeDownlinks() (done func()) {
	down := func(contentType, payload, answers string) {
		x.site.down(devbroker.Message{
			Connector: yardID, Device: "hall-a-1", ContentType: contentType, Payload: []byte(payload),
			ResponseTopic: answers, CorrelationData: []byte("c-1"),
		})
	}
	down("application/json", `{"steps":3}`, "")
	down("text/plain", `a\tb`, "/up/"+yardSecret+"/id/hall-a-1/answers")
	eventually(x.t, "two downlinks are stored", func() bool { return x.gateway.gw.spool.Stats().Downlinks == 2 })
	x.between.faultOn(http.MethodGet, busy)
	x.between.faultOn(http.MethodDelete, swallow)
	r := x.start("mailbox", "")
	acted := func(n int) {
		x.t.Helper()
		eventually(x.t, fmt.Sprintf("%d downlinks are gone", n), func() bool {
			return strings.Count(r.out.String(), "\n") == n && x.gateway.gw.spool.Stats().Downlinks == 0
		})
	}
	return func() {
		x.t.Helper()
		acted(2)
		down("application/json", "4", "")
		acted(3)
		eventually(x.t, "the last DELETE is answered", func() bool {
			d := x.between.of(http.MethodDelete)
			return len(d) >= 4 && d[len(d)-1].status != 0
		})
		r.stop()
		if out := strings.ReplaceAll(r.out.String(), ": ", ":"); out != "{\"steps\":3}\n\"a\\\\tb\"\n4\n" {
			x.t.Errorf("it printed %q", out)
		}
		fetches, deletes := x.between.of(http.MethodGet), x.between.of(http.MethodDelete)
		for _, e := range fetches {
			if e.query.Get("wait") != "30s" {
				x.t.Errorf("it does not wait: %s", e.target)
			}
		}
		var status []int
		for _, e := range deletes {
			status = append(status, e.status)
		}
		if diff := cmp.Diff([]int{0, 404, 204, 204}, status); diff != "" || deletes[0].target != deletes[1].target {
			x.t.Fatalf("deleted (-want +got):\n%s", diff)
		}
		for i, e := range deletes {
			if wanted := i == 2; wanted != (e.body != "") {
				x.t.Errorf("DELETE %d has the body %q", i, e.body)
			}
		}
		answers := 0
		for _, m := range x.site.messages("hall-a-1") {
			if m.Subtopic == "answers" && string(m.CorrelationData) == "c-1" {
				answers++
			}
		}
		if answers != 1 {
			x.t.Errorf("%d answers", answers)
		}
	}
}
