package spool

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge"
)

var (
	million = flag.Int("spool.readings", 0, "how many readings TestMillion spools and drains")
	alone   = flag.Bool("spool.alone", false, "TestMillion is alone in its process")
)

const maxResident = 64 << 20

// A million readings of 200 bytes, of eight devices, are stored and drained in
// little memory. It runs in a process of its own, whose memory is measured.
func TestMillion(t *testing.T) {
	if !*alone {
		c := exec.Command(os.Args[0], "-test.run=^TestMillion$", "-test.v", "-spool.alone", fmt.Sprint("-spool.readings=", effort(million, 40_000)))
		out, err := c.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Error(err)
		}
		return
	}
	d := open(t, Options{MinFree: 1 << 20})
	n := *million
	before, begin := deviceBytes(t), time.Now()
	for i := 0; i < n; i += 80 {
		rs := make([]bridge.Reading, 80)
		for j := range rs {
			rs[j] = sized(fmt.Sprint("device-", j%8), i+j)
		}
		mustAppend(t, d, rs...)
	}
	stored, took := deviceBytes(t), time.Since(begin)
	rounded := (n + 79) / 80 * 80
	t.Logf("stored %d readings, %d bytes: %.0f/s, %d bytes to the device each, resident %d MiB", rounded,
		d.Stats().Bytes, float64(rounded)/took.Seconds(), (stored-before)/int64(rounded), resident(t)>>20)

	begin = time.Now()
	drained := make(chan int, 8)
	for w := range 8 {
		go func() {
			next := w
			drained <- drain(t, d, fmt.Sprint("device-", w), func(s bridge.Stored) {
				got, _, _ := strings.Cut(string(s.Payload), "\x00")
				if got != strconv.Itoa(next) {
					t.Errorf("reading %s, want %d", got, next)
				}
				next += 8
			})
		}()
	}
	sum := 0
	for range 8 {
		sum += <-drained
	}
	flush(t, d)
	took = time.Since(begin)
	t.Logf("drained %d readings: %.0f/s, %d bytes to the device each, resident %d MiB at most", sum,
		float64(sum)/took.Seconds(), (deviceBytes(t)-stored)/int64(rounded), resident(t)>>20)
	if sum != rounded {
		t.Errorf("%d readings came back, want %d", sum, rounded)
	}
	begin = time.Now()
	shut(t, d)
	d = open(t, Options{Dir: d.opts.Dir})
	t.Logf("opened again after %v", time.Since(begin))
	if r := resident(t); r > maxResident && !raceDetector {
		t.Errorf("%d bytes were resident, at most %d should be", r, maxResident)
	}
}

// resident is the most memory that this process had so far (proc(5),
// /proc/pid/status, VmHWM).
func resident(t testing.TB) int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
