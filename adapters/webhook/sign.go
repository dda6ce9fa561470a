package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"fieldbridge/bridge"
)

// signatures are the value of webhook-signature: for each secret one, with a
// space between them, so that a receiver that knows any of them is content
// (https://github.com/standard-webhooks/standard-webhooks, "Signature scheme" and
// "Webhook Headers"). id and timestamp are those of the headers beside it.
func signatures(secrets []bridge.Secret, id, timestamp string, payload []byte) string {
	var b strings.Builder
	for i, s := range secrets {
		mac := hmac.New(sha256.New, []byte(s.Reveal()))
		_, _ = mac.Write([]byte(id + "." + timestamp + ".")) // never fails (package hash)
		_, _ = mac.Write(payload)
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString("v1,")
		b.WriteString(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return b.String()
}
