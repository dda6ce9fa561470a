package token

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"fieldbridge/bridge"
)

// KeyFile is a private key in a file, and where its tokens come from. It looks
// at the file whenever a token is minted and reads it again when it has changed.
// A file that is gone, cannot be read or holds no key any more is said once and
// changes nothing: the key that was read last signs on.
type KeyFile struct {
	path   string
	opts   Options
	read   func(path string) (bridge.Secret, error)
	report func(name string, err error)

	mu     sync.Mutex // guards what follows
	signer *Signer
	seen   Stamp // the file that signer is from
	broken bool  // said already
}

// KeyFileOptions describe a KeyFile.
type KeyFileOptions struct {
	// Path is the file's. PEM is what it holds now.
	Path string
	PEM  bridge.Secret
	// Read reads the file again, with all that is required of its permissions.
	// Its errors show nothing of the content. It is called with a lock held.
	Read func(path string) (bridge.Secret, error)
	// Report is told, if set, that a changed file was read (nil) or cannot be
	// used, once per change. It is called with a lock held and must not mint.
	Report func(name string, err error)
}

// Stamp is what tells one state of a file from another: they are compared with
// ==. Inode and change time show a replacement that has the old one's size and
// modification time. The zero value is that of no file.
type Stamp struct {
	inode, device    uint64
	size             int64
	modified, change time.Time
}

// StampOf looks at a file, which need not be readable.
func StampOf(path string) (Stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Stamp{}, err
	}
	s := Stamp{size: info.Size(), modified: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode, s.device = st.Ino, uint64(st.Dev)
		s.change = changed(st)
	}
	return s, nil
}

// NewKeyFile checks the key and the options for its tokens.
func NewKeyFile(f KeyFileOptions, o Options) (*KeyFile, error) {
	k := &KeyFile{path: f.Path, opts: o, read: f.Read, report: f.Report}
	if k.report == nil {
		k.report = func(string, error) {}
	}
	var err error
	if k.signer, err = k.parse(f.PEM); err != nil {
		return nil, err
	}
	// The PEM may have been read some time ago. If the file is another one by
	// now, or not there, the stamp stays zero and the first Mint looks.
	if now, err := StampOf(f.Path); err == nil {
		if again, err := k.read(f.Path); err == nil && again.Reveal() == f.PEM.Reveal() {
			k.seen = now
		}
	}
	return k, nil
}

// Name is the file's name, without its directory.
func (k *KeyFile) Name() string { return filepath.Base(k.path) }

func (k *KeyFile) parse(pem bridge.Secret) (*Signer, error) {
	key, err := ParsePrivateKey([]byte(pem.Reveal()))
	if err != nil {
		return nil, err
	}
	return NewSigner(key, k.opts)
}

// Mint is Signer.Mint with the key that is in the file now.
func (k *KeyFile) Mint() (Token, error) { return k.current().Mint() }

// current is the signer of what is in the file, or was when it last could be
// used.
func (k *KeyFile) current() *Signer {
	k.mu.Lock()
	defer k.mu.Unlock()
	now, err := StampOf(k.path)
	if err == nil && now == k.seen {
		k.broken = false
		return k.signer
	}
	var fresh *Signer
	if err != nil {
		err = fmt.Errorf("cannot look at it: %w", err)
	} else {
		fresh, err = k.load()
	}
	if err != nil {
		if !k.broken {
			k.report(k.Name(), err)
		}
		k.broken = true // looked at again with the next token: it may be half written
		return k.signer
	}
	k.signer, k.seen, k.broken = fresh, now, false
	k.report(k.Name(), nil)
	return fresh
}

func (k *KeyFile) load() (*Signer, error) {
	pem, err := k.read(k.path)
	if err != nil {
		return nil, err
	}
	return k.parse(pem)
}
