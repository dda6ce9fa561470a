package config

import (
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxDepth bounds how deep values and keys of a file may be nested. The deepest
// that has a meaning is 4; the parser behind it recurses without a bound.
const maxDepth = 32

// located is what locate found in a file.
type located struct {
	// lines has the line of every table, key and array element by full key:
	// "device[2].downlink[0].webhook". Elements of arrays count from 0.
	lines map[string]int
	// again are the keys that are given a value although they have one.
	again []Position
	// deep is the line on which the nesting exceeds maxDepth, or 0.
	deep int
}

// locate scans TOML text (v1.0, and v1.1 as far as the parser reads it) for the lines of its keys, which the parser does
// not tell. Text that is not TOML gives fewer keys, never an error.
func locate(text string) located {
	l := &locator{
		text:   strings.TrimPrefix(text, "\ufeff"),
		line:   1,
		counts: make(map[string]int),
		found:  located{lines: make(map[string]int)},
	}
	l.file()
	return l.found
}

// lineOf looks a key up; a key that is not there is on the line of the nearest
// table around it, and finally on the first line.
func lineOf(lines map[string]int, path string) int {
	for path != "" {
		if n, ok := lines[path]; ok {
			return n
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return 1
}

// joinPath appends a key to a full key, quoted if it must be.
func joinPath(parent, key string) string {
	if parent == "" {
		return key
	}
	if key == "" {
		return parent
	}
	return parent + "." + key
}

// quoteKey writes one part of a key as TOML would.
func quoteKey(part string) string {
	for i := range len(part) {
		if !isBare(part[i]) {
			return strconv.Quote(part)
		}
	}
	if part == "" {
		return `""`
	}
	return part
}

func element(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

func isBare(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// locator walks through the text once. Its methods return false when they can
// make nothing of what they see; then the walk ends.
type locator struct {
	text   string
	pos    int
	line   int
	depth  int
	counts map[string]int // arrays of tables: elements so far
	found  located
}

func (l *locator) file() {
	table := ""
	for l.blank() {
		if l.peek() == '[' {
			path, ok := l.header()
			if !ok {
				return
			}
			table = path
		} else if !l.assignment(table) {
			return
		}
	}
}

// header reads [a.b] or [[a.b]] and returns the full key of the table.
func (l *locator) header() (path string, ok bool) {
	line := l.line
	l.pos++
	array := l.eat('[')
	parts, ok := l.key()
	if !ok || !l.eat(']') || array && !l.eat(']') {
		return "", false
	}
	for i, part := range parts {
		path = joinPath(path, part)
		l.mark(path, line)
		switch n := l.counts[path]; {
		case array && i == len(parts)-1:
			l.counts[path] = n + 1
			path = element(path, n)
			l.mark(path, line)
		case n > 0:
			path = element(path, n-1)
		}
	}
	return path, true
}

// assignment reads a.b = value inside a table.
func (l *locator) assignment(table string) bool {
	line := l.line
	parts, ok := l.key()
	if !ok || !l.eat('=') {
		return false
	}
	path := table
	for i, part := range parts {
		path = joinPath(path, part)
		if first := l.mark(path, line); !first && i == len(parts)-1 {
			l.found.again = append(l.found.again, Position{Line: line, Key: path})
		}
	}
	return l.value(path)
}

// mark notes the line of a key and reports whether it is the first one.
func (l *locator) mark(path string, line int) bool {
	if _, ok := l.found.lines[path]; ok {
		return false
	}
	l.found.lines[path] = line
	return true
}

// key reads a dotted key; its parts are quoted where they must be.
func (l *locator) key() (parts []string, ok bool) {
	for {
		l.spaces()
		part, ok := l.keyPart()
		if !ok {
			return nil, false
		}
		parts = append(parts, quoteKey(part))
		if len(parts) > maxDepth {
			l.found.deep = l.line
			return nil, false
		}
		l.spaces()
		if !l.eat('.') {
			return parts, true
		}
	}
}

func (l *locator) keyPart() (string, bool) {
	start := l.pos
	if c := l.peek(); c == '"' || c == '\'' {
		if !l.quoted(c) {
			return "", false
		}
		raw := l.text[start:l.pos]
		if c == '\'' || !strings.Contains(raw, `\`) {
			return raw[1 : len(raw)-1], true
		}
		// Escapes are rare in keys; the parser knows them all.
		var v struct{ K string }
		if _, err := toml.Decode("K = "+raw, &v); err != nil {
			return "", false
		}
		return v.K, true
	}
	for l.pos < len(l.text) && isBare(l.text[l.pos]) {
		l.pos++
	}
	return l.text[start:l.pos], l.pos > start
}

// value skips a value and notes the lines of what is inside it.
func (l *locator) value(path string) bool {
	if l.depth++; l.depth > maxDepth {
		l.found.deep = l.line
		return false
	}
	defer func() { l.depth-- }()
	l.spaces()
	switch c := l.peek(); c {
	case '"', '\'':
		if strings.HasPrefix(l.text[l.pos:], strings.Repeat(string(c), 3)) {
			return l.multiline(c)
		}
		return l.quoted(c)
	case '[':
		return l.array(path)
	case '{':
		return l.inline(path)
	}
	start := l.pos
	for l.pos < len(l.text) && !strings.ContainsRune(",]}#\r\n", rune(l.text[l.pos])) {
		l.pos++
	}
	return l.pos > start
}

func (l *locator) array(path string) bool {
	l.pos++
	for i := 0; l.blank(); i++ {
		if l.eat(']') {
			return true
		}
		l.mark(element(path, i), l.line)
		if !l.value(element(path, i)) || !l.blank() {
			return false
		}
		if !l.eat(',') && l.peek() != ']' {
			return false
		}
	}
	return false
}

func (l *locator) inline(path string) bool {
	l.pos++
	for l.blank() {
		if l.eat('}') {
			return true
		}
		if !l.assignment(path) || !l.blank() {
			return false
		}
		if !l.eat(',') && l.peek() != '}' {
			return false
		}
	}
	return false
}

// quoted skips a string on one line.
func (l *locator) quoted(quote byte) bool {
	for l.pos++; l.pos < len(l.text); l.pos++ {
		switch c := l.text[l.pos]; {
		case c == quote:
			l.pos++
			return true
		case c == '\n':
			return false
		case c == '\\' && quote == '"':
			l.pos++
			if l.peek() == '\n' {
				return false
			}
		}
	}
	return false
}

// multiline skips a string in triple quotes.
func (l *locator) multiline(quote byte) bool {
	end := strings.Repeat(string(quote), 3)
	for l.pos += 3; l.pos < len(l.text); l.pos++ {
		c := l.text[l.pos]
		if c == '\\' && quote == '"' {
			l.pos++ // the escaped character, which may be the end of the line
			c = l.peek()
			if c == '\n' {
				l.line++
			}
			continue
		}
		if c == '\n' {
			l.line++
		}
		if strings.HasPrefix(l.text[l.pos:], end) {
			l.pos += 3
			// Up to two quotes may stand directly before the closing ones.
			for range 2 {
				l.eat(quote)
			}
			return true
		}
	}
	return false
}

// blank skips spaces, ends of lines and comments; false is the end of the text.
func (l *locator) blank() bool {
	for l.pos < len(l.text) {
		switch l.text[l.pos] {
		case '\n':
			l.line++
		case ' ', '\t', '\r':
		case '#':
			for l.pos+1 < len(l.text) && l.text[l.pos+1] != '\n' {
				l.pos++
			}
		default:
			return true
		}
		l.pos++
	}
	return false
}

func (l *locator) spaces() {
	for c := l.peek(); c == ' ' || c == '\t'; c = l.peek() {
		l.pos++
	}
}

// peek returns the next byte, or 0 at the end.
func (l *locator) peek() byte {
	if l.pos < len(l.text) {
		return l.text[l.pos]
	}
	return 0
}

func (l *locator) eat(c byte) bool {
	if l.pos < len(l.text) && l.text[l.pos] == c {
		l.pos++
		return true
	}
	return false
}
