package rest

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"fieldbridge/bridge"
)

func TestParseIdempotencyKey(t *testing.T) {
	longest := strings.Repeat("k", maxKey)
	for _, tt := range []struct {
		name   string
		values []string
		want   string // the key; "" if there is none or it is refused
		fault  string // part of the refusal; "" if there is none
	}{
		{"none", nil, "", ""},
		{"uuid", []string{"8e03978e-40d5-43e8-bc93-6894a57f9324"}, "8e03978e-40d5-43e8-bc93-6894a57f9324", ""},
		{"uuid in quotes", []string{`"8e03978e-40d5-43e8-bc93-6894a57f9324"`}, "8e03978e-40d5-43e8-bc93-6894a57f9324", ""},
		{"one character", []string{"k"}, "k", ""},
		{"spaces around", []string{" \tk\t "}, "k", ""},
		{"spaces around quotes", []string{` "k" `}, "k", ""},
		{"every visible character", []string{"!#$%&'()*+,-./:;<=>?@[]^_`{|}~"}, "!#$%&'()*+,-./:;<=>?@[]^_`{|}~", ""},
		{"escapes", []string{`"a\"b\\c"`}, `a"b\c`, ""},
		{"escaped quote at the end", []string{`"a\""`}, `a"`, ""},
		{"backslash without quotes", []string{`a\"b`}, `a\"b`, ""},
		{"quote inside", []string{`a"b"`}, `a"b"`, ""},
		{"longest", []string{longest}, longest, ""},
		{"longest in quotes", []string{`"` + longest + `"`}, longest, ""},
		{"longest of escapes", []string{`"` + strings.Repeat(`\\`, maxKey) + `"`}, strings.Repeat(`\`, maxKey), ""},
		{"empty", []string{""}, "", "is empty"},
		{"blank", []string{" \t"}, "", "is empty"},
		{"empty in quotes", []string{`""`}, "", "is empty"},
		{"too long", []string{longest + "k"}, "", "has 256 characters"},
		{"too long in quotes", []string{`"` + longest + `k"`}, "", "has 256 characters"},
		{"two", []string{"a", "b"}, "", "2 Idempotency-Key headers"},
		{"the same twice", []string{"a", "a"}, "", "2 Idempotency-Key headers"},
		{"one and an empty one", []string{"a", ""}, "", "2 Idempotency-Key headers"},
		{"two in one header", []string{"a, b"}, "", "place 3"},
		{"two in one header, in quotes", []string{`"a", "b"`}, "", "not one whole string"},
		{"space inside", []string{"a b"}, "", "place 2"},
		{"space inside quotes", []string{`"a b"`}, "", "place 2"},
		{"spaces in quotes", []string{`"  "`}, "", "place 1"},
		{"tab inside", []string{"a\tb"}, "", "place 2"},
		{"NUL", []string{"a\x00"}, "", "place 2"},
		{"DEL", []string{"a\x7f"}, "", "place 2"},
		{"UTF-8", []string{"clé"}, "", "place 3"},
		{"UTF-8 in quotes", []string{`"clé"`}, "", "place 3"},
		{"quote never closed", []string{`"a`}, "", "not one whole string"},
		{"quote alone", []string{`"`}, "", "not one whole string"},
		{"closing quote escaped", []string{`"a\"`}, "", "not one whole string"},
		{"backslash at the end", []string{`"a\`}, "", "not one whole string"},
		{"unknown escape", []string{`"a\n"`}, "", "not one whole string"},
		{"something behind the quotes", []string{`"a"b`}, "", "not one whole string"},
		{"parameter", []string{`"a";x=1`}, "", "not one whole string"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseIdempotencyKey(tt.values)
			if got != tt.want {
				t.Errorf("key %q, want %q", got, tt.want)
			}
			if tt.fault == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.fault) {
				t.Fatalf("error %v, want one with %q", err, tt.fault)
			}
			if p := problemOf(err); p == nil || p.status != http.StatusBadRequest {
				t.Errorf("problem %+v", p)
			}
		})
	}
}

// The examples with other preferences are those of RFC 7240.
func TestPrefersAsync(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []string
		want   bool
	}{
		{"no header", nil, false},
		{"empty", []string{""}, false},
		{"alone", []string{"respond-async"}, true},
		{"other case", []string{"Respond-Async"}, true},
		{"spaces", []string{" \trespond-async\t "}, true},
		{"before another", []string{"respond-async, wait=100"}, true},
		{"behind another", []string{"wait=10,respond-async"}, true},
		{"between others", []string{`handling=lenient, respond-async ,return=minimal`}, true},
		{"empty elements", []string{", ,,respond-async,"}, true},
		{"second header", []string{"return=minimal", "respond-async"}, true},
		{"with parameters", []string{`respond-async; foo="a,b"; bar`}, true},
		{"behind one with parameters", []string{`foo; bar="x;y, \" respond-not" ; baz, respond-async`}, true},
		{"no value", []string{"respond-async="}, true},
		{"empty value", []string{`respond-async = ""`}, true},
		{"twice", []string{"respond-async", "respond-async=no"}, true},
		{"twice, the first counts", []string{"respond-async=no, respond-async", "respond-async"}, false},
		{"another", []string{"return=representation"}, false},
		{"longer", []string{"respond-async-soon"}, false},
		{"not ASCII", []string{"re\u017fpond-async"}, false},
		{"shorter", []string{"respond-asyn"}, false},
		{"as a value", []string{"return=respond-async"}, false},
		{"as a parameter", []string{"foo; respond-async"}, false},
		{"inside quotes", []string{`foo="a, respond-async, b"`}, false},
		{"behind an escaped quote", []string{`foo="\", respond-async"`}, false},
		{"inside quotes that do not end", []string{`foo="a, respond-async`}, false},
		{"backslash at the end", []string{`foo="\`, "respond-async"}, true},
		{"quoted name", []string{`"respond-async"`}, false},
		{"malformed before", []string{"=;=, @, respond-async"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := prefersAsync(tt.values); got != tt.want {
				t.Errorf("prefersAsync(%q) = %t", tt.values, got)
			}
		})
	}
}

// clerk is an Accepter that knows keys as the Bridge does.
type clerk struct {
	*intake
	state bridge.State // of new readings

	mu   sync.Mutex       // guards kept
	kept map[string]entry // by device and key
}

type entry struct {
	digest  [32]byte
	receipt bridge.Receipt
}

func (c *clerk) Accept(_ context.Context, r bridge.Reading, how bridge.Handling) (bridge.Receipt, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := string(r.Device) + "/" + how.Key.Value
	if e, ok := c.kept[name]; ok {
		if e.digest != how.Key.Digest {
			return bridge.Receipt{}, bridge.ErrKeyReused
		}
		return e.receipt, nil
	}
	receipt := bridge.Receipt{ID: uuid.New(), Time: r.Time, State: c.state}
	if how.Async {
		receipt.State = bridge.Spooled
	}
	if how.Key.Value != "" {
		c.kept[name] = entry{how.Key.Digest, receipt}
	}
	return receipt, nil
}

// A request that is repeated with its key gets the first one's answer, whatever
// the second would have had: without a timestamp, the time of its arrival.
func TestSameKeySameAnswer(t *testing.T) {
	s := start(t, Options{}, &clerk{intake: newIntake(), state: bridge.Delivered, kept: map[string]entry{}})
	const up, asText = "/v1/devices/d1/uplink/a", "Content-Type: text/plain"
	send := func(target, body string, header ...string) (answer, receiptDocument) {
		t.Helper()
		a := sendRaw(t, s.Addr(), request("POST", target, body, header...))
		var doc receiptDocument
		if err := json.Unmarshal(a.body, &doc); err != nil {
			t.Fatalf("body %q: %v", a.body, err)
		}
		return a, doc
	}
	a, first := send(up, "x", asText, "Idempotency-Key: k1")
	if a.status != http.StatusOK || first.ID == "" {
		t.Fatalf("status %d, body %s", a.status, a.body)
	}
	if got, ok := a.header["Idempotency-Key"]; ok {
		t.Errorf("the key comes back: %q", got)
	}
	for _, r := range []struct {
		name, target, body string
		header             []string
		status             int
		same               bool // as the first
	}{
		{"same", up, "x", []string{asText, "Idempotency-Key: k1"}, 200, true},
		{"key in quotes", up, "x", []string{asText, `Idempotency-Key: "k1"`}, 200, true},
		{"type in another spelling", up, "x", []string{"Content-Type: Text/PLAIN", "Idempotency-Key: k1"}, 200, true},
		{"path in another spelling", "/v1/devices/%641/uplink/%61", "x", []string{asText, "Idempotency-Key: k1"}, 200, true},
		{"in a hurry now", up, "x", []string{asText, "Idempotency-Key: k1", "Prefer: respond-async"}, 200, true},
		{"other key", up, "x", []string{asText, "Idempotency-Key: K1"}, 200, false},
		{"no key", up, "x", []string{asText}, 200, false},
		{"other device", "/v1/devices/uplink/uplink/a", "x", []string{asText, "Idempotency-Key: k1"}, 200, false},
		{"other body", up, "y", []string{asText, "Idempotency-Key: k1"}, 422, false},
		{"other sub topic", up + "/b", "x", []string{asText, "Idempotency-Key: k1"}, 422, false},
		{"no sub topic", "/v1/devices/d1/uplink", "x", []string{asText, "Idempotency-Key: k1"}, 422, false},
		{"other type", up, "x", []string{"Content-Type: text/csv", "Idempotency-Key: k1"}, 422, false},
		{"other charset", up, "x", []string{asText + "; charset=utf-8", "Idempotency-Key: k1"}, 422, false},
		{"a time now", up + "?timestamp=2025-03-01T12:00:00Z", "x", []string{asText, "Idempotency-Key: k1"}, 422, false},
	} {
		t.Run(r.name, func(t *testing.T) {
			a, doc := send(r.target, r.body, r.header...)
			if a.status != r.status || (doc == first) != r.same {
				t.Errorf("status %d, %s; the first was %+v", a.status, a.body, first)
			}
			if r.status == http.StatusUnprocessableEntity {
				checkProblem(t, a, r.status, "a key of its own")
			}
			if got, ok := a.header["Preference-Applied"]; ok {
				t.Errorf("Preference-Applied %q with %d", got, a.status)
			}
		})
	}
}

func TestRespondAsync(t *testing.T) {
	for _, tt := range []struct {
		name    string
		state   bridge.State
		prefer  []string
		status  int
		async   bool
		applied string
	}{
		{"not asked, delivered", bridge.Delivered, nil, 200, false, ""},
		{"not asked, stored", bridge.Spooled, nil, 202, false, ""},
		{"asked, stored", bridge.Spooled, []string{"Prefer: wait=10", "Prefer: respond-async"}, 202, true, "respond-async"},
		{"asked, delivered all the same", bridge.Delivered, []string{"prefer: respond-async"}, 200, true, ""},
		{"something else asked", bridge.Spooled, []string{"Prefer: return=minimal"}, 202, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := newIntake()
			in.answer = func(_ context.Context, r bridge.Reading) (bridge.Receipt, error) {
				receipt := delivered(r)
				receipt.State = tt.state
				return receipt, nil
			}
			s := start(t, Options{}, in)
			a := sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "1", tt.prefer...))
			if a.status != tt.status || !strings.Contains(string(a.body), `"state":"`+string(tt.state)+`"`) {
				t.Errorf("status %d, body %s", a.status, a.body)
			}
			if got := strings.Join(a.header["Preference-Applied"], "|"); got != tt.applied {
				t.Errorf("Preference-Applied %q, want %q", got, tt.applied)
			}
			if _, how := in.takeBoth(); len(how) != 1 || how[0] != (bridge.Handling{Async: tt.async}) {
				t.Errorf("handling %+v", how)
			}
		})
	}
}

func TestHandlingReachesAccepter(t *testing.T) {
	in := newIntake()
	s := start(t, Options{}, in)
	at := time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)
	a := sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink/a/b?timestamp=2025-03-01T13:00:00%2B01:00", "[1]", `Idempotency-Key: "k\"1"`, "Prefer: respond-async"))
	if a.status != http.StatusOK {
		t.Fatalf("status %d, body %s", a.status, a.body)
	}
	seen, how := in.takeBoth()
	if len(how) != 1 {
		t.Fatalf("%d readings", len(how))
	}
	want := bridge.Reading{Device: "d1", Subtopic: "a/b", ContentType: "application/json", Payload: []byte("[1]"), Time: at}
	if how[0] != (bridge.Handling{Async: true, Key: bridge.Key{Value: `k"1`, Digest: digest(&want)}}) {
		t.Errorf("handling %+v", how[0])
	}
	if !seen[0].Time.Equal(at) {
		t.Errorf("time %v", seen[0].Time)
	}
}

func TestDigest(t *testing.T) {
	at := time.Date(2025, 3, 1, 12, 0, 0, 500, time.UTC)
	first := bridge.Reading{Device: "d1", Subtopic: "a/b", ContentType: "text/plain", Payload: []byte("x"), Time: at}
	// Digests of an older version must stay right after an update.
	const golden = "53aa8071bf5bea50f17e546f07242d6bc99624e70038490bfb82f78bc4942cf8"
	if sum := digest(&first); hex.EncodeToString(sum[:]) != golden {
		t.Errorf("digest %x, want %s", sum, golden)
	}
	elsewhere := first
	elsewhere.Time = at.In(time.FixedZone("", 3600))
	elsewhere.ID = uuid.New()
	if digest(&elsewhere) != digest(&first) {
		t.Error("the zone of the time or the id changes the digest")
	}
	seen := map[[32]byte]int{}
	for i, r := range []bridge.Reading{
		first,
		{Device: "d2", Subtopic: "a/b", ContentType: "text/plain", Payload: []byte("x"), Time: at},
		{Device: "d1", Subtopic: "a", ContentType: "text/plain", Payload: []byte("x"), Time: at},
		{Device: "d1", Subtopic: "a/b", ContentType: "text/csv", Payload: []byte("x"), Time: at},
		{Device: "d1", Subtopic: "a/b", ContentType: "text/plain", Payload: []byte("y"), Time: at},
		{Device: "d1", Subtopic: "a/b", ContentType: "text/plain", Payload: []byte("x"), Time: at.Add(1)},
		{Device: "d1", Subtopic: "a/b", ContentType: "text/plain", Payload: []byte("x")},
		// The same bytes in other parts.
		{Device: "d1a", Subtopic: "/b", ContentType: "text/plain", Payload: []byte("x"), Time: at},
		{Device: "d1", Subtopic: "a/bt", ContentType: "ext/plain", Payload: []byte("x"), Time: at},
		{Device: "d1", ContentType: "a/btext/plain", Payload: []byte("x"), Time: at},
		{Device: "d1", Subtopic: "a/b", ContentType: "text/plain", Payload: []byte("2025-03-01T12:00:00.0000005Zx")},
		{Device: "d1", Subtopic: "a/b", ContentType: "text/plain2025-03-01T12:00:00.0000005Z", Payload: []byte("x")},
	} {
		if before, ok := seen[digest(&r)]; ok {
			t.Errorf("readings %d and %d have one digest", before, i)
		}
		seen[digest(&r)] = i
	}
}
