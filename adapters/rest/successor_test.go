package rest

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"
)

// A successor takes the socket over under load: no connection is refused and
// every request is answered, whether connections are kept or not.
func TestSuccessor(t *testing.T) {
	for name, once := range map[string]bool{"kept": false, "one each": true} {
		t.Run(name, func(t *testing.T) { succeed(t, once) })
	}
}

func succeed(t *testing.T, once bool) {
	in := newIntake()
	s := start(t, Options{MaxBody: 4}, in)
	url := s.url("/v1/devices/d1/uplink")
	var load sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		load.Go(func() {
			c := &http.Client{Transport: &http.Transport{DisableKeepAlives: once}, Timeout: patience}
			defer c.CloseIdleConnections()
			for {
				select {
				case <-stop:
					return
				default:
				}
				if a, err := tryPost(c, url, "text/plain", "1"); err != nil || a.status != http.StatusOK {
					t.Errorf("status %d, %v", a.status, err)
					return
				}
			}
		})
	}
	for size := int64(5); size < 25; size++ {
		next, err := s.Successor(Options{MaxBody: size})
		if err != nil {
			t.Fatal(err)
		}
		before := s
		s = run(t, next)
		before.stop()
		if err := <-before.done; err != nil {
			t.Error(err)
		}
		if s.Addr().String() != before.Addr().String() {
			t.Errorf("address %s, was %s", s.Addr(), before.Addr())
		}
		c := newClient(t)
		if a := post(t, c, url, "text/plain", "12345"); a.status != http.StatusOK {
			t.Errorf("status %d for a body that fits", a.status)
		}
		c.CloseIdleConnections() // the server would wait for another request
	}
	close(stop)
	load.Wait()
	if _, err := s.Successor(Options{MaxBody: -1}); err == nil {
		t.Error("wrong options were taken")
	}
}

// What a predecessor has in progress keeps nobody from the successor, and idle
// clients are sent there.
func TestSuccessorTakesWhatIsNew(t *testing.T) {
	in, entered, let := held()
	s := start(t, Options{}, in)
	kept := dial(t, s.Addr())
	if a := exchange(t, kept, request("GET", "/healthz", "")); a.status != http.StatusOK {
		t.Fatalf("status %d", a.status)
	}
	one := postAside(t, s.url("/v1/devices/d1/uplink"))
	within(t, entered)
	next, err := s.Successor(Options{})
	if err != nil {
		t.Fatal(err)
	}
	before := s
	s = run(t, next)
	before.stop()
	<-before.Shut()
	for range 5 {
		if a := sendRaw(t, s.Addr(), request("GET", "/readyz", "")); a.status != http.StatusOK {
			t.Errorf("readyz: status %d", a.status)
		}
	}
	if err := kept.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := kept.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection got %d bytes, error %v", n, err)
	}
	close(let)
	if p := within(t, one); p.err != nil || p.status != http.StatusOK {
		t.Errorf("answer %d, error %v", p.status, p.err)
	}
	if err := within(t, before.done); err != nil {
		t.Error(err)
	}
}

// A batch that is open goes on for a while: its client need not notice.
func TestSuccessorLeavesBatchesTime(t *testing.T) {
	in := newIntake()
	s := start(t, Options{}, in)
	short, long := beginBatch(t, s), beginBatch(t, s)
	next, err := s.Successor(Options{})
	if err != nil {
		t.Fatal(err)
	}
	before := s
	s = run(t, next)
	before.stop()
	<-before.Shut()
	short.send(2)
	short.want(2, 200)
	_ = short.to.Close()
	short.end()
	long.want(2, 503)
	long.end()
	if a := sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "1")); a.status != http.StatusOK {
		t.Errorf("status %d", a.status)
	}
	if err := within(t, before.done); err != nil {
		t.Error(err)
	}
}

// A successor that never ran leaves things as they were.
func TestSuccessorThatIsGivenUp(t *testing.T) {
	in, entered, let := held()
	s := start(t, Options{}, in)
	next, err := s.Successor(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	one := postAside(t, s.url("/v1/devices/d1/uplink"))
	within(t, entered)
	s.stop()
	<-s.Shut()
	checkProblem(t, sendRaw(t, s.Addr(), request("POST", "/v1/uplinks", "")), http.StatusServiceUnavailable, "fieldbridge stops")
	close(let)
	if p := within(t, one); p.err != nil || p.status != http.StatusOK {
		t.Errorf("answer %d, error %v", p.status, p.err)
	}
}
