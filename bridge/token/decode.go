package token

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// maxToken bounds what Decode reads: the password of a CONNECT cannot be longer
// (MQTT v5 section 3.1.3.6).
const maxToken = 65535

// Decode returns the header and the claims of a token in compact form without
// verifying anything. Numbers are json.Number. It is for showing a token to its
// owner; nothing may be decided by the result. Errors have no part of the token
// in them.
func Decode(token string) (header, claims map[string]any, err error) {
	token = strings.TrimSpace(token)
	if len(token) > maxToken {
		return nil, nil, fmt.Errorf("decode token: it has %d bytes, at most %d are allowed", len(token), maxToken)
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, nil, fmt.Errorf("decode token: it has %d parts between dots, a signed token has 3", len(parts))
	}
	if header, err = decodePart(parts[0]); err != nil {
		return nil, nil, fmt.Errorf("decode token: header: %w", err)
	}
	if claims, err = decodePart(parts[1]); err != nil {
		return nil, nil, fmt.Errorf("decode token: claims: %w", err)
	}
	if _, err := base64.RawURLEncoding.DecodeString(parts[2]); err != nil {
		return nil, nil, errors.New("decode token: signature: not base64url without padding")
	}
	return header, claims, nil
}

func decodePart(part string) (map[string]any, error) {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return nil, errors.New("not base64url without padding")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil || m == nil {
		return nil, errors.New("not a JSON object")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return m, nil
}
