//go:build linux

package main

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"time"

	"fieldbridge/bridge"
)

// traffic sends readings of each device in turn, evenly spaced. It belongs to one
// goroutine at a time.
type traffic struct {
	bridge *bridge.Bridge
	gap    time.Duration // between two readings of any devices
	ids    []bridge.DeviceID
	sent   []int // accepted, by device
	// refused were not accepted: no room.
	refused int
}

func newTraffic(b *bridge.Bridge, devices int, period time.Duration) *traffic {
	t := &traffic{bridge: b, gap: period / time.Duration(devices), sent: make([]int, devices)}
	for i := range devices {
		t.ids = append(t.ids, bridge.DeviceID(deviceID(i)))
	}
	return t
}

// run sends until ctx is done or the time is over. A reading whose time has
// passed is sent at once.
func (t *traffic) run(ctx context.Context, d time.Duration) {
	const look = time.Millisecond
	began := time.Now()
	tick := time.NewTicker(max(t.gap, look))
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		passed := min(time.Since(began), d)
		for ; time.Duration(n)*t.gap < passed; n++ {
			t.send(n % len(t.ids))
		}
		if passed == d {
			return
		}
	}
}

func (t *traffic) send(i int) {
	payload, err := json.Marshal(note{Seq: t.sent[i], Sent: time.Now().UnixNano(), Value: float64(rand.IntN(1000)) / 10})
	if err == nil {
		err = t.bridge.Submit(context.Background(), bridge.Reading{Device: t.ids[i], ContentType: "application/json", Payload: payload})
	}
	if err != nil {
		t.refused++
		return
	}
	t.sent[i]++
}

// accepted is how many readings were accepted of each device.
func (t *traffic) accepted() map[string]int {
	m := make(map[string]int, len(t.ids))
	for i, id := range t.ids {
		m[string(id)] = t.sent[i]
	}
	return m
}
