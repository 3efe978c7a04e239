// Package cosign is how a peer says of a box's checkpoint that it is consistent with everything it has seen of that log
// (C2SP tlog-cosignature): with Ed25519 and, because that falls to a quantum computer, with ML-DSA-44 as well. Both
// signatures are made and both are asked for.
package cosign

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"filippo.io/mldsa"

	"github.com/vitalgate/vitalgate/record"
)

// Signature types (C2SP signed-note; tlog-cosignature, "Format").
const (
	typeEd25519 = 0x04
	typeMLDSA44 = 0x06
)

// Name is the name of a peer's cosigning keys.
func Name(facility, peer string) string { return "vitalgate-peer/" + facility + "/" + peer }

// Public are the keys of a cosigner.
type Public struct {
	Name string
	ed   ed25519.PublicKey
	ml   *mldsa.PublicKey
}

// Secret are the private keys of a cosigner.
type Secret struct {
	Public
	ed ed25519.PrivateKey
	ml *mldsa.PrivateKey
}

// Generate makes new keys.
func Generate(name string) (*Secret, error) {
	var seeds [64]byte
	rand.Read(seeds[:])
	return fromSeeds(name, seeds[:])
}

func fromSeeds(name string, seeds []byte) (*Secret, error) {
	ml, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), seeds[32:])
	if err != nil {
		return nil, fmt.Errorf("cannot make cosigning key: %w", err)
	}
	ed := ed25519.NewKeyFromSeed(seeds[:32])
	return &Secret{Public{name, ed.Public().(ed25519.PublicKey), ml.PublicKey()}, ed, ml}, nil
}

const secretMagic = "vitalgate/cosigner/v1"

// Text is the private form: a version, the name, and both seeds in base64.
func (s *Secret) Text() string {
	return secretMagic + "\n" + s.Name + "\n" + base64.StdEncoding.EncodeToString(append(s.ed.Seed(), s.ml.Bytes()...)) + "\n"
}

// ParseSecret reads the private form.
func ParseSecret(text string) (*Secret, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[0] != secretMagic || lines[3] != "" {
		return nil, errors.New("cannot read cosigning key: it is not one of this version")
	}
	seeds, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(seeds) != 64 {
		return nil, errors.New("cannot read cosigning key: it is not whole")
	}
	return fromSeeds(lines[1], seeds)
}

// Keys are the public keys as C2SP verifier keys (signed-note, "Verifier keys"), which other witnesses' tools read too.
func (p Public) Keys() []string {
	var all []string
	for _, k := range p.typed() {
		id := p.id(k)
		all = append(all, p.Name+"+"+hex.EncodeToString(id[:])+"+"+base64.StdEncoding.EncodeToString(k))
	}
	return all
}

// ParseKeys reads what Keys gives: the Ed25519 key, then the ML-DSA-44 key, both of one name.
func ParseKeys(keys []string) (p Public, err error) {
	if len(keys) != 2 {
		return Public{}, errors.New("cannot read cosigner's keys: there must be one of Ed25519 and one of ML-DSA-44")
	}
	name, _, _ := strings.Cut(keys[0], "+")
	p.Name = name
	for i, k := range keys {
		part := strings.SplitN(k, "+", 3)
		if len(part) != 3 {
			return Public{}, errors.New("cannot read cosigner's keys: one is not name+id+key")
		}
		b, err := base64.StdEncoding.Strict().DecodeString(part[2])
		switch {
		case err != nil:
			return Public{}, errors.New("cannot read cosigner's keys: one is not in base64")
		case i == 0 && len(b) == 1+ed25519.PublicKeySize && b[0] == typeEd25519:
			p.ed = b[1:]
		case i == 1 && len(b) == 1+mldsa.MLDSA44PublicKeySize && b[0] == typeMLDSA44:
			if p.ml, err = mldsa.NewPublicKey(mldsa.MLDSA44(), b[1:]); err != nil {
				return Public{}, fmt.Errorf("cannot read cosigner's keys: %w", err)
			}
		default:
			return Public{}, errors.New("cannot read cosigner's keys: one is of another kind")
		}
	}
	if again := p.Keys(); again[0] != keys[0] || again[1] != keys[1] {
		return Public{}, errors.New("cannot read cosigner's keys: a name or an id does not belong to its key")
	}
	return p, nil
}

// typed are the keys with the byte of their type before them.
func (p Public) typed() [2][]byte {
	return [2][]byte{append([]byte{typeEd25519}, p.ed...), append([]byte{typeMLDSA44}, p.ml.Bytes()...)}
}

// id is the key id of a signature line (tlog-cosignature, "Format").
func (p Public) id(typed []byte) [4]byte {
	sum := sha256.Sum256(append([]byte(p.Name+"\n"), typed...))
	return [4]byte(sum[:4])
}

// messages are what the two keys sign (tlog-cosignature, "Ed25519 signed message" and "ML-DSA-44 signed message").
func messages(name string, text []byte, c record.Checkpoint, at uint64) (ed, ml []byte) {
	ed = append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", at), text...)
	ml = append([]byte("subtree/v1\n\x00"), byte(len(name)))
	ml = binary.BigEndian.AppendUint64(append(ml, name...), at)
	ml = append(append(ml, byte(len(c.Origin))), c.Origin...)
	ml = binary.BigEndian.AppendUint64(ml, 0)
	ml = binary.BigEndian.AppendUint64(ml, c.Size)
	return ed, append(ml, c.Root[:]...)
}

// Cosign makes both signature lines. That the checkpoint may be cosigned is the caller's to know.
func (s *Secret) Cosign(sc record.SignedCheckpoint, at time.Time) ([]record.Signature, error) {
	text, c, err := read(sc)
	if err != nil {
		return nil, err
	}
	stamp := uint64(at.Unix())
	edMessage, mlMessage := messages(s.Name, text, c, stamp)
	ml, err := s.ml.Sign(nil, mlMessage, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot cosign checkpoint: %w", err)
	}
	var lines []record.Signature
	for i, sig := range [][]byte{ed25519.Sign(s.ed, edMessage), ml} {
		id := s.id(s.typed()[i])
		lines = append(lines, record.Signature{Name: s.Name, Bytes: append(binary.BigEndian.AppendUint64(id[:], stamp), sig...)})
	}
	return lines, nil
}

// ErrNone says that a checkpoint has no cosignatures of this cosigner.
var ErrNone = errors.New("the checkpoint is not cosigned by this peer")

// Verify checks the cosignatures of p on a checkpoint and returns their lines and when they were made. It says nothing of
// the box's own signature.
func (p Public) Verify(sc record.SignedCheckpoint) (lines []record.Signature, at time.Time, err error) {
	text, c, err := read(sc)
	if err != nil {
		return nil, at, err
	}
	_, all, err := sc.Split()
	if err != nil {
		return nil, at, err
	}
	var stamp [2]uint64
	for i, typed := range p.typed() {
		id := p.id(typed)
		for _, s := range all[1:] {
			if s.Name != p.Name || [4]byte(s.Bytes[:4]) != id {
				continue
			}
			if len(lines) != i || len(s.Bytes) < 12 {
				return nil, at, fmt.Errorf("cannot accept the cosignature of %s: it is there twice or not whole", p.Name)
			}
			stamp[i] = binary.BigEndian.Uint64(s.Bytes[4:])
			edMessage, mlMessage := messages(p.Name, text, c, stamp[i])
			if i == 0 && !ed25519.Verify(p.ed, edMessage, s.Bytes[12:]) || i == 1 && mldsa.Verify(p.ml, mlMessage, s.Bytes[12:], nil) != nil {
				return nil, at, fmt.Errorf("cannot accept the cosignature of %s: it is wrong", p.Name)
			}
			lines = append(lines, s)
		}
		if len(lines) != i+1 {
			return nil, at, ErrNone
		}
	}
	if stamp[0] != stamp[1] || stamp[0] > 1<<62 {
		return nil, at, fmt.Errorf("cannot accept the cosignature of %s: its two signatures were not made at one time", p.Name)
	}
	return lines, time.Unix(int64(stamp[0]), 0).UTC(), nil
}

// read is the text that is cosigned and what it says.
func read(sc record.SignedCheckpoint) (text []byte, c record.Checkpoint, err error) {
	if text, _, err = sc.Split(); err == nil {
		c, err = sc.Unverified()
	}
	return text, c, err
}

// Statement signs words of a peer that are no cosignature. The message begins with a line of its own, so that neither can be
// taken for the other.
func (s *Secret) Statement(words []byte) ([]byte, error) {
	m := statement(s.Name, words)
	ml, err := s.ml.Sign(nil, m, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot sign: %w", err)
	}
	return append(ed25519.Sign(s.ed, m), ml...), nil
}

// States checks what Statement made.
func (p Public) States(words, signature []byte) bool {
	m := statement(p.Name, words)
	return len(signature) == ed25519.SignatureSize+mldsa.MLDSA44SignatureSize && ed25519.Verify(p.ed, m, signature[:ed25519.SignatureSize]) &&
		mldsa.Verify(p.ml, m, signature[ed25519.SignatureSize:], nil) == nil
}

func statement(name string, words []byte) []byte {
	return append([]byte("vitalgate/statement/v1\n"+name+"\n"), words...)
}
