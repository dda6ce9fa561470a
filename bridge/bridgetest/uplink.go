package bridgetest

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"fieldbridge/bridge"
)

// Uplink stands in for a session: it takes readings from its sources in turn,
// up to a window, and the test says what becomes of each. The zero value has no
// limit to its window. All methods may be called from any goroutine.
//
// It notes what a source does against the contract of bridge.Uplink and
// bridge.Source; see Misuse.
type Uplink struct {
	// Window bounds what is in flight; 0 means no limit. Set it before use.
	Window int

	mu      sync.Mutex // guards what follows
	ready   []bridge.Source
	flights []*Flight
	trouble string
	misuse  []string
	changed chan struct{} // closed and replaced when there may be more to pull
}

// Flight is a reading that has been sent and not been answered.
type Flight struct {
	// Reading must not be changed.
	Reading bridge.Reading

	up    *Uplink
	src   bridge.Source
	entry *bridge.Entry
}

// Offer implements bridge.Uplink.
func (u *Uplink) Offer(src bridge.Source) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if slices.Contains(u.ready, src) {
		u.misuse = append(u.misuse, "a source was offered that had not answered nil since")
	}
	u.ready = append(u.ready, src)
	u.signal()
}

// signal is called with mu held.
func (u *Uplink) signal() {
	if u.changed != nil {
		close(u.changed)
		u.changed = nil
	}
}

// Trouble implements bridge.Uplink.
func (u *Uplink) Trouble() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.trouble
}

// SetTrouble sets what Trouble says.
func (u *Uplink) SetTrouble(text string) {
	u.mu.Lock()
	u.trouble = text
	u.mu.Unlock()
}

// Misuse lists what sources did against their contract.
func (u *Uplink) Misuse() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.misuse)
}

// Offered is the number of sources that wait for their turn.
func (u *Uplink) Offered() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.ready)
}

// InFlight returns what has been sent and not been answered, oldest first.
func (u *Uplink) InFlight() []*Flight {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.flights)
}

// Pull sends the next reading, or returns nil if none waits or the window is
// full.
func (u *Uplink) Pull() *Flight {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.pull()
}

// pull is called with mu held. Sources must not call back from Next.
func (u *Uplink) pull() *Flight {
	if u.Window > 0 && len(u.flights) >= u.Window {
		return nil
	}
	for len(u.ready) > 0 {
		src := u.ready[0]
		u.ready = u.ready[1:]
		e := src.Next()
		if e == nil {
			continue
		}
		for _, f := range u.flights {
			if f.entry == e && f.src == src { // with a berth that was left, it was taken back
				u.misuse = append(u.misuse, fmt.Sprintf("%s came from Next while it was in flight", e.Reading.ID))
			}
		}
		u.ready = append(u.ready, src)
		f := &Flight{Reading: e.Reading, up: u, src: src, entry: e}
		u.flights = append(u.flights, f)
		return f
	}
	u.ready = nil
	return nil
}

// Wait is Pull that waits until there is something.
func (u *Uplink) Wait(ctx context.Context) (*Flight, error) {
	for {
		u.mu.Lock()
		f := u.pull()
		if u.changed == nil {
			u.changed = make(chan struct{})
		}
		changed := u.changed
		u.mu.Unlock()
		if f != nil {
			return f, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Run answers every reading until ctx is done.
func (u *Uplink) Run(ctx context.Context, answer func(bridge.Reading) bridge.Outcome) error {
	for {
		f, err := u.Wait(ctx)
		if err != nil {
			return nil
		}
		f.Resolve(answer(f.Reading))
	}
}

// Lose ends the session: all that is in flight is lost, oldest first.
func (u *Uplink) Lose() {
	for _, f := range u.InFlight() {
		f.Resolve(bridge.Outcome{Kind: bridge.Lost, Reason: "the session was lost"})
	}
}

// Ack resolves a flight as acknowledged.
func (f *Flight) Ack() { f.Resolve(bridge.Outcome{Kind: bridge.Acked}) }

// Refuse resolves a flight as refused for good.
func (f *Flight) Refuse(code byte, reason string) {
	f.Resolve(bridge.Outcome{Kind: bridge.Refused, Code: code, Reason: reason})
}

// Retry resolves a flight as refused for now; maxTries is that of Outcome.
func (f *Flight) Retry(code byte, maxTries int) {
	f.Resolve(bridge.Outcome{Kind: bridge.Retry, Code: code, Reason: "not now", MaxTries: maxTries})
}

// Resolve ends a flight. The second time it does nothing.
func (f *Flight) Resolve(o bridge.Outcome) {
	u := f.up
	u.mu.Lock()
	i := slices.Index(u.flights, f)
	if i >= 0 {
		u.flights = slices.Delete(u.flights, i, i+1)
		u.signal()
	}
	u.mu.Unlock()
	if i >= 0 {
		f.src.Resolve(f.entry, o)
	}
}

var _ bridge.Uplink = (*Uplink)(nil)
