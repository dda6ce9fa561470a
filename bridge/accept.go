package bridge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Known reports whether readings of the device are taken.
func (b *Bridge) Known(id DeviceID) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	_, ok := b.devices[id]
	return ok || b.open != nil
}

// Accept takes a reading and waits until the broker has it or, at the latest
// soon after Options.AckTimeout, the spool. The receipt says which. Otherwise
// nothing is kept, and the error is ErrUnknownDevice, ErrTooLarge, ErrKeyReused,
// ErrSpoolFull, a *RejectedError (never send it again) or an *UnavailableError
// (send it again later). When ctx is done first, its error is returned and what
// becomes of the reading is not known.
func (b *Bridge) Accept(ctx context.Context, r Reading, how Handling) (Receipt, error) {
	if how.Key.Value != "" {
		one := b.AcceptAll(ctx, []Reading{r}, []Key{how.Key}, how.Async)[0]
		return one.Receipt, one.Err
	}
	b.complete(&r)
	return b.accept(ctx, r, how)
}

func (b *Bridge) accept(ctx context.Context, r Reading, how Handling) (Receipt, error) {
	done := make(chan Outcome, 1)
	lane, e, err := b.add(r, how, done, nil)
	if err != nil {
		return Receipt{}, err
	}
	return b.await(ctx, r, lane, e, done)
}

// await waits for the end of a reading as Accept does.
func (b *Bridge) await(ctx context.Context, r Reading, lane *Lane, e *Entry, done <-chan Outcome) (Receipt, error) {
	timer := time.NewTimer(time.Duration(b.ackTimeout.Load()))
	defer timer.Stop()
	for {
		select {
		case o := <-done:
			return receipt(r, o)
		case <-timer.C:
			lane.content(e)
		case <-ctx.Done():
			select {
			case o := <-done: // both at the same time
				return receipt(r, o)
			default:
				return Receipt{}, givenUp(ctx, r.Device)
			}
		}
	}
}

// givenUp is the error for a sender whose ctx is done first.
func givenUp(ctx context.Context, device DeviceID) error {
	return fmt.Errorf("accept reading of %q: %w", device, ctx.Err())
}

// retryAfter is what a caller is asked to wait when there is no room.
const retryAfter = 5 * time.Second

func receipt(r Reading, o Outcome) (Receipt, error) {
	got := Receipt{ID: r.ID, Time: r.Time, State: Delivered}
	if got.Time.IsZero() {
		got.Time = time.Now() // the best there is; the reading's own comes later
	}
	switch o.Kind {
	case Acked:
		return got, nil
	case kept:
		got.State = Spooled
		return got, nil
	case Refused:
		return Receipt{}, &RejectedError{Code: o.Code, Reason: o.Reason}
	case failed:
		if errors.Is(o.err, ErrSpoolFull) || errors.Is(o.err, ErrKeyReused) {
			return Receipt{}, o.err
		}
		return Receipt{}, &UnavailableError{Reason: "the reading could not be stored: " + o.Reason, RetryAfter: retryAfter}
	default:
		return Receipt{}, &UnavailableError{Reason: o.Reason, RetryAfter: retryAfter}
	}
}

// Submit takes a reading that nobody waits for. It returns at once: nil when
// the reading is held, in order, until the broker has it; an *UnavailableError
// when there is no room; ErrUnknownDevice or ErrTooLarge. It is in memory for up
// to Options.AckTimeout and then, if the broker has not acknowledged it, in the
// spool; with Connection.SpoolFirst it goes there first.
func (b *Bridge) Submit(_ context.Context, r Reading) error {
	b.complete(&r)
	_, _, err := b.add(r, Handling{}, nil, nil)
	return err
}

func (b *Bridge) complete(r *Reading) {
	if r.ID == uuid.Nil {
		// NewV7 fails only if the system's randomness does; crypto/rand ends
		// the process before that.
		r.ID = uuid.Must(uuid.NewV7())
	}
	if r.Time.IsZero() {
		b.opts.Stamp(r)
	}
}

// add gives a reading to its lane; p is the page that it is of, or nil.
func (b *Bridge) add(r Reading, how Handling, done chan Outcome, p *addition) (*Lane, *Entry, error) {
	lane, leave, err := b.lane(r.Device, false)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	p.join(lane)
	e, err := lane.add(r, how, done)
	switch {
	case err == nil:
		return lane, e, nil
	case errors.Is(err, errFull):
		return nil, nil, &UnavailableError{
			Reason:     "more readings come in than the disk and the broker take",
			RetryAfter: retryAfter,
		}
	default:
		return nil, nil, fmt.Errorf("%w: %d bytes, the connector takes at most %d", err, len(r.Payload), lane.terms.Load().MaxPayload)
	}
}
