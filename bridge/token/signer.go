package token

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"fieldbridge/bridge"
)

// MinLifetime is the shortest life of a token. Its times are whole seconds
// (rounded down), so that anything shorter could be over before it is used.
const MinLifetime = 2 * time.Second

// The values of Options.KeyID.
const (
	KeyIDNone   = "none"
	KeyIDSHA256 = "sha256"
)

// Options says what a Signer writes into its tokens.
type Options struct {
	// Device becomes the claim sub, unless Subject does.
	Device  bridge.DeviceID
	Subject string
	// Claims are further ones, as encoding/json takes them. They must not be
	// changed afterwards, and cannot replace iat, exp, aud and sub.
	Claims map[string]any
	// Audience becomes the claim aud, one string: the connector's template with
	// the device id filled in.
	Audience string
	// Lifetime is exp - iat, at least MinLifetime; fractions of a second are cut.
	Lifetime time.Duration
	// KeyID chooses the header kid: KeyIDNone (or "") for none, KeyIDSHA256 for
	// the lower-case hex SHA-256 of the public key's SubjectPublicKeyInfo (DER).
	KeyID string
	// Now is the wall clock; nil means time.Now.
	Now func() time.Time
}

// Token is a signed JSON Web Token in compact form (RFC 7515, section 3.1).
type Token struct {
	Value bridge.Secret
	// IssuedAt and Expires are the claims iat and exp: whole seconds.
	IssuedAt, Expires time.Time
}

// Signer mints the tokens of one device. It is safe for concurrent use.
type Signer struct {
	key      crypto.Signer
	method   jwt.SigningMethod
	kid      string
	subject  string
	claims   map[string]any
	audience string
	lifetime time.Duration
	now      func() time.Time
}

// NewSigner checks the options and the key, an *rsa.PrivateKey or
// *ecdsa.PrivateKey as ParsePrivateKey returns it. The key must not be changed
// afterwards.
func NewSigner(key crypto.Signer, o Options) (*Signer, error) {
	s := &Signer{
		key:      key,
		subject:  cmp.Or(o.Subject, string(o.Device)),
		claims:   o.Claims,
		audience: o.Audience,
		lifetime: o.Lifetime.Truncate(time.Second),
		now:      o.Now,
	}
	switch key.(type) {
	case *rsa.PrivateKey:
		s.method = jwt.SigningMethodRS256
	case *ecdsa.PrivateKey:
		s.method = jwt.SigningMethodES256
	default:
		return nil, fmt.Errorf("new signer: keys of type %T are not supported", key)
	}
	if err := checkPublic(key.Public()); err != nil {
		return nil, fmt.Errorf("new signer: %w", err)
	}
	switch {
	case o.Device == "":
		return nil, errors.New("new signer: the device id is empty")
	case o.Audience == "":
		return nil, errors.New("new signer: the audience is empty")
	case s.lifetime < MinLifetime:
		return nil, fmt.Errorf("new signer: the lifetime must be at least %v (got %v)", MinLifetime, o.Lifetime)
	}
	if s.now == nil {
		s.now = time.Now
	}
	switch o.KeyID {
	case "", KeyIDNone:
	case KeyIDSHA256:
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return nil, fmt.Errorf("new signer: %w", err)
		}
		sum := sha256.Sum256(der)
		s.kid = hex.EncodeToString(sum[:])
	default:
		return nil, fmt.Errorf("new signer: key id %q is not one of %s, %s", o.KeyID, KeyIDNone, KeyIDSHA256)
	}
	return s, nil
}

// Algorithm returns the header alg of the tokens: "RS256" or "ES256".
func (s *Signer) Algorithm() string { return s.method.Alg() }

// Mint signs a new token that is valid from now on. It costs CPU time (about
// 1 ms with RSA-2048, 0.05 ms with P-256 on a desktop, far more on a small
// gateway): mint per connection attempt, not ahead of it.
func (s *Signer) Mint() (Token, error) {
	issued := s.now().Truncate(time.Second)
	expires := issued.Add(s.lifetime)
	claims := make(jwt.MapClaims, len(s.claims)+4)
	maps.Copy(claims, s.claims)
	claims["iat"] = issued.Unix()
	claims["exp"] = expires.Unix()
	claims["aud"] = s.audience // a map keeps it one string; RegisteredClaims would write an array
	claims["sub"] = s.subject
	t := jwt.NewWithClaims(s.method, claims)
	if s.kid != "" {
		t.Header["kid"] = s.kid
	}
	signed, err := t.SignedString(s.key)
	if err != nil {
		return Token{}, fmt.Errorf("sign token: %w", err)
	}
	return Token{Value: bridge.NewSecret(signed), IssuedAt: issued, Expires: expires}, nil
}

// Skew is how far this machine's clock may be behind the broker's: so long before
// its end, by our clock, a token of this life is renewed at the latest. It is a
// tenth of the life and at least 500 ms; the reconnect must fit in, too.
func Skew(life time.Duration) time.Duration { return max(life/10, 500*time.Millisecond) }

// RenewAt picks when to replace t: a random moment in the last fifth of its life
// less Skew, so that many devices that started together do not renew together.
// r returns numbers in [0, 1), as math/rand/v2.Float64 does.
func RenewAt(t Token, r func() float64) time.Time {
	life := t.Expires.Sub(t.IssuedAt)
	end := life - Skew(life)
	if end <= 0 {
		return t.IssuedAt.Add(life / 2)
	}
	start := min(life-life/5, end)
	return t.IssuedAt.Add(start + time.Duration(r()*float64(end-start)))
}
