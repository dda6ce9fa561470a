package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	modulePath = "fieldbridge"
	wordsPath  = modulePath + "/bridge"
)

// listedPackage is what "go list -json" says of a package: Imports leaves its
// tests out, Doc is the synopsis of the package comment.
type listedPackage struct {
	ImportPath string
	Doc        string
	Imports    []string
}

// reservedPackages are packages that the running daemon does without, each with
// the only packages that may import it outside of tests. An entry stands for
// the packages below it, too.
var reservedPackages = map[string][]string{
	modulePath + "/bridge/bridgetest":         nil,
	modulePath + "/adapters/rest/resttest":    nil,
	modulePath + "/adapters/rest/openapitest": nil,
	modulePath + "/bridge/devbroker":          {modulePath + "/cmd/fieldbridge"},
	modulePath + "/bridge/freeport":           {modulePath + "/bridge/session/loadtest"},
	"github.com/mochi-mqtt/server":            {modulePath + "/bridge/devbroker"},
	"github.com/creack/pty":                   {modulePath + "/cmd/fieldbridge"},
	"github.com/google/go-cmp":                {modulePath + "/bridge/bridgetest"},
	"go.uber.org/goleak":                      {modulePath + "/bridge/bridgetest"},
	"pgregory.net/rapid":                      {modulePath + "/bridge/bridgetest"},
	"github.com/santhosh-tekuri/jsonschema":   {modulePath + "/adapters/rest/openapitest"},
	"go.yaml.in/yaml":                         {modulePath + "/adapters/rest/openapitest"},
	"testing":                                 {modulePath + "/bridge/bridgetest"},
	"net/http/httptest":                       {modulePath + "/bridge/bridgetest"},
}

// knowEverybody are the programs, which put the parts together.
var knowEverybody = []string{modulePath + "/cmd", modulePath + "/bridge/session/loadtest"}

func isWithin(path, root string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}

// importBreaches says where packages import what they must not, or lack a comment.
func importBreaches(packages []listedPackage) []string {
	var found []string
	say := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	for _, p := range packages {
		if strings.TrimSpace(p.Doc) == "" {
			say("%s has no package comment", p.ImportPath)
		}
		for _, imported := range p.Imports {
			for root, allowed := range reservedPackages {
				if isWithin(imported, root) && !slices.Contains(allowed, p.ImportPath) {
					say("%s imports %s, which is for %v and tests", p.ImportPath, imported, allowed)
				}
			}
			if !isWithin(imported, modulePath) || slices.ContainsFunc(knowEverybody, func(root string) bool { return isWithin(p.ImportPath, root) }) {
				continue
			}
			switch {
			case p.ImportPath == wordsPath:
				say("%s imports %s: the words know no implementation", p.ImportPath, imported)
			case isAdapter(p.ImportPath) && isWithin(imported, adapterOf(p.ImportPath)):
				// An adapter may be made of several packages.
			case imported != wordsPath:
				say("%s imports %s: an implementation knows %s only", p.ImportPath, imported, wordsPath)
			}
		}
	}
	slices.Sort(found)
	return found
}

// adapterOf is the package directly below adapters that a package belongs to.
func adapterOf(path string) string {
	rest, ok := strings.CutPrefix(path, modulePath+"/adapters/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return modulePath + "/adapters/" + name
}

func isAdapter(path string) bool { return adapterOf(path) != "" }

func TestImportDirection(t *testing.T) {
	packages := listPackages(t)
	paths := make([]string, 0, len(packages))
	for _, p := range packages {
		paths = append(paths, p.ImportPath)
	}
	// A list that misses packages would find no breach.
	for _, want := range []string{
		wordsPath, wordsPath + "/config", wordsPath + "/devbroker", wordsPath + "/session", wordsPath + "/token",
		modulePath + "/adapters/rest", modulePath + "/adapters/serial", modulePath + "/adapters/webhook",
		modulePath + "/cmd/fieldbridge",
	} {
		if !slices.Contains(paths, want) {
			t.Errorf("go list does not show %s, only %v", want, paths)
		}
	}
	for _, b := range importBreaches(packages) {
		t.Error(b)
	}
}

func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	touchSources(t)
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,Imports", modulePath+"/...")
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", c, err, stderr.String())
	}
	var packages []listedPackage
	for d := json.NewDecoder(&stdout); ; {
		var p listedPackage
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages
		case err != nil:
			t.Fatalf("%s: decode its output: %v", c, err)
		}
		packages = append(packages, p)
	}
}

// touchSources lets "go test" know what the result depends on. It takes a
// cached one otherwise, because it does not see what "go list" reads.
func touchSources(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir() && (e.Name() == ".git" || e.Name() == "testdata"):
			return fs.SkipDir
		case filepath.Ext(path) == ".go":
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatalf("look at the sources: %v", err)
	}
}

func TestImportBreaches(t *testing.T) {
	good := listedPackage{ImportPath: wordsPath + "/session", Doc: "Package session is good.", Imports: []string{"context", wordsPath}}
	tests := []struct {
		name   string
		change func(*listedPackage)
		want   []string
	}{
		{"good", func(*listedPackage) {}, nil},
		{"no comment", func(p *listedPackage) { p.Doc = " " },
			[]string{"fieldbridge/bridge/session has no package comment"}},
		{"words know an implementation", func(p *listedPackage) {
			p.ImportPath, p.Imports = wordsPath, []string{"fmt", wordsPath + "/session"}
		}, []string{"fieldbridge/bridge imports fieldbridge/bridge/session: the words know no implementation"}},
		{"an implementation knows another", func(p *listedPackage) { p.Imports = append(p.Imports, wordsPath+"/token") },
			[]string{"fieldbridge/bridge/session imports fieldbridge/bridge/token: an implementation knows fieldbridge/bridge only"}},
		{"an adapter knows another", func(p *listedPackage) {
			p.ImportPath, p.Imports = modulePath+"/adapters/rest", []string{modulePath + "/adapters/serial"}
		}, []string{"fieldbridge/adapters/rest imports fieldbridge/adapters/serial: an implementation knows fieldbridge/bridge only"}},
		{"an implementation knows the command", func(p *listedPackage) { p.Imports = []string{modulePath + "/cmd/fieldbridge"} },
			[]string{"fieldbridge/bridge/session imports fieldbridge/cmd/fieldbridge: an implementation knows fieldbridge/bridge only"}},
		{"test broker in production", func(p *listedPackage) { p.Imports = []string{"github.com/mochi-mqtt/server/v2/packets"} },
			[]string{"fieldbridge/bridge/session imports github.com/mochi-mqtt/server/v2/packets, which is for [fieldbridge/bridge/devbroker] and tests"}},
		{"testing in production", func(p *listedPackage) { p.Imports = []string{"testing/synctest"} },
			[]string{"fieldbridge/bridge/session imports testing/synctest, which is for [fieldbridge/bridge/bridgetest] and tests"}},
		{"the command knows everybody", func(p *listedPackage) {
			p.ImportPath = modulePath + "/cmd/fieldbridge"
			p.Imports = []string{wordsPath, wordsPath + "/devbroker", modulePath + "/adapters/rest", modulePath + "/adapters/serial", "github.com/creack/pty"}
		}, nil},
		{"the load test puts parts together", func(p *listedPackage) {
			p.ImportPath, p.Imports = modulePath+"/bridge/session/loadtest", []string{wordsPath + "/session", wordsPath + "/spool"}
		}, nil},
		{"the load test knows fakes", func(p *listedPackage) {
			p.ImportPath, p.Imports = modulePath+"/bridge/session/loadtest", []string{wordsPath + "/devbroker"}
		}, []string{"fieldbridge/bridge/session/loadtest imports fieldbridge/bridge/devbroker, which is for [fieldbridge/cmd/fieldbridge] and tests"}},
		{"the command knows fakes", func(p *listedPackage) {
			p.ImportPath, p.Imports = modulePath+"/cmd/fieldbridge", []string{wordsPath + "/bridgetest"}
		}, []string{"fieldbridge/cmd/fieldbridge imports fieldbridge/bridge/bridgetest, which is for [] and tests"}},
		{"a name that only starts alike", func(p *listedPackage) { p.Imports = []string{"testingx", "fieldbridgex/bridge"} }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := good
			p.Imports = slices.Clone(good.Imports)
			tt.change(&p)
			if diff := cmp.Diff(tt.want, importBreaches([]listedPackage{p})); diff != "" {
				t.Errorf("importBreaches (-want +got):\n%s", diff)
			}
		})
	}
}
