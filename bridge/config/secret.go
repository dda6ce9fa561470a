package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"fieldbridge/bridge"
)

// Bounds of the files that a configuration names, in bytes.
const (
	maxSecretFile = 64 << 10
	maxCAFile     = 4 << 20
)

// credentialPrefix marks a systemd credential (systemd.exec(5),
// LoadCredential=).
const credentialPrefix = "credentials:"

// resolve turns the value of a *_file key into a path. A relative one starts at
// the directory of the file that holds the key.
func (s *source) resolve(value string) (path string, credential bool, f *flaw) {
	if name, ok := strings.CutPrefix(value, credentialPrefix); ok {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		switch {
		case name == "" || name != filepath.Base(name) || name == "." || name == "..":
			return "", true, &flaw{fmt.Sprintf("%q is not the name of a systemd credential", name), `such as "credentials:yard"`}
		case dir == "":
			return "", true, &flaw{
				fmt.Sprintf("the systemd credential %q is not here: $CREDENTIALS_DIRECTORY is not set", name),
				fmt.Sprintf("start by systemd with LoadCredential=%s:/path/of/the/file, or give a path", name),
			}
		}
		return filepath.Join(dir, name), true, nil
	}
	if strings.Contains(value, "-----BEGIN") || strings.ContainsFunc(value, unicode.IsControl) {
		return "", false, &flaw{"holds content, not the path of a file", "write the content to a file of its own and name that here"}
	}
	if !filepath.IsAbs(value) {
		value = filepath.Join(s.dir, value)
	}
	return value, false, nil
}

// readSecret reads a file that only its owner may read. The flaw names the path
// and never the content.
func (s *source) readSecret(value string) (path, content string, f *flaw) {
	path, credential, f := s.resolve(value)
	if f != nil {
		return "", "", f
	}
	content, f = readSecretFile(path, credential)
	return path, content, f
}

func readSecretFile(path string, credential bool) (content string, f *flaw) {
	data, mode, f := readWithMode(path, maxSecretFile)
	if f != nil {
		return "", f
	}
	// systemd sets the permissions of a credential itself.
	if mode.Perm()&0o077 != 0 && !credential {
		return "", &flaw{
			fmt.Sprintf("%s can be read or changed by other users (mode %04o)", path, mode.Perm()),
			"run: chmod 600 " + shellQuote(path),
		}
	}
	content = strings.TrimRight(string(data), "\r\n")
	if strings.TrimSpace(content) == "" {
		return "", &flaw{problem: fmt.Sprintf("%s is empty", path)}
	}
	return content, nil
}

// readAgain reads a secret file by its resolved path.
func readAgain(path string) (content string, f *flaw) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	return readSecretFile(path, dir != "" && filepath.Dir(path) == filepath.Clean(dir))
}

// readUplinkSecret reads a secret that may become one level of a topic (MQTT v5
// section 4.7.1).
func (s *source) readUplinkSecret(value string, inTopic bool) (bridge.Secret, *flaw) {
	path, content, f := s.readSecret(value)
	if f != nil {
		return bridge.Secret{}, f
	}
	problem := ""
	switch {
	case !utf8.ValidString(content):
		problem = "is not valid UTF-8"
	case strings.ContainsFunc(content, unicode.IsControl):
		problem = "has more than one line or a control character"
	case inTopic && strings.ContainsAny(content, "/+#"):
		problem = "contains /, + or #, which cannot stand in a topic level"
	case strings.TrimSpace(content) != content:
		problem = "starts or ends with a space"
	case len(content) > maxText:
		problem = fmt.Sprintf("has more than %d bytes", maxText)
	default:
		return bridge.NewSecret(content), nil
	}
	return bridge.Secret{}, &flaw{fmt.Sprintf("the secret in %s %s", path, problem), "it must be the device connector's secret and nothing else"}
}

// shellQuote makes a path safe to paste into a shell.
func shellQuote(path string) string {
	plain := func(r rune) bool {
		return r < utf8.RuneSelf && (isBare(byte(r)) || strings.ContainsRune("/.:@%,=", r))
	}
	if strings.ContainsFunc(path, func(r rune) bool { return !plain(r) }) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
