package openapitest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
)

const sample = `
openapi: 3.1.1
info: {title: sample, version: '1'}
x-otherRequests:
  responses:
    '404': {$ref: '#/components/responses/Problem'}
paths:
  /things/{name}:
    get:
      operationId: getThing
      parameters:
        - {name: name, in: path, required: true, schema: {type: string, pattern: '^[a-z ]+$'}}
        - {name: limit, in: query, schema: {type: integer, maximum: 9}}
        - {name: kind, in: query, schema: {type: array, items: {enum: [a, b c]}}}
        - {name: at, in: query, schema: {type: string, format: date-time}}
        - {name: X-Way, in: header, schema: {enum: ['up, down']}}
      responses:
        '200':
          description: It.
          headers:
            X-Count: {required: true, schema: {type: integer}}
          content:
            application/json:
              schema: {$ref: '#/components/schemas/Thing'}
              example: {size: 1}
            text/event-stream:
              x-itemSchema:
                type: object
                properties:
                  data: {contentMediaType: application/json, contentSchema: {$ref: '#/components/schemas/Thing'}}
                  id: {type: string}
                additionalProperties: false
                required: [data]
        '204': {description: Nothing.}
        '404': {$ref: '#/components/responses/Problem'}
  /things/{name}/{parts}:
    post:
      operationId: postPart
      parameters:
        - {name: name, in: path, required: true, schema: {type: string}}
        - {name: parts, in: path, required: true, schema: {const: a/b%}, x-segments: many}
      requestBody:
        required: true
        content:
          application/json: {schema: {type: integer}}
          text/plain: {schema: {type: string, maxLength: 3}}
      responses:
        '204': {description: Done.}
  /lines:
    post:
      operationId: postLines
      requestBody:
        content:
          application/x-ndjson: {x-itemSchema: {type: integer}}
      responses:
        '200':
          description: Done.
          content:
            application/x-ndjson:
              x-itemSchema: {type: object, required: [line], properties: {line: {type: integer}, id: {type: string}}, additionalProperties: false}
components:
  schemas:
    Thing:
      type: object
      required: [size]
      properties: {size: {type: integer}}
      additionalProperties: false
      examples: [{size: 2}]
  responses:
    Problem:
      description: No.
      content:
        application/problem+json: {schema: {type: object, required: [status]}}
`

func parse(t *testing.T) *Document {
	t.Helper()
	d, err := Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestParseFindsMistakes: each replacement in the sample is a mistake.
func TestParseFindsMistakes(t *testing.T) {
	parse(t)
	for _, c := range []struct{ old, new, want string }{
		{"openapi: 3.1.1", "openapi: 3.0.3", "want 3.1"},
		{"operationId: postPart", "operationId: getThing", "there already"},
		{"{$ref: '#/components/schemas/Thing'}}", "{$ref: '#/components/schemas/Thin'}}", "Thin"},
		{"        '404': {$ref: '#/components/responses/Problem'}", "        '404': {$ref: '#/components/responses/Problems'}", "leads nowhere"},
		{"type: integer, maximum: 9", "type: integers, maximum: 9", "schema"},
		{"pattern: '^[a-z ]+$'", "pattern: '['", "schema"},
		{"example: {size: 1}", "example: {size: x}", "example"},
		{"examples: [{size: 2}]", "examples: [{sizes: 2}]", "example"},
		{"'204': {description: Nothing.}", "2xx: {description: Nothing.}", "not a status"},
		{"{name: name, in: path, required: true, schema: {type: string}}", "{name: name, in: path, schema: {type: string}}", "do not fit"},
		{"/things/{name}:", "/things/{names}:", "do not fit"},
		{"        - {name: name, in: path, required: true, schema: {type: string}}\n", "", "not all parameters"},
		{"  responses:\n    Problem:", "  responses:\n    Idle: {description: Nobody.}\n    Problem:", "nothing uses it"},
		{"info: {title: sample, version: '1'}", "info: {title: sample, title: '1'}", "already defined"},
		{"properties: {size: {type: integer}}\n", "properties: [size]\n", "object"},
	} {
		text := strings.Replace(sample, c.old, c.new, 1)
		if text == sample {
			t.Fatalf("%q is not in the sample", c.old)
		}
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: error %v, want %q", c.new, c.old, err, c.want)
		}
	}
}

func TestCheck(t *testing.T) {
	d := parse(t)
	thing := func(change func(*Exchange)) *Exchange {
		x := &Exchange{
			Method: "GET", Path: "/things/a", Status: 200, Request: http.Header{},
			Header: http.Header{"Content-Type": {"application/json; charset=utf-8"}, "X-Count": {"1"}}, Answer: []byte(`{"size":1}`),
		}
		change(x)
		return x
	}
	part := func(path, kind, body string) *Exchange {
		x := &Exchange{Method: "POST", Path: path, Status: 204, Request: http.Header{}, Body: []byte(body)}
		if kind != "" {
			x.Request.Set("Content-Type", kind)
		}
		return x
	}
	problem := func(x *Exchange) {
		x.Status, x.Header, x.Answer = 404, http.Header{"Content-Type": {"application/problem+json"}}, []byte(`{"status":404}`)
	}
	stream := func(text string) *Exchange {
		return thing(func(x *Exchange) { x.Header.Set("Content-Type", "text/event-stream"); x.Answer = []byte(text) })
	}
	lines := func(sent, got string) *Exchange {
		return &Exchange{Method: "POST", Path: "/lines", Status: 200, Body: []byte(sent), Header: http.Header{"Content-Type": {ndjson}}, Answer: []byte(got)}
	}
	for name, c := range map[string]struct {
		x    *Exchange
		want string // of the error; "" is none
	}{
		"good":                     {thing(func(*Exchange) {}), ""},
		"every parameter":          {thing(func(x *Exchange) { x.Query = "limit=9&kind=a&kind=b+c&at=2026-01-31T12:00:00+01:00" }), ""},
		"a list of headers":        {thing(func(x *Exchange) { x.Request["X-Way"] = []string{"up", "down"} }), ""},
		"path encoded":             {thing(func(x *Exchange) { x.Path = "/things/a%20b" }), ""},
		"path does not fit":        {thing(func(x *Exchange) { x.Path = "/things/A" }), "parameter name"},
		"parameter does not fit":   {thing(func(x *Exchange) { x.Query = "limit=10" }), "parameter limit"},
		"parameter is no number":   {thing(func(x *Exchange) { x.Query = "limit=x" }), "parameter limit"},
		"parameter twice":          {thing(func(x *Exchange) { x.Query = "limit=1&limit=1" }), "more than once"},
		"one of a list":            {thing(func(x *Exchange) { x.Query = "kind=a&kind=c" }), "parameter kind"},
		"time does not fit":        {thing(func(x *Exchange) { x.Query = "at=noon" }), "parameter at"},
		"unknown parameter":        {thing(func(x *Exchange) { x.Query = "x=1" }), `"x" is not in the document`},
		"header does not fit":      {thing(func(x *Exchange) { x.Request.Set("X-Way", "out") }), "parameter X-Way"},
		"refused, whatever it was": {thing(func(x *Exchange) { x.Query = "x=1"; problem(x) }), ""},
		"other status":             {thing(func(x *Exchange) { x.Status = 500 }), "status 500"},
		"status of the problem":    {thing(func(x *Exchange) { problem(x); x.Answer = []byte(`{"status":400}`) }), "status is 400"},
		"header missing":           {thing(func(x *Exchange) { x.Header.Del("X-Count") }), "X-Count: missing"},
		"header is no number":      {thing(func(x *Exchange) { x.Header.Set("X-Count", "many") }), "X-Count"},
		"unknown header":           {thing(func(x *Exchange) { x.Header.Set("Server", "x") }), "header Server"},
		"no content type":          {thing(func(x *Exchange) { x.Header.Del("Content-Type") }), "Content-Type"},
		"other content type":       {thing(func(x *Exchange) { x.Header.Set("Content-Type", "text/plain") }), `"text/plain" is not`},
		"no JSON":                  {thing(func(x *Exchange) { x.Answer = []byte(`{"size":`) }), "EOF"},
		"two of them":              {thing(func(x *Exchange) { x.Answer = []byte(`{"size":1}{}`) }), "after top-level"},
		"member missing":           {thing(func(x *Exchange) { x.Answer = []byte(`{}`) }), "missing property 'size'"},
		"member too many":          {thing(func(x *Exchange) { x.Answer = []byte(`{"size":1,"x":1}`) }), "'x' not allowed"},
		"broken off":               {thing(func(x *Exchange) { x.Answer = []byte(`{"si`); x.Broken = true }), ""},
		"HEAD":                     {thing(func(x *Exchange) { x.Method = "HEAD" }), "the document does not have it"},
		"body where none is":       {thing(func(x *Exchange) { x.Status, x.Header = 204, http.Header{} }), "there is a body"},
		"no operation":             {thing(func(x *Exchange) { x.Path, x.Unrouted = "/", true; problem(x) }), ""},
		"no operation, but 200":    {thing(func(x *Exchange) { x.Unrouted = true }), "which is no operation"},
		"not in the document":      {thing(func(x *Exchange) { x.Path = "/thing" }), "the document does not have it"},

		"stream":                  {stream(": hello\n\nid: 1\ndata: {\"size\":1}\n\n"), ""},
		"event does not fit":      {stream("data: {\"size\":1}\n\ndata: {\"size\":\"x\"}\n\n"), "event 1"},
		"event without data":      {stream("id: 1\n\n"), "event 0"},
		"event with another line": {stream("event: x\ndata: {\"size\":1}\n\n"), "'event' not allowed"},

		"many segments":            {part("/things/a/a/b%25", "text/plain", "abc"), ""},
		"JSON by default":          {part("/things/a/a/b%25", "", "1"), ""},
		"segments do not fit":      {part("/things/a/a/c", "text/plain", "abc"), "parameter parts"},
		"body does not fit":        {part("/things/a/a/b%25", "text/plain", "abcd"), "request body"},
		"body of another type":     {part("/things/a/a/b%25", "text/csv", "abc"), "request body"},
		"body missing":             {part("/things/a/a/b%25", "", ""), "request body"},
		"lines":                    {lines("1\n\nx\n", "{\"line\":1,\"id\":\"a\"}\n{\"line\":3}\n"), ""},
		"line should not be taken": {lines("1\n\nx\n", "{\"line\":3,\"id\":\"a\"}\n"), "line 3"},
		"line of the answer":       {lines("1", "{\"line\":1}\n{}\n"), "line 2"},
	} {
		op, err := d.Check(c.x)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		case c.want == "" && op == nil && !c.x.Unrouted:
			t.Errorf("%s: no operation", name)
		}
	}
}

// TestRecorder: a recorder passes on what it sees, and keeps it.
func TestRecorder(t *testing.T) {
	d := parse(t)
	r := chi.NewRouter()
	r.Get("/things/{name}", func(w http.ResponseWriter, r *http.Request) {
		if chi.URLParam(r, "name") == "broken" {
			_, _ = w.Write([]byte("{"))
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", jsonType)
		w.Header().Set("X-Count", "1")
		_, _ = w.Write([]byte(`{"size":`))
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		_, _ = w.Write([]byte(chi.URLParam(r, "name") + "}"))
	})
	rec := d.Record(r, r)
	get := func(path string) string {
		defer func() { _ = recover() }()
		w := httptest.NewRecorder()
		rec.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Body.String()
	}
	if got := get("/things/null"); got != `{"size":null}` {
		t.Errorf("answer %s", got)
	}
	get("/things/broken")
	get("/else")
	seen, faults := rec.Result()
	if len(seen) != 1 || seen[Pair{"GET /things/{name}", 200}] != 2 {
		t.Errorf("seen %v", seen)
	}
	var all []string
	for _, f := range faults {
		all = append(all, f.Error())
	}
	text := strings.Join(all, "\n")
	for _, want := range []string{"/things/null: GET /things/{name}: status 200: jsonschema", "/things/broken", "X-Count: missing", "GET /else, which is no operation"} {
		if !strings.Contains(text, want) {
			t.Errorf("faults lack %q:\n%s", want, text)
		}
	}
	if len(faults) != 3 {
		t.Errorf("%d faults, want 3:\n%s", len(faults), text)
	}
}

// TestTransport: a client gets what it would get without it, and faults are told.
func TestTransport(t *testing.T) {
	d := parse(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/things/a/a/b%" {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", jsonType)
		w.Header().Set("X-Count", "1")
		if r.URL.Path == "/things/cut" {
			w.Header().Set("Content-Length", "20")
		}
		_, _ = io.WriteString(w, `{"size":`+r.URL.Query().Get("limit")+"}")
	}))
	defer s.Close()
	var faults []error
	tr := d.Transport(&http.Transport{}, func(err error) { faults = append(faults, err) })
	c := &http.Client{Transport: tr}
	defer c.CloseIdleConnections()
	check := func(name string, want string, resp *http.Response, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if text := fmt.Sprint(string(body), " ", err, " ", faults); text != want {
			t.Errorf("%s: %s, want %s", name, text, want)
		}
		faults = nil
	}
	resp, err := c.Get(s.URL + "/things/a?limit=1")
	check("good", `{"size":1} <nil> []`, resp, err)
	resp, err = c.Get(s.URL + "/things/cut?limit=1")
	check("cut short", `{"size":1} unexpected EOF []`, resp, err)
	resp, err = c.Post(s.URL+"/things/a/a/b%25", "text/plain", strings.NewReader("abc"))
	check("post", ` <nil> []`, resp, err)
	resp, err = c.Post(s.URL+"/things/a/a/b%25", "text/plain", io.MultiReader(strings.NewReader("abcd")))
	check("body that can be had once", ` <nil> []`, resp, err)
	if resp, err = c.Post(s.URL+"/things/a/a/b%25", "text/plain", strings.NewReader("abcd")); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if len(faults) != 1 || !strings.Contains(faults[0].Error(), "request body") {
		t.Errorf("a body that does not fit: %v", faults)
	}
}
