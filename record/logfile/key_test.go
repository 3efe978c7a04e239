package logfile

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"os"
	"path/filepath"
)

// sharedKey is a key in a file, which a child process signs with too.
func sharedKey(dir string) (*ecdsa.PrivateKey, error) {
	name := filepath.Join(dir, "test-key")
	if der, err := os.ReadFile(name); err == nil {
		return x509.ParseECPrivateKey(der)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, os.WriteFile(name, der, 0o600)
}
