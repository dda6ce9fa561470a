package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fieldbridge/bridge/config"
)

// maxAnswer is more than the largest answer of a daemon; see maxTroubles.
const maxAnswer = 4 << 20

// endpoint is the HTTP endpoint of a running daemon.
type endpoint struct {
	address string      // host:port, or unix:/path
	token   string      // "": requests have none
	tls     *tls.Config // nil: not encrypted
}

// endpointFlags are the flags of commands that ask the daemon.
type endpointFlags struct {
	config, address, tokenFile string
	tlsFlags
}

func (f *endpointFlags) add(c *cobra.Command) {
	configFlag(c, &f.config)
	c.Flags().StringVar(&f.address, "address", "", "host:port of the daemon's HTTP endpoint, https://host:port or unix:/path; the configuration is not read then")
	c.Flags().StringVar(&f.tokenFile, "token-file", "", "file with a token for the endpoint; without it, one of the configuration's is used")
	_ = c.MarkFlagFilename("token-file")
	f.tlsFlags.add(c)
}

// find returns the endpoint and the configuration, which is nil with --address.
// choose takes the token from the configuration; it is not asked if there is a
// file with one.
func (f *endpointFlags) find(choose func(*config.Config) (string, error)) (e endpoint, cfg *config.Config, err error) {
	address, encrypted := strings.CutPrefix(f.address, "https://")
	if plain, ok := strings.CutPrefix(address, "http://"); ok || encrypted {
		address = strings.TrimSuffix(plain, "/")
	}
	e.address = address
	if f.tokenFile != "" {
		tokens, err := config.LoadTokens(f.tokenFile)
		if err != nil {
			return e, nil, usagef("--token-file: %w", err)
		}
		e.token = tokens[0].Reveal()
	}
	if e.address == "" {
		if cfg, err = config.Load(f.config); err != nil {
			return e, nil, err
		}
		e.address = cfg.HTTP.Listen
		if f.tokenFile == "" {
			if e.token, err = choose(cfg); err != nil {
				return e, nil, err
			}
		}
	}
	if e.address, err = dialAddress(e.address); err != nil {
		return e, cfg, err
	}
	return e, cfg, f.encrypt(&e, cfg, encrypted)
}

// dialAddress is where a listener's address can be reached from this machine.
func dialAddress(listen string) (string, error) {
	if strings.HasPrefix(listen, unixPrefix) {
		return listen, nil
	}
	host, port, err := net.SplitHostPort(listen)
	switch {
	case err != nil:
		return "", usagef("%q is not host:port: %w", listen, err)
	case port == "0":
		return "", usagef("http.listen is %q: port 0 stands for any free one, so where the daemon listens is not known; take the address from its log (msg=ready) and give it with --address", listen)
	case host == "":
		return net.JoinHostPort("127.0.0.1", port), nil
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		if ip.Is4() {
			return net.JoinHostPort("127.0.0.1", port), nil
		}
		return net.JoinHostPort("::1", port), nil
	}
	return listen, nil
}

// daemonAnswer is an answer whose body is there.
type daemonAnswer struct {
	*http.Response
	body []byte
}

// ask makes a request of the daemon and reads the answer, whatever its status.
// The body is nil for requests without one.
func (e endpoint) ask(ctx context.Context, limit time.Duration, method, path string, header http.Header, body []byte) (*daemonAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, e.url(path), bytes.NewReader(body))
	if err != nil {
		return nil, usagef("%w", err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if e.token != "" {
		req.Header.Set("Authorization", "Bearer "+e.token)
	}
	client := &http.Client{
		Transport:     e.transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		if known := e.handshakeError(err); known != nil {
			return nil, known
		}
		return nil, fmt.Errorf("no daemon answers at %s: %w\nis it running (systemctl status fieldbridge), and with the same http.listen? its log says why it does not start or where it listens%s",
			e.address, cause(err, limit), afterthought(method, err))
	}
	defer resp.Body.Close()
	a := &daemonAnswer{Response: resp}
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("the answer from %s breaks off: %w%s", req.URL, cause(err, limit), afterthought(method, err))
	case e.tls == nil && a.StatusCode == http.StatusBadRequest && bytes.Contains(a.body, []byte("HTTP request to an HTTPS server")):
		return nil, fmt.Errorf("the daemon at %s speaks TLS: give --address https://%s, or the configuration with its tls_cert_file", e.address, e.address)
	case len(a.body) > maxAnswer:
		return nil, e.stranger(fmt.Errorf("the answer is longer than %d bytes", maxAnswer))
	}
	return a, nil
}

// stranger is an error for an answer that no daemon gives.
func (e endpoint) stranger(why error) error {
	return fmt.Errorf("no daemon of this version answers at %s: %w; is another program or an older fieldbridge listening there?", e.address, why)
}

// cause takes the address off an error of http.Client, which is told already.
func cause(err error, limit time.Duration) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", limit)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// afterthought warns if a request that changes something may have arrived.
func afterthought(method string, err error) string {
	var op *net.OpError
	if method == http.MethodGet || errors.As(err, &op) && op.Op == "dial" {
		return ""
	}
	return "\nwhether it took the reading is not known: sent again, it may arrive twice"
}
