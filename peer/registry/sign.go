package registry

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/vitalgate/vitalgate/record"
)

// Administrator may sign decisions. The key may live in software or in a token: what counts is the signature.
type Administrator struct {
	Name string `json:"name"` // 1 to 32 of a-z, 0-9 and -
	Key  string `json:"key"`  // PEM SubjectPublicKeyInfo: Ed25519 or ECDSA P-256
}

func (a Administrator) check() error {
	if !validName(a.Name) {
		return fmt.Errorf("administrator: %q is not 1 to 32 of a-z, 0-9 and -", a.Name)
	}
	_, err := a.public()
	return err
}

func validName(s string) bool { return (record.BoxID{Facility: "f", Name: s}).Valid() }

// public is the administrator's key: ed25519.PublicKey or *ecdsa.PublicKey.
func (a Administrator) public() (crypto.PublicKey, error) {
	b, rest := pem.Decode([]byte(a.Key))
	if b == nil || b.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("key of %s: is not one PEM block \"PUBLIC KEY\"", a.Name)
	}
	k, err := x509.ParsePKIXPublicKey(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", a.Name, err)
	}
	switch p := k.(type) {
	case ed25519.PublicKey:
		return p, nil
	case *ecdsa.PublicKey:
		if p.Curve == elliptic.P256() {
			return p, nil
		}
	}
	return nil, fmt.Errorf("key of %s: is neither Ed25519 nor ECDSA P-256", a.Name)
}

// keyID is how a signature line names the key (C2SP signed-note: signature types 0x01 and 0x02).
func (a Administrator) keyID() (id [4]byte, err error) {
	k, err := a.public()
	if err != nil {
		return id, err
	}
	var sum [32]byte
	if p, ok := k.(ed25519.PublicKey); ok {
		sum = sha256.Sum256(append([]byte(a.Name+"\n\x01"), p...))
	} else {
		spki, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return id, err
		}
		sum = sha256.Sum256(spki)
	}
	return [4]byte(sum[:4]), nil
}

// verifies says whether sig is the administrator's signature of text.
func (a Administrator) verifies(text, sig []byte) bool {
	k, err := a.public()
	if err != nil {
		return false
	}
	if p, ok := k.(ed25519.PublicKey); ok {
		return ed25519.Verify(p, text, sig)
	}
	digest := sha256.Sum256(text)
	return ecdsa.VerifyASN1(k.(*ecdsa.PublicKey), digest[:], sig)
}

// NewAdministrator describes the holder of a key.
func NewAdministrator(name string, public crypto.PublicKey) (Administrator, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return Administrator{}, err
	}
	a := Administrator{name, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))}
	return a, a.check()
}

// Signature is one administrator's.
type Signature struct {
	Name  string
	KeyID [4]byte
	Bytes []byte // Ed25519, or ECDSA with SHA-256 in DER
}

// Note is an entry with the signatures that it has so far. Its binary form is a C2SP signed note.
type Note struct {
	Entry      Entry
	Text       []byte
	Signatures []Signature
}

const (
	signatureMark = "— "
	maxSignatures = 32
)

// Propose makes an entry that nobody has signed yet.
func Propose(e Entry) (*Note, error) {
	if err := e.Decision.check(); err != nil {
		return nil, fmt.Errorf("cannot decide %s: %w", e.Decision.Kind(), err)
	}
	text, err := e.Text()
	if err != nil {
		return nil, err
	}
	return &Note{Entry: e, Text: text}, nil
}

// Bytes is the note as it is kept, sent and carried in files.
func (n *Note) Bytes() []byte {
	b := append(bytes.Clone(n.Text), '\n')
	for _, s := range n.Signatures {
		b = append(b, signatureMark+s.Name+" "...)
		b = base64.StdEncoding.AppendEncode(b, append(s.KeyID[:], s.Bytes...))
		b = append(b, '\n')
	}
	return b
}

// Parse reads a note, one without a signature too. It looks at the form only; a Log decides whether to believe it.
// The error is a *Refusal.
func Parse(b []byte) (*Note, error) {
	if len(b) > maxEntry {
		return nil, refuse(ReasonMalformed, "the entry has %d bytes, at most %d are allowed", len(b), maxEntry)
	}
	end := bytes.Index(b, []byte("\n\n"))
	if end < 0 {
		return nil, refuse(ReasonMalformed, "the entry has no blank line before its signatures")
	}
	n := &Note{Text: bytes.Clone(b[:end+1])}
	var err error
	if n.Entry, err = parseText(n.Text); err != nil {
		return nil, err
	}
	for block := string(b[end+2:]); block != ""; {
		line, rest, ended := strings.Cut(block, "\n")
		block = rest
		name, b64, _ := strings.Cut(strings.TrimPrefix(line, signatureMark), " ")
		sig, err := base64.StdEncoding.Strict().DecodeString(b64)
		if !ended || !strings.HasPrefix(line, signatureMark) || !validName(name) || err != nil || len(sig) < 5 || len(n.Signatures) == maxSignatures {
			return nil, refuse(ReasonMalformed, "a signature line of the entry is malformed")
		}
		n.Signatures = append(n.Signatures, Signature{name, [4]byte(sig[:4]), sig[4:]})
	}
	if !bytes.Equal(n.Bytes(), b) {
		return nil, refuse(ReasonMalformed, "the note is not in its canonical form")
	}
	return n, nil
}

// Add puts an administrator's signature on the note, one that was made by any tool over Text.
func (n *Note) Add(a Administrator, sig []byte) error {
	id, err := a.keyID()
	if err != nil {
		return err
	}
	if !a.verifies(n.Text, sig) {
		return fmt.Errorf("cannot add the signature: it is not one of %s over this entry", a.Name)
	}
	for _, s := range n.Signatures {
		if s.Name == a.Name {
			return fmt.Errorf("cannot add the signature: %s has signed this entry already", a.Name)
		}
	}
	n.Signatures = append(n.Signatures, Signature{a.Name, id, bytes.Clone(sig)})
	return nil
}

// Sign signs the note with a key at hand.
func (n *Note) Sign(a Administrator, key crypto.Signer) error {
	input, opts := n.Text, crypto.Hash(0)
	if _, ok := key.Public().(*ecdsa.PublicKey); ok {
		sum := sha256.Sum256(n.Text)
		input, opts = sum[:], crypto.SHA256
	}
	sig, err := key.Sign(rand.Reader, input, opts)
	if err != nil {
		return fmt.Errorf("cannot sign: %w", err)
	}
	return n.Add(a, sig)
}

// quorum checks that enough of the administrators have signed, and nobody else. The error is a *Refusal.
func (n *Note) quorum(all []Administrator, need int) error {
	signed := map[string]bool{}
	for _, s := range n.Signatures {
		var by *Administrator
		for i := range all {
			if all[i].Name == s.Name {
				by = &all[i]
			}
		}
		if by == nil {
			return refuse(ReasonSigner, "it is signed by %s, who is no administrator at that place of the log", s.Name)
		}
		if id, err := by.keyID(); err != nil || id != s.KeyID {
			return refuse(ReasonSigner, "it is signed in the name of %s with another key than the registered one", s.Name)
		}
		if !by.verifies(n.Text, s.Bytes) {
			return refuse(ReasonSignature, "the signature of %s is wrong", s.Name)
		}
		if signed[s.Name] {
			return refuse(ReasonSigner, "%s has signed it twice", s.Name)
		}
		signed[s.Name] = true
	}
	if len(signed) < need {
		return refuse(ReasonThreshold, "%d administrators have signed it, %d must", len(signed), need)
	}
	return nil
}

// ParseSigner reads a private key of an administrator: PEM PKCS #8, Ed25519 or ECDSA P-256.
func ParseSigner(text []byte) (crypto.Signer, error) {
	b, _ := pem.Decode(text)
	if b == nil || b.Type != "PRIVATE KEY" {
		return nil, errors.New("is not one PEM block \"PRIVATE KEY\"")
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return nil, err
	}
	switch k := k.(type) {
	case ed25519.PrivateKey:
		return k, nil
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P256() {
			return k, nil
		}
	}
	return nil, errors.New("is neither Ed25519 nor ECDSA P-256")
}
