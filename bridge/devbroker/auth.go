package devbroker

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/mochi-mqtt/server/v2/packets"

	"fieldbridge/bridge"
)

// leeway is how far a token's iat may lie in the future.
const leeway = 60 * time.Second

// errAlgorithm comes out of the key look-up when no key of the device fits.
var errAlgorithm = errors.New("no key for this algorithm")

// authenticate says who a CONNECT comes from, or which rule it breaks. The rule
// has nothing of the password in it.
func (b *Broker) authenticate(pk packets.Packet) (who identity, broken string) {
	if !pk.Connect.UsernameFlag {
		return identity{}, "the user name must be present"
	}
	if !pk.Connect.PasswordFlag {
		return identity{}, "the password must be present"
	}
	username, password := string(pk.Connect.Username), string(pk.Connect.Password)
	secret, isConnector := b.opts.Connectors[username]
	if isConnector && secret.Equal(password) {
		return identity{connector: username, secret: secret}, ""
	}
	expires, broken := b.verify(pk.Connect.ClientIdentifier, password)
	if broken == "" {
		return identity{device: bridge.DeviceID(pk.Connect.ClientIdentifier), expires: expires}, ""
	}
	if isConnector {
		return identity{}, "the user name is a connector's id, but the password is not its secret"
	}
	return identity{}, broken
}

// verify checks a device's token (iat, exp and aud are what akenza asks for)
// and returns when it expires.
func (b *Broker) verify(clientID, token string) (expires time.Time, broken string) {
	device := bridge.DeviceID(clientID)
	b.mu.Lock()
	keys := b.devices[device]
	b.mu.Unlock()
	if len(keys) == 0 {
		return time.Time{}, "the client id is no device that connects with a token"
	}
	claims := jwt.MapClaims{}
	// The claims are checked below, on our clock and with a text for each.
	_, err := jwt.NewParser(jwt.WithoutClaimsValidation()).ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		return keysFor(t.Method.Alg(), keys)
	})
	switch {
	case errors.Is(err, jwt.ErrTokenMalformed):
		return time.Time{}, "the password is not a JSON Web Token"
	case errors.Is(err, errAlgorithm), errors.Is(err, jwt.ErrTokenUnverifiable):
		return time.Time{}, "the token's alg must be RS256 for an RSA key and ES256 for a P-256 key"
	case err != nil:
		return time.Time{}, "the token's signature does not verify with the device's public key"
	}
	return b.checkClaims(claims, device)
}

// keysFor returns the keys that fit a token's algorithm.
func keysFor(alg string, keys []crypto.PublicKey) (any, error) {
	var set jwt.VerificationKeySet
	for _, key := range keys {
		switch key.(type) {
		case *rsa.PublicKey:
			if alg == jwt.SigningMethodRS256.Alg() {
				set.Keys = append(set.Keys, key)
			}
		case *ecdsa.PublicKey:
			if alg == jwt.SigningMethodES256.Alg() {
				set.Keys = append(set.Keys, key)
			}
		}
	}
	if len(set.Keys) == 0 {
		return nil, errAlgorithm
	}
	return set, nil
}

func (b *Broker) checkClaims(claims jwt.MapClaims, device bridge.DeviceID) (expires time.Time, broken string) {
	now := b.opts.Now()
	exp, err := claims.GetExpirationTime()
	switch {
	case err != nil || exp == nil:
		return time.Time{}, "the token has no exp"
	case !exp.After(now):
		return time.Time{}, "the token has expired; is the clock right?"
	}
	iat, err := claims.GetIssuedAt()
	switch {
	case err != nil || iat == nil:
		return time.Time{}, "the token has no iat"
	case iat.After(now.Add(leeway)):
		return time.Time{}, "the token's iat lies in the future; is the clock right?"
	}
	if aud, ok := claims["aud"].(string); !ok {
		return time.Time{}, "the token's aud must be one string"
	} else if aud != strings.ReplaceAll(b.opts.Audience, "{device}", string(device)) {
		return time.Time{}, "the token's aud is not this broker's audience for the device"
	}
	return exp.Time, ""
}

// judge decides about a PUBLISH and fills in what its topic says. Zero accepts.
func (b *Broker) judge(who identity, m *Message) (code byte, broken string) {
	device, subtopic, ok := who.split(up, m.Topic)
	if !ok {
		return codeNotAuthorized, "the topic is not one that this client may publish to"
	}
	m.Device, m.Subtopic, m.Connector = device, subtopic, who.connector
	if m.ContentType != "" && !slices.Contains(bridge.ContentTypes, bridge.MediaType(m.ContentType)) {
		return codePayloadFormat, "the content type is not one of " + strings.Join(bridge.ContentTypes, ", ")
	}
	b.mu.Lock()
	match := b.refusePublish
	b.mu.Unlock()
	if match != nil {
		if code := match(*m); code >= 0x80 {
			return code, "the broker was told to refuse it"
		}
	}
	return 0, ""
}

// offence is the reason code of the DISCONNECT that a PUBLISH leads to, or zero.
func (b *Broker) offence(m Message) byte {
	b.mu.Lock()
	match := b.endPublish
	b.mu.Unlock()
	if match == nil {
		return 0
	}
	if code := match(m); code >= 0x80 {
		return code
	}
	return 0
}
