package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

// TestStatusText compares with testdata/status.txt what is printed of
// testdata/status.json.
func TestStatusText(t *testing.T) {
	raw, err := os.ReadFile("testdata/status.json")
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/status.txt")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := parseStatus(raw)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printStatus(&out, "127.0.0.1:8080", doc); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDialAddress(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:8080": "127.0.0.1:8080", "localhost:1": "localhost:1", "[::1]:8080": "[::1]:8080",
		"0.0.0.0:8080": "127.0.0.1:8080", "[::]:8080": "[::1]:8080", ":8080": "127.0.0.1:8080",
		"unix:/run/x": "unix:/run/x", "127.0.0.1:0": "", "8080": "",
	} {
		got, err := dialAddress(listen)
		if got != want || (err != nil) != (want == "") || err != nil && exitCode(err) != exitUsage {
			t.Errorf("%s: %q, %v; want %q", listen, got, err, want)
		}
	}
}

func TestSpanAndSize(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m0s", 3*time.Hour + 5*time.Minute: "3h5m", 49 * time.Hour: "2d1h",
	} {
		if got := span(d); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 256 << 20: "256 MiB", 5 << 50: "5120 TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

// FuzzStatus: whatever answers, what is printed upsets no terminal.
func FuzzStatus(f *testing.F) {
	raw, err := os.ReadFile("testdata/status.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	for _, s := range []string{
		`{}`, `null`, `[]`, `{"version":"\u001b[2J","clock":{"source":"none"}}`,
		`{"version":"v","time":"0001-01-01T00:00:00Z","uptimeSeconds":9223372036854775807,"clock":{"source":"x","reason":"a\nb"},"spool":{"readings":-1,"bytes":-9223372036854775808,"full":true},` +
			`"connectors":[{"name":"\t","broker":"\u202e","tokenExpires":"\r","troubles":[{"error":"\u0007","device":"\n"}],"moreDown":1}],` +
			`"ports":[{"name":"x","device":"\u0000","lastFrame":"9999-12-31T23:59:59Z","lastError":"\u009b"}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		doc, err := parseStatus(raw)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := printStatus(&out, "127.0.0.1:8080", doc); err != nil {
			t.Fatal(err)
		}
		if i := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
			t.Errorf("prints %q", out.String()[i:])
		}
	})
}
