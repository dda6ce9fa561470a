package rest

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"fieldbridge/bridge"
)

// accepting is an Accepter that costs nothing.
type accepting struct{}

func (accepting) Known(bridge.DeviceID) bool { return true }

func (accepting) Accept(_ context.Context, r bridge.Reading, _ bridge.Handling) (bridge.Receipt, error) {
	return delivered(r), nil
}

func (accepting) AcceptAll(_ context.Context, rs []bridge.Reading, _ []bridge.Key, _ bool) []bridge.Accepted {
	all := make([]bridge.Accepted, len(rs))
	for i, r := range rs {
		all[i].Receipt = delivered(r)
	}
	return all
}

const benchBody = `{"temperature":21.53,"humidity":48.1,"pressure":1013.2,"battery":3.61,"seq":1234567,"unit":"C"}`

// discard is a ResponseWriter that costs little.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkHandler is one reading from the routes to the answer, without
// net/http's part.
func BenchmarkHandler(b *testing.B) {
	h := handler(b, accepting{}, DefaultMaxBody)
	rd := strings.NewReader(benchBody)
	r, err := http.NewRequest(http.MethodPost, "http://127.0.0.1/v1/devices/d1/uplink/alerts/critical", nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.ContentLength = int64(len(benchBody))
	r.Body = io.NopCloser(rd)
	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		rd.Reset(benchBody)
		clear(w.header)
		h.ServeHTTP(w, r)
	}
}

// BenchmarkServer is one reading over a loopback connection that is kept, with
// the client's part.
func BenchmarkServer(b *testing.B) {
	s := start(b, Options{}, accepting{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c := newClient(b)
		for pb.Next() {
			if a, err := tryPost(c, s.url("/v1/devices/d1/uplink/alerts/critical"), "application/json", benchBody); err != nil || a.status != http.StatusOK {
				b.Errorf("status %d, error %v", a.status, err)
				return
			}
		}
	})
}
