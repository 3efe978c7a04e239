package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/image/efi"
)

// developmentName begins the name of every development key, in the certificates themselves.
const developmentName = "vitalgate DEVELOPMENT KEYS"

// keyring holds the five keys of a release, each with one purpose.
type keyring struct {
	pk, kek, db  efi.Signer    // secure boot: platform key, key exchange key, and the one that signs slots (UEFI 2.10 §32.3)
	pcr, release crypto.Signer // approve a PCR 11 value; sign a manifest
	pcrPub       []byte        // PEM
	releasePub   []byte
	development  bool
}

// makeKeys makes a folder of keys. name tells whose they are; none means development keys.
func makeKeys(dir, name string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the key folder: %w", err)
	}
	if name == "" {
		name = developmentName
	}
	for _, role := range []string{"pk", "kek", "db"} {
		key, err := rsa.GenerateKey(rand.Reader, 2048) // what all UEFI firmware can check
		if err != nil {
			return err
		}
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
		if err != nil {
			return err
		}
		t := x509.Certificate{
			SerialNumber: serial, Subject: pkix.Name{CommonName: name + " " + role}, BasicConstraintsValid: true, IsCA: true,
			// UEFI firmware does not look at the times of certificates in its databases; a box must boot in twenty years.
			NotBefore: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2124, 1, 1, 0, 0, 0, 0, time.UTC),
		}
		der, err := x509.CreateCertificate(rand.Reader, &t, &t, key.Public(), key)
		if err != nil {
			return err
		}
		if err := errors.Join(writeKey(dir, role, key), writePEM(dir, role+".crt", "CERTIFICATE", der, 0o644)); err != nil {
			return err
		}
	}
	for _, role := range []string{"pcr", "release"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return err
		}
		if err := errors.Join(writeKey(dir, role, key), writePEM(dir, role+".pub.pem", "PUBLIC KEY", der, 0o644)); err != nil {
			return err
		}
	}
	return nil
}

func writeKey(dir, role string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(dir, role+".key", "PRIVATE KEY", der, 0o600)
}

func writePEM(dir, name, kind string, der []byte, mode fs.FileMode) error {
	if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode); err != nil {
		return fmt.Errorf("cannot write the key: %w", err)
	}
	return nil
}

// openKeys reads a folder of keys. A private key is NAME.key (PKCS #8 PEM), or in a token that NAME.pkcs11 names.
func openKeys(dir string) (*keyring, error) {
	var k keyring
	for role, s := range map[string]*efi.Signer{"pk": &k.pk, "kek": &k.kek, "db": &k.db} {
		der, err := readPEM(dir, role+".crt", "CERTIFICATE")
		if err != nil {
			return nil, err
		}
		if s.Certificate, err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("cannot read the certificate %s.crt: %w", role, err)
		}
		if s.Key, err = openSigner(dir, role, s.Certificate.PublicKey); err != nil {
			return nil, err
		}
	}
	for role, s := range map[string]*crypto.Signer{"pcr": &k.pcr, "release": &k.release} {
		der, err := readPEM(dir, role+".pub.pem", "PUBLIC KEY")
		if err != nil {
			return nil, err
		}
		public, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return nil, fmt.Errorf("cannot read the public key %s.pub.pem: %w", role, err)
		}
		if *s, err = openSigner(dir, role, public); err != nil {
			return nil, err
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		if role == "pcr" {
			k.pcrPub = text
		} else {
			k.releasePub = text
		}
	}
	for _, s := range []efi.Signer{k.pk, k.kek, k.db} {
		k.development = k.development || strings.HasPrefix(s.Certificate.Subject.CommonName, developmentName)
	}
	return &k, nil
}

// publicKey is what every public key of the standard library can do.
type publicKey interface{ Equal(crypto.PublicKey) bool }

func openSigner(dir, role string, public crypto.PublicKey) (crypto.Signer, error) {
	if uri, err := os.ReadFile(filepath.Join(dir, role+".pkcs11")); err == nil {
		return newToken(string(bytes.TrimSpace(uri)), public)
	}
	der, err := readPEM(dir, role+".key", "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read the private key %s.key: %w", role, err)
	}
	s, ok := key.(crypto.Signer)
	if p, is := public.(publicKey); !ok || !is || !p.Equal(s.Public()) {
		return nil, fmt.Errorf("cannot use the private key %s.key: it does not belong to the public key beside it", role)
	}
	return s, nil
}

func readPEM(dir, name, kind string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("cannot read the key folder: %w; make one with: image keys %s", err, dir)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("cannot read %s: it is not a PEM %q", filepath.Join(dir, name), kind)
	}
	return block.Bytes, nil
}
