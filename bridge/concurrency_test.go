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

// Eight senders to each of some devices, with an uplink that acknowledges,
// refuses and loses at random: every sender is told once, and nothing is left.
func TestManySenders(t *testing.T) {
	b, up := newBridge(t, bridge.Options{AckTimeout: patience})
	b.ConnectOthers(bridge.Connection{Uplink: up})
	up.Window = 16
	var serving, senders sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		serving.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				f := up.Pull()
				if f == nil {
					for _, f := range up.InFlight() {
						f.Resolve(bridge.Outcome{Kind: bridge.Lost})
					}
					continue
				}
				switch refused := bytes.HasSuffix(f.Reading.Payload, []byte("7")); rand.IntN(4) {
				case 0: // stays in flight until all is lost
				case 1:
					f.Resolve(bridge.Outcome{Kind: bridge.Lost})
				default:
					if refused {
						f.Refuse(0x90, "")
					} else {
						f.Ack()
					}
				}
			}
		})
	}
	const each = 40
	for _, id := range []bridge.DeviceID{"a", "b", "c", "v1", "v2"} {
		for s := range 8 {
			senders.Go(func() {
				for i := range each {
					r := reading(id, fmt.Sprintf("%s %d %d", id, s, i))
					if i%4 == 0 {
						if err := b.Submit(t.Context(), r); err != nil {
							t.Error(err)
						}
						continue
					}
					_, err := b.Accept(t.Context(), r)
					var re *bridge.RejectedError
					if refused := i%10 == 7; errors.As(err, &re) != refused || !refused && err != nil {
						t.Errorf("%s: error %v", r.Payload, err)
					}
				}
			})
		}
	}
	senders.Wait()
	if err := b.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	close(stop)
	serving.Wait()
	nothing(t, up)
	checkHeld(t, b, 0)
	if n := b.Visitors(); n != 0 {
		t.Errorf("%d lanes are left", n)
	}
}

// Senders that give up at any moment leave nothing behind either.
func TestManyTimeouts(t *testing.T) {
	b, up := newBridge(t, bridge.Options{AckTimeout: 100 * time.Microsecond})
	b.ConnectOthers(bridge.Connection{Uplink: up})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if f := up.Pull(); f != nil {
					f.Ack()
				}
			}
		}
	})
	for _, id := range []bridge.DeviceID{"a", "b", "v1", "v2"} {
		for range 2 {
			wg.Go(func() {
				for range 200 {
					_, err := b.Accept(t.Context(), reading(id, "1"))
					var ue *bridge.UnavailableError
					if err != nil && !errors.As(err, &ue) {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
	if err := b.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	close(stop)
	serving.Wait()
	nothing(t, up)
	checkHeld(t, b, 0)
	if n := b.Visitors(); n != 0 {
		t.Errorf("%d lanes are left", n)
	}
}

func BenchmarkAccept(b *testing.B) {
	br, up := newBridge(b, bridge.Options{})
	ctx := b.Context()
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = up.Run(ctx, func(bridge.Reading) bridge.Outcome { return bridge.Outcome{} })
	})
	b.Cleanup(wg.Wait)
	r := reading("a", `{"t":21.5}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := br.Accept(ctx, r); err != nil {
			b.Fatal(err)
		}
	}
}
