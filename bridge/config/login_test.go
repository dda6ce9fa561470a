package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBrokerURLs(t *testing.T) {
	dir := fixture(t)
	for url, want := range map[string][3]string{ // broker, address, path
		"mqtt://h":               {"mqtt://h:1883", "h:1883", ""},
		"ws://h":                 {"ws://h:80/mqtt", "h:80", "/mqtt"},
		"wss://h":                {"wss://h:443/mqtt", "h:443", "/mqtt"},
		"wss://[::1]:8084/a%20b": {"wss://[::1]:8084/a%20b", "[::1]:8084", "/a%20b"},
		"wss://h/":               {"wss://h:443/", "h:443", "/"},
	} {
		c := mustLoad(t, dir, strings.Replace(plant, "mqtts://b.example", url, 1)).Connectors[0]
		if got := [3]string{c.Broker, c.Address, c.Path}; got != want {
			t.Errorf("%s: got %q, want %q", url, got, want)
		}
		if c.TLS != strings.HasPrefix(url, "wss") {
			t.Errorf("%s: TLS %v", url, c.TLS)
		}
	}
}

// What a session of each kind logs in with.
func TestLogins(t *testing.T) {
	dir := fixture(t)
	writeFile(t, filepath.Join(dir, "secrets/dev-1"), "own/secret", 0o600)
	generic := "profile = \"generic\"\nuplink_topic = \"up/{device}\"\n"
	for name, tt := range map[string]struct {
		text                       string
		perDevice, secretInName    bool
		clientID, username, secret string
	}{
		"jwt at akenza":    {plant, true, false, "dev-1", "unused", ""},
		"jwt elsewhere":    {plant + generic + "token.audience = \"x\"\n", true, false, "dev-1", "dev-1", ""},
		"jwt, no username": {plant + "username = \"\"\nclient_id = \"{connector}:{gateway}:{device}\"\n", true, false, "plant:gw:dev-1", "", ""},
		"one secret":       {yard, false, false, "", "abc", theSecret},
		"one secret, named": {yard + "client_id = \"{gateway}.{connector}.{id}\"\nusername = \"{gateway}/{id}\"\n",
			false, false, "gw.yard.abc", "gw/abc", theSecret},
		"per device":      {yard + "per_device_sessions = true\n", true, false, "dev-1", "abc", theSecret},
		"secret each":     {strings.Replace(yard, "secrets/yard", "secrets/{device}", 1) + generic + "per_device_sessions = true\nusername = \"{device}\"\n", true, false, "dev-1", "dev-1", "own/secret"},
		"secret as name":  {strings.Replace(yard, "secrets/yard", "secrets/{device}", 1) + generic + "per_device_sessions = true\nusername = \"{secret}\"\n", true, true, "dev-1", "own/secret", "own/secret"},
		"user, no id":     {strings.Replace(yard, "id = \"abc\"\n", "", 1) + generic + "username = \"me\"\n", false, false, "", "me", theSecret},
		"certificate":     {certified + generic, true, false, "dev-1", "", ""},
		"one certificate": {certified + generic + "per_device_sessions = false\nclient_id = \"{gateway}\"\ndevices = \"any\"\n", false, false, "gw", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := mustLoad(t, dir, "gateway = \"gw\"\n"+tt.text+"[[device]]\nid = \"dev-1\"\n")
			c := cfg.Connectors[0].For(&cfg.Devices[0])
			got := []any{c.PerDevice, c.SecretIsUsername(), c.Expand(c.ClientID, "dev-1").Reveal(), c.Expand(c.Username, "dev-1").Reveal(), c.Secret.Reveal()}
			want := []any{tt.perDevice, tt.secretInName, tt.clientID, tt.username, tt.secret}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

const certified = "[[connector]]\nname = \"aws\"\nbroker = \"wss://b.example\"\nauth = \"certificate\"\nclient_cert_file = \"ca/good.pem\"\nclient_key_file = \"keys/cert.pem\"\n"

// A session of its own needs no device in its topics, and one level will do.
func TestOwnTopics(t *testing.T) {
	c := mustLoad(t, fixture(t), certified+"profile = \"generic\"\nuplink_topic = \"v1/me\"\ndownlink_topic = \"v1/rpc/+\"\ntopic_alias = true\n").Connectors[0]
	if c.UplinkTopic != "v1/me" || c.DownlinkTopic != "v1/rpc/+" || !c.TopicAlias || c.TLS != true {
		t.Errorf("got %+v", c)
	}
}

func TestClientCerts(t *testing.T) {
	dir := fixture(t)
	cert, key := certificate(t)
	writeFile(t, filepath.Join(dir, "certs/dev-1.crt"), cert, 0o644)
	writeFile(t, filepath.Join(dir, "certs/dev-1.key"), key, 0o600)
	each := strings.NewReplacer("ca/good.pem", "certs/{device}.crt", "keys/cert.pem", "certs/{device}.key").Replace(certified)
	cfg := mustLoad(t, dir, each+"profile = \"generic\"\nuplink_topic = \"up\"\n[[device]]\nid = \"dev-1\"\nconnector = \"aws\"\n"+
		plant+"client_cert_file = \"ca/good.pem\"\nclient_key_file = \"keys/cert.pem\"\n[[device]]\nid = \"dev-2\"\nconnector = \"plant\"\n")
	for i, want := range []string{"certs/dev-1.crt", "ca/good.pem"} {
		d := &cfg.Devices[i]
		got := cfg.Connector(d.ConnectorName).For(d).ClientCert
		if got == nil || got.CertFile != filepath.Join(dir, want) || len(got.CertPEM) == 0 || got.KeyPEM.IsZero() {
			t.Errorf("%s: got %+v, want %s", d.ID, got, want)
		}
	}
	if cfg.Connectors[0].ClientCert != nil || cfg.Devices[1].ClientCert != nil {
		t.Error("a certificate is in two places")
	}
}

func TestClaims(t *testing.T) {
	cfg := mustLoad(t, fixture(t), "gateway = \"gw\"\n"+plant+`
[connector.token]
sub = "{connector}/{device}"
[connector.token.claims]
client = "{device}"
n = 1
f = 1.5
ok = true
list = ["{gateway}", 2, ["{device}"]]
acl = [ { permission = "allow", topic = "t/{device}/#" } ]
[connector.token.claims.attrs]
site = "{connector}"
[[device]]
id = "{gateway}"
`)
	c := &cfg.Connectors[0]
	want := map[string]any{
		"client": "d", "n": int64(1), "f": 1.5, "ok": true, "list": []any{"gw", int64(2), []any{"d"}},
		"acl":   []any{map[string]any{"permission": "allow", "topic": "t/d/#"}},
		"attrs": map[string]any{"site": "plant"},
	}
	if diff := cmp.Diff(want, c.Claims("d")); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	if got := c.Claims("{gateway}")["client"]; got != "{gateway}" {
		t.Errorf("a device that is named like a placeholder became %q", got)
	}
	if got := c.Expand(c.Token.Subject, "d").Reveal(); got != "plant/d" {
		t.Errorf("sub is %q", got)
	}
}
