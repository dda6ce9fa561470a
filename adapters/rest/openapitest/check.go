package openapitest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const (
	jsonType    = "application/json"
	problemType = "application/problem+json"
	ndjson      = "application/x-ndjson"
	eventStream = "text/event-stream"
)

// Exchange is a request and what was answered.
type Exchange struct {
	Method string
	Path   string // percent-encoded, as it was sent
	Query  string
	// Unrouted: the endpoint has no route for it, so that it is none of the
	// document's operations here, even if it looks like one.
	Unrouted bool
	Request  http.Header
	Body     []byte // as far as it was read

	Status int
	Header http.Header // as the handler wrote it
	Answer []byte
	// Broken: the answer was broken off, and nobody can take it for whole.
	Broken bool
}

// ordinary are headers that say nothing about an operation. The general part of the
// document tells that nothing may be cached.
var ordinary = []string{
	"Cache-Control", "Connection", "Content-Length", "Content-Type", "Date", "X-Accel-Buffering", "X-Content-Type-Options",
}

// Check returns the operation, or nil if it is none, and what is wrong: an answer
// that is not in the document, or an accepted request that should not be.
func (d *Document) Check(x *Exchange) (*Operation, error) {
	op, segments := d.find(x)
	if op == nil && !x.Unrouted {
		return nil, fmt.Errorf("%s %s: the document does not have it", x.Method, x.Path)
	}
	responses, what := d.other, x.Method+" "+x.Path+", which is no operation"
	if op != nil {
		responses, what = op.responses, op.String()
	}
	r := responses[x.Status]
	if r == nil {
		return op, fmt.Errorf("%s: status %d is not in the document", what, x.Status)
	}
	faults := []error{r.check(x)}
	if op != nil && x.Status < 300 {
		faults = append(faults, op.checkRequest(x, segments))
	}
	if err := errors.Join(faults...); err != nil {
		return op, fmt.Errorf("%s: status %d: %w", what, x.Status, err)
	}
	return op, nil
}

// find returns the operation with the parameters of its path. Of two that match,
// that with the longer text is meant.
func (d *Document) find(x *Exchange) (found *Operation, values map[string]string) {
	if x.Unrouted {
		return nil, nil
	}
	for _, o := range d.Operations {
		if o.Method != x.Method || found != nil && len(found.Path) > len(o.Path) {
			continue
		}
		if v, ok := o.match(x.Path); ok {
			found, values = o, v
		}
	}
	return found, values
}

func (o *Operation) match(path string) (map[string]string, bool) {
	got := strings.Split(path, "/")
	values := map[string]string{}
	for i, s := range o.segments {
		if i >= len(got) {
			return nil, false
		}
		name, isParam := strings.CutPrefix(s, "{")
		if !isParam {
			if got[i] != s {
				return nil, false
			}
			continue
		}
		name = strings.TrimSuffix(name, "}")
		p := slices.IndexFunc(o.params, func(p param) bool { return p.name == name })
		if p >= 0 && o.params[p].many {
			values[name] = strings.Join(got[i:], "/")
			return values, true
		}
		values[name] = got[i]
	}
	return values, len(got) == len(o.segments)
}

func (r *response) check(x *Exchange) error {
	var faults []error
	for _, h := range r.headers {
		if err := h.check(joined(x.Header[http.CanonicalHeaderKey(h.name)]), false); err != nil {
			faults = append(faults, fmt.Errorf("header %s: %w", h.name, err))
		}
	}
	for name := range x.Header {
		known := func(h param) bool { return http.CanonicalHeaderKey(h.name) == name }
		if !slices.Contains(ordinary, name) && !slices.ContainsFunc(r.headers, known) {
			faults = append(faults, fmt.Errorf("header %s is not in the document", name))
		}
	}
	if x.Broken || x.Method == http.MethodHead && len(x.Answer) == 0 {
		return errors.Join(faults...)
	}
	body := x.Answer
	if x.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err == nil {
			body, err = io.ReadAll(z)
		}
		faults = append(faults, err)
	}
	kind, err := r.content.check(x.Header.Get("Content-Type"), body)
	faults = append(faults, err)
	if kind == problemType {
		var p struct{ Status int }
		if err := json.Unmarshal(body, &p); err == nil && p.Status != x.Status {
			faults = append(faults, fmt.Errorf("the problem's status is %d", p.Status))
		}
	}
	return errors.Join(faults...)
}

// check returns the media type, without parameters, of a body that fits.
func (c content) check(contentType string, body []byte) (string, error) {
	if len(c) == 0 {
		if len(body) > 0 {
			return "", errors.New("there is a body")
		}
		return "", nil
	}
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", fmt.Errorf("Content-Type %q: %w", contentType, err)
	}
	m, ok := c[kind]
	if !ok {
		return "", fmt.Errorf("Content-Type %q is not in the document", contentType)
	}
	return kind, m.check(kind, body)
}

func (m media) check(kind string, body []byte) error {
	var faults []error
	switch {
	case kind == ndjson:
		for i, line := range bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n")) {
			if err := validateJSON(m.item, line); err != nil {
				faults = append(faults, fmt.Errorf("line %d: %w", i+1, err))
			}
		}
	case kind == eventStream:
		for i, e := range events(string(body)) {
			if err := m.item.Validate(e); err != nil {
				faults = append(faults, fmt.Errorf("event %d, %v: %w", i, e, err))
			}
		}
	case kind == jsonType || strings.HasSuffix(kind, "+json"):
		faults = append(faults, validateJSON(m.schema, body))
	case m.schema != nil:
		faults = append(faults, m.schema.Validate(string(body)))
	}
	return errors.Join(faults...)
}

func validateJSON(s *jsonschema.Schema, text []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("%w in %q", err, text)
	}
	if s == nil {
		return nil
	}
	return s.Validate(v)
}

// events are the fields of each event of a stream (HTML Living Standard, section
// 9.2.6) that has any. What the last blank line does not end is an event, too.
func events(stream string) (all []any) {
	for block := range strings.SplitSeq(stream, "\n\n") {
		e := map[string]any{}
		for line := range strings.Lines(block) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
			value = strings.TrimPrefix(value, " ")
			if before, ok := e[name].(string); ok {
				value = before + "\n" + value
			}
			if name != "" { // that would be a comment
				e[name] = value
			}
			if n, err := strconv.Atoi(value); err == nil && name == "retry" {
				e[name] = n
			}
		}
		if len(e) > 0 {
			all = append(all, e)
		}
	}
	return all
}

// check looks at the values of a parameter. Those of paths and queries are still
// percent-encoded.
func (p *param) check(values []string, encoded bool) error {
	if len(values) == 0 {
		if p.required {
			return errors.New("missing")
		}
		return nil
	}
	if len(values) > 1 && !p.array {
		return errors.New("more than once")
	}
	list := make([]any, len(values))
	for i, v := range values {
		if encoded {
			var err error
			if !p.plus {
				v = strings.ReplaceAll(v, "+", " ")
			}
			if v, err = url.PathUnescape(v); err != nil {
				return err
			}
		}
		list[i] = v
		if n, err := strconv.Atoi(v); p.number && err == nil {
			list[i] = n
		}
	}
	if p.array {
		return p.schema.Validate(list)
	}
	return p.schema.Validate(list[0])
}

// joined makes one list of the headers of one name (RFC 9110, section 5.3).
func joined(values []string) []string {
	if len(values) < 2 {
		return values
	}
	return []string{strings.Join(values, ", ")}
}

// checkRequest looks at a request that was accepted.
func (o *Operation) checkRequest(x *Exchange, inPath map[string]string) error {
	var faults []error
	query := map[string][]string{}
	for pair := range strings.SplitSeq(x.Query, "&") {
		if key, value, _ := strings.Cut(pair, "="); pair != "" {
			if name, err := url.PathUnescape(key); err == nil {
				key = name
			}
			query[key] = append(query[key], value)
		}
	}
	for i := range o.params {
		p := &o.params[i]
		var err error
		switch p.in {
		case "path":
			err = p.check([]string{inPath[p.name]}, true)
		case "query":
			err = p.check(query[p.name], true)
			delete(query, p.name)
		case "header":
			err = p.check(joined(x.Request[http.CanonicalHeaderKey(p.name)]), false)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("request, parameter %s: %w", p.name, err))
		}
	}
	for name := range query {
		faults = append(faults, fmt.Errorf("request: query parameter %q is not in the document", name))
	}
	return errors.Join(append(faults, o.checkRequestBody(x))...)
}

func (o *Operation) checkRequestBody(x *Exchange) error {
	if len(x.Body) == 0 && !o.needsBody || o.body == nil {
		return nil
	}
	kind := x.Request.Get("Content-Type")
	if kind == "" {
		kind = jsonType // what cannot be told otherwise
	}
	body := x.Body
	if lines, ok := o.body[ndjson]; ok {
		return lines.checkAccepted(body, x.Answer)
	}
	if _, err := o.body.check(kind, body); err != nil {
		return fmt.Errorf("request body: %w", err)
	}
	return nil
}

// checkAccepted looks at those lines of a request that have a result with an id.
func (m media) checkAccepted(body, answer []byte) error {
	var faults []error
	lines := bytes.Split(body, []byte("\n"))
	for result := range bytes.Lines(answer) {
		var r struct {
			Line int
			ID   string
		}
		if json.Unmarshal(result, &r) != nil || r.ID == "" || r.Line < 1 || r.Line > len(lines) {
			continue // the answer's schema says what is wrong
		}
		if err := validateJSON(m.item, lines[r.Line-1]); err != nil {
			faults = append(faults, fmt.Errorf("request body, line %d: %w", r.Line, err))
		}
	}
	return errors.Join(faults...)
}
