package record

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Checkpoint is the state of a log that a box signs: C2SP tlog-checkpoint, with four extension lines.
type Checkpoint struct {
	Origin     string // BoxID.Origin
	Size       uint64 // leaves
	Root       Hash   // of the tree of that size
	Boot       uint32 // resets that the TPM has counted; rises with each start
	Clock      uint64 // milliseconds of the TPM's clock
	Counter    uint64 // NV counter of the TPM, which never goes back
	Protection string // what keeps the key, in the box's own word: printable ASCII, 1 to 64 bytes
}

// SignedCheckpoint is a checkpoint as a C2SP signed note: the text, a blank line, the signature of the box as ECDSA P-256
// (type 0x02) and, after it, the cosignatures of others, if any.
type SignedCheckpoint []byte

const (
	signatureMark = "\u2014 "
	maxSignatures = 16
)

// AppendText appends the text that is signed.
func (c Checkpoint) AppendText(dst []byte) []byte {
	dst = append(dst, c.Origin...)
	dst = append(dst, '\n')
	dst = strconv.AppendUint(dst, c.Size, 10)
	dst = append(dst, '\n')
	dst = base64.StdEncoding.AppendEncode(dst, c.Root[:])
	return fmt.Appendf(dst, "\nboot %d\nclock %d\ncounter %d\nprotection %s\n", c.Boot, c.Clock, c.Counter, c.Protection)
}

func (c Checkpoint) check() error {
	if _, err := ParseOrigin(c.Origin); err != nil {
		return errors.New("the origin is not vitalgate/facility/name")
	}
	if c.Size >= MaxIndex {
		return errors.New("the size is out of range")
	}
	p := c.Protection
	if len(p) == 0 || len(p) > 64 || strings.TrimSpace(p) != p || strings.ContainsFunc(p, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
		return errors.New("the protection is not 1 to 64 printable ASCII characters")
	}
	return nil
}

// Sign signs the checkpoint with the data key of the box, which must be ECDSA P-256, and checks the signature that the key
// returned before it gives it out.
func (c Checkpoint) Sign(key crypto.Signer) (SignedCheckpoint, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("cannot sign checkpoint: %w", err)
	}
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("cannot sign checkpoint: the key is not ECDSA P-256")
	}
	id, err := keyID(pub)
	if err != nil {
		return nil, fmt.Errorf("cannot sign checkpoint: %w", err)
	}
	text := c.AppendText(nil)
	digest := sha256.Sum256(text)
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("cannot sign checkpoint: %w", err)
	}
	if !ecdsa.VerifyASN1(pub, digest[:], sig) {
		return nil, errors.New("cannot sign checkpoint: the key returned a signature that does not verify")
	}
	note := append(text, '\n')
	note = append(note, signatureMark+c.Origin+" "...)
	note = base64.StdEncoding.AppendEncode(note, append(id[:], sig...))
	return append(note, '\n'), nil
}

// keyID is how a signature line names an ECDSA key: the first four bytes of the SHA-256 of its SubjectPublicKeyInfo
// (C2SP signed-note, signature type 0x02).
func keyID(pub *ecdsa.PublicKey) (id [4]byte, err error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return id, fmt.Errorf("cannot encode the public key: %w", err)
	}
	sum := sha256.Sum256(spki)
	return [4]byte(sum[:4]), nil
}

// OpenCheckpoint checks that sc is a checkpoint of box, signed by pub, and reads it. The error is a *Refusal.
func OpenCheckpoint(sc SignedCheckpoint, box BoxID, pub *ecdsa.PublicKey) (Checkpoint, error) {
	c, text, sig, err := parseCheckpoint(sc)
	if err != nil {
		return Checkpoint{}, refuse(ReasonCheckpoint, err.Error())
	}
	if c.Origin != box.Origin() {
		return Checkpoint{}, refuse(ReasonOrigin, "the checkpoint is of another box, "+c.Origin)
	}
	if pub == nil || pub.Curve != elliptic.P256() {
		return Checkpoint{}, refuse(ReasonSignature, "the public key of the box is not ECDSA P-256")
	}
	id, err := keyID(pub)
	if err != nil {
		return Checkpoint{}, refuse(ReasonSignature, err.Error())
	}
	if !bytes.Equal(sig[:4], id[:]) {
		return Checkpoint{}, refuse(ReasonSignature, "the checkpoint is signed by another key than the one registered for the box")
	}
	digest := sha256.Sum256(text)
	if !ecdsa.VerifyASN1(pub, digest[:], sig[4:]) {
		return Checkpoint{}, refuse(ReasonSignature, "the signature of the checkpoint is wrong")
	}
	return c, nil
}

// Unverified reads the checkpoint without looking at its signature: for the box's own log, never for what came from elsewhere.
func (sc SignedCheckpoint) Unverified() (Checkpoint, error) {
	c, _, _, err := parseCheckpoint(sc)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("cannot read checkpoint: %w", err)
	}
	return c, nil
}

// parseCheckpoint takes a signed note apart. Text and signature (key id and DER) are those of the box, whose line is the first.
// Only the canonical form is taken, so that no bit of it can change unnoticed.
func parseCheckpoint(sc SignedCheckpoint) (c Checkpoint, text, sig []byte, err error) {
	if len(sc) > MaxCheckpoint {
		return c, nil, nil, fmt.Errorf("the checkpoint has %d bytes, at most %d are allowed", len(sc), MaxCheckpoint)
	}
	end := bytes.Index(sc, []byte("\n\n"))
	if end < 0 {
		return c, nil, nil, errors.New("the checkpoint has no blank line before its signatures")
	}
	text = sc[:end+1]
	lines := lineReader{rest: string(text)}
	c.Origin = lines.next()
	if c.Size, err = strconv.ParseUint(lines.next(), 10, 64); err != nil {
		return c, nil, nil, errors.New("the size of the checkpoint is not a number")
	}
	lines.base64("the root", lines.next(), c.Root[:])
	c.Boot = lines.uint32("boot")
	c.Clock = lines.uint("clock")
	c.Counter = lines.uint("counter")
	c.Protection = lines.value("protection")
	if lines.err != nil {
		return c, nil, nil, lines.err
	}
	if err := c.check(); err != nil {
		return c, nil, nil, err
	}
	if !bytes.Equal(c.AppendText(make([]byte, 0, 512)), text) {
		return c, nil, nil, errors.New("the text of the checkpoint is not in its canonical form")
	}
	all, err := parseSignatures(string(sc[end+2:]), c.Origin)
	if err != nil {
		return c, nil, nil, err
	}
	return c, text, all[0].Bytes, nil
}

// parseSignatures reads the signature lines, of which the first must be named origin.
func parseSignatures(block, origin string) (all []Signature, err error) {
	for block != "" {
		if len(all) == maxSignatures {
			return nil, fmt.Errorf("the checkpoint has more than %d signatures", maxSignatures)
		}
		line, rest, ended := strings.Cut(block, "\n")
		block = rest
		name, b64, _ := strings.Cut(strings.TrimPrefix(line, signatureMark), " ")
		sig, err := base64.StdEncoding.Strict().DecodeString(b64)
		switch {
		case !ended || !strings.HasPrefix(line, signatureMark) || name == "" || strings.ContainsAny(name, "+\t\r") || !printable(name):
			return nil, errors.New("a signature line of the checkpoint is malformed")
		case err != nil || len(sig) < 5 || base64.StdEncoding.EncodedLen(len(sig)) != len(b64):
			return nil, errors.New("a signature of the checkpoint is not in base64")
		case len(all) == 0 && name != origin:
			return nil, errors.New("the first signature of the checkpoint is not that of its origin")
		}
		all = append(all, Signature{name, sig})
	}
	if len(all) == 0 {
		return nil, errors.New("the checkpoint is not signed")
	}
	return all, nil
}

// Signature is one signature line of a signed note: whose key it says it is of, and the key id (4 bytes) with the signature.
type Signature struct {
	Name  string
	Bytes []byte
}

// Split takes the note apart without believing it: the text that all have signed, and the signatures, that of the box first.
func (sc SignedCheckpoint) Split() (text []byte, signatures []Signature, err error) {
	c, text, _, err := parseCheckpoint(sc)
	if err == nil {
		signatures, err = parseSignatures(string(sc[len(text)+1:]), c.Origin)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read checkpoint: %w", err)
	}
	return text, signatures, nil
}

// Cosigned is the note with the signature of the box and, after it, those given and no others (C2SP tlog-cosignature).
func (sc SignedCheckpoint) Cosigned(by ...Signature) (SignedCheckpoint, error) {
	text, own, err := sc.Split()
	if err != nil {
		return nil, err
	}
	note := append(bytes.Clone(text), '\n')
	for _, s := range append(own[:1:1], by...) {
		note = append(note, signatureMark+s.Name+" "...)
		note = append(base64.StdEncoding.AppendEncode(note, s.Bytes), '\n')
	}
	if _, _, err := SignedCheckpoint(note).Split(); err != nil {
		return nil, fmt.Errorf("cannot add cosignatures: %w", err)
	}
	return note, nil
}
