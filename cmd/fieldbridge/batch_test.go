package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fieldbridge/bridge"
)

// batch posts numbered readings of the devices in turn, a batch of them, and
// returns the states in the results.
func (g *testGateway) batch(n *numbered, count int, devices ...string) (states map[string]int) {
	g.t.Helper()
	var body strings.Builder
	for i := range count {
		device := devices[i%len(devices)]
		fmt.Fprintf(&body, "{\"device\":%q,\"contentType\":\"text/plain\",\"payload\":%q}\n", device, n.next(device))
	}
	resp, err := g.client.Post("http://"+g.HTTP+"/v1/uplinks", "application/x-ndjson", strings.NewReader(body.String()))
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		g.t.Fatalf("status %d", resp.StatusCode)
	}
	states = map[string]int{}
	for d, line := json.NewDecoder(resp.Body), 1; ; line++ {
		var result struct {
			Line   int
			State  string
			Detail string
		}
		err := d.Decode(&result)
		if err == io.EOF {
			return states
		}
		if err != nil || result.Line != line {
			g.t.Fatalf("result %d: %+v, %v", line, result, err)
		}
		if result.Detail != "" {
			g.t.Errorf("line %d: %s", line, result.Detail)
		}
		states[result.State]++
	}
}

// TestBatches: what batches bring arrives in order, also from the spool, and
// beside single readings.
func TestBatches(t *testing.T) {
	t.Parallel()
	s, listen := newLateSite(t)
	n := newNumbered()
	g := startGateway(t, s.config("", "", listed("app", "yard")+listed("pump-1", "plant")+listed("pump-2", "plant")), s.Files)
	const many = 900
	if states := g.batch(n, many, "app", "pump-2", "pump-1"); states["stored"] != many {
		t.Errorf("without a broker: %v", states)
	}
	expectStored(t, g.post("app", "", "text/plain", n.next("app")))
	g = g.restart()
	listen()
	if states := g.batch(n, many, "app", "pump-2"); states["stored"]+states["delivered"] != many {
		t.Errorf("while the backlog goes out: %v", states)
	}
	g.awaitUp()
	g.awaitEmpty()
	if states := g.batch(n, many, "app", "pump-1"); states["delivered"] == 0 || states["stored"]+states["delivered"] != many {
		t.Errorf("with a broker: %v", states)
	}
	g.awaitEmpty()
	if m := g.scrape(); m[`readings_total{adapter="http",outcome="delivered"}`] == 0 {
		t.Error("the readings of batches are not counted")
	}
	g.stop()
	n.check(t, payloadsOf(s.Broker.Messages()), true)
}

// commitsIn counts the transactions in the spool's write-ahead log: the frames
// that end one (https://www.sqlite.org/fileformat2.html#the_write_ahead_log). Those
// of before the log was begun anew have other salts.
func commitsIn(t *testing.T, state string) (n int) {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(state, "spool.db-wal"))
	if err != nil {
		t.Fatal(err)
	}
	const header, frameHeader = 32, 24
	if len(log) < header {
		return 0 // nothing has been written yet
	}
	page := int(binary.BigEndian.Uint32(log[8:]))
	for at := header; at+frameHeader+page <= len(log); at += frameHeader + page {
		frame := log[at:]
		if bytes.Equal(frame[8:16], log[16:24]) && binary.BigEndian.Uint32(frame[4:]) != 0 {
			n++
		}
	}
	return n
}

// TestAPageIsOneCommit: what comes together is synced once, whatever devices it is
// of.
func TestAPageIsOneCommit(t *testing.T) {
	s := newDarkSite(t)
	s.Addr, _ = reservedAddr(t)
	var text string
	for i := range 50 {
		text += listed(fmt.Sprintf("d%02d", i), "yard")
	}
	g := startGateway(t, s.config("", "", text), s.Files)
	// The first connect has failed, so that nothing waits for the broker.
	eventually(t, "trouble", func() bool { return g.gw.now().sessions[0].State().Trouble != "" })
	eventually(t, "the clock's own commit", func() bool { return !g.gw.timeKnown() || !g.gw.spool.LastTrusted().IsZero() })
	for _, async := range []bool{true, false} {
		var rs []bridge.Reading
		for i := range 200 {
			rs = append(rs, bridge.Reading{Device: bridge.DeviceID(fmt.Sprintf("d%02d", i%50)), ContentType: "text/plain", Payload: []byte("x")})
		}
		before := commitsIn(t, g.state())
		for i, got := range g.gw.bridge.AcceptAll(t.Context(), rs, nil, async) {
			if got.Err != nil || got.Receipt.State != bridge.Spooled {
				t.Fatalf("reading %d: %+v", i, got)
			}
		}
		if n := commitsIn(t, g.state()) - before; n != 1 {
			t.Errorf("async %v: %d commits for a page, want 1", async, n)
		}
	}
}
