//go:build linux

package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestBalance(t *testing.T) {
	for _, tt := range []struct {
		name     string
		arrived  []int
		accepted int
		want     balance
		ok       bool
	}{
		{"all", []int{0, 1, 2}, 3, balance{Accepted: 3}, true},
		{"none", nil, 2, balance{Accepted: 2, Lost: 2}, false},
		{"the last is missing", []int{0, 1}, 3, balance{Accepted: 3, Lost: 1}, false},
		{"one between is missing", []int{0, 2}, 3, balance{Accepted: 3, Lost: 1}, false},
		{"again", []int{0, 1, 0, 1, 2}, 3, balance{Accepted: 3, Repeated: 2}, true},
		{"overtaken", []int{0, 2, 1}, 3, balance{Accepted: 3, Disordered: 1}, false},
		{"overtaken, and again", []int{2, 0, 1, 2, 0}, 3, balance{Accepted: 3, Disordered: 2, Repeated: 2}, false},
		{"never accepted", []int{0, 1}, 1, balance{Accepted: 1, Strange: 1}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLedger()
			for _, seq := range tt.arrived {
				l.see("a", fmt.Appendf(nil, `{"seq":%d,"sent":1}`, seq), time.Unix(0, 2))
			}
			got := l.balance(map[string]int{"a": tt.accepted})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if ok := got.err() == nil; ok != tt.ok {
				t.Errorf("error %v", got.err())
			}
		})
	}
	l := newLedger()
	l.see("b", []byte(`{"seq":0}`), time.Now())
	l.see("a", []byte("no JSON"), time.Now())
	if b := l.balance(map[string]int{"a": 0}); b.Strange != 2 || b.err() == nil {
		t.Errorf("%+v", b)
	}
}

func TestGaps(t *testing.T) {
	l := newLedger()
	at := func(d time.Duration) time.Time { return time.Unix(100, 0).Add(d) }
	for i, took := range []time.Duration{1, 1, 40, 20, 1} { // one each 500 ms
		sent := at(time.Duration(i) * 500 * time.Millisecond)
		l.see("a", fmt.Appendf(nil, `{"seq":%d,"sent":%d}`, i, sent.UnixNano()), sent.Add(took*time.Millisecond))
	}
	got := l.gaps([]rotation{{"a", at(600 * time.Millisecond)}, {"a", at(time.Hour)}, {"b", at(0)}})
	if diff := cmp.Diff([]time.Duration{40 * time.Millisecond}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPeak(t *testing.T) {
	var ts []time.Time
	for _, ms := range []int{0, 999, 1000, 1500, 1999, 2000, 5000} {
		ts = append(ts, time.Unix(0, 0).Add(time.Duration(ms)*time.Millisecond))
	}
	if got := peak(ts, time.Second); got != 3 {
		t.Errorf("%d, want 3", got)
	}
	if got := peak(nil, time.Second); got != 0 {
		t.Errorf("%d of none", got)
	}
}

func TestSlope(t *testing.T) {
	if got := slope([]float64{1, 2, 4}, []float64{12, 14, 18}); got < 1.999 || got > 2.001 {
		t.Errorf("%g, want 2", got)
	}
}

func TestParse(t *testing.T) {
	if o, err := parse([]string{"-storm", "-sessions", "5000", "-rate", "500", "-tls"}); err != nil || o.Mode != modeStorm || !o.TLS {
		t.Errorf("%+v, %v", o, err)
	}
	for _, args := range [][]string{
		{"-storm", "-rotation"}, {"extra"}, {"-sessions", "0"}, {"-rate", "0"}, {"-auth", "none"},
		{"-steps", "0"}, {"-period", "1us"}, {"-idle", "48h"},
	} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}
