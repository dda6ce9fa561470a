package bridge

import "sync"

// budget bounds the bytes of all readings held in memory and tells when none is
// held any more.
type budget struct {
	max int64

	mu       sync.Mutex // guards what follows
	used     int64
	reserved int64 // for pages that are being read
	count    int
	empty    chan struct{} // closed at count 0, if somebody waits
}

// take counts n bytes, if they fit. roomy tells that more than half is left: a
// reading may then wait in memory only.
func (b *budget) take(n int64) (roomy, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n > b.max {
		return false, false
	}
	b.used += n
	b.count++
	return b.used <= b.max/2, true
}

// force counts n bytes of a page that has been read.
func (b *budget) force(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += n
	b.count++
}

// reserve says how many bytes of a backlog may be read at once: what memory is
// left is shared by all lanes that have one, and the other half is for readings
// that come in. At the least it is one reading.
func (b *budget) reserve() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(max((b.max/2-b.used-b.reserved)/16, 1), pageBytes)
	b.reserved += n
	return n
}

func (b *budget) unreserve(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reserved -= n
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
