package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

func (v *validator) http() {
	raw, in := &v.raw.HTTP, v.raw.HTTP.In
	v.cfg.HTTP = HTTP{Pos: in.pos(""), Listen: raw.Listen, MaxBody: int64(raw.MaxBody)}
	checkSize(in, "max_body", raw.MaxBody, maxMQTTPayload)
	v.httpTLS()
	v.httpTokens()
	if in.ok("listen") {
		in.flawed("listen", checkListen(raw.Listen, protection{
			tls:     raw.TLSCertFile != "" || !in.ok("tls_cert_file"),
			callers: len(raw.Tokens) > 0 || raw.ClientCAFile != "" || !in.ok("token") || !in.ok("client_ca_file"),
		}))
	}
}

// httpTLS reads what the endpoint is encrypted with.
func (v *validator) httpTLS() {
	raw, in := &v.raw.HTTP, v.raw.HTTP.In
	cert, key := raw.TLSCertFile, raw.TLSKeyFile
	switch {
	case !in.ok("tls_cert_file") || !in.ok("tls_key_file"):
	case cert != "" && key == "":
		in.missing("tls_key_file", "the private key of tls_cert_file")
	case cert == "" && key != "":
		in.missing("tls_cert_file", "the certificate that belongs to tls_key_file")
	case cert == "" && raw.ClientCAFile != "" && in.ok("client_ca_file"):
		in.wrong("client_ca_file", "has no effect without TLS", "give tls_cert_file and tls_key_file, or remove it")
	case cert != "":
		v.cfg.HTTP.Cert = pairFiles{"tls_cert_file", "tls_key_file"}.read(in, cert, key, "")
	}
	if raw.ClientCAFile != "" && in.ok("client_ca_file") {
		_, v.cfg.HTTP.ClientCAPEM = readCA(in, "client_ca_file", raw.ClientCAFile)
	}
}

// protection is what stands between the endpoint and other machines.
type protection struct {
	tls     bool
	callers bool // are known by a token or a certificate
}

// checkListen accepts a TCP address that only this machine reaches, or any of
// this machine's with what it takes to let others in.
func checkListen(s string, p protection) *flaw {
	const example = `write "127.0.0.1:8080"`
	if strings.HasPrefix(s, "unix:") {
		return &flaw{"is a Unix socket; this version listens on TCP addresses only", example}
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return &flaw{fmt.Sprintf("%q is not host:port", s), example}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return &flaw{fmt.Sprintf("%q is not a port number from 0 to 65535", port), example}
	}
	ip := net.ParseIP(host)
	// The only name that always means this machine (RFC 6761, section 6.3).
	if host == "localhost" || ip != nil && ip.IsLoopback() {
		return nil
	}
	here := fmt.Sprintf("write %q", net.JoinHostPort("127.0.0.1", port))
	if host != "" && ip == nil {
		return &flaw{
			fmt.Sprintf("%q is neither an IP address nor localhost", host),
			fmt.Sprintf("%s, or an address of this machine, or %q for all of them", here, ":"+port),
		}
	}
	var lacks, give []string
	if !p.tls {
		lacks, give = append(lacks, "TLS"), append(give, "tls_cert_file and tls_key_file")
	}
	if !p.callers {
		lacks, give = append(lacks, "tokens or client certificates"), append(give, "[[http.token]] blocks or client_ca_file")
	}
	if lacks == nil {
		return nil
	}
	return &flaw{
		fmt.Sprintf("%q can be reached from other machines, and there is no protection by %s", s, strings.Join(lacks, " nor by ")),
		fmt.Sprintf("give %s, or %s", strings.Join(give, ", and "), here),
	}
}
