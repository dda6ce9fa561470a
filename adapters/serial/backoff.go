package serial

import (
	"math/rand/v2"
	"time"
)

const (
	backoffFirst = 100 * time.Millisecond
	// backoffMost keeps the promise that a port is in use again within 2 s of its
	// return.
	backoffMost = 1500 * time.Millisecond
	// backoffGood is how long a port must have worked for its next loss to
	// count as the first one: an adapter with a bad contact must not be opened
	// ten times a second.
	backoffGood = 10 * time.Second
)

// backoff gives the pauses between attempts to open a port: a random part of a
// bound that doubles ("full jitter"), so that ports that went away together, as
// behind one hub, do not come back in step.
type backoff struct{ bound time.Duration }

func (b *backoff) pause() time.Duration {
	b.bound = min(max(2*b.bound, backoffFirst), backoffMost)
	return rand.N(b.bound + 1)
}

// worked tells how long the port was open since the last pause.
func (b *backoff) worked(d time.Duration) {
	if d >= backoffGood {
		b.bound = 0
	}
}
