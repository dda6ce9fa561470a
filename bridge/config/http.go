package config

import (
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strconv"
	"strings"
)

// What max_connections may be. Fewer are soon used up by apps that wait for
// downlinks and by those who look at the status page.
const (
	minConnections = 64
	maxConnections = 100_000
)

func (v *validator) http() {
	raw, in := &v.raw.HTTP, v.raw.HTTP.In
	v.cfg.HTTP = HTTP{Pos: in.pos(""), Listen: raw.Listen, MaxBody: int64(raw.MaxBody), MaxConnections: int(raw.MaxConns)}
	checkSize(in, "max_body", raw.MaxBody, maxMQTTPayload)
	checkInt(in, "max_connections", raw.MaxConns, minConnections, maxConnections)
	v.httpTLS()
	v.httpTokens()
	v.socketMode()
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

const unixPrefix = "unix:"

// maxSocketPath is in bytes (unix(7): sun_path has 108 with the NUL).
const maxSocketPath = 107

func checkSocketPath(path string) *flaw {
	switch {
	case !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/":
		return &flaw{fmt.Sprintf("%q is not the absolute path of a socket", path), `write "unix:/run/fieldbridge/http.sock"`}
	case len(path) > maxSocketPath:
		return &flaw{fmt.Sprintf("the path has %d bytes, at most %d are allowed", len(path), maxSocketPath), ""}
	}
	return checkText(path)
}

const defaultSocketMode = "0660"

// socketMode reads the permissions of a Unix socket.
func (v *validator) socketMode() {
	raw, in := &v.raw.HTTP, v.raw.HTTP.In
	if !in.ok("socket_mode") {
		return
	}
	given, socket := raw.SocketMode, strings.HasPrefix(raw.Listen, unixPrefix)
	if given == "" {
		given = defaultSocketMode
	} else if !socket && in.ok("listen") {
		in.wrong("socket_mode", "has no effect: listen is not a Unix socket", `write listen = "unix:/run/fieldbridge/http.sock", or remove it`)
		return
	}
	mode, err := strconv.ParseUint(given, 8, 32)
	switch {
	case err != nil || len(given) < 3 || mode > 0o777 || mode&0o200 == 0:
		in.wrong("socket_mode", fmt.Sprintf("%q is not the mode of a socket that its owner may write to", raw.SocketMode), `octal, such as "0660"`)
	case socket:
		v.cfg.HTTP.SocketMode = fs.FileMode(mode)
	}
}

// protection is what stands between the endpoint and other machines.
type protection struct {
	tls     bool
	callers bool // are known by a token or a certificate
}

// checkListen accepts a Unix socket, a TCP address that only this machine reaches, or any of
// this machine's with what it takes to let others in.
func checkListen(s string, p protection) *flaw {
	const example = `write "127.0.0.1:8080"`
	if path, ok := strings.CutPrefix(s, unixPrefix); ok {
		return checkSocketPath(path)
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
