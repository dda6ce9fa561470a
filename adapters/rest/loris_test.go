package rest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lorisVariable makes this program a crowd of clients that do nothing, with file
// descriptors of its own: "address count".
const lorisVariable = "FIELDBRIDGE_TEST_LORIS"

func init() {
	if v := os.Getenv(lorisVariable); v != "" {
		address, count, _ := strings.Cut(v, " ")
		n, err := strconv.Atoi(count)
		if err != nil {
			panic(err)
		}
		crowd(address, n)
		os.Exit(0)
	}
}

// crowd holds connections until its standard input ends. It tells how many are
// at it, and comes again for those that are cut.
func crowd(address string, n int) {
	var held atomic.Int64
	dials := make(chan struct{}, 64) // at once
	for i := range n {
		go func() {
			for {
				dials <- struct{}{}
				conn, err := net.Dial("tcp", address)
				<-dials
				if err == nil {
					loiter(conn, i, func() { held.Add(1) }, func() { held.Add(-1) })
					conn.Close()
				}
				time.Sleep(100 * time.Millisecond)
			}
		}()
	}
	go func() {
		for {
			fmt.Println(held.Load())
			time.Sleep(50 * time.Millisecond)
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// loiter does nothing in one of four ways, until the server ends it.
func loiter(conn net.Conn, way int, begin, end func()) {
	what, drip := "", ""
	switch way % 4 {
	case 0:
		what = request("POST", "/v1/devices/uplink/uplink", "1")
	case 1: // never a byte
	case 2:
		what, drip = halfHeader+"X-Slow: ", "x"
	case 3:
		what, drip = strings.Replace(longBody, "/d1/", "/uplink/", 1), "x"
	}
	if _, err := io.WriteString(conn, what); err != nil {
		return
	}
	if way%4 == 0 {
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != http.StatusOK {
			return
		}
	}
	begin()
	defer end()
	if drip == "" {
		_, _ = conn.Read(make([]byte, 1))
		return
	}
	for {
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); !isTimeout(err) {
			return
		}
		if _, err := io.WriteString(conn, drip); err != nil {
			return
		}
	}
}

// startCrowd holds connections to a server until the test ends, or stop.
func startCrowd(t *testing.T, s *running, n int) (held *atomic.Int64, stop func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", lorisVariable, s.Addr(), n))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	held = &atomic.Int64{}
	var reader sync.WaitGroup
	reader.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				held.Store(n)
			}
		}
	})
	var once sync.Once
	stop = func() {
		once.Do(func() {
			in.Close()
			reader.Wait()
			if err := cmd.Wait(); err != nil {
				t.Errorf("the crowd: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return held, stop
}

// await waits until something is so.
func await(t *testing.T, limit time.Duration, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// send posts n numbered readings as one client, one after the other. With kept it
// does so on one connection.
func send(s *running, client, n int, kept bool) error {
	tr := &http.Transport{DisableKeepAlives: !kept, MaxConnsPerHost: 1}
	defer tr.CloseIdleConnections()
	c := &http.Client{Transport: tr, Timeout: 3 * patience}
	for i := range n {
		a, err := tryPost(c, s.url("/v1/devices/d1/uplink"), "text/plain", fmt.Sprintf("%d/%d", client, i))
		if err != nil || a.status != http.StatusOK {
			return fmt.Errorf("client %d, reading %d: status %d, %w, %s", client, i, a.status, err, a.body)
		}
	}
	return nil
}

// checkNumbers checks that the readings of every client came, once and in order.
func checkNumbers(t *testing.T, in *intake, clients int, n func(client int) int) {
	t.Helper()
	next := make([]int, clients)
	for _, r := range in.take() {
		var client, i int
		if r.Device != "d1" {
			continue // the crowd's
		}
		if _, err := fmt.Sscanf(string(r.Payload), "%d/%d", &client, &i); err != nil {
			t.Fatalf("reading %q", r.Payload)
		}
		if next[client] != i {
			t.Fatalf("reading %d of client %d where %d is due", i, client, next[client])
		}
		next[client]++
	}
	for client, got := range next {
		if got != n(client) {
			t.Errorf("%d readings of client %d, want %d", got, client, n(client))
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Thousands who do nothing keep nobody from sending, whether all of them fit, or
// they come again and again for the few places that there are.
func TestCrowd(t *testing.T) {
	if testing.Short() {
		t.Skip("takes thousands of connections")
	}
	const wanted = 10_000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	all := wanted
	if room := int(min(limit.Cur, 1<<20)) - 500; room < all {
		t.Logf("%d connections instead of %d: the limit of file descriptors is %d", room, wanted, limit.Cur)
		all = room
	}
	const clients = 8
	for _, tt := range []struct {
		name   string
		most   int // connections
		crowd  int
		enough int // of the crowd
		kept   int // readings on one connection
		fresh  int // on one each: a place has to be waited for if there is none
	}{
		{"all fit", all + 100, all, all, 200, 100},
		{"few fit", 512, min(all, 1500), 256, 200, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := newIntake()
			// So long that all of them are there at the same time.
			s := start(t, Options{MaxConnections: tt.most, ReadHeaderTimeout: 10 * patience, ReadTimeout: 10 * patience}, in)
			sendRaw(t, s.Addr(), request("GET", "/healthz", "")) // everything of it runs
			await(t, patience, "the first connection to go", func() bool { return s.Connections() == 0 })
			fds, goroutines := descriptors(t), runtime.NumGoroutine()
			held, stop := startCrowd(t, s, tt.crowd)
			await(t, 5*patience, "the crowd", func() bool { return held.Load() >= int64(tt.enough) })
			if got := s.Connections(); got < tt.enough {
				t.Errorf("%d connections are open, want %d", got, tt.enough)
			}
			n := func(client int) int {
				if client%2 == 0 {
					return tt.kept
				}
				return tt.fresh
			}
			var sent sync.WaitGroup
			for client := range clients {
				sent.Go(func() {
					if err := send(s, client, n(client), client%2 == 0); err != nil {
						t.Error(err)
					}
				})
			}
			sent.Wait()
			if got := s.Connections(); got < tt.enough || got > tt.most+tt.most/leavingShare {
				t.Errorf("%d connections are open, want %d to %d", got, tt.enough, tt.most)
			}
			checkNumbers(t, in, clients, n)
			stop()
			await(t, patience, "the connections to go", func() bool { return s.Connections() == 0 })
			await(t, patience, "descriptors and goroutines to go", func() bool {
				return descriptors(t) <= fds && runtime.NumGoroutine() <= goroutines
			})
			if err := send(s, 0, 1, false); err != nil {
				t.Error(err)
			}
		})
	}
}
