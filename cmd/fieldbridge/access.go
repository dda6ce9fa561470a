package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"fieldbridge/adapters/rest"
	"fieldbridge/bridge/config"
)

var directions = map[string]rest.Direction{
	config.DirectionUplink:   rest.Uplink,
	config.DirectionDownlink: rest.Downlink,
	config.DirectionRead:     rest.Read,
}

// httpTokens are the configured tokens as the endpoint takes them.
func httpTokens(configured []config.HTTPToken) []rest.Token {
	var tokens []rest.Token
	for _, c := range configured {
		t := rest.Token{Name: c.Name, Devices: c.Devices, Rate: float64(c.Rate)}
		for _, secret := range c.Secrets {
			t.Digests = append(t.Digests, rest.DigestToken(secret.Reveal()))
		}
		for _, d := range c.Directions {
			t.Directions |= directions[d]
		}
		tokens = append(tokens, t)
	}
	return tokens
}

// httpTLS is how the endpoint is encrypted; nil: it is not.
func httpTLS(h *config.HTTP) (*rest.TLS, error) {
	if h.Cert == nil {
		return nil, nil
	}
	pair, err := tls.X509KeyPair(h.Cert.CertPEM, []byte(h.Cert.KeyPEM.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", h.Cert.CertFile, err)
	}
	t := &rest.TLS{Certificate: pair}
	if h.ClientCAPEM != nil {
		t.ClientCAs = x509.NewCertPool()
		t.ClientCAs.AppendCertsFromPEM(h.ClientCAPEM)
	}
	return t, nil
}

// readToken is one of the configured tokens that may read, or "".
func readToken(cfg *config.Config) string {
	for _, t := range cfg.HTTP.Tokens {
		if slices.Contains(t.Directions, config.DirectionRead) {
			return t.Secrets[0].Reveal()
		}
	}
	return ""
}

// addDenials makes the metric of requests that were not let in.
func (m *metrics) addDenials() {
	m.denials = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsPrefix, Name: "http_denied_total",
		Help: "HTTP requests that were not let in for want of a token, its scope or its rate.",
	}, []string{"reason"})
	for _, why := range rest.Denials {
		m.denials.WithLabelValues(string(why))
	}
}

// addGaveWay makes the metric of connections that had to give way.
func (m *metrics) addGaveWay() {
	m.yields = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsPrefix, Name: "http_connections_gave_way_total",
		Help: "HTTP connections that had to give way to others, by what they were waiting for.",
	}, []string{"waiting_for"})
	for _, why := range rest.Yields {
		m.yields.WithLabelValues(string(why))
	}
}

// gaveWay counts one.
func (m *metrics) gaveWay(why rest.Yield) { m.yields.WithLabelValues(string(why)).Inc() }

// denied counts one.
func (m *metrics) denied(why rest.Denial) { m.denials.WithLabelValues(string(why)).Inc() }
