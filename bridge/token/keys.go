package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

const (
	// minRSABits is the shortest RSA key that RS256 may be used with (RFC 7518,
	// section 3.3).
	minRSABits = 2048
	// maxKeyFile bounds what is parsed; a PEM bundle of an RSA-16384 key with a
	// certificate chain stays far below it.
	maxKeyFile = 64 << 10

	makeKey = "make a pair with \"fieldbridge keys new --device ID\""
)

// The object identifiers of the keys that are told apart in error texts.
var (
	oidRSA     = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1} // RFC 8017, appendix A.1
	oidRSAPSS  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidEC      = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1} // RFC 5480, section 2.1.1
	oidEd25519 = asn1.ObjectIdentifier{1, 3, 101, 112}         // RFC 8410, section 3
)

// ParsePrivateKey reads the first private key of a PEM file: PKCS#8 (RFC 5958,
// "PRIVATE KEY"), PKCS#1 (RFC 8017, "RSA PRIVATE KEY") or SEC1 (RFC 5915, "EC
// PRIVATE KEY"), the three that openssl writes. Certificates, public keys and EC
// parameters before it are skipped. The result is an *rsa.PrivateKey of at least
// 2,048 bits or an *ecdsa.PrivateKey on P-256, which are the keys that RS256 and
// ES256 need.
//
// An error says what the file holds instead and what to do; it never has a part
// of the key in it.
func ParsePrivateKey(data []byte) (crypto.Signer, error) {
	var other string
	for block, err := range blocks(data) {
		if err != nil {
			return nil, fmt.Errorf("read private key: %w", err)
		}
		switch block.Type {
		case "PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			key, err := privateKey(block)
			if err != nil {
				return nil, fmt.Errorf("read private key: %w", err)
			}
			return key, nil
		case "EC PARAMETERS":
		case "ENCRYPTED PRIVATE KEY":
			return nil, fmt.Errorf("read private key: %w", errEncrypted)
		default:
			if strings.HasSuffix(block.Type, " PRIVATE KEY") {
				return nil, fmt.Errorf("read private key: the file holds an %s, which no token can be signed with; %s", shown(block.Type), makeKey)
			}
			if other == "" {
				other = block.Type
			}
		}
	}
	switch {
	case other == "CERTIFICATE":
		return nil, errors.New("read private key: the file holds a certificate, which is public; give the private key that belongs to it")
	case strings.HasSuffix(other, "PUBLIC KEY"):
		return nil, errors.New("read private key: the file holds a public key; give the private key that belongs to it")
	case other != "":
		return nil, fmt.Errorf("read private key: the file holds %s and no private key; %s", shown(other), makeKey)
	}
	return nil, fmt.Errorf("read private key: %w", noPEM(data))
}

var errEncrypted = errors.New("the key is protected by a passphrase, which a daemon cannot be asked for; remove it with \"openssl pkey -in FILE -out NEWFILE\" and keep the new file at mode 0600")

func privateKey(block *pem.Block) (crypto.Signer, error) {
	// RFC 1421 encryption, as old openssl versions write it.
	if strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, errEncrypted
	}
	var (
		key any
		err error
	)
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		// The cause is left out: it may quote the content.
		return nil, unreadable(block)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, unsupported("a key that cannot sign")
	}
	if err := checkPublic(signer.Public()); err != nil {
		return nil, err
	}
	return signer, nil
}

// unreadable finds out why the block could not be decoded, as far as that can be
// told from the algorithm that it names.
func unreadable(block *pem.Block) error {
	if block.Type == "EC PRIVATE KEY" {
		return fmt.Errorf("the %q block is damaged or not on the curve P-256; %s", block.Type, makeKey)
	}
	if block.Type == "PRIVATE KEY" {
		var outer struct {
			Version   int
			Algorithm pkix.AlgorithmIdentifier
			Key       []byte
			Rest      asn1.RawValue `asn1:"optional"`
		}
		if _, err := asn1.Unmarshal(block.Bytes, &outer); err == nil {
			if name := algorithm(outer.Algorithm.Algorithm); name != "" {
				return unsupported(name)
			}
		}
	}
	return fmt.Errorf("the %q block is damaged or cut off; copy the file again, or %s", block.Type, makeKey)
}

// algorithm names what an object identifier stands for, or returns "" if keys of
// that kind can be read, so that a failure means damage.
func algorithm(oid asn1.ObjectIdentifier) string {
	switch {
	case oid.Equal(oidRSA):
		return ""
	case oid.Equal(oidEC):
		return "an EC key that is damaged or not on P-256"
	case oid.Equal(oidRSAPSS):
		return "an RSA-PSS key"
	case oid.Equal(oidEd25519):
		return "an Ed25519 key"
	}
	return "a key of an unknown kind"
}

func unsupported(what string) error {
	return fmt.Errorf("the file holds %s; the platform takes RSA keys of 2048 bits or more (RS256) and EC keys on P-256 (ES256) only; %s", what, makeKey)
}

// ParsePublicKey reads the first public key of a PEM file: PKIX (RFC 5280,
// "PUBLIC KEY"), PKCS#1 ("RSA PUBLIC KEY") or an X.509 certificate
// ("CERTIFICATE"), whose signature and validity are not looked at. The result is
// an *rsa.PublicKey of at least 2,048 bits or an *ecdsa.PublicKey on P-256.
func ParsePublicKey(data []byte) (crypto.PublicKey, error) {
	private := false
	var other string
	for block, err := range blocks(data) {
		if err != nil {
			return nil, fmt.Errorf("read public key: %w", err)
		}
		switch {
		case block.Type == "PUBLIC KEY", block.Type == "RSA PUBLIC KEY", block.Type == "CERTIFICATE":
			key, err := publicKey(block)
			if err != nil {
				return nil, fmt.Errorf("read public key: %w", err)
			}
			return key, nil
		case block.Type == "EC PARAMETERS":
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			private = true
		case other == "":
			other = block.Type
		}
	}
	switch {
	case private:
		return nil, errors.New("read public key: the file holds a private key, which must not leave this machine; make its public key with \"openssl pkey -in FILE -pubout -out FILE.pub.pem\"")
	case other != "":
		return nil, fmt.Errorf("read public key: the file holds %s and no public key", shown(other))
	}
	return nil, fmt.Errorf("read public key: %w", noPEM(data))
}

func publicKey(block *pem.Block) (crypto.PublicKey, error) {
	var (
		key any
		err error
	)
	switch block.Type {
	case "CERTIFICATE":
		var cert *x509.Certificate
		if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
			key = cert.PublicKey
		}
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("the %q block cannot be decoded: %w", block.Type, err)
	}
	if err := checkPublic(key); err != nil {
		return nil, err
	}
	return key, nil
}

// checkPublic refuses the keys that neither RS256 nor ES256 can be used with.
func checkPublic(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits {
			return unsupported(fmt.Sprintf("an RSA key of %d bits", bits))
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return unsupported("an EC key on " + k.Params().Name)
		}
		return nil
	case nil:
		return unsupported("a key of an unknown kind")
	}
	return unsupported(strings.TrimPrefix(fmt.Sprintf("a key of the kind %T", key), "*"))
}

// blocks yields the PEM blocks of data (RFC 7468), or one error.
func blocks(data []byte) func(func(*pem.Block, error) bool) {
	return func(yield func(*pem.Block, error) bool) {
		if len(data) > maxKeyFile {
			yield(nil, fmt.Errorf("the file has %d bytes, more than a key file can have (%d)", len(data), maxKeyFile))
			return
		}
		rest := bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // the mark that some editors on Windows write
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				return
			}
			if !yield(block, nil) {
				return
			}
		}
	}
}

// noPEM says why data has no PEM block.
func noPEM(data []byte) error {
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return errors.New("the file is empty")
	case bytes.Contains(data, []byte("-----BEGIN ")):
		return errors.New("the PEM block (-----BEGIN …) is damaged or cut off; copy the file again")
	case data[0] == 0x30: // a DER sequence
		return errors.New("the file is not PEM; if it is DER, convert it with \"openssl pkey -inform DER -in FILE -out FILE.pem\" (public keys: add -pubin)")
	}
	return fmt.Errorf("the file is not PEM, text that starts with -----BEGIN; %s", makeKey)
}

// shown makes a foreign PEM type fit for an error text.
func shown(pemType string) string {
	const most = 40
	if len(pemType) > most {
		pemType = pemType[:most] + "…"
	}
	return fmt.Sprintf("%q", pemType)
}
