package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
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
