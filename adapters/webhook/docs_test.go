package webhook

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"fieldbridge/bridge"
)

// TestDocumentedVerifiers runs what docs/downlinks.md shows against what a target
// sends.
func TestDocumentedVerifiers(t *testing.T) {
	guide, err := os.ReadFile("../../docs/downlinks.md")
	if err != nil {
		t.Fatal(err)
	}
	key := "thirty-two bytes of a secret, ok"
	header := map[string]string{}
	var body []byte
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		for name := range r.Header {
			header[strings.ToLower(name)] = r.Header.Get(name)
		}
	})
	target := newTarget(t, Options{URL: s.URL, Secrets: []bridge.Secret{bridge.NewSecret("another one of 24 bytes!"), bridge.NewSecret(key)}})
	if _, err := target.Deliver(t.Context(), bridge.Downlink{ID: "id-1", Device: "d", Payload: []byte("\x00open\xff")}); err != nil {
		t.Fatal(err)
	}
	input, err := json.Marshal(map[string]any{
		"secret": "whsec_" + base64.StdEncoding.EncodeToString([]byte(key)), "headers": header, "body": body,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ program, flag, language, rest string }{
		{"python3", "-c", "python", `
import json, sys
d = json.load(sys.stdin); b = base64.b64decode(d["body"])
print(int(verify(d["secret"], d["headers"], b)), int(verify(d["secret"], d["headers"], b + b"x")))
`},
		{"node", "-e", "js", `
const d = JSON.parse(require("node:fs").readFileSync(0)); const b = Buffer.from(d.body, "base64");
console.log(Number(verify(d.secret, d.headers, b)), Number(verify(d.secret, d.headers, Buffer.concat([b, b]))));
`},
	} {
		t.Run(c.language, func(t *testing.T) {
			program, err := exec.LookPath(c.program)
			if err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatal(err)
				}
				t.Skip("no " + c.program)
			}
			_, code, found := strings.Cut(string(guide), "```"+c.language+"\n")
			code, _, closed := strings.Cut(code, "```")
			if !found || !closed {
				t.Fatal("the guide has no such example")
			}
			cmd := exec.CommandContext(t.Context(), program, c.flag, code+c.rest)
			cmd.Stdin = strings.NewReader(string(input))
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != "1 0\n" {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
