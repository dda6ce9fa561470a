package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each testdata/conf.*.toml begins with the mistakes that it holds, in order:
// "# want: " and the text of a line of the error, without the main file's name.
func TestMistakes(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	files, err := filepath.Glob("testdata/conf.*.toml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 100 {
		t.Fatalf("found %d files, want at least 100", len(files))
	}
	dir := fixture(t)
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "conf."), ".toml")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for line := range strings.Lines(string(data)) {
				if w, ok := strings.CutPrefix(line, "# want: "); ok {
					want = append(want, strings.TrimSpace(w))
				}
			}
			cfg, err := loadText(t, dir, string(data))
			if cfg != nil {
				t.Error("a configuration with mistakes was returned")
			}
			got := mistakes(t, dir, err)
			for i := range got {
				got[i] = strings.TrimPrefix(got[i], "fieldbridge.toml:")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("mistakes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMistakesAreInOrder(t *testing.T) {
	data, err := os.ReadFile("testdata/conf.many.toml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = loadText(t, fixture(t), string(data))
	var errs *Errors
	if !errors.As(err, &errs) {
		t.Fatalf("got %v, want *Errors", err)
	}
	if len(errs.Mistakes) < 15 {
		t.Errorf("got %d mistakes, want at least 15", len(errs.Mistakes))
	}
	if !slices.IsSortedFunc(errs.Mistakes, func(a, b Mistake) int { return a.Line - b.Line }) {
		t.Errorf("mistakes are not in the order of lines:\n%v", err)
	}
	lines := strings.Split(string(data), "\n")
	for _, m := range errs.Mistakes {
		key := m.Key[strings.LastIndex(m.Key, ".")+1:]
		if !strings.Contains(lines[m.Line-1], key) {
			t.Errorf("%v: the line is %q", m, lines[m.Line-1])
		}
	}
}

func TestFileThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	huge := filepath.Join(dir, "huge.toml")
	writeFile(t, huge, "", 0o600)
	if err := os.Truncate(huge, maxConfigFile+1); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ path, want string }{
		{filepath.Join(dir, "absent.toml"), "absent.toml: there is no file absent.toml"},
		{dir, dir + ": " + dir + " is not a regular file"},
		{fifo, "fifo: fifo is not a regular file"},
		{huge, "huge.toml: huge.toml is larger than 16MiB"},
	} {
		cfg, err := Load(tt.path)
		if cfg != nil || err == nil {
			t.Errorf("Load(%s) = %v, %v, want an error", tt.path, cfg, err)
			continue
		}
		if got := mistakes(t, dir, err)[0]; got != tt.want {
			t.Errorf("Load(%s): got %q, want %q", tt.path, got, tt.want)
		}
	}
}

// A secret that stands where it does not belong is not shown either.
func TestSecretInTheWrongPlaceIsNotShown(t *testing.T) {
	const connector = "[[connector]]\nname = \"c\"\nbroker = \"mqtt://h\"\nauth = \"uplink-secret\"\nid = \"x\"\nsecret_file = \"secrets/yard\"\n"
	dir := fixture(t)
	for _, text := range []string{
		"secret = " + theSecret,
		"secret = '" + theSecret,
		"[connector]\npassword = " + theSecret,
		"[[connector]]\nsecret_file = " + theSecret,
		"[[connector]]\nsecret_file = [\"" + theSecret + "\"]",
		"[[connector]]\nsecret_file = '''-----BEGIN\n" + theSecret + "'''",
		"connector = { token = { key = " + theSecret + " } }",
		"[[device]]\nkey = \"" + theSecret + "\"",
		"[[connector]]\nbroker = \"mqtts://u:" + theSecret + "@h/%zz\"",
		"[[connector]]\nbroker = \"mqtts://u:" + theSecret + "\"",
		connector + "uplink_topic = \"/" + theSecret + "/+/{device}\"",
		connector + "downlink_topic = \"/" + theSecret + "/{device}\"",
		connector + "downlink_topic = \"/" + theSecret + "/{device}/#\"",
		"[[device]]\n[[device.downlink]]\nwebhook = \"https://u:" + theSecret + "@h:%\"",
	} {
		_, err := loadText(t, dir, text)
		if err == nil {
			t.Errorf("no mistake was found in %q", text)
		}
		mistakes(t, dir, err) // fails if it holds the secret
	}
}

func TestNearest(t *testing.T) {
	candidates := []string{"keep_alive", "key_file", "id", "baud"}
	for s, want := range map[string]string{
		"keepalive": "keep_alive", "kye_file": "key_file", "KEY_FILE": "key_file",
		"di": "id", "buad": "baud", "bad": "baud", "colour": "", "": "",
		strings.Repeat("x", 1000): "",
	} {
		if got := nearest(s, candidates); got != want {
			t.Errorf("nearest(%q) = %q, want %q", s, got, want)
		}
	}
}
