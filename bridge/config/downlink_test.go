package config

import (
	"bytes"
	"strings"
	"testing"
)

func TestWebhookKeys(t *testing.T) {
	cfg, err := loadText(t, fixture(t), `
[[connector]]
name = "plant"
broker = "mqtts://b.example"
auth = "device-credentials"
key_file = "keys/good.pem"
[[device]]
id = "dev-1"
[[device.downlink]]
webhook = "https://h/"
secret_file = "secrets/hook"
ca_file = "ca/good.pem"
proxy = "environment"
[[device.downlink]]
subtopic = "x"
webhook = "https://h/"
secret_file = "secrets/hook"
ca_file = "ca/good.pem"
proxy = "environment"
[[device.downlink]]
webhook = "http://h/"
proxy = "http://p:3128"
[[device.downlink]]
mailbox = true
`)
	if err != nil {
		t.Fatal(err)
	}
	ds := cfg.Devices[0].Downlinks
	for i, n := range []int{32, 24, 64} {
		if got := ds[0].Secrets[i].Reveal(); got != strings.Repeat(string([]byte{byte(n)}), n) {
			t.Errorf("secret %d is %q", i, got)
		}
	}
	if len(ds[0].Secrets) != 3 || ds[0].Proxy != ProxyEnvironment || !bytes.Contains(ds[0].CAPEM, []byte("BEGIN CERTIFICATE")) {
		t.Errorf("webhook %+v", ds[0])
	}
	if ds[2].Proxy != "http://p:3128" || ds[2].Secrets != nil || !ds[3].Mailbox || ds[3].Webhook != "" {
		t.Errorf("webhook %+v, mailbox %+v", ds[2], ds[3])
	}
}

// FuzzWebhookSecrets: whatever a secret file holds, there are secrets within
// their bounds, or a flaw that shows nothing of them.
func FuzzWebhookSecrets(f *testing.F) {
	for _, s := range []string{
		"", "\n", "# x", "whsec_", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\r\n#\nwhsec_AAAA",
		"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "\xff\x00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, content string) {
		secrets, flaw := parseWebhookSecrets("FILE", content)
		if (flaw == nil) == (len(secrets) == 0) || len(secrets) > maxWebhookSecrets {
			t.Fatalf("%d secrets and %v", len(secrets), flaw)
		}
		for _, s := range secrets {
			if n := len(s.Reveal()); n < minWebhookSecret || n > maxWebhookSecret {
				t.Fatalf("a secret of %d bytes", n)
			}
		}
		if flaw != nil {
			for word := range strings.FieldsSeq(content) {
				if len(word) > 12 && strings.Contains(flaw.problem, word) {
					t.Fatalf("the flaw shows %q: %s", word, flaw.problem)
				}
			}
		}
	})
}
