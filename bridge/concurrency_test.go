package bridge_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"fieldbridge/bridge"
)

// Senders to several devices, with an uplink that acknowledges, refuses, loses
// and fails at random and a spool that is full at times: every sender is told
// once, what was taken gets to the broker in the order of each sender, and
// nothing is left.
func TestManySenders(t *testing.T) {
	t.Run("calm", func(t *testing.T) { manySenders(t, patience, 1<<30) })
	t.Run("rough", func(t *testing.T) { manySenders(t, 2*time.Millisecond, 400) })
}

// manySenders goes wrong once in so many rounds of the broker.
func manySenders(t *testing.T, ackTimeout time.Duration, rounds int) {
	r := newRig(t, bridge.Options{AckTimeout: ackTimeout})
	r.ConnectOthers(bridge.Connection{Uplink: r.up})
	r.up.Window = 16
	var broker, senders sync.WaitGroup
	stop := make(chan struct{})
	got := &inbox{last: map[string]int{}, sent: map[string]bool{}, got: map[string]bool{}}
	broker.Go(func() { serve(r, got, rounds, stop) })
	const each = 100
	devices := []bridge.DeviceID{"a", "b", "s", "v1", "v2"}
	taken := make(chan string, 5*(4+2)*each)
	told := func(x bridge.Reading, i int, err error) {
		var re *bridge.RejectedError
		var ue *bridge.UnavailableError
		switch {
		case err == nil:
			taken <- string(x.Payload)
		case errors.As(err, &re) && i%10 == 7:
		case !errors.Is(err, bridge.ErrSpoolFull) && !errors.As(err, &ue):
			t.Errorf("%s: error %v", x.Payload, err)
		}
	}
	const lines = 4 // of each device on a page
	for s := range 2 {
		senders.Go(func() {
			for i := 0; i < each; i += lines {
				var page []bridge.Reading
				for n := i; n < i+lines; n++ {
					for _, id := range devices {
						page = append(page, reading(id, fmt.Sprint(id, " page ", s, " ", n)))
					}
				}
				for k, got := range r.AcceptAll(t.Context(), page, nil, i%5 == 0) {
					told(page[k], i+k/len(devices), got.Err)
				}
			}
		})
	}
	for _, id := range devices {
		for s := range 4 {
			senders.Go(func() {
				for i := range each {
					sender := fmt.Sprint(id, " ", s)
					x := reading(id, fmt.Sprint(sender, " ", i))
					_, err := r.Accept(t.Context(), x, handling(i))
					told(x, i, err)
				}
			})
		}
	}
	senders.Wait()
	r.sp.Fail(nil)
	r.up.SetTrouble("")
	idle(t, r)
	close(stop)
	broker.Wait()
	close(taken)
	dead := map[string]bool{}
	for _, d := range r.sp.Dead() {
		dead[string(d.Reading.Payload)] = true
	}
	n := 0
	for p := range taken {
		n++
		if !got.got[p] && !dead[p] {
			t.Errorf("%s was taken and never arrived", p)
		}
	}
	t.Logf("%d taken, %d were spooled, %d appends, %d dead letters", n, r.Counts().Spooled, r.sp.Appends(), len(dead))
	if err := r.CheckLanes(); err != nil {
		t.Error(err)
	}
	if r.Held() != 0 || r.Used() != 0 || r.Visitors() != 0 || r.KeysUnderWay() != 0 {
		t.Errorf("%d readings of %d bytes, %d visitors, %d keys are left", r.Held(), r.Used(), r.Visitors(), r.KeysUnderWay())
	}
	for _, e := range got.errs {
		t.Error(e)
	}
}

func handling(i int) bridge.Handling {
	switch i % 20 {
	case 3:
		return async
	case 14:
		return key(fmt.Sprint(rand.Int64()), 1)
	}
	return bridge.Handling{}
}

// inbox is what the broker got. One goroutine uses it at a time.
type inbox struct {
	last map[string]int // per sender
	sent map[string]bool
	got  map[string]bool
	errs []string
}

// see notes that a reading was sent, which may happen again.
func (b *inbox) see(payload []byte) {
	i := bytes.LastIndexByte(payload, ' ')
	sender, n := string(payload[:i]), 0
	_, _ = fmt.Sscan(string(payload[i+1:]), &n)
	if b.sent[string(payload)] {
		return
	}
	if last, ok := b.last[sender]; ok && n <= last {
		b.errs = append(b.errs, fmt.Sprintf("%s comes after %d", payload, last))
	}
	b.last[sender] = n
	b.sent[string(payload)] = true
}

// serve is a broker, and a world in which much goes wrong.
func serve(r *rig, got *inbox, rounds int, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		switch rand.IntN(rounds) {
		case 0:
			r.down()
			r.up.Lose()
		case 1:
			r.sp.Fail(bridge.ErrSpoolFull)
		case 2:
			if _, err := r.Recover(); err != nil {
				got.errs = append(got.errs, err.Error())
			}
		case 3, 4, 5, 6, 7, 8:
			r.up.SetTrouble("")
			r.sp.Fail(nil)
		}
		if r.up.Trouble() != "" {
			continue
		}
		if f := r.up.Pull(); f != nil {
			got.see(f.Reading.Payload)
			if rand.IntN(8) > 0 { // else its PUBACK is late
				end(f.Reading.Payload, got, f.Resolve)
			}
		}
		for _, f := range r.up.InFlight() {
			if rand.IntN(3) == 0 {
				end(f.Reading.Payload, got, f.Resolve)
			}
		}
	}
}

func end(payload []byte, got *inbox, resolve func(bridge.Outcome)) {
	if bytes.HasSuffix(payload, []byte("7")) {
		resolve(bridge.Outcome{Kind: bridge.Refused, Code: 0x90})
		return
	}
	got.got[string(payload)] = true
	resolve(bridge.Outcome{Kind: bridge.Acked})
}

// idle waits until nothing is in memory or in the spool.
func idle(t *testing.T, r *rig) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); r.Held() > 0 || len(r.sp.Rows()) > 0 || r.sp.Queued() > 0 || r.Visitors() > 0; {
		if time.Now().After(end) {
			t.Fatalf("%d readings are held, %d are stored", r.Held(), len(r.sp.Rows()))
		}
		r.sp.Fail(nil)
		r.up.SetTrouble("")
		<-tick.C
	}
}

// One reading from the sender to the broker and back, with the link up: the
// common case, which costs no write.
func BenchmarkAccept(b *testing.B) {
	r := newRig(b, bridge.Options{})
	ctx := b.Context()
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = r.up.Run(ctx, func(bridge.Reading) bridge.Outcome { return bridge.Outcome{} })
	})
	b.Cleanup(wg.Wait)
	x := reading("a", `{"t":21.5}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Accept(ctx, x, bridge.Handling{}); err != nil {
			b.Fatal(err)
		}
	}
	if n := r.sp.Appends(); n > 0 {
		b.Errorf("%d appends", n)
	}
}

// The lane's own work for a reading that nobody waits for.
func BenchmarkSubmit(b *testing.B) {
	r := newRig(b, bridge.Options{})
	x := reading("a", `{"t":21.5}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := r.Submit(b.Context(), x); err != nil {
			b.Fatal(err)
		}
		r.up.Pull().Ack()
	}
	if n := r.sp.Appends(); n > 0 {
		b.Errorf("%d appends", n)
	}
}
