package bridge

import (
	"context"
)

type keyID struct {
	device DeviceID
	value  string
}

// keyed is a reading with a key that is being accepted.
type keyed struct {
	digest  [32]byte
	done    chan struct{} // closed when receipt and err are there
	receipt Receipt
	err     error
}

// claim makes the caller the one who accepts the reading with this key, until
// release. If somebody is already, that is other, and own is nil. Until the spool
// has the reading, nothing else would tell a second sender of it.
func (b *Bridge) claim(id keyID, digest [32]byte) (own, other *keyed) {
	b.kmu.Lock()
	defer b.kmu.Unlock()
	if other = b.keys[id]; other != nil {
		return nil, other
	}
	own = &keyed{digest: digest, done: make(chan struct{})}
	b.keys[id] = own
	return own, nil
}

// release tells those who wait for a claim what became of it.
func (b *Bridge) release(id keyID, own *keyed, receipt Receipt, err error) {
	own.receipt, own.err = receipt, err
	b.kmu.Lock()
	delete(b.keys, id)
	b.kmu.Unlock()
	close(own.done)
}

// wait waits for the end of somebody else's claim. If it is there, it counts, even
// if ctx is done, too.
func (k *keyed) wait(ctx context.Context, device DeviceID) (Receipt, error) {
	select {
	case <-k.done:
	case <-ctx.Done():
		select {
		case <-k.done:
		default:
			return Receipt{}, givenUp(ctx, device)
		}
	}
	return k.receipt, k.err
}

// remembered looks for a reading that came with this key before: it is known, or
// the error says why this one cannot be accepted.
func (b *Bridge) remembered(device DeviceID, key Key) (got Receipt, known bool, err error) {
	r, ok, err := b.opts.Spool.Remembered(device, key.Value)
	switch {
	case err != nil:
		return got, false, &UnavailableError{Reason: "the spool cannot be read", RetryAfter: retryAfter}
	case !ok:
		return got, false, nil
	case r.Digest != key.Digest:
		return got, false, ErrKeyReused
	case r.Dead != nil:
		return got, false, &RejectedError{Code: r.Dead.Code, Reason: r.Dead.Reason}
	}
	got = Receipt{ID: r.ID, Time: r.Time, State: Delivered}
	if r.Waiting {
		got.State = Spooled
	}
	return got, true, nil
}
