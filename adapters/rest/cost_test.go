package rest

import (
	"bufio"
	"context"
	"encoding/json"
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
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serverVariable names the server that this program is to be, instead of a test.
const serverVariable = "FIELDBRIDGE_REST_TEST_SERVER"

// servers are what BenchmarkPost compares, each in a process of its own.
var servers = map[string]func(net.Listener) error{
	"floor":  serveFloor,
	"rest":   func(ln net.Listener) error { return serveRest(ln, Options{}) },
	"tokens": func(ln net.Listener) error { return serveRest(ln, Options{Tokens: someTokens()}) },
}

// serveFloor is the least that net/http does for a request with a body: read it,
// and answer as long as a receipt is.
func serveFloor(ln net.Listener) error {
	receipt := []byte(`{"id":"0199c2b5-0000-7000-8000-000000000001","timestamp":"2026-01-31T12:00:00.000Z","message":"uplink received","state":"stored"}` + "\n")
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, r.ContentLength)
		if _, err := io.ReadFull(r.Body, body); err != nil {
			return
		}
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(receipt)
	})}
	return s.Serve(ln)
}

func serveRest(ln net.Listener, o Options) error {
	o, err := o.withDefaults()
	if err != nil {
		return err
	}
	return newServer(o, accepting{}, ln).Run(context.Background())
}

// cost is what a process has used.
type cost struct {
	CPU     time.Duration
	Mallocs uint64
	Bytes   uint64
}

func costNow() cost {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return cost{time.Duration(u.Utime.Nano() + u.Stime.Nano()), m.Mallocs, m.TotalAlloc}
}

// beServer tells its address, and then its cost for each line that comes, until
// there are no more.
func beServer(serve func(net.Listener) error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { panic(serve(ln)) }()
	fmt.Println(ln.Addr())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if err := json.NewEncoder(os.Stdout).Encode(costNow()); err != nil {
			panic(err)
		}
	}
}

// child is a server in another process.
type child struct {
	b    *testing.B
	addr string
	in   io.Writer
	out  *bufio.Reader
}

func startChild(b *testing.B, name string) *child {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	c := exec.Command(self)
	c.Env, c.Stderr = append(os.Environ(), serverVariable+"="+name), os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		if err := c.Wait(); err != nil {
			b.Error(err)
		}
	})
	p := &child{b: b, in: in, out: bufio.NewReader(out)}
	p.addr = strings.TrimSpace(p.line())
	return p
}

func (p *child) line() string {
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.b.Fatal(err)
	}
	return line
}

func (p *child) cost() (c cost) {
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		p.b.Fatal(err)
	}
	if err := json.Unmarshal([]byte(p.line()), &c); err != nil {
		p.b.Fatal(err)
	}
	return c
}

// post sends a request count times, one after the other, over a connection.
func (p *child) post(raw []byte, count int) error {
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for range count {
		if _, err := conn.Write(raw); err != nil {
			return err
		}
		length := 0
		for first := true; ; first = false {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return err
			}
			if first && !strings.HasPrefix(string(line), "HTTP/1.1 20") {
				return fmt.Errorf("answered %s", line)
			}
			if v, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
				if length, err = strconv.Atoi(strings.TrimSpace(v)); err != nil {
					return err
				}
			}
			if len(line) == 2 {
				break
			}
		}
		if _, err := in.Discard(length); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkPost is what the server's process costs for a reading over kept
// connections, beside one that only reads a body and answers 202. The Accepter
// costs nothing.
func BenchmarkPost(b *testing.B) {
	raw := []byte(request("POST", "/v1/devices/d1/uplink/alerts/critical", benchBody,
		"Host: 127.0.0.1:8080", "Content-Type: application/json", "User-Agent: bench", "Accept: */*", authorization("Bearer "+goodToken)))
	for _, name := range []string{"floor", "rest", "tokens"} {
		b.Run(name, func(b *testing.B) {
			const connections = 8
			p := startChild(b, name)
			each := func(count int) {
				var wait sync.WaitGroup
				for range connections {
					wait.Go(func() {
						if err := p.post(raw, count); err != nil {
							b.Error(err)
						}
					})
				}
				wait.Wait()
			}
			each(100)
			count := (b.N + connections - 1) / connections
			before := p.cost()
			b.ResetTimer()
			each(count)
			b.StopTimer()
			after, n := p.cost(), float64(count*connections)
			b.ReportMetric((after.CPU-before.CPU).Seconds()/n*1e5, "cpu-s/100k")
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "server-allocs/op")
			b.ReportMetric(float64(after.Bytes-before.Bytes)/n, "server-B/op")
		})
	}
}
