package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"fieldbridge/bridge"
)

const (
	// certificateLife is long because the platform pins the key: nobody checks
	// the certificate's dates against anything but the upload form.
	certificateLife = 10 // years
	// certificateBackdate lets a platform whose clock is behind take the
	// certificate at once.
	certificateBackdate = 24 * time.Hour
)

// Generate makes a new private key: "ES256" on P-256 or "RS256" with 2,048 bits
// (RFC 7518, section 3.1).
func Generate(alg string) (crypto.Signer, error) {
	switch alg {
	case "ES256":
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generate key: %w", err)
		}
		return key, nil
	case "RS256":
		key, err := rsa.GenerateKey(rand.Reader, minRSABits)
		if err != nil {
			return nil, fmt.Errorf("generate key: %w", err)
		}
		return key, nil
	}
	return nil, fmt.Errorf("generate key: algorithm %q is not one of ES256, RS256", alg)
}

// EncodePrivateKey returns the key as PKCS#8 PEM. Who writes it to a file gives
// that file mode 0600.
func EncodePrivateKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// EncodePublicKey returns the public key as PKIX PEM, one of the two forms that
// the platform takes.
func EncodePublicKey(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// SelfSigned returns an X.509 certificate (PEM) of the key's public half with
// the device id as its common name, the other form that the platform takes. It
// is valid from a day ago for ten years. X.520 ends common names at 64
// characters; longer ids are written as they are.
func SelfSigned(key crypto.Signer, device bridge.DeviceID) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	serial.Add(serial, big.NewInt(1)) // zero is not allowed (RFC 5280, section 4.1.2.2)
	now := time.Now().UTC()
	cert := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: string(device)},
		NotBefore:             now.Add(-certificateBackdate),
		NotAfter:              now.AddDate(certificateLife, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
