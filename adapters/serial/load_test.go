package serial

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fieldbridge/bridge"
)

var wholeLoad = flag.Bool("load", false, "run TestLoad with 32 ports for 60 s")

// sequence is an Accepter that looks whether each reading is the next one.
type sequence struct {
	mu      sync.Mutex // guards what follows
	next    int
	wrong   string
	reached chan struct{} // closed when next is last
	last    int
}

func (s *sequence) Submit(_ context.Context, r bridge.Reading) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	number, _, _ := strings.Cut(string(r.Payload), " ")
	n, err := strconv.Atoi(number)
	if (err != nil || n != s.next) && s.wrong == "" {
		s.wrong = fmt.Sprintf("reading %q instead of number %d", r.Payload, s.next)
	}
	s.next++
	s.check()
	return nil
}

// check is called with mu held.
func (s *sequence) check() {
	if s.reached != nil && s.next >= s.last {
		close(s.reached)
		s.reached = nil
	}
}

// until returns a channel that is closed when n readings have come.
func (s *sequence) until(n int) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := make(chan struct{})
	s.reached, s.last = c, n
	s.check()
	return c
}

// TestLoad saturates ports at 115,200 baud: 11,520 bytes a second each. No frame
// may be lost. With -load it does so with 32 ports for a minute and tells what
// that costs.
func TestLoad(t *testing.T) {
	ports, length := 4, 3*time.Second
	if *wholeLoad {
		ports, length = 32, time.Minute
	}
	const perSecond = 11520
	var all []*sequence
	var ends []*farEnd
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for i := range ports {
		far, seq := openPTY(t), &sequence{}
		p, err := New(Options{Name: fmt.Sprint("p", i), Port: far.path, Baud: 115200, Device: "d"}, seq)
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() { _ = p.Run(ctx) })
		all, ends = append(all, seq), append(ends, far)
		t.Cleanup(func() {
			if s := p.Stats(); len(s.FramesRefused) > 0 || s.Dropped > 0 || s.Opens != 1 {
				t.Errorf("port %d: %+v", i, s)
			}
		})
	}
	t.Cleanup(func() { cancel(); running.Wait() })

	before, began := cpuTime(t), time.Now()
	var writers sync.WaitGroup
	sent := make([]int, ports)
	for i, far := range ends {
		writers.Go(func() { sent[i] = saturate(t, far, perSecond, length) })
	}
	writers.Wait()
	late := time.Since(began)
	frames := 0
	for i, seq := range all {
		select {
		case <-seq.until(sent[i]):
		case <-time.After(patience):
			seq.mu.Lock()
			t.Errorf("port %d: %d of %d frames came", i, seq.next, sent[i])
			seq.mu.Unlock()
		}
		seq.mu.Lock()
		if seq.wrong != "" || seq.next != sent[i] {
			t.Errorf("port %d: %s; %d frames came, %d were sent", i, seq.wrong, seq.next, sent[i])
		}
		seq.mu.Unlock()
		frames += sent[i]
	}
	took, cpu := time.Since(began), cpuTime(t)-before
	runtime.GC()
	t.Logf("%d ports, %d frames in %s (writers ended after %s): CPU %s (%.1f %% of one core, with that of the writers), RSS %d KiB",
		ports, frames, took.Round(time.Millisecond), late.Round(time.Millisecond), cpu.Round(time.Millisecond), 100*cpu.Seconds()/took.Seconds(), rss(t))
}

// saturate writes numbered lines at a pace, and returns how many.
func saturate(t *testing.T, far *farEnd, perSecond int, length time.Duration) int {
	const each = 10 * time.Millisecond
	tick := time.NewTicker(each)
	defer tick.Stop()
	began := time.Now()
	n, written := 0, 0
	var buf []byte
	for time.Since(began) < length {
		<-tick.C
		due := int(time.Since(began).Seconds() * float64(perSecond))
		buf = buf[:0]
		for written+len(buf) < due {
			buf = fmt.Appendf(buf, "%08d temperature=21.53 humidity=40.1\n", n)
			n++
		}
		_ = far.SetWriteDeadline(time.Now().Add(patience))
		if _, err := far.Write(buf); err != nil {
			t.Errorf("write: %v", err)
			return n
		}
		written += len(buf)
	}
	return n
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// rss is the resident set in KiB (proc_pid_status(5)).
func rss(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	return 0
}
