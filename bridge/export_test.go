package bridge

// Pending is a reading that somebody waits for, without the goroutine.
type Pending struct {
	Reading Reading
	Done    <-chan Outcome
	lane    *Lane
	entry   *Entry
}

// Begin is the first half of Accept.
func (b *Bridge) Begin(r Reading) (*Pending, error) {
	complete(&r)
	done := make(chan Outcome, 1)
	lane, e, err := b.add(r, done)
	if err != nil {
		return nil, err
	}
	return &Pending{Reading: r, Done: done, lane: lane, entry: e}, nil
}

// Withdraw is what Accept does when its time is up.
func (p *Pending) Withdraw() bool { return p.lane.withdraw(p.entry) }

// Used is what counts against the memory budget.
func (b *Bridge) Used() int64 {
	b.budget.mu.Lock()
	defer b.budget.mu.Unlock()
	return b.budget.used
}

// Size is what a reading counts against the memory budget.
func Size(r Reading) int64 { return r.size() }

// Visitors is the number of lanes of devices that are not listed.
func (b *Bridge) Visitors() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.passing)
}

// MaxVisitors bounds it.
const MaxVisitors = maxVisitors
