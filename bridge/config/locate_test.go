package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
)

func TestLocate(t *testing.T) {
	for _, tt := range []struct {
		name string
		text string
		want string // "line key" in the order of keys
	}{
		{"nothing", "", ""},
		{"top", "a = 1\n\nb = 2", "1 a, 3 b"},
		{"byte order mark and CRLF", "\ufeffa = 1\r\nb = 2\r\n", "1 a, 2 b"},
		{"comments", "# [x]\na = 1 # b = 2\n#\nc = 3", "2 a, 4 c"},
		{"table", "\n[t] # x\n a = 1\n[ u . v ]\nb=1", "2 t, 3 t.a, 4 u, 4 u.v, 5 u.v.b"},
		{"dotted", "a.b.c = 1\na.d = 2", "1 a, 1 a.b, 1 a.b.c, 2 a.d"},
		{"quoted", "\"a b\" = 1\n'c.d'.e = 2\n\"\\u0061\" = 3\n\"\" = 4\n'\\n' = 5", `4 "", 5 "\\n", 1 "a b", 2 "c.d", 2 "c.d".e, 3 a`},
		{"arrays of tables", "[[d]]\ni = 1\n[[d.e]]\n[[d.e]]\nj = 2\n[d.t]\nk = 3\n[[d]]\n[[d.e]]\nl = 4",
			"1 d, 1 d[0], 3 d[0].e, 3 d[0].e[0], 4 d[0].e[1], 5 d[0].e[1].j, 2 d[0].i, 6 d[0].t, 7 d[0].t.k, 8 d[1], 9 d[1].e, 9 d[1].e[0], 10 d[1].e[0].l"},
		{"inline table", "a = { b = 1, c.d = { e = 2 } }\nf = 3", "1 a, 1 a.b, 1 a.c, 1 a.c.d, 1 a.c.d.e, 2 f"},
		{"inline table over lines", "a = {\n b = 1, # x\n c = 2,\n}\nf = 3", "1 a, 2 a.b, 3 a.c, 5 f"},
		{"array over lines", "a = [ # x\n 1,\n [ 2,\n 3 ],\n {b = 4},\n]\nc = 5",
			"1 a, 2 a[0], 3 a[1], 3 a[1][0], 4 a[1][1], 5 a[2], 5 a[2].b, 7 c"},
		{"strings hide", "a = \"[x] # \\\" \\\\\"\nb = '[x] \\'\nc = 1", "1 a, 2 b, 3 c"},
		{"strings over lines", "a = \"\"\"\n[x]\ny = 1\\\n \\\"\"\" \"\"\"\nb = '''\n[x]'\n\\'''\nc = 1", "1 a, 5 b, 8 c"},
		{"quotes at the end", "a = \"\"\"x\"\"\"\"\"\nb = '''x'''''\nc = \"\"\nd = ''\ne = \"\"\"\"\"\"\nf = 1", "1 a, 2 b, 3 c, 4 d, 5 e, 6 f"},
		{"dates", "a = 1979-05-27 07:32:00 # x\nb = [1979-05-27, 07:32:00]", "1 a, 2 b, 2 b[0], 2 b[1]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lines := locate(tt.text).lines
			var got []string
			for _, key := range slices.Sorted(maps.Keys(lines)) {
				got = append(got, fmt.Sprintf("%d %s", lines[key], key))
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, ", ")); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			checkLocated(t, tt.text)
		})
	}
}

// checkLocated asserts that every key which the parser finds has a line, and
// that this line is where the key could be.
func checkLocated(t *testing.T, text string) {
	t.Helper()
	found := locate(text)
	if found.deep > 0 {
		return
	}
	var tree map[string]any
	if _, err := toml.Decode(text, &tree); err != nil {
		return
	}
	lines := strings.Split(text, "\n")
	var walk func(path string, v any)
	check := func(path, part string) {
		n, ok := found.lines[path]
		if !ok {
			t.Fatalf("%s has no line in %q; found %v", path, text, found.lines)
		}
		if n < 1 || n > len(lines) {
			t.Fatalf("%s is on line %d of %d in %q", path, n, len(lines), text)
		}
		if quoteKey(part) == part && part != "" && !strings.Contains(lines[n-1], part) && !strings.Contains(lines[n-1], `\`) {
			t.Fatalf("%s is not on line %d of %q", path, n, text)
		}
	}
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for key, e := range v {
				full := joinPath(path, quoteKey(key))
				check(full, key)
				walk(full, e)
			}
		case []map[string]any:
			for i, e := range v {
				check(element(path, i), "")
				walk(element(path, i), e)
			}
		case []any:
			for i, e := range v {
				check(element(path, i), "")
				walk(element(path, i), e)
			}
		}
	}
	walk("", tree)
}

func TestLineOf(t *testing.T) {
	lines := locate("a = 1\n[[d]]\nx.y = 1\n[d.t]\n").lines
	for key, want := range map[string]int{
		"": 1, "a": 1, "zzz": 1, "d[0]": 2, "d[0].none": 2, "d[0].x.none": 3, "d[0].t.z": 4, "d[7].z": 2,
	} {
		if got := lineOf(lines, key); got != want {
			t.Errorf("lineOf(%q) = %d, want %d", key, got, want)
		}
	}
}

func FuzzLocate(f *testing.F) {
	f.Add("[[d]]\nx.y = 1\n[d.t]\n")
	f.Add("a = \"\"\"\n[x]\\\n\"\"\"\nb = '''\n'''\n")
	f.Add("a = [1, [2], {b = 3, \"c\\u0064\" = 4}]\r\n")
	f.Fuzz(func(t *testing.T, text string) { checkLocated(t, text) })
}
