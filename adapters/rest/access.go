package rest

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"golang.org/x/time/rate"

	"fieldbridge/bridge"
)

// Direction is what a request is for; a Token has a set of them.
type Direction uint8

// The directions.
const (
	// Uplink sends readings.
	Uplink Direction = 1 << iota
	// Downlink takes what was sent to devices.
	Downlink
	// Read asks how the gateway and its devices are.
	Read
)

// AllDirections is what a token may do unless it is told otherwise.
const AllDirections = Uplink | Downlink | Read

func (d Direction) String() string {
	switch d {
	case Uplink:
		return "uplink"
	case Downlink:
		return "downlink"
	case Read:
		return "read"
	default:
		return "several directions"
	}
}

// TokenDigest is the SHA-256 of a token's text.
type TokenDigest = [sha256.Size]byte

// DigestToken makes the digest of a token.
func DigestToken(token string) TokenDigest { return sha256.Sum256([]byte(token)) }

// Token is a client of the endpoint and what it may do.
type Token struct {
	// Name is for people; it is not secret.
	Name string
	// Digests are of the texts by which the client is known: several while it
	// changes from one to the next.
	Digests []TokenDigest
	// Devices are ids, or beginnings of ids with a "*" behind them.
	Devices    []string
	Directions Direction
	// Rate is how many requests a second are answered; 0 is no limit. As many as
	// fit in a second may come at once.
	Rate float64
}

// Denial is why a request was not let in.
type Denial string

// The denials.
const (
	DeniedNoToken      Denial = "no_token"      // 401
	DeniedInvalidToken Denial = "invalid_token" // 400 or 401
	DeniedScope        Denial = "scope"         // 403
	DeniedRate         Denial = "rate"          // 429
)

// Denials are all of them.
var Denials = []Denial{DeniedNoToken, DeniedInvalidToken, DeniedScope, DeniedRate}

// client is a Token in use.
type client struct {
	Token
	limiter *rate.Limiter // nil: no limit
}

func newClients(tokens []Token) ([]*client, error) {
	var clients []*client
	for _, t := range tokens {
		c := &client{Token: t}
		switch {
		case len(t.Digests) == 0 || len(t.Devices) == 0 || t.Directions == 0:
			return nil, fmt.Errorf("http options: token %q lacks digests, devices or directions", t.Name)
		case t.Rate < 0 || math.IsNaN(t.Rate) || t.Rate > math.MaxInt32:
			return nil, fmt.Errorf("http options: the rate of token %q is not a number of requests", t.Name)
		case t.Rate > 0:
			c.limiter = rate.NewLimiter(rate.Limit(t.Rate), int(math.Ceil(t.Rate)))
		}
		clients = append(clients, c)
	}
	return clients, nil
}

// MayUse reports whether the token's devices have this one among them.
func (t *Token) MayUse(device bridge.DeviceID) bool {
	for _, pattern := range t.Devices {
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
			if strings.HasPrefix(string(device), prefix) {
				return true
			}
		} else if pattern == string(device) {
			return true
		}
	}
	return false
}

func (c *client) mayUseAll() bool { return slices.Contains(c.Devices, "*") }

// wait takes a request off the client's rate, or returns how long it has to
// wait for one.
func (c *client) wait() time.Duration {
	if c.limiter == nil {
		return 0
	}
	r := c.limiter.Reserve()
	d := r.Delay()
	if d > 0 {
		r.Cancel()
	}
	return d
}

type clientKey struct{}

func clientOf(r *http.Request) *client {
	c, _ := r.Context().Value(clientKey{}).(*client)
	return c
}

// allow lets requests through that may go in a direction: all of them as long as
// there are no tokens, or those of a token with this direction and, if the path
// names a device, with that device. Every route but /healthz, /readyz and
// /openapi.yaml is behind it, or behind allowCapture, and nothing else looks at
// tokens.
func (s *Server) allow(d Direction) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(s.opts.clients) == 0 {
				next.ServeHTTP(w, r)
				return
			}
			r, err := s.authorize(r, d)
			if err != nil {
				s.deny(w, err)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

// authorize returns the request with its client.
func (s *Server) authorize(r *http.Request, d Direction) (*http.Request, error) {
	c, err := s.identify(r)
	if err != nil {
		return nil, err
	}
	if err := c.admit(d); err != nil {
		return nil, err
	}
	r = r.WithContext(context.WithValue(r.Context(), clientKey{}, c))
	rctx := chi.RouteContext(r.Context())
	for _, key := range rctx.URLParams.Keys {
		if key != "device" {
			continue
		}
		device, err := parseDevice(rctx.URLParam(key))
		if err != nil {
			return nil, err
		}
		if err := s.mayUse(r, device); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// identify returns whose token a request has.
func (s *Server) identify(r *http.Request) (*client, error) {
	token, err := bearer(r)
	if err != nil {
		return nil, err
	}
	c := s.client(token)
	if c == nil {
		return nil, invalidToken("the token is not one of this gateway's; see its token files")
	}
	return c, nil
}

// admit takes a request in a direction off the client's rate, or says why not.
func (c *client) admit(d Direction) error {
	if wait := c.wait(); wait > 0 {
		return &denied{DeniedRate, &problem{status: http.StatusTooManyRequests, retryAfter: wait,
			detail: "not accepted: more requests a second than the rate of this token; send it again after the time in Retry-After"}}
	}
	if c.Directions&d == 0 {
		return outOfScope(fmt.Sprintf("this token is not for %s; use another, or add to its directions", d))
	}
	return nil
}

// client returns who a token belongs to, or nil. How long it takes tells nothing
// about the tokens.
func (s *Server) client(token string) *client {
	var found *client
	digest := DigestToken(token)
	for _, c := range s.opts.clients {
		for i := range c.Digests {
			if subtle.ConstantTimeCompare(digest[:], c.Digests[i][:]) == 1 {
				found = c
			}
		}
	}
	return found
}

// mayUse returns nil if the request's token has the device, or if there are no
// tokens. It is for handlers behind allow that learn of the device from
// elsewhere than the path; the error is for fail.
func (s *Server) mayUse(r *http.Request, device bridge.DeviceID) error {
	if len(s.opts.clients) == 0 {
		return nil
	}
	if c := clientOf(r); c != nil && c.MayUse(device) {
		return nil
	}
	return errOtherDevice
}

var errOtherDevice = outOfScope("this token is not for this device; use another, or add to its devices")

// denied is a problem that is counted.
type denied struct {
	why Denial
	*problem
}

func (d *denied) Unwrap() error { return d.problem }

func (s *Server) deny(w http.ResponseWriter, err error) {
	var d *denied
	if errors.As(err, &d) && s.opts.Denied != nil {
		s.opts.Denied(d.why)
	}
	s.fail(w, err)
}

// challenge is the header of RFC 6750, section 3. A request without a token
// gets no error code (section 3.1).
func challenge(code string) http.Header {
	value := `Bearer realm="fieldbridge"`
	if code != "" {
		value += `, error="` + code + `"`
	}
	return http.Header{"Www-Authenticate": {value}}
}

func invalidToken(detail string) error {
	return &denied{DeniedInvalidToken, &problem{status: http.StatusUnauthorized, detail: detail, header: challenge("invalid_token")}}
}

func outOfScope(detail string) error {
	return &denied{DeniedScope, &problem{status: http.StatusForbidden, detail: detail, header: challenge("insufficient_scope")}}
}

func invalidRequest(detail string) error {
	return &denied{DeniedInvalidToken, &problem{status: http.StatusBadRequest, detail: detail, header: challenge("invalid_request")}}
}

// bearer returns the token of a request (RFC 6750, section 2.1). No error shows
// any of it.
func bearer(r *http.Request) (string, error) {
	if r.URL.RawQuery != "" {
		// Its good pairs are enough: the handler looks at the rest.
		if query, _ := url.ParseQuery(r.URL.RawQuery); query.Has("access_token") {
			return "", invalidRequest("a token must not be in the query, which ends up in logs; send it in the header Authorization: Bearer, and replace it if it was a real one")
		}
	}
	values := r.Header["Authorization"]
	if len(values) > 1 {
		return "", invalidRequest("the Authorization header is there more than once; send one")
	}
	scheme, rest := "", ""
	if len(values) == 1 {
		scheme, rest, _ = strings.Cut(values[0], " ")
	}
	if !strings.EqualFold(scheme, "Bearer") {
		return "", &denied{DeniedNoToken, &problem{status: http.StatusUnauthorized, header: challenge(""),
			detail: "a token is needed; send the header Authorization: Bearer with it"}}
	}
	token := strings.TrimLeft(rest, " ")
	if !validToken(token) {
		return "", invalidToken("what follows Bearer is not a token; send one space and then the token as it is in its file")
	}
	return token, nil
}

// validToken reports whether a text can be sent as a token: b64token of RFC
// 6750, section 2.1.
func validToken(token string) bool {
	body := strings.TrimRight(token, "=")
	return body != "" && !strings.ContainsFunc(body, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-._~+/", c)
	})
}
