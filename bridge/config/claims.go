package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"fieldbridge/bridge"
)

// ownClaims are those that fieldbridge makes itself: for some of them there is a
// key, the others must be right for the token to be of use.
var ownClaims = map[string]string{
	"aud": "audience", "sub": "sub", "exp": "lifetime", "iat": "", "nbf": "",
}

// maxClaims bounds the claims as JSON, in bytes: a CONNECT is small.
const maxClaims = 16 << 10

// checkClaims checks the table of further claims.
func checkClaims(in place, claims map[string]any) {
	if !in.ok("claims") {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		at := joinPath("claims", quoteKey(name))
		if key, own := ownClaims[name]; own {
			hint := "remove it"
			if key != "" {
				hint = "use the key " + key
			}
			in.wrong(at, "is a claim that fieldbridge makes itself", hint)
			continue
		}
		in.flawed(at, checkClaim(claims[name]))
	}
	if text, err := json.Marshal(claims); in.ok("claims") && err == nil && len(text) > maxClaims {
		in.wrong("claims", fmt.Sprintf("has %d bytes as JSON, at most %d are allowed", len(text), maxClaims), "")
	}
}

func checkClaim(v any) *flaw {
	switch v := v.(type) {
	case string:
		if f := checkText(v); f != nil {
			return f
		}
		return checkTemplate(v, placeDevice, placeConnector, placeGateway)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return &flaw{"is a number that JSON does not have", ""}
		}
	case time.Time:
		return &flaw{"is a date or time, which JSON does not have", "write it in double quotes, or as a number"}
	case []any:
		for _, e := range v {
			if f := checkClaim(e); f != nil {
				return f
			}
		}
	case []map[string]any:
		for _, e := range v {
			if f := checkClaim(e); f != nil {
				return f
			}
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if f := checkClaim(v[k]); f != nil {
				return f
			}
		}
	case bool, int64:
	default: // local dates and times have types of their own
		return &flaw{"is of a type that JSON does not have", "write it in double quotes"}
	}
	return nil
}

// Claims are the connector's further claims for a device, with the templates in
// them filled in. They are the caller's.
func (c *Connector) Claims(device bridge.DeviceID) map[string]any {
	if len(c.Token.Claims) == 0 {
		return nil
	}
	return c.fill(c.Token.Claims, device).(map[string]any)
}

func (c *Connector) fill(v any, device bridge.DeviceID) any {
	switch v := v.(type) {
	case string:
		if !strings.Contains(v, "{") {
			return v
		}
		return c.Expand(v, device).Reveal()
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = c.fill(e, device)
		}
		return out
	case []map[string]any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = c.fill(e, device)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = c.fill(e, device)
		}
		return out
	}
	return v
}
