package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxConfigFile bounds a configuration file in bytes: 100,000 devices fit.
const maxConfigFile = 16 << 20

// source is one configuration file while it is read. It is used by one
// goroutine.
type source struct {
	name   string // as shown to people
	dir    string // relative paths start here
	lines  map[string]int
	given  map[string]bool // full keys that the file gives
	faulty map[string]bool // full keys with a mistake
	out    *collector
	// included files may hold the includable blocks only.
	included bool
}

// place is a block in a file.
type place struct {
	src  *source
	path string
}

func (p place) key(key string) string { return joinPath(p.path, key) }

// gives reports whether the file gives a key of the block.
func (p place) gives(key string) bool { return p.src.given[p.key(key)] }

// ok reports whether nothing was found wrong with a key of the block so far. A
// value that is not ok is not to be looked at: it would give a second mistake.
func (p place) ok(key string) bool { return !p.src.faulty[p.key(key)] }

// wrong records a mistake at a key of the block ("": the block itself).
func (p place) wrong(key, problem, hint string) { p.src.wrong(p.key(key), problem, hint) }

// flawed records f, if any, at a key of the block and reports whether there was
// none.
func (p place) flawed(key string, f *flaw) (sound bool) {
	if f != nil {
		p.wrong(key, f.problem, f.hint)
	}
	return f == nil
}

// missing records that a key of the block is required, unless the file gives it
// and something else is wrong with it.
func (p place) missing(key, hint string) {
	if p.ok(key) {
		p.wrong(key, "is missing", hint)
	}
}

func (p place) pos(key string) Position { return p.src.pos(p.key(key)) }

func (s *source) pos(path string) Position {
	return Position{File: s.name, Line: lineOf(s.lines, path), Key: path}
}

func (s *source) wrong(path, problem, hint string) {
	s.faulty[path] = true
	s.out.mistakes = append(s.out.mistakes, s.pos(path).Mistake(problem, hint))
}

// newSource adds a file to those being read.
func (c *collector) newSource(name string) *source {
	s := &source{
		name:   name,
		dir:    filepath.Dir(name),
		given:  make(map[string]bool),
		faulty: make(map[string]bool),
		out:    c,
	}
	c.sources = append(c.sources, s)
	return s
}

// decode reads TOML text into a pointer to a raw struct. It returns false if
// the text is not TOML; every other mistake leaves a default in its place.
func (s *source) decode(text string, raw any) bool {
	found := locate(text)
	s.lines = found.lines
	if found.deep > 0 {
		s.syntax(found.deep, "keys or values are nested too deeply", "")
		return false
	}
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		s.syntaxError(text, err)
		return false
	}
	for _, p := range found.again {
		// The parser drops some of these without a word.
		s.out.mistakes = append(s.out.mistakes, Mistake{File: s.name, Line: p.Line, Key: p.Key, Problem: "is given twice"})
	}
	v := reflect.ValueOf(raw).Elem()
	s.prepare(v, "")
	s.table("", tree, v)
	return true
}

func (s *source) syntax(line int, problem, hint string) {
	s.out.mistakes = append(s.out.mistakes, Mistake{File: s.name, Line: line, Problem: problem, Hint: hint})
}

// sensitive are keys beside which a value may be a secret in the wrong place.
var sensitive = regexp.MustCompile(`(?i)secret|pass|token|key`)

// unquoted is the parser's complaint about a word without quotes.
var unquoted = regexp.MustCompile(`^expected value but found "`)

func (s *source) syntaxError(text string, err error) {
	var pe toml.ParseError
	if !errors.As(err, &pe) {
		s.syntax(1, "not TOML: "+err.Error(), "")
		return
	}
	// The line in the error is the next one if the end of a line was in the way;
	// the offset is right. It counts from behind a byte order mark.
	text = strings.TrimPrefix(text, "\ufeff")
	line := 1 + strings.Count(text[:max(0, min(pe.Position.Start, len(text)))], "\n")
	const quote = `text is written in double quotes: "text"`
	if sensitive.MatchString(pe.LastKey) {
		// The parser's message quotes what it found.
		s.syntax(line, "not TOML: cannot read the value here", quote)
		return
	}
	hint := ""
	if unquoted.MatchString(pe.Message) {
		hint = quote
	}
	s.syntax(line, "not TOML: "+strings.TrimSuffix(pe.Message, "."), hint)
}

// includes reads the files that the globs of the main file name, the first
// time that each is named.
func (s *source) includes(main *rawConfig) (complete bool) {
	seen := []string{filepath.Clean(s.name)}
	complete = true
	for i, pattern := range main.Include {
		key := element("include", i)
		if !main.In.ok(key) {
			continue
		}
		names, f := s.glob(pattern)
		if !main.In.flawed(key, f) {
			complete = false
			continue
		}
		for _, name := range names {
			if slices.Contains(seen, name) {
				continue
			}
			seen = append(seen, name)
			data, f := readRegular(name, maxConfigFile)
			if !main.In.flawed(key, f) {
				complete = false
				continue
			}
			inc := s.out.newSource(name)
			inc.included = true
			var raw rawConfig
			if !inc.decode(string(data), &raw) {
				complete = false
			}
			main.Connectors = append(main.Connectors, raw.Connectors...)
			main.Devices = append(main.Devices, raw.Devices...)
			main.Serials = append(main.Serials, raw.Serials...)
		}
	}
	return complete
}

// globMeta are the characters that mean something in a pattern.
const globMeta = `*?[\`

var globQuoter = strings.NewReplacer(`*`, `\*`, `?`, `\?`, `[`, `\[`, `\`, `\\`)

// glob returns the files that a pattern names, sorted. No file is fine, unless
// the pattern is the name of one.
func (s *source) glob(pattern string) ([]string, *flaw) {
	if pattern == "" {
		return nil, &flaw{problem: "is empty", hint: `such as "devices.d/*.toml"`}
	}
	base := ""
	if !filepath.IsAbs(pattern) {
		base = s.dir
	}
	// The directory of the main file is a name, not a pattern.
	full := filepath.Join(globQuoter.Replace(base), pattern)
	names, err := filepath.Glob(full)
	if err != nil {
		return nil, &flaw{problem: fmt.Sprintf("%q is not a file name pattern", pattern), hint: `such as "devices.d/*.toml"`}
	}
	if !strings.ContainsAny(pattern, globMeta) && len(names) == 0 {
		return nil, &flaw{problem: fmt.Sprintf("there is no file %s", filepath.Join(base, pattern))}
	}
	// Glob takes a directory that it may not read for an empty one.
	if dir := filepath.Dir(pattern); !strings.ContainsAny(dir, globMeta) {
		dir = filepath.Join(base, dir)
		if _, err := os.ReadDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, &flaw{problem: fmt.Sprintf("cannot list %s: %v", dir, cause(err))}
		}
	}
	// What editors and package managers leave beside a file is not meant.
	return slices.DeleteFunc(names, func(name string) bool {
		return strings.HasPrefix(filepath.Base(name), ".") && !strings.HasPrefix(filepath.Base(full), ".")
	}), nil
}

// readRegular reads a regular file of at most limit bytes.
func readRegular(path string, limit int64) ([]byte, *flaw) {
	data, _, f := readWithMode(path, limit)
	return data, f
}

// readWithMode also returns the permissions of the very file that was read.
func readWithMode(path string, limit int64) ([]byte, fs.FileMode, *flaw) {
	cannot := func(err error) *flaw {
		if errors.Is(err, fs.ErrNotExist) {
			return &flaw{problem: fmt.Sprintf("there is no file %s", path)}
		}
		return &flaw{problem: fmt.Sprintf("cannot read %s: %v", path, cause(err))}
	}
	// Looked at before it is opened: opening a named pipe would wait for a writer.
	info, err := os.Stat(path)
	if err != nil {
		return nil, 0, cannot(err)
	}
	if !info.Mode().IsRegular() {
		return nil, 0, &flaw{problem: fmt.Sprintf("%s is not a regular file", path)}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, cannot(err)
	}
	defer f.Close() // only read
	if info, err = f.Stat(); err != nil {
		return nil, 0, cannot(err)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, 0, cannot(err)
	case int64(len(data)) > limit:
		return nil, 0, &flaw{problem: fmt.Sprintf("%s is larger than %s", path, Size(limit))}
	}
	return data, info.Mode(), nil
}

// cause drops the operation and the path of a file error: the text around it
// has them.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
