package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge/token"
)

const (
	device   = "0004A30B001C1B03"
	audience = "https://akenza.io/devices/" + device
)

func key(t testing.TB, file string) crypto.Signer {
	t.Helper()
	k, err := token.ParsePrivateKey(read(t, file))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signer(t testing.TB, file string, change func(*token.Options)) *token.Signer {
	t.Helper()
	o := token.Options{
		Device: device, Audience: audience, Lifetime: time.Hour,
		Now: func() time.Time { return time.Unix(1_760_000_000, 900_000_000) },
	}
	if change != nil {
		change(&o)
	}
	s, err := token.NewSigner(key(t, file), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMint(t *testing.T) {
	for _, tc := range []struct {
		file, keyID, alg, kid string
	}{
		{"p256.sec1.pem", "", "ES256", ""},
		// The key ids are what openssl pkey -pubout -outform DER | sha256sum says.
		{"p256.sec1.pem", token.KeyIDSHA256, "ES256", "fa4b35f19bc1b8dff8865155eb719d4e8721b5e1367f76545d254f3a863b48e9"},
		{"rsa2048.pkcs1.pem", token.KeyIDNone, "RS256", ""},
		{"rsa2048.pkcs8.pem", token.KeyIDSHA256, "RS256", "d93c66cd31522cb062bb58372fc3823f94a75f938e2294f5287b715b7659c206"},
	} {
		t.Run(tc.alg+tc.keyID, func(t *testing.T) {
			s := signer(t, tc.file, func(o *token.Options) { o.KeyID = tc.keyID })
			tok, err := s.Mint()
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Algorithm(); got != tc.alg {
				t.Errorf("Algorithm() = %q", got)
			}
			if !tok.IssuedAt.Equal(time.Unix(1_760_000_000, 0)) || !tok.Expires.Equal(time.Unix(1_760_003_600, 0)) {
				t.Errorf("issued %v, expires %v", tok.IssuedAt, tok.Expires)
			}
			header, claims, err := token.Decode(tok.Value.Reveal() + "\n")
			if err != nil {
				t.Fatal(err)
			}
			wantHeader := map[string]any{"typ": "JWT", "alg": tc.alg}
			if tc.kid != "" {
				wantHeader["kid"] = tc.kid
			}
			if d := cmp.Diff(wantHeader, header); d != "" {
				t.Error(d)
			}
			wantClaims := map[string]any{
				"iat": json.Number("1760000000"), "exp": json.Number("1760003600"), "aud": audience, "sub": device,
			}
			if d := cmp.Diff(wantClaims, claims); d != "" {
				t.Error(d)
			}
			verify(t, tok.Value.Reveal(), key(t, tc.file).Public())
			if strings.Contains(fmt.Sprintf("%v %+v %#v", tok, tok, tok), tok.Value.Reveal()[:20]) {
				t.Error("the token shows itself")
			}
		})
	}
}

// verify checks the signature twice: with the JWT library, and with nothing but
// the standard library (RFC 7518, sections 3.3 and 3.4).
func verify(t *testing.T, tok string, public crypto.PublicKey) {
	t.Helper()
	if _, err := jwt.NewParser(jwt.WithoutClaimsValidation()).Parse(tok, func(*jwt.Token) (any, error) { return public, nil }); err != nil {
		t.Error(err)
	}
	dot := strings.LastIndexByte(tok, '.')
	sig, err := base64.RawURLEncoding.DecodeString(tok[dot+1:])
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(tok[:dot]))
	switch k := public.(type) {
	case *rsa.PublicKey:
		if err := rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig); err != nil {
			t.Error(err)
		}
	case *ecdsa.PublicKey:
		if len(sig) != 64 || !ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
			t.Error("the signature is wrong")
		}
	}
}

func TestMintConcurrently(t *testing.T) {
	s := signer(t, "p256.sec1.pem", nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := s.Mint(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestNewSignerErrors(t *testing.T) {
	good := token.Options{Device: device, Audience: audience, Lifetime: time.Hour}
	for _, tc := range []struct {
		want   string
		change func(*token.Options)
	}{
		{"device id is empty", func(o *token.Options) { o.Device = "" }},
		{"audience is empty", func(o *token.Options) { o.Audience = "" }},
		{"at least 2s (got 1.999s)", func(o *token.Options) { o.Lifetime = 1999 * time.Millisecond }},
		{`key id "md5" is not one of none, sha256`, func(o *token.Options) { o.KeyID = "md5" }},
	} {
		o := good
		tc.change(&o)
		if _, err := token.NewSigner(key(t, "p256.sec1.pem"), o); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("error %v does not say %q", err, tc.want)
		}
	}
	if _, err := token.NewSigner(nil, good); err == nil {
		t.Error("no key was accepted")
	}
}

func TestRenewAt(t *testing.T) {
	at := time.Unix(1_760_000_000, 0)
	for _, tc := range []struct{ life, first, last time.Duration }{
		{time.Hour, 48 * time.Minute, 54 * time.Minute},
		{10 * time.Second, 8 * time.Second, 9 * time.Second},
		{3 * time.Second, 2400 * time.Millisecond, 2500 * time.Millisecond},
		{2 * time.Second, 1500 * time.Millisecond, 1500 * time.Millisecond},
		{400 * time.Millisecond, 200 * time.Millisecond, 200 * time.Millisecond},
		{0, 0, 0},
	} {
		tok := token.Token{IssuedAt: at, Expires: at.Add(tc.life)}
		first := token.RenewAt(tok, func() float64 { return 0 }).Sub(at)
		last := token.RenewAt(tok, func() float64 { return 1 }).Sub(at)
		if first != tc.first || last != tc.last {
			t.Errorf("a token of %v is renewed from %v to %v, want %v to %v", tc.life, first, last, tc.first, tc.last)
		}
	}
}

func BenchmarkMint(b *testing.B) {
	for _, file := range []string{"p256.pkcs8.pem", "rsa2048.pkcs8.pem"} {
		s := signer(b, file, nil)
		b.Run(s.Algorithm(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Mint(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
