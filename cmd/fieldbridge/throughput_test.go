package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	throughputPosts = flag.Int("posts", 6_400, "how many readings TestThroughput posts")
	throughputRate  = flag.Int("rate", 0, "how many of them a second; 0: as many as go")
)

const (
	throughputClients = 32
	throughputDevices = 96 // a multiple of the clients
)

// TestThroughput has many clients post numbered readings to the real binary, while
// Mosquitto is there: each that was answered 2xx arrives, in the order of its
// device. With -v it tells what that costs.
//
//	go test ./cmd/fieldbridge -run 'TestThroughput$' -posts 200000 -v
//	go test ./cmd/fieldbridge -run 'TestThroughput$' -posts 6000 -rate 200 -v
func TestThroughput(t *testing.T) {
	b := mosqStart(t, mosqOptions{quiet: true, extra: "max_queued_messages 0\nmax_inflight_messages 1000\n"})
	w := b.subscribe("%t %p")
	text := fmt.Sprintf(millionConfig, b.addr)
	for i := range throughputDevices {
		text += fmt.Sprintf("[[device]]\nid = \"d%d\"\n", i)
	}
	d := runProgram(t, buildProgram(t), writeConfig(t, complete(text), map[string]string{"secret": mosqSecret})).ready()
	d.awaitUp()
	each := max(*throughputPosts/throughputClients, 1)
	p := &poster{t: t, addr: d.HTTP, each: each}
	if *throughputRate > 0 {
		p.period = throughputClients * time.Second / time.Duration(*throughputRate)
	}
	before, began := d.spent(), time.Now()
	p.all()
	took, after := time.Since(began), d.spent()
	if t.Failed() {
		return
	}
	sum, last, twice := each*throughputClients, map[string]int{}, 0
	for arrived := 0; arrived < sum; {
		_, payload, _ := strings.Cut(w.next(), " ")
		var r reading
		if err := json.Unmarshal([]byte(payload), &r); err != nil {
			t.Fatalf("%s: %v", payload, err)
		}
		switch {
		case r.N == last[r.Device]+1:
			last[r.Device]++
			arrived++
		case r.N <= last[r.Device]:
			twice++
		default:
			t.Fatalf("%s came after %d", payload, last[r.Device])
		}
	}
	slices.Sort(p.waits)
	at := func(share float64) time.Duration { return p.waits[int(share*float64(len(p.waits)-1))] }
	t.Logf("%d posts by %d clients in %v: %.0f/s, stored %d, lost 0, twice %d; p50 %v, p99 %v; %.2f s of CPU per 100,000; resident %d → %d MiB",
		sum, throughputClients, took.Round(time.Millisecond), float64(sum)/took.Seconds(), p.stored, twice,
		at(0.5).Round(10*time.Microsecond), at(0.99).Round(10*time.Microsecond),
		(after.cpu-before.cpu).Seconds()/float64(sum)*1e5, before.resident>>20, after.most>>20)
	if code := d.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// awaitUp waits until all sessions are up.
func (d *testDaemon) awaitUp() {
	d.t.Helper()
	eventually(d.t, "the session is up", func() bool {
		return d.metric(`fieldbridge_sessions{connector="yard",state="up"}`) == 1
	})
}

type reading struct {
	Device string `json:"d"`
	N      int    `json:"n"`
}

// poster posts readings over connections that are kept.
type poster struct {
	t      *testing.T
	addr   string
	each   int
	period time.Duration // between two of a client; 0: at once

	mu     sync.Mutex // guards what follows
	waits  []time.Duration
	stored int
}

func (p *poster) all() {
	p.t.Helper()
	var load sync.WaitGroup
	for c := range throughputClients {
		load.Go(func() {
			if err := p.client(c); err != nil {
				p.t.Errorf("client %d: %v", c, err)
			}
		})
	}
	load.Wait()
}

// client posts for its share of the devices in turn.
func (p *poster) client(c int) error {
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	in, waits, stored := bufio.NewReader(conn), make([]time.Duration, 0, p.each), 0
	const share = throughputDevices / throughputClients
	begin := time.Now().Add(p.period * time.Duration(c) / throughputClients)
	for i := range p.each {
		if p.period > 0 {
			time.Sleep(time.Until(begin.Add(p.period * time.Duration(i))))
		}
		device := fmt.Sprintf("d%d", c*share+i%share)
		body, err := json.Marshal(reading{device, i/share + 1})
		if err != nil {
			return err
		}
		sent := time.Now()
		_, err = fmt.Fprintf(conn, "POST /v1/devices/%s/uplink HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%-62s",
			device, p.addr, 62, body)
		if err != nil {
			return err
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		waits = append(waits, time.Since(sent))
		switch resp.StatusCode {
		case http.StatusAccepted:
			stored++
		case http.StatusOK:
		default:
			return fmt.Errorf("answered %s", resp.Status)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waits, p.stored = append(p.waits, waits...), p.stored+stored
	return nil
}
