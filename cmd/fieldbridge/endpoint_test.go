package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// copyFile writes what one file holds over another.
func copyFile(t *testing.T, to, from string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestReloadOfCertificates: an endpoint that other machines may reach gets
// another certificate while it runs, and the command status finds its way.
func TestReloadOfCertificates(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	tomorrow := time.Now().Add(23 * time.Hour)
	first, second := mosqNewCA(t, "first", tomorrow), mosqNewCA(t, "second", tomorrow)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	use := func(ca *mosqCA) {
		c, k := ca.server(tomorrow)
		copyFile(t, cert, c)
		copyFile(t, key, k)
	}
	use(first)
	_, port, _ := strings.Cut(freeAddr(t), ":")
	text := s.config("", "", listed("app", "yard")) + fmt.Sprintf("[http]\nlisten = \"0.0.0.0:%s\"\ntls_cert_file = %q\ntls_key_file = %q\n", port, cert, key)
	const token = "0123456789abcdef-app"
	tokens := "[[http.token]]\nname = \"app\"\ntoken_file = \"app.token\"\ndevices = [\"*\"]\n"
	s.Files["app.token"] = token
	g := startGateway(t, text+tokens, s.Files)
	g.awaitUp()
	address := "127.0.0.1:" + port
	post := func(ca *mosqCA) (int, error) {
		pool := x509.NewCertPool()
		pool.AddCert(ca.cert)
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequest(http.MethodPost, "https://"+address+"/v1/devices/app/uplink", strings.NewReader("1"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := (&http.Client{Transport: tr, Timeout: patience}).Do(req)
		if err != nil {
			return 0, err
		}
		_ = resp.Body.Close()
		return resp.StatusCode, nil
	}
	if code, err := post(first); code != http.StatusOK {
		t.Errorf("status %d, %v", code, err)
	}
	status := func(want string, args ...string) {
		t.Helper()
		code, stdout, stderr := cli(append([]string{"status"}, args...)...)
		if (code == 0) != (want == "") || !strings.Contains(stderr, want) {
			t.Errorf("status %v: exit code %d, want %q: %s%s", args, code, want, stdout, stderr)
		}
		checkNoSecrets(t, stdout+stderr, s.Files)
	}
	tokenFile := filepath.Join(filepath.Dir(g.Path), "app.token")
	status("", "--config", g.Path)
	status("", "--address", "https://"+address, "--ca-file", first.file, "--token-file", tokenFile)
	status("trust its CA with --ca-file", "--address", "https://"+address, "--ca-file", second.file, "--token-file", tokenFile)
	status("give --address https://"+address, "--address", address, "--token-file", tokenFile)

	use(second)
	status("reload the daemon", "--config", g.Path)
	g.reload(text + tokens)
	status("", "--config", g.Path)
	if code, err := post(second); code != http.StatusOK {
		t.Errorf("status %d, %v with the new certificate", code, err)
	}
	if code, err := post(first); err == nil {
		t.Errorf("status %d with the certificate of before", code)
	}

	// In place of tokens clients need a certificate, which that of the server is
	// none of: it is not made for clients.
	g.reload(text + fmt.Sprintf("client_ca_file = %q\n", first.file))
	if code, err := post(second); err == nil {
		t.Errorf("status %d without a certificate", code)
	}
	status("give --client-cert-file and --client-key-file", "--config", g.Path)
	c, k := filepath.Join(dir, "client.pem"), filepath.Join(dir, "client-key.pem")
	certPEM, keyPEM := first.client("status", tomorrow)
	for file, content := range map[string]string{c: certPEM, k: keyPEM} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	status("", "--config", g.Path, "--client-cert-file", c, "--client-key-file", k)

	// Without either, the file is refused and all stays as it was.
	if err := g.rewrite(text); err == nil || !strings.Contains(err.Error(), "can be reached from other machines") {
		t.Errorf("reload without tokens: %v", err)
	}
	status("", "--config", writeConfig(t, complete(text+fmt.Sprintf("client_ca_file = %q\n", first.file)), s.Files), "--client-cert-file", c, "--client-key-file", k)
}

func TestStatusFlagsForTLS(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "none.pem")
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--address", "127.0.0.1:1", "--ca-file", missing}, "--ca-file is only for --address https://"},
		{[]string{"--address", "https://127.0.0.1:1", "--ca-file", missing}, "no such file"},
		{[]string{"--address", "https://127.0.0.1:1", "--ca-file", empty}, "holds no certificate"},
		{[]string{"--address", "https://127.0.0.1"}, "is not host:port"},
		{[]string{"--address", "127.0.0.1:1", "--client-cert-file", missing}, "no effect without TLS"},
		{[]string{"--address", "https://127.0.0.1:1", "--client-cert-file", missing, "--client-key-file", missing}, "no such file"},
	} {
		if code, _, stderr := cli(append([]string{"status"}, tt.args...)...); code != exitUsage || !strings.Contains(stderr, tt.want) {
			t.Errorf("%v: exit code %d: %s", tt.args, code, stderr)
		}
	}
}

// TestUnixEndpoint: the endpoint moves to a socket and away again.
func TestUnixEndpoint(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	text := s.config("", "", listed("app", "yard"))
	g := startGateway(t, text, s.Files)
	socket := filepath.Join(t.TempDir(), "http.sock")
	on := text + fmt.Sprintf("[http]\nlisten = \"unix:%s\"\n", socket)
	for _, mode := range []os.FileMode{0o660, 0o600} {
		g.reload(on + fmt.Sprintf("socket_mode = \"%04o\"\n", mode))
		code, stdout, stderr := cli("status", "--config", g.Path)
		if code != 0 || !strings.Contains(stdout, socket) {
			t.Errorf("exit code %d: %s%s", code, stdout, stderr)
		}
		eventually(t, "the mode of the socket", func() bool {
			info, err := os.Lstat(socket)
			return err == nil && info.Mode() == os.ModeSocket|mode
		})
	}
	g.reload(text)
	eventually(t, "the socket is removed", func() bool {
		_, err := os.Lstat(socket)
		return os.IsNotExist(err)
	})
	if code, _, stderr := cli("status", "--address", "unix:"+socket); code != 1 || !strings.Contains(stderr, "no daemon answers at unix:"+socket) {
		t.Errorf("exit code %d without a socket: %s", code, stderr)
	}
}
