package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	softwareKeys    = "software-keys.pem"
	softwareCounter = "software-counter"
)

// signer is a P-256 key that signs SHA-256 digests, wherever it lies.
type signer struct {
	public *ecdsa.PublicKey
	sign   func(digest []byte) ([]byte, error)
}

func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign signs a SHA-256 digest and returns the signature in ASN.1 DER. It takes no randomness from the caller and
// tolerates nil options.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts != nil && opts.HashFunc() != crypto.SHA256 {
		return nil, fmt.Errorf("cannot sign: the key signs SHA-256 digests, not %v", opts.HashFunc())
	}
	if len(digest) != sha256.Size {
		return nil, fmt.Errorf("cannot sign: a SHA-256 digest has 32 bytes, not %d", len(digest))
	}
	return s.sign(digest)
}

// software is the identity of a box without any TPM: two keys and a counter in files. It protects nothing against whoever
// reads the disk, and says so.
type software struct {
	signers map[keyName]*signer
	booted  Boot
	opened  time.Time
	closed  atomic.Bool
}

func openSoftware(dir string, id *identity) (*software, error) {
	path := filepath.Join(dir, softwareKeys)
	fresh := id.Keys == nil
	if err := id.begin("software"); err != nil {
		return nil, err
	}
	keys, err := readKeys(path)
	if errors.Is(err, fs.ErrNotExist) && fresh {
		keys, err = makeKeys(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot use the software key: %s is missing; restore it, or move %s away and enrol the box anew: %w", path, dir, ErrIdentity)
	}
	if err != nil {
		return nil, err
	}
	s := &software{signers: map[keyName]*signer{}, opened: time.Now()}
	found := map[keyName]string{}
	for name, key := range keys {
		spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(spki)
		found[name] = hex.EncodeToString(sum[:])
		s.signers[name] = &signer{&key.PublicKey, func(digest []byte) ([]byte, error) {
			if s.closed.Load() {
				return nil, ErrClosed
			}
			return ecdsa.SignASN1(rand.Reader, key, digest)
		}}
	}
	if err := id.check(found, "software key"); err != nil {
		return nil, err
	}
	n, err := countBoot(filepath.Join(dir, softwareCounter))
	if err != nil {
		return nil, err
	}
	s.booted = Boot{Resets: uint32(n), Counter: n}
	return s, nil
}

// makeKeys writes both keys in one file, so that there is never one without the other.
func makeKeys(path string) (map[keyName]*ecdsa.PrivateKey, error) {
	keys := map[keyName]*ecdsa.PrivateKey{}
	var out []byte
	for _, name := range []keyName{dataKey, tlsKey} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		keys[name] = key
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
	}
	return keys, writeSecret(path, out)
}

func readKeys(path string) (map[keyName]*ecdsa.PrivateKey, error) {
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	keys := map[keyName]*ecdsa.PrivateKey{}
	for _, name := range []keyName{dataKey, tlsKey} {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil || block.Type != "PRIVATE KEY" {
			return nil, damaged(path, fmt.Errorf("no PEM block PRIVATE KEY for the %s key", name))
		}
		k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, damaged(path, err)
		}
		key, ok := k.(*ecdsa.PrivateKey)
		if !ok || key.Curve != elliptic.P256() {
			return nil, damaged(path, fmt.Errorf("the %s key is not a P-256 key", name))
		}
		keys[name] = key
	}
	if len(strings.TrimSpace(string(data))) != 0 {
		return nil, damaged(path, errors.New("something follows the two keys"))
	}
	return keys, nil
}

func damaged(path string, err error) error {
	return fmt.Errorf("cannot use the software key: %s is damaged: %w; restore it from a backup, or move %s away and enrol the box anew", path, err, filepath.Dir(path))
}

// countBoot adds one to the counter in the file.
func countBoot(path string) (uint64, error) {
	var n uint64
	data, err := readSecret(path)
	if err == nil {
		n, err = strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
		if err != nil || n >= math.MaxUint32 { // Resets has 32 bits
			return 0, damaged(path, errors.New("it does not hold a count of boots"))
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	n++
	return n, writeSecret(path, strconv.AppendUint(nil, n, 10))
}

func (s *software) signer(name keyName) crypto.Signer { return s.signers[name] }

func (s *software) boot() Boot { return s.booted }

func (s *software) clock() (uint64, error) {
	if s.closed.Load() {
		return 0, ErrClosed
	}
	return uint64(time.Since(s.opened).Milliseconds()), nil
}

func (s *software) close() error {
	s.closed.Store(true)
	return nil
}
