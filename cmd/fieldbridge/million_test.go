package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	millionReadings = flag.Int("readings", 20_000, "how many readings TestMillion has spooled and drained")
	millionClients  = flag.Int("clients", 64, "how many clients send them, each for a device of its own")
)

const (
	// millionResident is what the daemon may have in memory, in bytes.
	millionResident = 64 << 20
	// millionPayload is the size of a reading in bytes.
	millionPayload = 100
)

const millionConfig = `
ack_timeout = "1s"
log = { level = "info", format = "text" }
[spool]
max_bytes = "512MiB"
min_free = "1MiB"
[[connector]]
name = "yard"
broker = "mqtt://%s"
auth = "uplink-secret"
id = "connector-7"
secret_file = "secret"
user_properties = true
`

// TestMillion has the real binary accept many readings while Mosquitto is away,
// then lets Mosquitto come: each arrives once, in the order of its device, and
// the daemon stays small all the time.
//
//	go test ./cmd/fieldbridge -run 'TestMillion$' -readings 1000000 -timeout 60m -v
//	go test ./cmd/fieldbridge -run 'TestMillion$' -readings 2000 -clients 1 -v
func TestMillion(t *testing.T) {
	clients := *millionClients
	each := max(*millionReadings/clients, 1)
	// The subscription comes first and is kept: the subscriber has to be there
	// when the readings are.
	b := mosqStart(t, mosqOptions{quiet: true, persistent: true, extra: "max_queued_messages 0\nmax_inflight_messages 1000\n" +
		"persistence true\npersistence_location " + t.TempDir() + "/\n"})
	w := b.subscribe("%t %p", "-c", "-i", "witness", "-x", "86400")
	b.stop(syscall.SIGTERM)

	text := fmt.Sprintf(millionConfig, b.addr)
	for c := range clients {
		text += fmt.Sprintf("[[device]]\nid = \"app-%d\"\n", c+1)
	}
	d := runProgram(t, buildProgram(t), writeConfig(t, complete(text), map[string]string{"secret": mosqSecret})).ready()
	watch := d.watchMemory()
	idle, began := d.spent(), time.Now()
	d.sendAll(clients, each)
	spooled, took := d.spent(), time.Since(began)
	sum := clients * each
	report := func(what string, from, to spent, took time.Duration) {
		t.Logf("%s %d readings of %d bytes in %v: %.0f/s, %.2f ms of CPU each; %.0f bytes each to the spool by its own count, %.0f by the kernel's; resident %d MiB, at most %d so far",
			what, sum, millionPayload, took.Round(10*time.Millisecond), float64(sum)/took.Seconds(),
			float64((to.cpu-from.cpu).Microseconds())/1000/float64(sum),
			float64(to.spool-from.spool)/float64(sum), float64(to.device-from.device)/float64(sum), to.resident>>20, to.most>>20)
	}
	report("accepted", idle, spooled, took)
	if got := d.metric("fieldbridge_spool_readings"); got != float64(sum) {
		t.Errorf("%.0f readings in the spool, want %d", got, sum)
	}

	b.start()
	// The longer the broker was away, the longer is the pause between two attempts.
	for up := time.After(2 * time.Minute); d.metric(`fieldbridge_sessions{connector="yard",state="up"}`) == 0; {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-up:
			t.Fatal("no session after 2 minutes")
		}
	}
	began = time.Now()
	last := map[string]int{} // by device
	for range sum {
		millionNext(t, w, last)
	}
	eventually(t, "the spool is empty", func() bool { return d.metric("fieldbridge_spool_readings") == 0 })
	took = time.Since(began)
	report("drained", spooled, d.spent(), took)
	// A last one, behind all others, shows that none came twice.
	a, err := postTo(newClient(t), "http://"+d.HTTP+"/v1/devices/app-1/uplink", "text/plain", fmt.Sprintf("app-1#%d", each+1))
	if err != nil || a.Status != http.StatusOK {
		t.Errorf("answer %+v, %v, when there is no backlog any more", a, err)
	}
	millionNext(t, w, last)
	if code := d.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if most := watch(); most > millionResident {
		t.Errorf("%d bytes were resident, at most %d should be", most, millionResident)
	}
}

// sendAll posts numbered readings from all clients and fails the test if one is
// not stored.
func (d *testDaemon) sendAll(clients, each int) {
	d.t.Helper()
	var load sync.WaitGroup
	for c := range clients {
		device := fmt.Sprintf("app-%d", c+1)
		client, url := newClient(d.t), "http://"+d.HTTP+"/v1/devices/"+device+"/uplink"
		load.Go(func() {
			for n := 1; n <= each; n++ {
				a, err := postTo(client, url, "text/plain", fmt.Sprintf("%-*s", millionPayload, fmt.Sprintf("%s#%d", device, n)))
				if err != nil || a.Status != http.StatusAccepted {
					d.t.Errorf("%s#%d: answer %+v, %v", device, n, a, err)
					return
				}
			}
		})
	}
	load.Wait()
	if d.t.Failed() {
		d.t.FailNow()
	}
}

// millionNext reads the next reading that the witness sees, which must be the
// next one of its device.
func millionNext(t *testing.T, w *mosqWitness, last map[string]int) {
	t.Helper()
	l := w.next()
	for strings.HasPrefix(l, mosqReady) {
		l = w.next() // subscribed anew
	}
	_, payload, _ := strings.Cut(strings.TrimSpace(l), " ")
	device, n := split(payload)
	if n != last[device]+1 {
		t.Fatalf("%s came after %s#%d", payload, device, last[device])
	}
	last[device] = n
}

// watchMemory looks again and again at how much of the daemon is resident. What
// it returns ends that and returns the most that was seen.
func (d *testDaemon) watchMemory() (stop func() int64) {
	ctx, cancel := context.WithCancel(context.Background())
	most := make(chan int64, 1)
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		var m int64
		for {
			select {
			case <-tick.C:
				resident, highest, _ := d.memory() // it may have ended
				m = max(m, resident, highest)
			case <-ctx.Done():
				most <- m
				return
			}
		}
	}()
	return func() int64 { cancel(); return <-most }
}

// memory is VmRSS and VmHWM of /proc/pid/status (proc(5)) in bytes.
func (d *testDaemon) memory() (resident, most int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	return procNumber(status, "VmRSS:") << 10, procNumber(status, "VmHWM:") << 10, nil
}

// procNumber is the number behind a name in a file of /proc, 0 if it is not
// there.
func procNumber(file []byte, name string) int64 {
	for line := range strings.Lines(string(file)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	return 0
}

// spent is what a daemon has used so far.
type spent struct {
	spool, device  int64 // bytes written: for the spool, and by the process in all
	resident, most int64 // bytes
	cpu            time.Duration
}

func (d *testDaemon) spent() (s spent) {
	d.t.Helper()
	dir := fmt.Sprintf("/proc/%d/", d.cmd.Process.Pid)
	io, err := os.ReadFile(dir + "io")
	if err != nil {
		d.t.Fatal(err)
	}
	s.device = procNumber(io, "write_bytes:")
	if s.resident, s.most, err = d.memory(); err != nil {
		d.t.Fatal(err)
	}
	s.spool = int64(d.metric("fieldbridge_spool_written_bytes_total"))
	s.cpu = time.Duration(d.metric("process_cpu_seconds_total") * float64(time.Second))
	return s
}

// metric is the value of a metric, whose labels are part of the name.
func (d *testDaemon) metric(name string) float64 {
	d.t.Helper()
	resp, err := http.Get("http://" + d.HTTP + "/metrics")
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	_, rest, found := strings.Cut("\n"+string(text), "\n"+name+" ")
	value, _, _ := strings.Cut(rest, "\n")
	v, err := strconv.ParseFloat(value, 64)
	if !found || err != nil {
		d.t.Fatalf("no metric %s", name)
	}
	return v
}
