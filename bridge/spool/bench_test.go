package spool

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"fieldbridge/bridge"
)

// deviceBytes is what this process has sent to storage so far, as the kernel
// counts it (proc(5), /proc/pid/io, write_bytes).
func deviceBytes(t testing.TB) int64 {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Logf("bytes to the device are not known: %v", err)
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}

// sized is a reading with a payload of 200 bytes.
func sized(device string, n int) bridge.Reading {
	r := reading(device, n)
	r.Payload = make([]byte, 200)
	copy(r.Payload, strconv.Itoa(n))
	return r
}

// report gives the figures of n readings.
func report(b *testing.B, n int, before int64) {
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "readings/s")
	b.ReportMetric(float64(deviceBytes(b)-before)/float64(n), "device-B/reading")
}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprint(writers, "-writers"), func(b *testing.B) {
			d := open(b, Options{Logger: quiet()})
			before := deviceBytes(b)
			var next atomic.Int64
			var all sync.WaitGroup
			b.ResetTimer()
			for w := range writers {
				all.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						mustAppend(b, d, sized(fmt.Sprint("device-", w), int(i)))
					}
				})
			}
			all.Wait()
			b.StopTimer()
			report(b, b.N, before)
			b.ReportMetric(float64(d.Stats().WrittenBytes)/float64(b.N), "counted-B/reading")
		})
	}
}

// One iteration is a reading that was loaded and deleted.
func BenchmarkDrain(b *testing.B) {
	d := open(b, Options{Logger: quiet()})
	fill(b, d, "device", b.N)
	before := deviceBytes(b)
	b.ResetTimer()
	if n := drain(b, d, "device", nil); n != b.N {
		b.Fatalf("%d readings, want %d", n, b.N)
	}
	flush(b, d)
	b.StopTimer()
	report(b, b.N, before)
}

// fill stores readings in groups, as a lane does that loses its link.
func fill(t testing.TB, d *DB, device string, n int) {
	for i := 0; i < n; i += 100 {
		rs := make([]bridge.Reading, min(100, n-i))
		for j := range rs {
			rs[j] = sized(device, i+j)
		}
		mustAppend(t, d, rs...)
	}
}

// drain loads pages and deletes what they hold. each sees every reading.
func drain(t testing.TB, d *DB, device string, each func(bridge.Stored)) (n int) {
	after := int64(0)
	for {
		page := load(t, d, device, after, 64<<10)
		if len(page) == 0 {
			return n
		}
		seqs := make([]int64, len(page))
		for i, s := range page {
			seqs[i] = s.Seq
			if each != nil {
				each(s)
			}
		}
		d.Delete(seqs)
		after = seqs[len(seqs)-1]
		n += len(page)
	}
}
