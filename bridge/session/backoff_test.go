package session

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

// Full jitter: anything between zero and a bound that doubles up to the maximum.
func TestBackoffBounds(t *testing.T) {
	b := Backoff{}.withDefaults()
	refused := fmt.Errorf("x: %w", &ReasonError{Packet: "CONNACK", Code: 0x87})
	for _, tt := range []struct {
		attempt int
		err     error
		bound   time.Duration
	}{
		{1, errAway, time.Second},
		{2, errAway, 2 * time.Second},
		{3, errAway, 4 * time.Second},
		{6, errAway, 32 * time.Second},
		{7, errAway, time.Minute},
		{1 << 40, errAway, time.Minute},
		{1, refused, 15 * time.Second},
		{2, refused, 30 * time.Second},
		{5, refused, 4 * time.Minute},
		{6, refused, 5 * time.Minute},
		{1 << 40, refused, 5 * time.Minute},
		{1, &ReasonError{Packet: "DISCONNECT", Code: 0x8B}, time.Second},
	} {
		lo, hi := time.Hour, time.Duration(0)
		for range 2000 {
			d := b.wait(tt.attempt, tt.err)
			lo, hi = min(lo, d), max(hi, d)
		}
		if hi > tt.bound+time.Millisecond || hi < tt.bound*9/10 || lo > tt.bound/10 || lo <= 0 {
			t.Errorf("attempt %d after %v: %s to %s, want 0 to %s", tt.attempt, tt.err, lo, hi, tt.bound)
		}
	}
}

// A broker that takes every CONNECT and drops the connection at once is not
// hammered.
func TestDroppedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		start(t, srv, nil)
		n := connects(srv, 10*time.Minute, func(p *peer) { p.connack(0, true, nil); p.cut() })
		if n < 12 || n > 60 { // 10 min of pauses of 30 s on average, after the first few
			t.Errorf("%d CONNECTs in ten minutes", n)
		}
	})
}

// connects counts the CONNECTs in a span of time and answers each.
func connects(srv *server, span time.Duration, answer func(*peer)) (n int) {
	end := time.After(span)
	for {
		select {
		case p := <-srv.conns:
			receiveConnect(p)
			answer(p)
			n++
		case <-end:
			return n
		}
	}
}

func receiveConnect(p *peer) { <-p.in }

// A connection that lasted starts the count of attempts again.
func TestBackoffStartsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		start(t, srv, nil)
		connects(srv, 10*time.Minute, func(p *peer) { p.connack(0, true, nil); p.cut() })
		p := srv.accept(true)
		for range 20 {
			time.Sleep(2*time.Minute + time.Second)
			p.cut()
			cut := time.Now()
			p = srv.accept(true)
			if d := time.Since(cut); d > time.Second+time.Millisecond {
				t.Errorf("came back after %s, want a second at most", d)
			}
		}
	})
}

// Two gateways with one client id throw each other out: that must calm down.
func TestTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, nil)
		start(t, srv, nil)
		var last *peer
		n := connects(srv, 2*time.Hour, func(p *peer) {
			if last != nil {
				last.disconnect(0x8E, "")
				last.cut()
			}
			p.connack(0, true, nil)
			last = p
		})
		if n > 40 { // about 18: pauses of 7.5 to 15 minutes in the end
			t.Errorf("%d CONNECTs in two hours", n)
		}
		if len(r.log.lines("second gateway")) == 0 {
			t.Errorf("log:\n%s", r.log)
		}
	})
}

// The same with a broker that does not say 0x8E: it calms down as well, and the
// log says what it may be.
func TestTakenOverWithoutAWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, nil)
		start(t, srv, nil)
		var last *peer
		n := connects(srv, 2*time.Hour, func(p *peer) {
			if last != nil {
				last.cut()
			}
			p.connack(0, true, nil)
			last = p
		})
		if n > 340 { // two of them, with pauses of half a minute on average; about 250
			t.Errorf("%d CONNECTs in two hours", n)
		}
		if len(r.log.lines("does another client use this client id")) == 0 {
			t.Errorf("log:\n%s", r.log)
		}
	})
}

func TestNewErrors(t *testing.T) {
	good := newRig(t, newServer(t), nil).opts
	for name, change := range map[string]func(*Options){
		"endpoint":     func(o *Options) { o.Endpoint = nil },
		"client id":    func(o *Options) { o.ClientID = "" },
		"credentials":  func(o *Options) { o.Credentials = nil },
		"uplink topic": func(o *Options) { o.Topics.Uplink = "" },
		"no handler":   func(o *Options) { subscribing(o); o.Downlinks = nil },
		"filter":       func(o *Options) { subscribing(o); o.Topics.Downlink = "/down/{device}" },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTopics(t *testing.T) {
	if got := Expand("/up/{secret}/{connector}/{device}/{x}", map[string]string{
		"secret": "{connector}", "connector": "c",
	}); got != "/up/{connector}/c/{device}/{x}" {
		t.Errorf("Expand gives %s", got)
	}
	ts := Topics{Uplink: "/up/s/id/{device}", Downlink: "/down/s/id/{device}/#"}
	if got := ts.uplink(&bridge.Reading{Device: "{device}", Subtopic: "a/b"}); got != "/up/s/id/{device}/a/b" {
		t.Errorf("uplink %s", got)
	}
	if got := ts.filter("d"); got != "/down/s/id/d/#" {
		t.Errorf("filter %s", got)
	}
	for _, tt := range []struct{ topic, device, sub string }{ // device "": an error
		{"/down/s/id/d", "d", ""},
		{"/down/s/id/d/a", "d", "a"},
		{"/down/s/id/d/a/b/c", "d", "a/b/c"},
		{"/down/s/id/d/a//b", "d", "a//b"},
		{"/down/s/id", "", ""},
		{"/down/s/id/", "", ""},
		{"/down/t/id/d/a", "", ""},
		{"down/s/id/d/a", "", ""},
		{"", "", ""},
	} {
		d, sub, err := ts.downlink(tt.topic)
		if string(d) != tt.device || sub != tt.sub || (err == nil) != (tt.device != "") {
			t.Errorf("%q gives %q, %q, %v", tt.topic, d, sub, err)
		}
	}
}

func FuzzDownlinkTopic(f *testing.F) {
	f.Fuzz(func(t *testing.T, topic string) {
		ts := Topics{Downlink: "/down/s/id/{device}/#"}
		d, sub, err := ts.downlink(topic)
		if err != nil {
			if !errors.Is(err, bridge.ErrInvalid) && d != "" {
				t.Errorf("%q gives %q with %v", topic, d, err)
			}
			return
		}
		again := "/down/s/id/" + string(d)
		if sub != "" {
			again += "/" + sub
		}
		if again != topic && again+"/" != topic {
			t.Errorf("%q was taken for %q", topic, again)
		}
		if !bridge.MatchFilter(ts.filter(d), topic) {
			t.Errorf("%q does not match the filter it is taken for", topic)
		}
	})
}
