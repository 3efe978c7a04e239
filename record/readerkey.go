package record

import (
	"crypto/hpke"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ReaderKey is the public key of someone who may read: X-Wing, that is ML-KEM-768 with X25519.
type ReaderKey struct {
	pub hpke.PublicKey
	id  string
}

// ReaderSecret is the private key that belongs to a ReaderKey.
type ReaderSecret struct {
	priv hpke.PrivateKey
	pub  ReaderKey
}

const (
	readerPrefix = "vgreader1"
	secretPrefix = "VGREADER-SECRET-1"
)

var (
	kem  = hpke.MLKEM768X25519()
	kdf  = hpke.HKDFSHA256()
	aead = hpke.AES256GCM()

	readerText = base64.RawURLEncoding.Strict()
	secretText = base32.StdEncoding.WithPadding(base32.NoPadding)
)

// GenerateReaderKey makes a new pair.
func GenerateReaderKey() (ReaderSecret, error) {
	priv, err := kem.GenerateKey()
	if err != nil {
		return ReaderSecret{}, fmt.Errorf("cannot generate reader key: %w", err)
	}
	return newReaderSecret(priv), nil
}

func newReaderSecret(priv hpke.PrivateKey) ReaderSecret {
	return ReaderSecret{priv, newReaderKey(priv.PublicKey())}
}

func newReaderKey(pub hpke.PublicKey) ReaderKey {
	sum := sha256.Sum256(pub.Bytes())
	return ReaderKey{pub, hex.EncodeToString(sum[:8])}
}

// ID is how an epoch leaf names the key: the first 8 bytes of its SHA-256, in hex.
func (k ReaderKey) ID() string { return k.id }

// String is the text form "vgreader1…", which ends in a checksum. It is public.
func (k ReaderKey) String() string {
	if k.pub == nil {
		return ""
	}
	return readerPrefix + readerText.EncodeToString(withSum(readerPrefix, k.pub.Bytes()))
}

// ParseReaderKey reads the text form of a public key.
func ParseReaderKey(s string) (ReaderKey, error) {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, secretPrefix) {
		return ReaderKey{}, errors.New("cannot read reader key: this is a private key, which must stay with its reader; give the public one, " + readerPrefix + "…")
	}
	text, ok := strings.CutPrefix(s, readerPrefix)
	if !ok || len(s) > 4096 {
		return ReaderKey{}, errors.New("cannot read reader key: it does not begin with " + readerPrefix)
	}
	b, err := readerText.DecodeString(text)
	if err != nil {
		return ReaderKey{}, errors.New("cannot read reader key: it is not complete, copy it again")
	}
	if b, err = withoutSum(readerPrefix, b); err != nil {
		return ReaderKey{}, fmt.Errorf("cannot read reader key: %w", err)
	}
	pub, err := kem.NewPublicKey(b)
	if err != nil {
		return ReaderKey{}, fmt.Errorf("cannot read reader key: %w", err)
	}
	return newReaderKey(pub), nil
}

// Public is the key that boxes seal to.
func (k ReaderSecret) Public() ReaderKey { return k.pub }

// Text is the private key as "VGREADER-SECRET-1…", which ends in a checksum.
func (k ReaderSecret) Text() string {
	b, err := k.priv.Bytes()
	if err != nil {
		panic(err) // a key made here always has its seed
	}
	return secretPrefix + secretText.EncodeToString(withSum(secretPrefix, b))
}

// String never shows the private key, so that it cannot slip into a log.
func (k ReaderSecret) String() string { return "private part of reader key " + k.pub.id }

// GoString is String.
func (k ReaderSecret) GoString() string { return k.String() }

// ParseReaderSecret reads the text form of a private key.
func ParseReaderSecret(s string) (ReaderSecret, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(s), secretPrefix)
	if !ok || len(text) > 256 {
		return ReaderSecret{}, errors.New("cannot read private reader key: it does not begin with " + secretPrefix)
	}
	b, err := secretText.DecodeString(text)
	if err != nil || secretText.EncodeToString(b) != text {
		return ReaderSecret{}, errors.New("cannot read private reader key: it is not complete, copy it again")
	}
	if b, err = withoutSum(secretPrefix, b); err != nil {
		return ReaderSecret{}, fmt.Errorf("cannot read private reader key: %w", err)
	}
	priv, err := kem.NewPrivateKey(b)
	if err != nil {
		return ReaderSecret{}, errors.New("cannot read private reader key: it has the wrong length")
	}
	return newReaderSecret(priv), nil
}

// withSum appends the first 4 bytes of the SHA-256 of prefix and b.
func withSum(prefix string, b []byte) []byte {
	sum := sha256.Sum256(append([]byte(prefix), b...))
	return append(b[:len(b):len(b)], sum[:4]...)
}

func withoutSum(prefix string, b []byte) ([]byte, error) {
	if len(b) < 4 || string(withSum(prefix, b[:len(b)-4])) != string(b) {
		return nil, errors.New("the checksum is wrong, copy it again")
	}
	return b[:len(b)-4], nil
}
