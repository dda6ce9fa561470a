package webhook

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"fieldbridge/bridge"
)

// TestSignature has the published library verify what a target sends.
func TestSignature(t *testing.T) {
	type sent struct {
		header http.Header
		body   []byte
	}
	got := make(chan sent, 1)
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- sent{r.Header, body}
	})
	current, next := bytes.Repeat([]byte{0xff, 0}, 12), []byte("a secret of sixty-four bytes, which is as long as they can be...")
	target := newTarget(t, Options{URL: s.URL, Secrets: []bridge.Secret{bridge.NewSecret(string(current)), bridge.NewSecret(string(next))}})
	for _, d := range []bridge.Downlink{
		{ID: "0199c2b5-0000-7000-8000-000000000001", Device: "d", Payload: []byte(`{"valve":"open"}`)},
		{ID: "id with.a dot\n", Device: "d", Payload: []byte("\x00\xff.")},
		{ID: "empty", Device: "d"},
	} {
		if _, err := target.Deliver(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		r := <-got
		if n := len(strings.Split(r.header.Get("webhook-signature"), " ")); n != 2 {
			t.Errorf("%d signatures: %q", n, r.header.Get("webhook-signature"))
		}
		for i, secret := range [][]byte{current, next} {
			witness, err := standardwebhooks.NewWebhook("whsec_" + base64.StdEncoding.EncodeToString(secret))
			if err != nil {
				t.Fatal(err)
			}
			if err := witness.Verify(r.body, r.header); err != nil {
				t.Errorf("%q, secret %d: %v", d.ID, i, err)
			}
			if err := witness.Verify(append(r.body, 'x'), r.header); err == nil {
				t.Errorf("%q, secret %d: another body is verified", d.ID, i)
			}
		}
		stranger, err := standardwebhooks.NewWebhookRaw(bytes.Repeat([]byte{1}, 32))
		if err != nil {
			t.Fatal(err)
		}
		if stranger.Verify(r.body, r.header) == nil {
			t.Errorf("%q: any secret verifies", d.ID)
		}
	}
	if strings.Contains(target.name, string(next)) {
		t.Error("a secret is in the name")
	}
}

func TestUnsigned(t *testing.T) {
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if _, ok := r.Header["Webhook-Signature"]; ok {
			t.Error("a signature without a secret")
		}
	})
	if _, err := newTarget(t, Options{URL: s.URL}).Deliver(t.Context(), bridge.Downlink{ID: "1", Device: "d"}); err != nil {
		t.Fatal(err)
	}
}

func TestOwnCA(t *testing.T) {
	secure := func() (*httptest.Server, []byte) {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		s.Config.ErrorLog = discardLog()
		s.StartTLS()
		t.Cleanup(s.Close)
		return s, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	}
	s, ca := secure()
	if _, err := newTarget(t, Options{URL: s.URL, CAPEM: ca}).Deliver(t.Context(), bridge.Downlink{ID: "1", Device: "d"}); err != nil {
		t.Errorf("its CA is given: %v", err)
	}
	wrong := strings.Replace(s.URL, "127.0.0.1", "localhost", 1) // the certificate is for other names
	_, err := newTarget(t, Options{URL: wrong, CAPEM: ca}).Deliver(t.Context(), bridge.Downlink{ID: "1", Device: "d"})
	if permanent, _ := outcome(t, err); permanent || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate for another name: %v", err)
	}
	_, err = New(Options{URL: s.URL, CAPEM: []byte("nothing")})
	if err == nil || !strings.Contains(err.Error(), "CA file") {
		t.Errorf("a CA file without certificates: %v", err)
	}
}

// TestProxy: none unless it is asked for, and then the one that was asked for.
func TestProxy(t *testing.T) {
	seen := make(chan string, 1)
	proxy := serve(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.RequestURI })
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// The name is reserved (RFC 6761): only a proxy can answer for it.
	const url = "http://plc.invalid/valve"
	for _, c := range []struct {
		proxy   string
		proxied bool
	}{{"", false}, {ProxyFromEnvironment, true}, {proxy.URL, true}} {
		_, err := newTarget(t, Options{URL: url, Proxy: c.proxy, Timeout: 5 * time.Second}).Deliver(ctx, bridge.Downlink{ID: "1", Device: "d"})
		if (err == nil) != c.proxied {
			t.Errorf("proxy %q: %v", c.proxy, err)
			continue
		}
		if c.proxied {
			if got := <-seen; got != url {
				t.Errorf("the proxy was asked for %q", got)
			}
		}
	}
	if _, err := New(Options{URL: url, Proxy: "proxy:3128:"}); err == nil {
		t.Error("a proxy that is no URL is taken")
	}
}
