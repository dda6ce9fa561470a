package resttest

import (
	"fmt"
	"slices"
	"strings"
)

// Request writes down an HTTP/1.1 request; a header replaces the one it would
// have had.
func Request(method, target, body string, header ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", method, target)
	has := func(name string) bool {
		return slices.ContainsFunc(header, func(h string) bool { return strings.HasPrefix(h, name+":") })
	}
	if !has("Host") {
		b.WriteString("Host: 127.0.0.1\r\n")
	}
	if !has("Content-Length") && !has("Transfer-Encoding") {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	for _, h := range header {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return b.String()
}
