package webhook

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

// ProxyFromEnvironment as Options.Proxy takes the proxy from HTTP_PROXY,
// HTTPS_PROXY and NO_PROXY, as http.ProxyFromEnvironment does: never for this
// machine itself.
const ProxyFromEnvironment = "environment"

func newTransport(o Options) (*http.Transport, error) {
	t := &http.Transport{
		DialContext:            (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		MaxIdleConnsPerHost:    2,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxAnswerHeader,
		DisableCompression:     true, // the body goes up as it is
	}
	switch o.Proxy {
	case "":
	case ProxyFromEnvironment:
		t.Proxy = http.ProxyFromEnvironment
	default:
		u, err := url.Parse(o.Proxy)
		if err != nil || u.Hostname() == "" {
			return nil, errors.New("proxy is not a URL: write it like http://proxy.example:3128")
		}
		t.Proxy = http.ProxyURL(u)
	}
	if len(o.CAPEM) > 0 {
		roots, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("the system's certificates cannot be read: %w", err)
		}
		if !roots.AppendCertsFromPEM(o.CAPEM) {
			return nil, errors.New("the CA file holds no certificate in PEM")
		}
		t.TLSClientConfig.RootCAs = roots
	}
	return t, nil
}
