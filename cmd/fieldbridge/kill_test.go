package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var killRounds = flag.Int("kills", 12, "how often TestKill kills the gateway")

const killConfig = `
ack_timeout = "200ms"
state_dir = "state"
[spool]
min_free = "1MiB"
[http]
listen = "%s"
[[connector]]
name = "yard"
broker = "mqtt://%s"
auth = "uplink-secret"
id = "connector-7"
secret_file = "secret"
user_properties = true
[[serial]]
name = "scale"
port = %q
device = "line"
[[device]]
id = "line"
durability = "always"
`

// killClients post numbered readings, every fourth of them in batches.
const killClients = 8

// TestKill kills the real binary at random moments, while the broker is stopped,
// restarted and frozen at random, and numbered readings come in from HTTP clients
// and a serial port. Every reading that was answered 2xx must be at the
// subscriber, in order per device; duplicates must carry the same id.
//
//	go test ./cmd/fieldbridge -run TestKill -kills 200 -v
func TestKill(t *testing.T) {
	mosqNeed(t)
	k := newKillRun(t)
	k.startGateway()
	ctx, stop := context.WithCancel(context.Background())
	var load, chaos sync.WaitGroup
	for c := range killClients {
		device := fmt.Sprintf("app-%d", c+1)
		if c%4 == 3 {
			load.Go(func() { k.batches(ctx, device, c%8 == 3) })
		} else {
			load.Go(func() { k.client(ctx, device) })
		}
	}
	load.Go(func() { k.sensor(ctx) })
	chaos.Go(func() { k.upset(ctx) })
	for range *killRounds {
		k.pause(50, 500)
		k.kill()
		k.startGateway()
	}
	stop()
	load.Wait()
	chaos.Wait()
	k.settle()
	k.ledger()
}

// killRun is one run: the daemon, the broker, the witness, and what was accepted.
type killRun struct {
	t       *testing.T
	binary  string
	config  string
	http    string
	broker  *mosqBroker
	line    *testPTY
	witness *mosqWitness
	daemon  *exec.Cmd
	exited  chan error
	log     *mosqLog

	mu       sync.Mutex // guards what follows
	accepted map[string]int
	stored   int
	refused  int
}

func newKillRun(t *testing.T) *killRun {
	k := &killRun{
		t: t, binary: buildProgram(t), http: freeAddr(t),
		line: openPTY(t), log: &mosqLog{}, accepted: map[string]int{},
	}
	// The broker is asked to keep what it acknowledged over an orderly restart,
	// or the subscriber would miss what the gateway was right to forget.
	k.broker = mosqStart(t, mosqOptions{extra: "max_queued_messages 0\nmax_inflight_messages 100\n" +
		"persistence true\npersistence_location " + t.TempDir() + "/\n", persistent: true})
	text := fmt.Sprintf(killConfig, k.http, k.broker.addr, k.line.Path)
	for c := range killClients {
		text += fmt.Sprintf("[[device]]\nid = \"app-%d\"\n", c+1)
	}
	k.config = writeConfig(t, text, map[string]string{"secret": mosqSecret})
	k.witness = k.broker.subscribe("%t %P %p", "-c", "-i", "witness", "-x", "86400")
	t.Cleanup(func() {
		if k.daemon != nil && k.daemon.ProcessState == nil {
			_ = k.daemon.Process.Kill()
			<-k.exited
		}
	})
	return k
}

func (k *killRun) pause(from, to int) {
	<-time.After(time.Duration(from+rand.IntN(to-from)) * time.Millisecond)
}

// startGateway starts the daemon and waits until it takes requests.
func (k *killRun) startGateway() {
	k.t.Helper()
	k.daemon = exec.Command(k.binary, "run", "--config", k.config)
	k.daemon.Stdout, k.daemon.Stderr = k.log, k.log
	k.daemon.Env = append(os.Environ(), "NOTIFY_SOCKET=")
	if err := k.daemon.Start(); err != nil {
		k.t.Fatal(err)
	}
	k.exited = make(chan error, 1)
	go func(c *exec.Cmd, to chan<- error) { to <- c.Wait() }(k.daemon, k.exited)
	eventually(k.t, "the gateway is ready", func() bool {
		select {
		case err := <-k.exited:
			k.t.Fatalf("the gateway ended by itself: %v\n%s", err, k.log)
		default:
		}
		resp, err := http.Get("http://" + k.http + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func (k *killRun) kill() {
	_ = k.daemon.Process.Kill()
	<-k.exited
}

// client posts numbered readings of one device, one after the other.
func (k *killRun) client(ctx context.Context, device string) {
	client := newClient(k.t)
	for n := 1; ctx.Err() == nil; n++ {
		a, err := postTo(client, "http://"+k.http+"/v1/devices/"+device+"/uplink", "text/plain", fmt.Sprintf("%s#%d", device, n))
		k.mu.Lock()
		switch {
		case err == nil && (a.Status == http.StatusOK || a.Status == http.StatusAccepted):
			k.accepted[fmt.Sprintf("%s#%d", device, n)] = a.Status
			if a.Status == http.StatusAccepted {
				k.stored++
			}
		default:
			k.refused++
		}
		k.mu.Unlock()
		if err != nil || a.Status == http.StatusNotFound {
			k.pause(5, 20)
		}
	}
}

// batches posts numbered readings of one device, a batch after the other. What a
// batch that was cut off has no result for may have been accepted or not; with
// keys it is sent again until there is one, and must stay the same reading.
func (k *killRun) batches(ctx context.Context, device string, keys bool) {
	client := newClient(k.t)
	var lines strings.Builder
	for n := 1; ctx.Err() == nil; {
		first := n
		lines.Reset()
		for range 1 + rand.IntN(40) {
			key := ""
			if keys {
				key = fmt.Sprintf(",\"idempotencyKey\":\"n%d\"", n)
			}
			fmt.Fprintf(&lines, "{\"device\":%q,\"contentType\":\"text/plain\",\"payload\":\"%s#%d\"%s}\n", device, device, n, key)
			n++
		}
		for !k.batch(client, device, first, n-first, lines.String()) && keys && ctx.Err() == nil {
			k.pause(5, 20)
		}
	}
}

// batch posts one. It reports whether there is a result for each line.
func (k *killRun) batch(client *http.Client, device string, first, count int, lines string) bool {
	resp, err := client.Post("http://"+k.http+"/v1/uplinks", "application/x-ndjson", strings.NewReader(lines))
	if err != nil {
		k.pause(5, 20)
		return false
	}
	defer resp.Body.Close()
	results := 0
	for d := json.NewDecoder(resp.Body); ; results++ {
		var result struct{ Line, Status int }
		if d.Decode(&result) != nil {
			return results == count
		}
		k.mu.Lock()
		switch result.Status {
		case http.StatusAccepted:
			k.stored++
			fallthrough
		case http.StatusOK:
			k.accepted[fmt.Sprintf("%s#%d", device, first+result.Line-1)] = result.Status
		default:
			k.refused++
		}
		k.mu.Unlock()
	}
}

// sensor writes numbered lines. Nobody tells it what was accepted, so only their
// order is checked.
func (k *killRun) sensor(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-tick.C:
			k.line.write(fmt.Sprintf("line#%d\n", n))
		case <-ctx.Done():
			return
		}
	}
}

// upset stops, restarts and freezes the broker.
func (k *killRun) upset(ctx context.Context) {
	for ctx.Err() == nil {
		k.pause(200, 1200)
		if rand.IntN(2) == 0 {
			k.broker.freeze()
			k.pause(100, 800)
			k.broker.thaw()
			continue
		}
		k.broker.stop(syscall.SIGTERM)
		k.pause(50, 800)
		k.broker.start()
	}
}

// settle waits until everything has left the gateway, and stops it.
func (k *killRun) settle() {
	k.t.Helper()
	k.post("end")
	k.stop()
}

func (k *killRun) stop() {
	k.t.Helper()
	_ = k.daemon.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-k.exited:
		if err != nil {
			k.t.Errorf("the gateway ended with %v after SIGTERM\n%s", err, k.log)
		}
	case <-time.After(patience):
		k.t.Fatalf("the gateway does not stop\n%s", k.log)
	}
}

// post sends a last reading for each device behind all others, and waits until
// the broker has it: then it has all.
func (k *killRun) post(payload string) {
	k.t.Helper()
	client := newClient(k.t)
	for c := range killClients {
		url := fmt.Sprintf("http://%s/v1/devices/app-%d/uplink", k.http, c+1)
		eventually(k.t, "the backlog of a device is gone", func() bool {
			a, err := postTo(client, url, "text/plain", payload)
			return err == nil && a.Status == http.StatusOK
		})
	}
}

// ledger compares what was accepted with what arrived.
func (k *killRun) ledger() {
	k.t.Helper()
	arrived, ids, last := map[string]bool{}, map[string]string{}, map[string]int{}
	duplicates, ends, lines := 0, map[string]bool{}, 0
	for len(ends) < killClients {
		f := strings.Fields(k.witness.next())
		payload, id, topic := f[len(f)-1], f[1], f[0]
		if payload == "end" {
			ends[topic] = true
			continue
		}
		device, n := split(payload)
		if device == "line" {
			lines++
		}
		switch {
		case arrived[payload]:
			duplicates++
			if ids[payload] != id {
				k.t.Errorf("%s came again with another id: %s, then %s", payload, ids[payload], id)
			}
			continue
		case n < last[device]:
			k.t.Errorf("%s came after %s#%d", payload, device, last[device])
		}
		arrived[payload], ids[payload] = true, id
		last[device] = max(last[device], n)
	}
	lost := 0
	for payload, status := range k.accepted {
		if !arrived[payload] {
			lost++
			k.t.Errorf("%s was answered %d and did not arrive", payload, status)
		}
	}
	k.t.Logf("killed %d times: accepted %d (of them stored %d), refused or cut off %d, delivered %d, duplicated %d, lost %d; serial lines delivered %d",
		*killRounds, len(k.accepted), k.stored, k.refused, len(arrived), duplicates, lost, lines)
	if len(k.accepted) == 0 {
		k.t.Error("nothing was accepted: the run shows nothing")
	}
	if lost > 0 {
		k.t.Logf("log of the gateway:\n%s", k.log)
	}
}
