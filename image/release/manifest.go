// Package release is what builder and box share of a release: the signed manifest, and the bundle that carries it with a slot.
package release

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"regexp"
)

// Board is the only kind of box there is an image for: arm64, UEFI firmware with variables at run time, TPM 2.0.
const Board = "arm64-uefi"

const format = "vitalgate-release/1"

// Manifest states what a release is made of.
type Manifest struct {
	Format        string `json:"format"`
	Version       string `json:"version"`
	RollbackIndex uint32 `json:"rollback_index"` // a box never goes below the highest it has committed
	Board         string `json:"board"`
	Keys          string `json:"keys"`                    // "development" or "release"
	PCR11         string `json:"pcr11"`                   // SHA-256 bank, when the kernel starts
	SecureBoot    string `json:"secure_boot_certificate"` // SHA-256 of the certificate in db, DER
	Kernel        Kernel `json:"kernel"`
	Stub          Input  `json:"stub"`
	Go            string `json:"go"`
	Files         []File `json:"files"` // sorted by name
}

// Kernel says where the kernel comes from; from the same inputs anyone builds the same bytes.
type Kernel struct {
	Source       string `json:"source"` // Debian source package and version
	SourceSHA256 string `json:"source_sha256"`
	ConfigSHA256 string `json:"config_sha256"`
	Compiler     string `json:"compiler"`
	SHA256       string `json:"sha256"`
}

// Input is something that was not built here.
type Input struct {
	Name   string `json:"name"`
	From   string `json:"from"`
	SHA256 string `json:"sha256"`
}

// File is one file of the release.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Names of a release's files.
const (
	ManifestName  = "manifest.json"
	SignatureName = "manifest.sig"
	SlotName      = "slot.img"   // what is written to a slot
	DiskName      = "disk.img"   // what is written to an empty box
	BundleName    = "update.vgu" // what is given to a running box
	SBOMName      = "sbom.cdx.json"
	SizesName     = "sizes.txt"
)

// Describe hashes a file.
func Describe(name string, content []byte) File {
	h := sha256.Sum256(content)
	return File{name, int64(len(content)), hex.EncodeToString(h[:])}
}

// File finds a file of the manifest by its name.
func (m *Manifest) File(name string) (File, error) {
	for _, f := range m.Files {
		if f.Name == name {
			return f, nil
		}
	}
	return File{}, fmt.Errorf("cannot use the release %s: its manifest does not list %s", m.Version, name)
}

// Sign makes the manifest's text and the signature over it: ECDSA P-256, SHA-256, ASN.1 DER, so that
// `openssl dgst -sha256 -verify release.pub.pem -signature manifest.sig manifest.json` checks it.
func (m Manifest) Sign(key crypto.Signer) (text, signature []byte, err error) {
	m.Format = format
	if text, err = json.MarshalIndent(m, "", "\t"); err != nil {
		return nil, nil, err
	}
	text = append(text, '\n')
	hash := sha256.Sum256(text)
	// Without a source of randomness the signature follows from message and key (RFC 6979): the same build, the same bytes.
	if signature, err = key.Sign(nil, hash[:], crypto.SHA256); err != nil {
		return nil, nil, fmt.Errorf("cannot sign the manifest: %w", err)
	}
	return text, signature, nil
}

// ErrSignature marks a release that the given key did not sign.
var ErrSignature = errors.New("the signature is not of the release key")

var version = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$`)

// ValidVersion says whether v can name a release.
func ValidVersion(v string) bool { return version.MatchString(v) }

// Open checks the signature and reads the manifest. Nothing of it is looked at before.
func Open(text, signature []byte, key *ecdsa.PublicKey) (*Manifest, error) {
	hash := sha256.Sum256(text)
	if !ecdsa.VerifyASN1(key, hash[:], signature) {
		return nil, fmt.Errorf("cannot use the release: %w, or the manifest was changed", ErrSignature)
	}
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("cannot read the manifest of the release: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("cannot read the manifest of the release: something follows it")
	}
	switch {
	case m.Format != format:
		return nil, fmt.Errorf("cannot use the release: its format is %q, this program knows %q", m.Format, format)
	case m.Board != Board:
		return nil, fmt.Errorf("cannot use the release %s: it is for %s, this box is %s", m.Version, m.Board, Board)
	case !ValidVersion(m.Version):
		return nil, errors.New("cannot use the release: its version is not 1 to 64 of 0-9, A-Z, a-z, ., +, _ and -")
	}
	return &m, nil
}

// ParseKey reads a public key in PEM.
func ParseKey(text []byte) (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("cannot read the release key: it is not a PEM public key")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the release key: %w", err)
	}
	key, ok := k.(*ecdsa.PublicKey)
	if !ok || key.Curve.Params().BitSize != 256 {
		return nil, errors.New("cannot read the release key: it is not a P-256 key")
	}
	return key, nil
}
