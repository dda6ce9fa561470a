package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	const one, two = "0123456789abcdef", "fedcba9876543210=="
	for _, c := range []struct {
		content string
		mode    os.FileMode
		want    string // the tokens, or a part of the error
	}{
		{one + "\r\n" + two + "\n", 0o600, one + " " + two},
		{"\n" + one, 0o400, one},
		{one, 0o640, path + " can be read or changed by other users (mode 0640) (run: chmod 600 " + path + ")"},
		{"", 0o600, path + " is empty"},
		{one + "\na b", 0o600, "line 2 of " + path + " is not a token (letters"},
		{"short", 0o600, "line 1 of " + path + " has 5 characters, at least 16 are needed (make"},
		{one + "\n" + one, 0o600, "line 2 of " + path + " is already a token"},
		{strings.Repeat(one, 5000), 0o600, path + " is larger than 64KiB"},
	} {
		_ = os.Remove(path)
		writeFile(t, path, c.content, c.mode)
		tokens, err := LoadTokens(path)
		var got []string
		for _, token := range tokens {
			got = append(got, token.Reveal())
		}
		switch {
		case err == nil && strings.Join(got, " ") != c.want:
			t.Errorf("%q: tokens %q, want %q", c.content, got, c.want)
		case err != nil && !strings.Contains(err.Error(), c.want):
			t.Errorf("%.40q: %v, want %q", c.content, err, c.want)
		case err != nil && (tokens != nil || strings.Contains(err.Error(), one)):
			t.Errorf("the error shows a token, or comes with some: %v", err)
		}
	}
	if _, err := LoadTokens(path + "x"); err == nil || !strings.Contains(err.Error(), "there is no file "+path+"x") {
		t.Errorf("error %v without a file", err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(path))
	_ = os.Remove(path)
	writeFile(t, path, one, 0o440)
	if tokens, err := LoadTokens("credentials:token"); err != nil || len(tokens) != 1 {
		t.Errorf("%d tokens, %v from a credential", len(tokens), err)
	}
}
