package main

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
	"fieldbridge/bridge/token"
)

// secretsLook is how often the gateway looks whether a file with tokens or with
// a webhook's secrets has changed.
const secretsLook = time.Second

// secretFollower is the files whose content a running gateway follows without a
// reload. It belongs to the goroutine of run.
type secretFollower struct {
	tokens []config.HTTPToken // with what is in use
	of     []secretFile       // the files of tokens, at the same places
	hooks  map[string]*secretFile
}

// secretFile is a file and what of it is in use.
type secretFile struct {
	path    string
	read    func(path string) ([]bridge.Secret, error)
	secrets []bridge.Secret // in use
	log     *slog.Logger

	known bool        // seen is that of secrets
	seen  token.Stamp // when secrets were read
	last  token.Stamp // at the last look
	bad   bool        // said already
}

// takeSecrets puts what a lineup was loaded with to use, and follows its files
// from now on.
func (g *gateway) takeSecrets(l *lineup) {
	s := &secretFollower{tokens: slices.Clone(l.cfg.HTTP.Tokens), hooks: map[string]*secretFile{}}
	for _, t := range s.tokens {
		s.of = append(s.of, secretFile{path: t.File, read: config.ReadTokens, secrets: t.Secrets, log: g.log.With("token", t.Name)})
	}
	for _, d := range l.cfg.Devices {
		for _, dl := range d.Downlinks {
			if dl.Webhook == "" || s.hooks[dl.Webhook] != nil {
				continue
			}
			l.hooks[dl.Webhook].SetSecrets(dl.Secrets)
			if dl.SecretFile != "" {
				s.hooks[dl.Webhook] = &secretFile{
					path: dl.SecretFile, read: config.ReadWebhookSecrets, secrets: dl.Secrets, log: g.log.With("target", webhookName(dl.Webhook)),
				}
			}
		}
	}
	g.secrets = s
	g.setTokens(l)
}

// setTokens puts the tokens to use.
func (g *gateway) setTokens(l *lineup) {
	if err := l.http.SetTokens(httpTokens(g.secrets.tokens)); err != nil {
		g.log.Error("tokens not changed: restart to apply", "error", err)
	}
}

// followSecrets puts to use what has changed in the files. It drops no
// connection: the endpoint and the webhooks go on.
func (g *gateway) followSecrets() {
	l, s := g.now(), g.secrets
	if s.lookAtTokens() {
		g.setTokens(l)
	}
	for url, f := range s.hooks {
		if fresh, ok := f.look(); ok && f.take(fresh) {
			l.hooks[url].SetSecrets(fresh)
		}
	}
}

// lookAtTokens reports whether the tokens are others than before.
func (s *secretFollower) lookAtTokens() (changed bool) {
	fresh := map[int][]bridge.Secret{}
	for i := range s.of {
		if secrets, ok := s.of[i].look(); ok {
			fresh[i] = secrets
		}
	}
	for i, err := range s.settle(fresh) {
		s.of[i].refuse(err)
	}
	for i, secrets := range fresh {
		if s.of[i].take(secrets) {
			s.tokens[i].Secrets, changed = secrets, true
		}
	}
	return changed
}

// settle takes out of what was read what cannot be used because another block has
// the same token: whose request it is could not be told. What is left can be used
// together with the rest of what is in use.
func (s *secretFollower) settle(fresh map[int][]bridge.Secret) (refused map[int]error) {
	refused = map[int]error{}
	for again := len(fresh) > 0; again; {
		again = false
		owners := map[string]int{}
		for i := range s.of {
			if fresh[i] == nil {
				for _, secret := range s.of[i].secrets {
					owners[secret.Reveal()] = i
				}
			}
		}
		for i := range s.of {
			for _, secret := range fresh[i] {
				if other, taken := owners[secret.Reveal()]; taken {
					refused[i] = fmt.Errorf("%s has a token of %q: give each its own", s.of[i].path, s.tokens[other].Name)
					delete(fresh, i)
					again = true // what it had stays in use
					break
				}
				owners[secret.Reveal()] = i
			}
		}
	}
	return refused
}

// look reads the file if it is not as it was when it was read. One that has
// changed since the last look is left for the next: somebody may be at it.
func (f *secretFile) look() (fresh []bridge.Secret, ok bool) {
	now, _ := token.StampOf(f.path) // to read it says what is wrong
	settled := now == f.last
	f.last = now
	if !settled || f.known && !f.bad && now == f.seen {
		return nil, false
	}
	fresh, err := f.read(f.path)
	if err != nil {
		f.refuse(err)
		return nil, false
	}
	return fresh, true
}

// refuse says once that the file is of no use. It is read again with each look.
func (f *secretFile) refuse(err error) {
	if !f.bad {
		f.log.Error("secret file changed and is of no use: what was in it before stays valid", "error", err)
	}
	f.bad = true
}

// take notes what was read. It reports whether that is something else than
// before.
func (f *secretFile) take(fresh []bridge.Secret) bool {
	same := slices.EqualFunc(fresh, f.secrets, func(a, b bridge.Secret) bool { return a.Reveal() == b.Reveal() })
	switch {
	case !same:
		f.log.Info("secret file changed and was read again", "file", f.path)
	case f.bad:
		f.log.Info("secret file is in order again, as it was", "file", f.path)
	}
	f.secrets, f.seen, f.known, f.bad = fresh, f.last, true, false
	return !same
}
