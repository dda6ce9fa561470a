package token

import (
	"errors"
	"sync"
)

// Ring is the keys of one device, one of which is in use. The one that the
// broker has accepted stays in use until it is refused; then the others come in
// their order. It is safe for concurrent use.
type Ring struct {
	keys []*KeyFile

	mu      sync.Mutex // guards what follows
	current int        // the key to use next
	refused int        // keys in a row since one was accepted
}

// NewRing takes the keys in the order in which they are tried.
func NewRing(keys ...*KeyFile) (*Ring, error) {
	if len(keys) == 0 {
		return nil, errors.New("new ring: no key")
	}
	return &Ring{keys: keys}, nil
}

// Len is the number of keys.
func (r *Ring) Len() int { return len(r.keys) }

// Mint signs a token with the key in use and returns that key, for Answered.
func (r *Ring) Mint() (Token, *KeyFile, error) {
	r.mu.Lock()
	k := r.keys[r.current]
	r.mu.Unlock()
	t, err := k.Mint()
	return t, k, err
}

// Answered tells what the broker said to a token of the key. After a refusal the
// next key is in use; another reports that it has not been refused yet since one
// was accepted, so that it should be tried soon.
func (r *Ring) Answered(k *KeyFile, accepted bool) (another bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if accepted {
		r.refused = 0
		return false
	}
	if r.keys[r.current] != k {
		return true // the answer is to an older question
	}
	r.current = (r.current + 1) % len(r.keys)
	r.refused++
	return r.refused%len(r.keys) != 0
}
