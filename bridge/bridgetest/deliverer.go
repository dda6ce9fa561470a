package bridgetest

import (
	"context"
	"slices"
	"sync"

	"fieldbridge/bridge"
)

// Deliverer stands in for a serial port or a webhook.
type Deliverer struct {
	// Answer makes one attempt, if set; attempt counts from 1 for each downlink.
	// Set it before use.
	Answer func(ctx context.Context, d bridge.Downlink, attempt int) error
	// Reply is what each attempt answers, if set, also one that fails. Set it
	// before use.
	Reply func(d bridge.Downlink) *bridge.Answer

	mu       sync.Mutex // guards what follows
	attempts []bridge.Downlink
	busy     bool
	overlap  bool
}

// Deliver implements bridge.Deliverer.
func (t *Deliverer) Deliver(ctx context.Context, d bridge.Downlink) (*bridge.Answer, error) {
	t.mu.Lock()
	t.overlap = t.overlap || t.busy
	t.busy = true
	t.attempts = append(t.attempts, d)
	attempt := 0
	for _, a := range t.attempts {
		if a.ID == d.ID {
			attempt++
		}
	}
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		t.busy = false
		t.mu.Unlock()
	}()
	var answer *bridge.Answer
	if t.Reply != nil {
		answer = t.Reply(d)
	}
	if t.Answer == nil {
		return answer, nil
	}
	return answer, t.Answer(ctx, d, attempt)
}

// Attempts returns the downlinks of all attempts, in their order.
func (t *Deliverer) Attempts() []bridge.Downlink {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.attempts)
}

// Overlapped reports whether two attempts ran at the same time, against the
// contract.
func (t *Deliverer) Overlapped() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.overlap
}

var _ bridge.Deliverer = (*Deliverer)(nil)
