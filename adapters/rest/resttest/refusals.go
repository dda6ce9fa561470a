// Package resttest has what tests of the HTTP endpoint have in common. Only tests
// import it.
package resttest

import (
	"slices"
	"strings"
)

// Refusal is a request that the endpoint must refuse, and how. The endpoint takes
// readings of the device d1 and none of d9, and payloads of 1024 bytes; it is on
// a loopback address, without TLS and without tokens.
type Refusal struct {
	Name string
	// Raw is what the client sends before it waits for the answer.
	Raw string
	// Status is the answer's; its problem document's detail has Detail in it, or
	// it is net/http itself that answers, with a plain text, if that is "".
	Status int
	Detail string
	// Header is a "Name: value" that the answer has, too.
	Header string
}

const (
	up        = "/v1/devices/d1/uplink"
	asJSON    = "Content-Type: application/json"
	asText    = "Content-Type: text/plain"
	asLines   = "Content-Type: application/x-ndjson"
	types     = "application/json, text/plain, application/octet-stream, application/xml, text/csv"
	aLine     = `{"device":"d1","payload":1}`
	goodTime  = "timestamp=2025-03-01T12:00:00Z"
	plainTime = "is not ISO 8601"
)

// Refusals are requests with every kind of mistake, each with one.
var Refusals = slices.Concat(uplinkRefusals, captureRefusals, batchRefusals, malformed)

var uplinkRefusals = []Refusal{
	// paths
	{"unknown path", Request("POST", "/v1/device/d1/uplink", "1", asJSON), 404, "POST /v1/devices/{device}/uplink", ""},
	{"root", Request("GET", "/", ""), 404, "nothing is at this path", ""},
	{"device and another word", Request("POST", "/v1/devices/d1/up", "1", asJSON), 404, "nothing is at this path", ""},
	{"doubled slash before", Request("POST", "//v1/devices/d1/uplink", "1", asJSON), 404, "nothing is at this path", ""},
	{"doubled slash within", Request("POST", "/v1//devices/d1/uplink", "1", asJSON), 404, "nothing is at this path", ""},
	{"dots within the route", Request("POST", "/v1/devices/d1/../d1/uplink", "1", asJSON), 404, "nothing is at this path", ""},
	{"escaped route", Request("POST", "/v1/devices/d1/up%6Cink", "1", asJSON), 404, "nothing is at this path", ""},
	{"unknown device", Request("POST", "/v1/devices/d9/uplink", "1", asJSON), 404, `add a [[device]] block`, ""},
	{"device in another case", Request("POST", "/v1/devices/D1/uplink", "1", asJSON), 404, `unknown device: "D1"`, ""},
	{"empty device", Request("POST", "/v1/devices//uplink", "1", asJSON), 400, "device id is empty", ""},
	{"device with wildcard", Request("POST", "/v1/devices/+/uplink", "1", asJSON), 400, "an MQTT wildcard", ""},
	{"device with encoded slash", Request("POST", "/v1/devices/d1%2Fx/uplink", "1", asJSON), 400, `device id "d1/x" contains "/"`, ""},
	{"device dot dot", Request("POST", "/v1/devices/../uplink", "1", asJSON), 400, "taken for a directory", ""},
	{"device encoded dot dot", Request("POST", "/v1/devices/%2e%2E/uplink", "1", asJSON), 400, "taken for a directory", ""},
	{"device reserved", Request("POST", "/v1/devices/$SYS/uplink", "1", asJSON), 400, "which MQTT reserves", ""},
	{"device too long", Request("POST", "/v1/devices/"+strings.Repeat("x", 257)+"/uplink", "1", asJSON), 400, "at most 256", ""},
	{"trailing slash", Request("POST", up+"/", "1", asJSON), 400, "the path ends with", ""},
	{"trailing slash after a level", Request("POST", up+"/a/", "1", asJSON), 400, "level 2 is empty", ""},
	{"empty level", Request("POST", up+"/a//b", "1", asJSON), 400, "level 2 is empty", ""},
	{"leading empty level", Request("POST", up+"//a", "1", asJSON), 400, "level 1 is empty", ""},
	{"level dot", Request("POST", up+"/a/./b", "1", asJSON), 400, "taken for a directory", ""},
	{"level dot dot", Request("POST", up+"/..", "1", asJSON), 400, "taken for a directory", ""},
	{"level plus", Request("POST", up+"/a/+/b", "1", asJSON), 400, "an MQTT wildcard", ""},
	{"level encoded plus", Request("POST", up+"/a%2Bb", "1", asJSON), 400, "an MQTT wildcard", ""},
	{"level hash", Request("POST", up+"/#", "1", asJSON), 400, "an MQTT wildcard", ""},
	{"level encoded hash", Request("POST", up+"/a/%23", "1", asJSON), 400, "an MQTT wildcard", ""},
	{"level encoded slash", Request("POST", up+"/a%2Fb", "1", asJSON), 400, "level 1 contains an encoded", ""},
	{"level encoded slash, lower case", Request("POST", up+"/x/a%2fb", "1", asJSON), 400, "level 2 contains an encoded", ""},
	{"level encoded slash beside a character to be escaped", Request("POST", up+`/"%2Fb`, "1", asJSON), 400, "level 1 contains an encoded", ""},
	{"level NUL", Request("POST", up+"/a%00", "1", asJSON), 400, "control character", ""},
	{"level newline", Request("POST", up+"/a%0Ab", "1", asJSON), 400, "control character", ""},
	{"level invalid UTF-8", Request("POST", up+"/%FF", "1", asJSON), 400, "not valid UTF-8", ""},
	{"level surrogate", Request("POST", up+"/%ED%A0%80", "1", asJSON), 400, "not valid UTF-8", ""},
	{"level not a character", Request("POST", up+"/%EF%BF%BF", "1", asJSON), 400, "not a character", ""},
	{"device upwards", Request("POST", "/v1/devices/..%2fd1/uplink", "1", asJSON), 400, `device id "../d1" contains "/"`, ""},
	{"level upwards", Request("POST", up+"/..%2f..%2fd9", "1", asJSON), 400, "level 1 contains an encoded", ""},
	{"level upwards, encoded", Request("POST", up+"/%2e%2e/a", "1", asJSON), 400, "taken for a directory", ""},
	{"device of 12 KiB", Request("POST", "/v1/devices/"+strings.Repeat("x", 12<<10)+"/uplink", "1", asJSON), 400, "at most 256", ""},
	{"sub topic too long", Request("POST", up+strings.Repeat("/x", 513), "1", asJSON), 400, "at most 1024", ""},
	// methods
	{"GET", Request("GET", up, ""), 405, "use POST", "Allow: POST"},
	{"PUT with sub topic", Request("PUT", up+"/a", "1", asJSON), 405, "use POST", "Allow: POST"},
	{"OPTIONS", Request("OPTIONS", up, ""), 405, "use POST", "Allow: POST"},
	{"unheard-of method", Request("BREW", up, ""), 405, "use POST", "Allow: POST"},
	{"unheard-of method and path", Request("BREW", "/coffee", ""), 404, "nothing is at this path", ""},
	{"OPTIONS for the server", Request("OPTIONS", "*", ""), 404, "nothing is at this path", ""},
	{"POST to health", Request("POST", "/healthz", "1"), 405, "use GET, HEAD", "Allow: GET, HEAD"},
	// queries
	{"misspelt parameter", Request("POST", up+"?timestmp=2025-03-01T12:00:00Z", "1", asJSON), 400, `query parameter "timestmp" is unknown`, ""},
	{"parameter in another case", Request("POST", up+"?Timestamp=2025-03-01T12:00:00Z", "1", asJSON), 400, `"Timestamp" is unknown`, ""},
	{"one more parameter", Request("POST", up+"?"+goodTime+"&x=1", "1", asJSON), 400, `"x" is unknown`, ""},
	{"timestamp twice", Request("POST", up+"?"+goodTime+"&"+goodTime, "1", asJSON), 400, "more than once", ""},
	{"timestamp empty", Request("POST", up+"?timestamp=", "1", asJSON), 400, plainTime, ""},
	{"timestamp without zone", Request("POST", up+"?timestamp=2025-03-01T12:00:00", "1", asJSON), 400, plainTime, ""},
	{"timestamp in seconds", Request("POST", up+"?timestamp=1740830400", "1", asJSON), 400, plainTime, ""},
	{"timestamp with space", Request("POST", up+"?timestamp=2025-03-01%2012:00:00Z", "1", asJSON), 400, plainTime, ""},
	{"timestamp on no day", Request("POST", up+"?timestamp=2025-02-30T12:00:00Z", "1", asJSON), 400, plainTime, ""},
	{"timestamp with comma", Request("POST", up+"?timestamp=2025-03-01T12:00:00,5Z", "1", asJSON), 400, plainTime, ""},
	{"timestamp with short hour", Request("POST", up+"?timestamp=2025-03-01T1:00:00Z", "1", asJSON), 400, plainTime, ""},
	{"timestamp with long offset", Request("POST", up+"?timestamp=2025-03-01T12:00:00%2B24:00", "1", asJSON), 400, plainTime, ""},
	{"timestamp with odd offset", Request("POST", up+"?timestamp=2025-03-01T12:00:00-01:60", "1", asJSON), 400, plainTime, ""},
	{"timestamp before 1970", Request("POST", up+"?timestamp=1969-12-31T23:59:59Z", "1", asJSON), 400, "between the years", ""},
	{"timestamp zero", Request("POST", up+"?timestamp=0001-01-01T00:00:00Z", "1", asJSON), 400, "between the years", ""},
	{"timestamp beyond 9999 in UTC", Request("POST", up+"?timestamp=9999-12-31T23:59:59-01:00", "1", asJSON), 400, "between the years", ""},
	{"broken escape in query", Request("POST", up+"?timestamp=%zz", "1", asJSON), 400, "invalid URL escape", ""},
	{"broken escape in parameter name", Request("POST", up+"?%=1", "1", asJSON), 400, "invalid URL escape", ""},
	// content types
	{"form", Request("POST", up, `{"a":1}`, "Content-Type: application/x-www-form-urlencoded"), 415, "curl -d sends a form type: add -H 'Content-Type: application/json'", "Accept-Post: " + types},
	{"html", Request("POST", up, "<p>", "Content-Type: text/html"), 415, `"text/html" is not one of application/json`, "Accept-Post: " + types},
	{"json of another kind", Request("POST", up, "{}", "Content-Type: application/ld+json"), 415, "is not one of", "Accept-Post: " + types},
	{"two types in one header", Request("POST", up, "1", "Content-Type: application/json, text/plain"), 415, "malformed", "Accept-Post: " + types},
	{"malformed type", Request("POST", up, "1", "Content-Type: text/plain; charset"), 415, "malformed", "Accept-Post: " + types},
	{"two type headers", Request("POST", up, "1", asJSON, asText), 400, "2 Content-Type headers", ""},
	{"no type and no json", Request("POST", up, "21.5 C"), 415, "no Content-Type and the body is not JSON", "Accept-Post: " + types},
	{"gzip", Request("POST", up, "1", asJSON, "Content-Encoding: gzip"), 415, "without Content-Encoding", "Accept-Encoding: identity"},
	{"identity and gzip", Request("POST", up, "1", asJSON, "Content-Encoding: identity", "Content-Encoding: gzip"), 415, "without Content-Encoding", ""},
	// bodies
	{"json cut short", Request("POST", up, `{"a":1`, asJSON), 400, "it ends too early, at byte 6", ""},
	{"json with a mistake", Request("POST", up, `{"a":x}`, asJSON), 400, "at byte 5", ""},
	{"two json values", Request("POST", up, "{}\n{}", asJSON), 400, "after top-level value at byte 3", ""},
	{"json invalid UTF-8", Request("POST", up, "\"a\xff\"", asJSON), 400, "invalid UTF-8 at byte 2", ""},
	{"json with byte order mark", Request("POST", up, "\ufeff{}", asJSON), 400, "byte order mark", ""},
	{"json of blanks", Request("POST", up, "  ", asJSON), 400, "ends too early", ""},
	{"json never closed", Request("POST", up, strings.Repeat("[", 1000), asJSON), 400, "ends too early", ""},
	{"empty json", Request("POST", up, "", asJSON), 400, "the body is empty", ""},
	{"empty text", Request("POST", up, "", asText), 400, "the body is empty", ""},
	{"empty without type", Request("POST", up, ""), 400, "the body is empty", ""},
	{"empty chunked", Request("POST", up, "0\r\n\r\n", asText, "Transfer-Encoding: chunked"), 400, "the body is empty", ""},
	{"too large", Request("POST", up, strings.Repeat("1", 1025), asText), 413, "larger than 1024 bytes", "Connection: close"},
	{"too large as announced", Request("POST", up, "1", asText, "Content-Length: 999999999999"), 413, "larger than 1024 bytes", "Connection: close"},
	{"too large as announced, asking first", Request("POST", up, "", asText, "Content-Length: 1025", "Expect: 100-continue"), 413, "larger than 1024 bytes", ""},
	{"too large in chunks", Request("POST", up, "401\r\n"+strings.Repeat("1", 1025)+"\r\n0\r\n\r\n", asText, "Transfer-Encoding: chunked"), 413, "larger than 1024 bytes", "Connection: close"},
	{"broken chunk", Request("POST", up, "2\r\n11\r\nzz\r\n", asText, "Transfer-Encoding: chunked"), 400, "breaks off after 2 bytes", "Connection: close"},
	// keys
	{"key empty", Request("POST", up, "1", asText, "Idempotency-Key: "), 400, "the Idempotency-Key header is empty", ""},
	{"key of quotes", Request("POST", up, "1", asText, `Idempotency-Key: ""`), 400, "the Idempotency-Key header is empty", ""},
	{"key too long", Request("POST", up, "1", asText, "Idempotency-Key: "+strings.Repeat("k", 256)), 400, "has 256 characters, at most 255", ""},
	{"key with space", Request("POST", up, "1", asText, "Idempotency-Key: a b"), 400, "not visible ASCII at place 2", ""},
	{"key not ASCII", Request("POST", up, "1", asText, "Idempotency-Key: é"), 400, "not visible ASCII at place 1", ""},
	{"key cut short", Request("POST", up, "1", asText, `Idempotency-Key: "a`), 400, "not one whole string in quotes", ""},
	{"two keys", Request("POST", up, "1", asText, "Idempotency-Key: a", "Idempotency-Key: a"), 400, "2 Idempotency-Key headers", ""},
	{"key wrong and body too large", Request("POST", up, strings.Repeat("1", 1025), asText, "Idempotency-Key: a b"), 400, "not visible ASCII", ""},
	// browsers
	{"page of another origin", Request("POST", up, "1", asText, "Origin: http://evil.example"), 403, "web page of another origin", ""},
	{"page of another port", Request("POST", up, "1", asText, "Host: 127.0.0.1:8080", "Origin: http://127.0.0.1:3000"), 403, "web page of another origin", ""},
	{"page of a file", Request("POST", up, "1", asText, "Origin: null"), 403, "web page of another origin", ""},
	{"picture of a page", Request("GET", "/v1/devices/d1/downlinks?wait=5m", "", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"), 403, "web page of another origin", ""},
	{"frame of a page", Request("GET", "/v1/events", "", "Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"), 403, "web page of another origin", ""},
	{"page that hides its origin", Request("POST", up, "1", asText, "Sec-Fetch-Site: cross-site"), 403, "web page of another origin", ""},
	{"two origins", Request("POST", up, "1", asText, "Origin: http://127.0.0.1", "Origin: http://127.0.0.1"), 403, "web page of another origin", ""},
	{"rebound name", Request("POST", up, "1", asText, "Host: evil.example:8080"), 403, "not this machine", ""},
	{"rebound name, same origin", Request("POST", up, "1", asText, "Host: evil.example", "Origin: http://evil.example"), 403, "not this machine", ""},
	{"name that begins like an address", Request("POST", up, "1", asText, "Host: 127.0.0.1.evil.example"), 403, "not this machine", ""},
	{"name that begins like localhost", Request("POST", up, "1", asText, "Host: localhost.evil.example"), 403, "not this machine", ""},
	{"absolute form for another host", Request("POST", "http://evil.example"+up, "1", asText), 403, "not this machine", ""},
	{"unspecified address", Request("GET", "/readyz", "", "Host: 0.0.0.0:8080"), 403, "not this machine", ""},
	{"proxy", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", 403, "not this machine", ""},
}

var captureRefusals = []Refusal{
	{"capture: no device", Request("POST", "/v3/capture", "1", asJSON), 400, "?deviceId=, or in the header x-device-id", ""},
	{"capture: empty device", Request("POST", "/v3/capture?deviceId=", "1", asJSON), 400, "device id is empty", ""},
	{"capture: empty device in the header", Request("POST", "/v3/capture", "1", "x-device-id: ", asJSON), 400, "device id is empty", ""},
	{"capture: two devices", Request("POST", "/v3/capture?deviceId=d1", "1", "x-device-id: a b", asJSON), 400, "names another device", ""},
	{"capture: device twice", Request("POST", "/v3/capture?deviceId=d1&deviceId=d1", "1", asJSON), 400, "more than once", ""},
	{"capture: device header twice", Request("POST", "/v3/capture", "1", "x-device-id: d1", "x-device-id: d1", asJSON), 400, "more than once", ""},
	{"capture: unknown device", Request("POST", "/v3/capture?deviceId=d9", "1", asJSON), 404, "unknown device", ""},
	{"capture: device with a plus", Request("POST", "/v3/capture?deviceId=a%2Bb", "1", asJSON), 400, "an MQTT wildcard", ""},
	{"capture: device with a slash", Request("POST", "/v3/capture?deviceId=d1%2F..", "1", asJSON), 400, `contains "/"`, ""},
	{"capture: device with a slash in the header", Request("POST", "/v3/capture", "1", "x-device-id: ../d1", asJSON), 400, `contains "/"`, ""},
	{"capture: device dot dot", Request("POST", "/v3/capture?deviceId=..", "1", asJSON), 400, "taken for a directory", ""},
	{"capture: device NUL", Request("POST", "/v3/capture?deviceId=d1%00", "1", asJSON), 400, "control character", ""},
	{"capture: device of 12 KiB", Request("POST", "/v3/capture?deviceId="+strings.Repeat("x", 12<<10), "1", asJSON), 400, "at most 256", ""},
	{"capture: device not UTF-8", Request("POST", "/v3/capture?deviceId=%FF", "1", asJSON), 400, "not valid UTF-8", ""},
	{"capture: device not UTF-8 in the header", Request("POST", "/v3/capture", "1", "x-device-id: \xff", asJSON), 400, "not valid UTF-8", ""},
	{"capture: topic hash", Request("POST", "/v3/capture?deviceId=d1&topic=%23", "1", asJSON), 400, "an MQTT wildcard", ""},
	{"capture: topic plus", Request("POST", "/v3/capture?deviceId=d1&topic=a%2Bb", "1", asJSON), 400, "an MQTT wildcard", ""},
	{"capture: topic with an empty level", Request("POST", "/v3/capture?deviceId=d1&topic=a//b", "1", asJSON), 400, "empty", ""},
	{"capture: topic upwards", Request("POST", "/v3/capture?deviceId=d1&topic=..%2fd2", "1", asJSON), 400, "taken for a directory", ""},
	{"capture: topic too long", Request("POST", "/v3/capture?deviceId=d1&topic="+strings.Repeat("x", 1025), "1", asJSON), 400, "at most 1024", ""},
	{"capture: topic twice", Request("POST", "/v3/capture?deviceId=d1&topic=a&topic=a", "1", asJSON), 400, "more than once", ""},
	{"capture: timestamp", Request("POST", "/v3/capture?deviceId=d1&timestamp=yesterday", "1", asJSON), 400, "is not ISO 8601", ""},
	{"capture: empty timestamp", Request("POST", "/v3/capture?deviceId=d1&timestamp=", "1", asJSON), 400, "is not ISO 8601", ""},
	{"capture: misspelt parameter", Request("POST", "/v3/capture?deviceId=d1&deviceid=d1", "1", asJSON), 400, "this path takes deviceId, topic, timestamp", ""},
	{"capture: broken escape", Request("POST", "/v3/capture?deviceId=%zz", "1", asJSON), 400, "invalid URL escape", ""},
	{"capture: form", Request("POST", "/v3/capture?deviceId=d1", "1", "Content-Type: application/x-www-form-urlencoded", asJSON), 400, "2 Content-Type headers", ""},
	{"capture: GET", Request("GET", "/v3/capture?deviceId=d1", ""), 405, "use POST", "Allow: POST"},
	{"capture: no type and no json", Request("POST", "/v3/capture?deviceId=d1", "21 C"), 415, "not JSON", "Accept-Post: " + types},
}

var batchRefusals = []Refusal{
	{"batch: no type", Request("POST", "/v1/uplinks", aLine), 415, "application/x-ndjson", "Accept-Post: application/x-ndjson"},
	{"batch: JSON", Request("POST", "/v1/uplinks", aLine, asJSON), 415, "application/x-ndjson", "Accept-Post: application/x-ndjson"},
	{"batch: a form", Request("POST", "/v1/uplinks", aLine, "Content-Type: application/x-www-form-urlencoded"), 415, "application/x-ndjson", ""},
	{"batch: compressed", Request("POST", "/v1/uplinks", aLine, asLines, "Content-Encoding: gzip"), 415, "gzip", ""},
	{"batch: key", Request("POST", "/v1/uplinks", aLine, asLines, "Idempotency-Key: a"), 400, "Idempotency-Key", ""},
	{"batch: query", Request("POST", "/v1/uplinks?"+goodTime, aLine, asLines), 400, "query", ""},
	{"batch: empty", Request("POST", "/v1/uplinks", "", asLines), 400, "no lines", ""},
	{"batch: blank lines", Request("POST", "/v1/uplinks", "\n\r\n \n", asLines), 400, "no lines", ""},
	{"batch: GET", Request("GET", "/v1/uplinks", ""), 405, "use POST", "Allow: POST"},
	{"batch: page of another origin", Request("POST", "/v1/uplinks", aLine, asLines, "Origin: http://evil.example"), 403, "web page of another origin", ""},
}

// CutShort are requests whose sender then shuts down its sending side: what they
// said of their length was not true.
var CutShort = []Refusal{
	{"body shorter than its length", Request("POST", up, "12345", asText, "Content-Length: 1000"), 400, "breaks off after 5 bytes", ""},
	{"body shorter than its length by one", Request("POST", up, "12345", asText, "Content-Length: 6"), 400, "breaks off after 5 bytes", ""},
	{"no body at all", Request("POST", up, "", asText, "Content-Length: 1"), 400, "breaks off after 0 bytes", ""},
	{"last chunk missing", Request("POST", up, "5\r\n12345\r\n", asText, "Transfer-Encoding: chunked"), 400, "breaks off after 5 bytes", ""},
	{"chunk shorter than it says", Request("POST", up, "ff\r\n12345", asText, "Transfer-Encoding: chunked"), 400, "breaks off after 5 bytes", ""},
	{"JSON that would be right", Request("POST", up, "{}", asJSON, "Content-Length: 3"), 400, "breaks off after 2 bytes", ""},
	{"capture shorter than its length", Request("POST", "/v3/capture?deviceId=d1", "1", asJSON, "Content-Length: 2"), 400, "breaks off after 1 bytes", ""},
}

// malformed never reaches a handler.
var malformed = []Refusal{
	{"no HTTP", "hello\r\n\r\n", 400, "", ""},
	{"no host", "POST " + up + " HTTP/1.1\r\nContent-Length: 1\r\n\r\n1", 400, "", ""},
	{"two hosts", Request("POST", up, "1", "Host: 127.0.0.1", "Host: evil.example"), 400, "", ""},
	{"broken escape in path", Request("POST", up+"/%zz", "1"), 400, "", ""},
	{"space in path", Request("POST", up+"/a b", "1"), 400, "", ""},
	{"two lengths", Request("POST", up, "1", "Content-Length: 1", "Content-Length: 2"), 400, "", ""},
	{"negative length", Request("POST", up, "1", "Content-Length: -1"), 400, "", ""},
	{"headers too large", Request("POST", up, "1", "X: "+strings.Repeat("x", 64<<10)), 431, "", ""},
	{"unknown expectation", Request("POST", up, "1", "Expect: miracles"), 417, "", ""},
	{"unknown transfer coding", Request("POST", up, "1", "Transfer-Encoding: gzip"), 501, "", ""},
	{"NUL in a header", Request("POST", up, "1", "Content-Type: text/\x00plain"), 400, "", ""},
	{"device id of 64 KiB", Request("POST", "/v1/devices/"+strings.Repeat("x", 64<<10)+"/uplink", "1", asJSON), 431, "", ""},
	{"a length that is no number", Request("POST", up, "1", asText, "Content-Length: one"), 400, "", ""},
	{"chunks within chunks", Request("POST", up, "1", asText, "Transfer-Encoding: chunked, chunked"), 501, "", ""},
	{"a header without a name", Request("POST", up, "1", ": x"), 400, "", ""},
	{"a header with a space in its name", Request("POST", up, "1", "Content Type: text/plain"), 400, "", ""},
	{"HTTP of another version", "POST " + up + " HTTP/3.0\r\nHost: 127.0.0.1\r\n\r\n", 505, "", ""},
}
