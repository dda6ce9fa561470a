package rest

import (
	"net/http"
	"sync"
	"testing"
)

// A successor takes the socket over under load: no connection is refused and
// every request is answered.
func TestSuccessor(t *testing.T) {
	in := newIntake()
	s := start(t, Options{MaxBody: 4}, in)
	url := s.url("/v1/devices/d1/uplink")
	var load sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
				if a, err := tryPost(c, url, "text/plain", "1"); err != nil || a.status != http.StatusOK {
					t.Errorf("status %d, %v", a.status, err)
					return
				}
			}
		})
	}
	for size := int64(5); size < 15; size++ {
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
		if a := post(t, newClient(t), url, "text/plain", "12345"); a.status != http.StatusOK {
			t.Errorf("status %d for a body that fits", a.status)
		}
	}
	close(stop)
	load.Wait()
	if _, err := s.Successor(Options{MaxBody: -1}); err == nil {
		t.Error("wrong options were taken")
	}
}
