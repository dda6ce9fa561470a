// Package openapitest holds what an HTTP endpoint answers against its OpenAPI
// document. It is imported by tests only.
//
// OpenAPI 3.1 lacks words for some of what the endpoint does. The document says it
// with extensions: x-itemSchema beside the schema of a media type is that of each
// line or event (itemSchema of OpenAPI 3.2), "x-segments: many" lets a path
// parameter at the end have several segments, and x-otherRequests has the answers to
// requests that are not in the document.
package openapitest

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// Document is an OpenAPI 3.1 document. It does not change; its methods may be called
// from any goroutine.
type Document struct {
	// Operations are in the order of path and method.
	Operations []*Operation
	other      map[int]*response // to what is no operation
}

// Operation is a method of a path.
type Operation struct {
	Method string // in upper case
	Path   string // with {parameters}

	segments  []string
	params    []param
	body      content
	needsBody bool
	responses map[int]*response
}

func (o *Operation) String() string { return o.Method + " " + o.Path }

// Route is the path as chi has it.
func (o *Operation) Route() string {
	for _, p := range o.params {
		if p.many {
			return strings.ReplaceAll(o.Path, "{"+p.name+"}", "*")
		}
	}
	return o.Path
}

// Statuses are those that the operation may answer with, in order.
func (o *Operation) Statuses() []int { return slices.Sorted(maps.Keys(o.responses)) }

type response struct {
	headers []param
	content content
}

// content is a body's media by type, without parameters.
type content map[string]media

type media struct{ schema, item *jsonschema.Schema } // nil: anything

// param is a parameter or a header.
type param struct {
	name, in      string
	required      bool
	array, number bool
	many          bool // segments
	plus          bool // stands for itself, and not for a space
	schema        *jsonschema.Schema
}

const resource = "https://fieldbridge.invalid/openapi.json"

// loader reads a document once. Its methods note what is wrong and go on.
type loader struct {
	root     map[string]any
	compiler *jsonschema.Compiler
	faults   []error
}

// node is an object of the document and where it is (RFC 6901).
type node struct {
	object  map[string]any
	pointer string
}

// Parse reads a document. The error has everything that is wrong: references that
// lead nowhere, schemas that are none, components that nothing uses, examples that
// do not fit. It does not know all of OpenAPI's rules.
func Parse(text []byte) (*Document, error) {
	l := &loader{compiler: jsonschema.NewCompiler()}
	if err := yaml.Unmarshal(text, &l.root); err != nil {
		return nil, fmt.Errorf("openapi document: %w", err)
	}
	l.compiler.DefaultDraft(jsonschema.Draft2020)
	l.compiler.AssertFormat()
	l.compiler.AssertContent()
	if err := l.compiler.AddResource(resource, any(l.root)); err != nil {
		return nil, fmt.Errorf("openapi document: %w", err)
	}
	if v, _ := l.root["openapi"].(string); !strings.HasPrefix(v, "3.1.") {
		l.say(node{}, "openapi %q, want 3.1", v)
	}
	root := node{object: l.root}
	d := &Document{other: l.responses(l.child(l.child(root, "x-otherRequests"), "responses"))}
	ids := map[string]bool{}
	for path, item := range l.children(l.child(root, "paths")) {
		for method, o := range l.children(item) {
			if id, _ := o.object["operationId"].(string); id == "" || ids[id] {
				l.say(o, "operationId %q is empty or there already", id)
			} else {
				ids[id] = true
			}
			d.Operations = append(d.Operations, l.operation(strings.ToUpper(method), path, o))
		}
	}
	l.unused(root)
	return d, errors.Join(l.faults...)
}

func (l *loader) say(n node, format string, args ...any) {
	l.faults = append(l.faults, fmt.Errorf("openapi document, #%s: "+format, append([]any{n.pointer}, args...)...))
}

// child is what is under a key, or under the reference that is there. It is empty if
// there is nothing.
func (l *loader) child(n node, key string) node {
	c := node{pointer: n.pointer + "/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(key)}
	v, ok := n.object[key]
	if !ok {
		return c
	}
	if c.object, ok = v.(map[string]any); !ok {
		l.say(c, "not an object")
	}
	ref, ok := c.object["$ref"].(string)
	if !ok {
		return c
	}
	to := node{object: l.root}
	for step := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		to = l.child(to, strings.NewReplacer("~1", "/", "~0", "~").Replace(step))
	}
	if to.object == nil {
		l.say(c, "%s leads nowhere", ref)
	}
	return to
}

// children are all of a node's, in the order of their keys.
func (l *loader) children(n node) func(func(string, node) bool) {
	return func(yield func(string, node) bool) {
		for _, key := range slices.Sorted(maps.Keys(n.object)) {
			if !yield(key, l.child(n, key)) {
				return
			}
		}
	}
}

func (l *loader) operation(method, path string, n node) *Operation {
	o := &Operation{
		Method: method, Path: path, segments: strings.Split(path, "/"),
		responses: l.responses(l.child(n, "responses")), body: l.content(l.child(l.child(n, "requestBody"), "content")),
	}
	o.needsBody, _ = l.child(n, "requestBody").object["required"].(bool)
	listed, _ := n.object["parameters"].([]any)
	for i := range listed {
		// An array's place is a key like any other.
		at := node{object: map[string]any{strconv.Itoa(i): listed[i]}, pointer: n.pointer + "/parameters"}
		p := l.param(l.child(at, strconv.Itoa(i)))
		o.params = append(o.params, p)
		if in := strings.Contains(path, "{"+p.name+"}"); (p.in == "path") != in || in && !p.required {
			l.say(n, "parameter %q and the path do not fit", p.name)
		}
	}
	inPath := 0
	for _, p := range o.params {
		if p.in == "path" {
			inPath++
		}
	}
	if inPath != strings.Count(path, "{") {
		l.say(n, "not all parameters of the path are there")
	}
	return o
}

func (l *loader) responses(n node) map[int]*response {
	all := map[int]*response{}
	for key, r := range l.children(n) {
		status, err := strconv.Atoi(key)
		if err != nil {
			l.say(r, "not a status")
		}
		all[status] = &response{content: l.content(l.child(r, "content"))}
		for name, h := range l.children(l.child(r, "headers")) {
			p := l.param(h)
			p.name = name
			all[status].headers = append(all[status].headers, p)
		}
	}
	if len(all) == 0 {
		l.say(n, "no responses")
	}
	return all
}

func (l *loader) content(n node) content {
	all := content{}
	for kind, m := range l.children(n) {
		all[kind] = media{schema: l.schema(m, "schema"), item: l.schema(m, "x-itemSchema")}
		if example, ok := m.object["example"]; ok {
			body, isText := example.(string)
			if !isText {
				l.fits(m, all[kind].schema, example)
			} else if err := all[kind].check(kind, []byte(body)); err != nil && !strings.Contains(kind, "json") || kind == ndjson && err != nil {
				l.say(m, "example: %v", err)
			}
		}
	}
	return all
}

func (l *loader) param(n node) param {
	p := param{schema: l.schema(n, "schema")}
	p.name, _ = n.object["name"].(string)
	p.in, _ = n.object["in"].(string)
	p.required, _ = n.object["required"].(bool)
	p.many = n.object["x-segments"] == "many"
	schema := l.child(n, "schema").object
	p.array, p.number = schema["type"] == "array", schema["type"] == "integer"
	p.plus = p.in != "query" || schema["format"] == "date-time"
	if example, ok := n.object["example"]; ok {
		l.fits(n, p.schema, example)
	}
	return p
}

// schema compiles the one under a key; nil if there is none.
func (l *loader) schema(n node, key string) *jsonschema.Schema {
	if n.object[key] == nil {
		return nil
	}
	s, err := l.compiler.Compile(resource + "#" + (&url.URL{Path: n.pointer + "/" + key}).EscapedPath())
	if err != nil {
		l.say(n, "%s: %v", key, err)
	}
	return s
}

func (l *loader) fits(n node, s *jsonschema.Schema, example any) {
	if s == nil {
		return
	}
	if err := s.Validate(example); err != nil {
		l.say(n, "example: %v", err)
	}
}

// unused looks for components that nothing refers to, and checks the examples of
// schemas.
func (l *loader) unused(root node) {
	used := map[string]bool{}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				used[ref] = true
			}
			for _, c := range v {
				walk(c)
			}
		case []any:
			for _, c := range v {
				walk(c)
			}
		}
	}
	walk(l.root)
	for kind, components := range l.children(l.child(root, "components")) {
		for _, c := range l.children(components) {
			if kind != "securitySchemes" && !used["#"+c.pointer] {
				l.say(c, "nothing uses it")
			}
			if examples, ok := c.object["examples"].([]any); ok && kind == "schemas" {
				s := l.schema(components, strings.TrimPrefix(c.pointer, components.pointer+"/"))
				for _, e := range examples {
					l.fits(c, s, e)
				}
			}
		}
	}
}
