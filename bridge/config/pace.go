package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// maxConnectRate is more CONNECTs a second than a small machine can sign for.
const maxConnectRate = 1000

// checkConnect checks when and how fast the sessions of a connector connect.
func checkConnect(raw *rawConnector) {
	in := raw.In
	checkInt(in, "connect_rate", raw.ConnectRate, 1, maxConnectRate)
	if !oneOf(in, "connect", raw.Connect, []string{ConnectAlways, ConnectOnDemand}) {
		return
	}
	if raw.Connect == ConnectAlways && in.gives("idle_timeout") && in.ok("idle_timeout") {
		in.wrong("idle_timeout", fmt.Sprintf("is only for connect = %q", ConnectOnDemand), "remove it")
		return
	}
	checkDuration(in, "idle_timeout", raw.IdleTimeout, durationRange{min: time.Second, max: 24 * time.Hour})
}

// checkServers accepts hosts, with or without a port, and returns them in lower
// case.
func checkServers(in place, servers []string) (out []string) {
	for _, s := range servers {
		host := s
		if h, port, err := net.SplitHostPort(s); err == nil && !strings.ContainsAny(s, "/ ") {
			host = h
			if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
				in.wrong("allowed_servers", fmt.Sprintf("%q has a port that is not 1 to 65535", s), "")
				continue
			}
		}
		if host == "" || strings.ContainsAny(host, "/*@?# ") || strings.Contains(host, ":") && net.ParseIP(host) == nil {
			in.wrong("allowed_servers", fmt.Sprintf("%q is not a host or host:port", s), `such as "b.example" or "b.example:8883"`)
			continue
		}
		out = append(out, strings.ToLower(s))
	}
	return out
}

// renewals finds connectors whose tokens cannot all be renewed in time: a token
// is used for nine tenths of its life at most.
func (v *validator) renewals() {
	devices := map[string]int64{}
	for _, d := range v.cfg.Devices {
		devices[d.ConnectorName]++
	}
	for i := range v.raw.Connectors {
		raw := &v.raw.Connectors[i]
		n, life := devices[raw.Name], raw.Token.Lifetime
		if raw.Auth != AuthDeviceCredentials || raw.Connect != ConnectAlways || life <= 0 || raw.ConnectRate < 1 {
			continue
		}
		if need := float64(n) / (0.8 * life.Seconds()); need > float64(raw.ConnectRate) {
			raw.In.wrong("connect_rate", fmt.Sprintf("is too low for %d devices whose tokens live for %s (got %d)", n, shortDuration(life), raw.ConnectRate),
				fmt.Sprintf("at least %d, or a longer lifetime under [connector.token]", int64(need)+1))
		}
	}
}
