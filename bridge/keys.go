package bridge

import (
	"context"
	"fmt"
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

// acceptKeyed accepts a reading once, however often and however simultaneously
// it comes with its key.
func (b *Bridge) acceptKeyed(ctx context.Context, r Reading, how Handling) (Receipt, error) {
	id := keyID{r.Device, how.Key.Value}
	b.kmu.Lock()
	other := b.keys[id]
	if other == nil {
		k := &keyed{digest: how.Key.Digest, done: make(chan struct{})}
		b.keys[id] = k
		b.kmu.Unlock()
		// Until the spool has the reading, nothing else would tell a second
		// sender of it. So this one stays, even if its client has gone.
		k.receipt, k.err = b.acceptFirst(context.WithoutCancel(ctx), r, how)
		b.kmu.Lock()
		delete(b.keys, id)
		b.kmu.Unlock()
		close(k.done)
		return k.receipt, k.err
	}
	b.kmu.Unlock()
	if other.digest != how.Key.Digest {
		return Receipt{}, ErrKeyReused
	}
	select {
	case <-other.done:
		return other.receipt, other.err
	case <-ctx.Done():
		return Receipt{}, fmt.Errorf("accept reading of %q: %w", r.Device, ctx.Err())
	}
}

func (b *Bridge) acceptFirst(ctx context.Context, r Reading, how Handling) (Receipt, error) {
	known, ok, err := b.opts.Spool.Remembered(r.Device, how.Key.Value)
	switch {
	case err != nil:
		return Receipt{}, &UnavailableError{Reason: "the spool cannot be read", RetryAfter: retryAfter}
	case !ok:
		return b.accept(ctx, r, how)
	case known.Digest != how.Key.Digest:
		return Receipt{}, ErrKeyReused
	case known.Dead != nil:
		return Receipt{}, &RejectedError{Code: known.Dead.Code, Reason: known.Dead.Reason}
	}
	got := Receipt{ID: known.ID, Time: known.Time, State: Delivered}
	if known.Waiting {
		got.State = Spooled
	}
	return got, nil
}
