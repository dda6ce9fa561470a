package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Position is a place in a configuration file.
type Position struct {
	File string
	// Line counts from 1.
	Line int
	// Key is the full key; elements of arrays count from 0: "device[3].id".
	Key string
}

// String returns "file:line: key".
func (p Position) String() string {
	if p.Key == "" {
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Key)
}

// Mistake makes a Mistake at this position. The hint may be empty.
func (p Position) Mistake(problem, hint string) Mistake {
	return Mistake{File: p.File, Line: p.Line, Key: p.Key, Problem: problem, Hint: hint}
}

// Mistake is one thing that is wrong with a configuration.
type Mistake struct {
	File string
	// Line counts from 1; it is 0 if the file could not be read at all.
	Line int
	// Key is the full key, or "" if the mistake has none.
	Key string
	// Problem says what is wrong, Hint what would be right. Hint may be empty.
	Problem string
	Hint    string
}

// Error returns "file:line: key: problem (hint)" on one line: what cannot be
// printed, such as the end of a line in a file's name, becomes a question mark.
func (m Mistake) Error() string {
	var b strings.Builder
	b.WriteString(m.File)
	if m.Line > 0 {
		fmt.Fprintf(&b, ":%d", m.Line)
	}
	b.WriteString(": ")
	if m.Key != "" {
		b.WriteString(m.Key + ": ")
	}
	b.WriteString(suffixHint(m.Problem, m.Hint))
	return oneLine(b.String())
}

// Errors are all mistakes of a configuration, those of the main file first and
// by line within a file. Load returns it as *Errors.
type Errors struct {
	Mistakes []Mistake
}

// Error returns one line for each mistake.
func (e *Errors) Error() string {
	lines := make([]string, len(e.Mistakes))
	for i, m := range e.Mistakes {
		lines[i] = m.Error()
	}
	return strings.Join(lines, "\n")
}

// collector gathers mistakes over all files of a configuration.
type collector struct {
	mistakes []Mistake
	sources  []*source // in the order in which they were read
}

// err returns what was gathered, in order, or nil.
func (c *collector) err() error {
	if len(c.mistakes) == 0 {
		return nil
	}
	order := make(map[string]int, len(c.sources))
	for i, s := range c.sources {
		order[s.name] = i
	}
	slices.SortStableFunc(c.mistakes, func(a, b Mistake) int {
		return cmp.Or(
			cmp.Compare(order[a.File], order[b.File]),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Key, b.Key),
		)
	})
	return &Errors{Mistakes: c.mistakes}
}

// flaw is what is wrong with one value, before it has a position.
type flaw struct {
	problem string
	hint    string
}

// err is the flaw of a value that has no position.
func (f *flaw) err() error { return errors.New(oneLine(suffixHint(f.problem, f.hint))) }

func suffixHint(problem, hint string) string {
	if hint == "" {
		return problem
	}
	return problem + " (" + hint + ")"
}

// nearest returns the candidate that s was most likely meant to be, or "".
func nearest(s string, candidates []string) string {
	best, limit := "", max(1, min(3, len(s)/3))
	for _, c := range slices.Sorted(slices.Values(candidates)) {
		if d := distance(strings.ToLower(s), strings.ToLower(c)); d <= limit && c != s {
			best, limit = c, d-1
		}
	}
	return best
}

// didYouMean is a hint, or "" if nothing comes near.
func didYouMean(s string, candidates []string) string {
	if c := nearest(s, candidates); c != "" {
		return fmt.Sprintf("did you mean %q?", c)
	}
	return ""
}

// distance counts the insertions, deletions, substitutions and swaps of
// neighbours that turn a into b (optimal string alignment).
func distance(a, b string) int {
	// Nothing that long is a slip of the fingers; it bounds the work.
	const longest = 64
	if len(a) > longest || len(b) > longest {
		return longest
	}
	rows := [3][longest + 1]int{}
	for j := range len(b) + 1 {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row := &rows[(i+1)%3], &rows[(i+2)%3], &rows[i%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return rows[len(a)%3][len(b)]
}

// oneLine makes foreign text fit on one line of a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
