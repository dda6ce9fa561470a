package bridge

import "sync"

// budget bounds the bytes of all readings held in memory and tells when none is
// held any more.
type budget struct {
	max int64

	mu    sync.Mutex // guards what follows
	used  int64
	count int
	empty chan struct{} // closed at count 0, if somebody waits
}

func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.max {
		return false
	}
	b.used += n
	b.count++
	return true
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.count--
	if b.count == 0 && b.empty != nil {
		close(b.empty)
		b.empty = nil
	}
}

func (b *budget) held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count
}

// drained returns a channel that is closed once nothing is held.
func (b *budget) drained() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.count == 0 {
		c := make(chan struct{})
		close(c)
		return c
	}
	if b.empty == nil {
		b.empty = make(chan struct{})
	}
	return b.empty
}
