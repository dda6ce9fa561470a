package rest

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-chi/chi/v5"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

const (
	goodToken = "tok-0123456789abcdef"
	nextToken = "next.0123456789~abc/+=="
	hallToken = "hall-0123456789abcdef"
	readToken = "read-0123456789abcdef"
	slowToken = "slow-0123456789abcdef"
)

func someTokens() []Token {
	of := func(name string, d Direction, devices []string, tokens ...string) Token {
		t := Token{Name: name, Directions: d, Devices: devices}
		for _, token := range tokens {
			t.Digests = append(t.Digests, DigestToken(token))
		}
		return t
	}
	slow := of("slow", AllDirections, []string{"*"}, slowToken)
	slow.Rate = 0.1
	return []Token{
		of("all", AllDirections, []string{"*"}, goodToken, nextToken),
		of("hall", Uplink|Read, []string{"d1", "d3", "a*"}, hallToken),
		of("reader", Read, []string{"*"}, readToken),
		slow,
	}
}

// denials counts what Options.Denied is told.
type denials struct {
	mu    sync.Mutex // guards count
	count map[Denial]int
}

func (d *denials) add(why Denial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.count == nil {
		d.count = map[Denial]int{}
	}
	d.count[why]++
}

func (d *denials) take() map[Denial]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	count := d.count
	d.count = nil
	return count
}

// guarded is a server with every route and someTokens.
func guarded(t *testing.T) (*running, *intake, *denials, *logBuffer) {
	in, d, log := newIntake(), &denials{}, &logBuffer{}
	shown := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "up 1\n") })
	s := start(t, Options{
		Metrics: shown, States: someStates{6}, Mailboxes: bridge.New(bridge.Options{Spool: &bridgetest.Spool{}}), Tokens: someTokens(), Denied: d.add, Logger: log.logger(),
	}, in)
	return s, in, d, log
}

func authorization(value string) string { return "Authorization: " + value }

// A route that is added outside of allow is found here.
func TestEveryRouteNeedsAToken(t *testing.T) {
	s, in, denied, _ := guarded(t)
	seen := 0
	err := chi.Walk(s.routes().(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		path := strings.NewReplacer("{device}", "d1", "{id}", "x", "*", "x").Replace(route)
		a := sendRaw(t, s.Addr(), request(method, path, ""))
		if route == "/healthz" || route == "/readyz" || route == "/openapi.yaml" {
			if a.status != http.StatusOK {
				t.Errorf("%s %s: %d, want 200 for all", method, route, a.status)
			}
			return nil
		}
		seen++
		if a.status != http.StatusUnauthorized {
			t.Errorf("%s %s: %d without a token, want 401", method, route, a.status)
		}
		if got := a.header.Get("WWW-Authenticate"); got != `Bearer realm="fieldbridge"` {
			t.Errorf("%s %s: WWW-Authenticate %q", method, route, got)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 12 || denied.take()[DeniedNoToken] != seen {
		t.Errorf("%d routes need a token, want at least 12, each counted", seen)
	}
	if got := in.take(); got != nil {
		t.Errorf("accepted %v", got)
	}
}

func TestBadTokens(t *testing.T) {
	s, in, denied, log := guarded(t)
	const (
		none    = `Bearer realm="fieldbridge"`
		invalid = none + `, error="invalid_token"`
		bad     = none + `, error="invalid_request"`
	)
	for _, c := range []struct {
		name, query string
		header      []string
		status      int
		challenge   string
		detail      string
		why         Denial
	}{
		{"none", "", nil, 401, none, "a token is needed", DeniedNoToken},
		{"empty header", "", []string{""}, 401, none, "a token is needed", DeniedNoToken},
		{"other scheme", "", []string{"Basic dG9rLTAxMjM6"}, 401, none, "a token is needed", DeniedNoToken},
		{"bare", "", []string{goodToken}, 401, none, "a token is needed", DeniedNoToken},
		{"joined", "", []string{"Bearer" + goodToken}, 401, none, "a token is needed", DeniedNoToken},
		{"tab", "", []string{"Bearer\t" + goodToken}, 401, none, "a token is needed", DeniedNoToken},
		{"scheme alone", "", []string{"Bearer"}, 401, invalid, "not a token", DeniedInvalidToken},
		{"scheme and spaces", "", []string{"Bearer   "}, 401, invalid, "not a token", DeniedInvalidToken},
		{"only padding", "", []string{"Bearer ==="}, 401, invalid, "not a token", DeniedInvalidToken},
		{"padding inside", "", []string{"Bearer a=b"}, 401, invalid, "not a token", DeniedInvalidToken},
		{"two words", "", []string{"Bearer " + goodToken + " x"}, 401, invalid, "not a token", DeniedInvalidToken},
		{"list", "", []string{"Bearer " + goodToken + ", Bearer x"}, 401, invalid, "not a token", DeniedInvalidToken},
		{"quoted", "", []string{`Bearer "` + goodToken + `"`}, 401, invalid, "not a token", DeniedInvalidToken},
		{"not ASCII", "", []string{"Bearer tök"}, 401, invalid, "not a token", DeniedInvalidToken},
		{"wrong", "", []string{"Bearer wrong-0123456789"}, 401, invalid, "not one of", DeniedInvalidToken},
		{"cut", "", []string{"Bearer " + goodToken[:10]}, 401, invalid, "not one of", DeniedInvalidToken},
		{"longer", "", []string{"Bearer " + goodToken + "0"}, 401, invalid, "not one of", DeniedInvalidToken},
		{"other case", "", []string{"Bearer " + strings.ToUpper(goodToken)}, 401, invalid, "not one of", DeniedInvalidToken},
		{"12 KiB", "", []string{"Bearer " + strings.Repeat("a", 12<<10)}, 401, invalid, "not one of", DeniedInvalidToken},
		{"twice", "", []string{"Bearer " + goodToken, "Bearer " + goodToken}, 400, bad, "more than once", DeniedInvalidToken},
		{"in the query", "?access_token=" + goodToken, nil, 400, bad, "must not be in the query", DeniedInvalidToken},
		{"in the query, encoded", "?access%5Ftoken=" + goodToken, nil, 400, bad, "must not be in the query", DeniedInvalidToken},
		{"in both", "?access_token=" + goodToken, []string{"Bearer " + goodToken}, 400, bad, "must not be in the query", DeniedInvalidToken},
	} {
		t.Run(c.name, func(t *testing.T) {
			var headers []string
			for _, h := range c.header {
				headers = append(headers, authorization(h))
			}
			a := sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink"+c.query, "1", headers...))
			checkProblem(t, a, c.status, c.detail)
			if got := a.header.Get("WWW-Authenticate"); got != c.challenge {
				t.Errorf("WWW-Authenticate %q, want %q", got, c.challenge)
			}
			if strings.Contains(string(a.body), goodToken[:8]) {
				t.Errorf("the answer shows the token: %s", a.body)
			}
			if got := denied.take(); len(got) != 1 || got[c.why] != 1 {
				t.Errorf("counted %v, want one %s", got, c.why)
			}
		})
	}
	// net/http refuses headers above the limit itself.
	if a := sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "1",
		authorization("Bearer "+strings.Repeat("a", 64<<10)))); a.status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("64 KiB: status %d, want 431", a.status)
	}
	if got := in.take(); got != nil {
		t.Errorf("accepted %v", got)
	}
	if strings.Contains(log.String(), goodToken[:8]) {
		t.Errorf("the log shows the token: %s", log.String())
	}
}

func TestTokenScope(t *testing.T) {
	s, _, denied, log := guarded(t)
	for _, c := range []struct {
		name, authorization, method, target string
		status                              int
	}{
		{"all", "Bearer " + goodToken, "POST", "/v1/devices/d1/uplink", 200},
		{"the next one", "Bearer " + nextToken, "POST", "/v1/devices/d1/uplink/x", 200},
		{"scheme in lower case", "bearer " + goodToken, "POST", "/v1/devices/d1/uplink", 200},
		{"spaces around", "BEARER   " + goodToken + "  ", "POST", "/v1/devices/d1/uplink", 200},
		{"its device", "Bearer " + hallToken, "POST", "/v1/devices/d1/uplink", 200},
		{"its device, encoded", "Bearer " + hallToken, "POST", "/v1/devices/%641/uplink", 200},
		{"its prefix", "Bearer " + hallToken, "POST", "/v1/devices/a%20b/uplink", 200},
		{"percent in its prefix", "Bearer " + hallToken, "POST", "/v1/devices/a%25b/uplink", 200},
		{"another device", "Bearer " + hallToken, "POST", "/v1/devices/uplink/uplink", 403},
		{"another device, encoded", "Bearer " + hallToken, "POST", "/v1/devices/%C3%A9-1/uplink", 403},
		{"unknown device out of scope", "Bearer " + hallToken, "POST", "/v1/devices/zzz/uplink", 403},
		{"unknown device in scope", "Bearer " + hallToken, "POST", "/v1/devices/azz/uplink", 404},
		{"an id is no prefix", "Bearer " + hallToken, "POST", "/v1/devices/d11/uplink", 403},
		{"no id", "Bearer " + hallToken, "POST", "/v1/devices/d1%2F../uplink", 400},
		{"another device's state", "Bearer " + hallToken, "GET", "/v1/devices/d0", 403},
		{"another direction", "Bearer " + readToken, "POST", "/v1/devices/d1/uplink", 403},
		{"read", "Bearer " + readToken, "GET", "/v1/devices/d0", 200},
		{"metrics", "Bearer " + readToken, "GET", "/metrics", 200},
		{"status", "Bearer " + hallToken, "GET", "/v1/status", 200},
		{"no path", "Bearer " + hallToken, "GET", "/v1/none", 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			denied.take()
			a := sendRaw(t, s.Addr(), request(c.method, c.target, "1", authorization(c.authorization), "Content-Type: text/plain"))
			if a.status != c.status {
				t.Errorf("status %d, want %d: %s", a.status, c.status, a.body)
			}
			want := 0
			if c.status == http.StatusForbidden {
				want = 1
				checkProblem(t, a, c.status, "this token is not for")
				if got := a.header.Get("WWW-Authenticate"); got != `Bearer realm="fieldbridge", error="insufficient_scope"` {
					t.Errorf("WWW-Authenticate %q", got)
				}
			}
			if got := denied.take()[DeniedScope]; got != want {
				t.Errorf("%d counted, want %d", got, want)
			}
		})
	}
	for _, token := range []string{goodToken, nextToken, hallToken, readToken} {
		if strings.Contains(log.String(), token) {
			t.Errorf("the log shows a token: %s", log.String())
		}
	}
}

func TestListOfTokensDevices(t *testing.T) {
	s, _, _, _ := guarded(t)
	list := func(token, query string) string {
		a := sendRaw(t, s.Addr(), request("GET", "/v1/devices"+query, "", authorization("Bearer "+token)))
		if a.status != http.StatusOK {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
		var ids []string
		for _, part := range strings.Split(string(a.body), `"device":"`)[1:] {
			ids = append(ids, part[:strings.Index(part, `"`)])
		}
		return fmt.Sprint(ids, strings.Contains(string(a.body), `"next"`))
	}
	for _, c := range []struct{ token, query, want string }{
		{readToken, "", "[d0 d1 d2 d3 d4 d5] false"},
		{hallToken, "", "[d1 d3] false"},
		{hallToken, "?limit=1", "[d1] true"},
		{hallToken, "?limit=2", "[d1 d3] false"},
		{hallToken, "?limit=1&after=d1", "[d3] false"},
		{hallToken, "?after=d3", "[] false"},
	} {
		if got := list(c.token, c.query); got != c.want {
			t.Errorf("%s: %s, want %s", c.query, got, c.want)
		}
	}
}

func TestTokenRate(t *testing.T) {
	s, in, denied, _ := guarded(t)
	send := func(token string) answer {
		return sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "1",
			authorization("Bearer "+token), "Content-Type: text/plain"))
	}
	if a := send(slowToken); a.status != http.StatusOK {
		t.Fatalf("first: status %d: %s", a.status, a.body)
	}
	a := send(slowToken)
	checkProblem(t, a, http.StatusTooManyRequests, "the rate of this token")
	if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 || after > 10 {
		t.Errorf("Retry-After %q, want 1 to 10", a.header.Get("Retry-After"))
	}
	if denied.take()[DeniedRate] != 1 {
		t.Error("not counted")
	}
	if a := send(goodToken); a.status != http.StatusOK {
		t.Errorf("another token: status %d", a.status)
	}
	if got := len(in.take()); got != 2 {
		t.Errorf("%d accepted, want 2", got)
	}
}

// What takes no slot cannot keep those out who may send.
func TestNoSlotWithoutToken(t *testing.T) {
	s := start(t, Options{Tokens: someTokens(), MaxConcurrent: 1}, newIntake())
	s.slots <- struct{}{} // one reading is in progress
	defer func() { <-s.slots }()
	a := sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "1"))
	checkProblem(t, a, http.StatusUnauthorized, "a token is needed")
	a = sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "1", authorization("Bearer "+goodToken)))
	checkProblem(t, a, http.StatusServiceUnavailable, "in progress already")
}

func TestTokenOptions(t *testing.T) {
	good := someTokens()[0]
	for name, spoil := range map[string]func(*Token){
		"no digest":    func(t *Token) { t.Digests = nil },
		"no device":    func(t *Token) { t.Devices = nil },
		"no direction": func(t *Token) { t.Directions = 0 },
		"negative":     func(t *Token) { t.Rate = -1 },
		"no number":    func(t *Token) { t.Rate = math.NaN() },
	} {
		token := good
		spoil(&token)
		if _, err := New(Options{Listen: "127.0.0.1:0", Tokens: []Token{token}}, newIntake()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if len(Denials) != 4 {
		t.Errorf("denials %v", Denials)
	}
}

// FuzzAuthorization: nobody is let in but with a token as it is in its file, and no
// answer shows what was sent.
func FuzzAuthorization(f *testing.F) {
	f.Add("Bearer "+goodToken, "")
	f.Add("bearer   "+nextToken, "access_token=x")
	f.Add("Basic dXNlcjpwYXNz", "access%5Ftoken="+goodToken)
	f.Add("Bearer\t"+goodToken, "timestamp=2025-03-01T12:00:00Z")
	f.Add("Bearer "+goodToken+" ", "%zz&a=b;c")
	f.Add("BEARER =\x00\xff", "")
	in := &everyDevice{}
	o, err := Options{Tokens: someTokens()[:1]}.withDefaults()
	if err != nil {
		f.Fatal(err)
	}
	s := newServer(o, in, newPipes())
	f.Cleanup(func() { _ = s.Close() })
	f.Fuzz(func(t *testing.T, value, query string) {
		w := serveWith(s.http.Handler, &url.URL{Path: "/v1/devices/d1/uplink", RawQuery: query}, http.Header{
			"Authorization": {value}, "Content-Type": {"text/plain"},
		}, []byte("x"))
		scheme, token, _ := strings.Cut(value, " ")
		token = strings.TrimLeft(token, " ")
		right := strings.EqualFold(scheme, "Bearer") && (token == goodToken || token == nextToken)
		if checkAnswer(t, in, w) != nil && !right {
			t.Errorf("let in with %q", value)
		}
		if right && w.Code == http.StatusUnauthorized {
			t.Errorf("not let in with %q", value)
		}
		if w.Code == http.StatusUnauthorized && len(token) > 12 && strings.Contains(w.Body.String(), token) {
			t.Errorf("the answer shows %q: %s", token, w.Body)
		}
	})
}
