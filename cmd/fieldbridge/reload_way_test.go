package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"fieldbridge/bridge/token"
)

var reloadRounds = flag.Int("reloads", 30, "how often TestReloadUnderTraffic reloads")

const reloadConfig = `
ack_timeout = "200ms"
state_dir = "state"
[spool]
min_free = "1MiB"
[http]
listen = %[1]q
[[connector]]
name = "plant"
broker = "mqtt://%[2]s"
auth = "device-credentials"
key_file = "key.pem"
user_properties = true
[[connector]]
name = "yard"
broker = "mqtt://%[2]s"
auth = "uplink-secret"
id = "connector-7"
secret_file = "secret"
user_properties = true
[[serial]]
name = "scale"
port = %[3]q
device = "line"
[[device]]
id = "still-1"
connector = "plant"
[[device]]
id = "still-2"
connector = "yard"
[[device.downlink]]
webhook = "http://127.0.0.1:9/nowhere"
`

// TestReloadUnderTraffic sends SIGHUP to the real binary while numbered readings
// come in from HTTP clients and a serial port, with a file in which devices come,
// go and move between connectors and ways to authenticate, or which is broken;
// now and then the broker is frozen meanwhile. What was answered 2xx, and every
// line, must be at the subscriber, in order per device, and the sessions that
// have not changed must never connect again.
//
//	go test ./cmd/fieldbridge -run TestReloadUnderTraffic -reloads 200 -v
func TestReloadUnderTraffic(t *testing.T) {
	mosqNeed(t)
	k := newKillRun(t)
	key, err := token.Generate("ES256")
	if err != nil {
		t.Fatal(err)
	}
	private, err := token.EncodePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	base := fmt.Sprintf(reloadConfig, k.http, k.broker.addr, k.line.Path)
	k.config = writeConfig(t, base, map[string]string{"secret": mosqSecret, "key.pem": string(private)})
	r := &reloadRun{killRun: k, base: base}
	r.write(r.everyone())
	k.startGateway()

	ctx, stop := context.WithCancel(context.Background())
	var load sync.WaitGroup
	for c := range killClients {
		load.Go(func() { k.client(ctx, fmt.Sprintf("app-%d", c+1)) })
	}
	load.Go(func() { r.sensor(ctx) })
	for round := range *reloadRounds {
		k.pause(50, 250)
		switch {
		case round%5 == 4:
			r.write("[[device]]\nid = \"broken\"\nconnector = \"nowhere\"\n")
			r.reload("configuration not reloaded")
		case round%10 == 3:
			k.broker.freeze()
			k.pause(50, 300)
			r.write(r.anyone())
			r.reload("configuration reloaded")
			k.broker.thaw()
		default:
			r.write(r.anyone())
			r.reload("configuration reloaded")
		}
	}
	r.write(r.everyone())
	r.reload("configuration reloaded")
	stop()
	load.Wait()
	r.finish()
}

type reloadRun struct {
	*killRun
	base  string
	lines atomic.Int64 // that the sensor has written
}

// everyone lists all devices.
func (r *reloadRun) everyone() string {
	text := listed("line", "yard")
	for c := range killClients {
		text += listed(fmt.Sprintf("app-%d", c+1), []string{"plant", "yard"}[c%2])
	}
	return text
}

// anyone puts each device somewhere, or nowhere; the sensor's stays, because
// nobody tells a sensor to wait.
func (r *reloadRun) anyone() string {
	somewhere := []string{"plant", "yard", ""}
	text := listed("line", somewhere[rand.IntN(2)])
	for c := range killClients {
		if at := somewhere[rand.IntN(3)]; at != "" {
			text += listed(fmt.Sprintf("app-%d", c+1), at)
		}
	}
	return text
}

func (r *reloadRun) write(devices string) {
	r.t.Helper()
	if err := os.WriteFile(r.config, []byte(r.base+devices), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// reload sends SIGHUP and waits until the log says this once more.
func (r *reloadRun) reload(message string) {
	r.t.Helper()
	before := r.log.count(message)
	if err := r.daemon.Process.Signal(syscall.SIGHUP); err != nil {
		r.t.Fatal(err)
	}
	over := time.Now().Add(patience)
	for r.log.count(message) == before {
		select {
		case err := <-r.exited:
			r.t.Fatalf("the gateway ended: %v\n%s", err, r.log)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(over) {
			r.t.Fatalf("the log does not say %q\n%s", message, r.log)
		}
	}
}

// sensor writes numbered lines.
func (r *reloadRun) sensor(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.line.write(fmt.Sprintf("line#%d\n", r.lines.Add(1)))
		case <-ctx.Done():
			return
		}
	}
}

// finish waits until everything has arrived, stops the gateway and compares.
func (r *reloadRun) finish() {
	t := r.t
	t.Helper()
	r.line.write("line#end\n")
	r.post("end")
	arrived, ids, last, ends := map[string]bool{}, map[string]string{}, map[string]int{}, map[string]bool{}
	duplicates := 0
	for len(ends) < killClients+1 {
		f := strings.Fields(r.witness.next())
		topic, id, payload := f[0], f[1], f[len(f)-1]
		if strings.HasSuffix(payload, "end") {
			ends[topic[strings.LastIndexByte(topic, '/'):]] = true
			continue
		}
		device, n := split(payload)
		switch {
		case arrived[payload]:
			if duplicates++; ids[payload] != id {
				t.Errorf("%s came again with another id", payload)
			}
			continue
		case n < last[device]:
			t.Errorf("%s came after %s#%d", payload, device, last[device])
		}
		arrived[payload], ids[payload], last[device] = true, id, max(n, last[device])
	}
	r.stop() // not before: nobody waits for what the sensor's line still holds
	lost := 0
	for payload, status := range r.accepted {
		if !arrived[payload] {
			lost++
			t.Errorf("%s was answered %d and did not arrive", payload, status)
		}
	}
	for n := int64(1); n <= r.lines.Load(); n++ {
		if !arrived[fmt.Sprintf("line#%d", n)] {
			lost++
			t.Errorf("line#%d did not arrive", n)
		}
	}
	for _, client := range []string{" as still-1 ", " as fieldbridge-"} {
		if n := r.broker.log.count(client); n != 1 {
			t.Errorf("the session%sconnected %d times, want once", client, n)
		}
	}
	t.Logf("%d reloads: accepted %d (of them stored %d), refused %d, delivered %d, duplicated %d, lost %d; %d serial lines",
		*reloadRounds, len(r.accepted), r.stored, r.refused, len(arrived), duplicates, lost, r.lines.Load())
	if len(r.accepted) == 0 || r.refused == 0 {
		t.Error("nothing was accepted, or nothing refused: the run shows nothing")
	}
	if t.Failed() {
		t.Logf("log of the gateway:\n%s", r.log)
	}
}
