package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Boot tells the peers of a start of the box: what the TPM has counted, and where the log on the disk ended.
type Boot struct {
	Resets, Restarts uint32 // TPM resetCount and restartCount
	Counter          uint64 // NV counter of the TPM
	Protection       string // as in the checkpoint
	Software         string // name and version of the firmware, one line
	LastSize         uint64 // the last checkpoint that was found on the disk
	LastRoot         Hash
	Evidence         *BootEvidence // form 2; nil: form 1, the counters are the box's own word
}

// BootEvidence is what the TPM itself says of a start. Both statements carry [Boot.Binding] as their qualifying data, so that they
// are about this start of this box and the log that it found.
type BootEvidence struct {
	PCRs    []PCR     // in ascending order
	Quote   Statement // TPM2_Quote of them
	Certify Statement // TPM2_NV_Certify of the NV counter
}

// PCR is a value of the SHA-256 bank.
type PCR struct {
	Number uint8
	Value  [sha256.Size]byte
}

// Statement is a TPMS_ATTEST and the signature of the box's attestation key. Package record carries it; what it says is for
// package attestation.
type Statement struct {
	Attest    []byte
	Signature []byte // ASN.1 DER
}

const (
	bootMagic1 = "vitalgate/boot/v1"
	bootMagic2 = "vitalgate/boot/v2"

	maxBoot      = 8192 // bytes of a boot leaf's body
	maxStatement = 2048 // bytes of either part of a statement
	maxPCR       = 23   // TCG PC Client Platform TPM Profile §4.6
)

// ErrLaterBoot says that a boot leaf has a form that this program does not know.
var ErrLaterBoot = errors.New("its form is not known to this version")

// claims are the lines of form 1, under the version of the form: in form 2 the evidence is about them.
func (b Boot) claims() ([]byte, error) {
	for _, v := range []string{b.Protection, b.Software} {
		if v == "" || len(v) > 200 || !printable(v) || strings.TrimSpace(v) != v {
			return nil, errors.New("cannot make boot leaf: protection and software must each be one line of 1 to 200 characters")
		}
	}
	magic := bootMagic1
	if b.Evidence != nil {
		magic = bootMagic2
	}
	return fmt.Appendf(nil, "%s\nresets %d\nrestarts %d\ncounter %d\nprotection %s\nsoftware %s\nlast-size %d\nlast-root %s\n",
		magic, b.Resets, b.Restarts, b.Counter, b.Protection, b.Software, b.LastSize, base64.StdEncoding.EncodeToString(b.LastRoot[:])), nil
}

// Binding is the qualifying data of the evidence: SHA-256 of the origin of the log and the claims of this start in form 2.
func (b Boot) Binding(box BoxID) ([]byte, error) {
	b.Evidence = &BootEvidence{}
	claims, err := b.claims()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte(box.Origin()+"\n"), claims...))
	return sum[:], nil
}

// AppendText appends the body of a boot leaf.
func (b Boot) AppendText(dst []byte) ([]byte, error) {
	claims, err := b.claims()
	if err != nil {
		return dst, err
	}
	dst = append(dst, claims...)
	e := b.Evidence
	if e == nil {
		return dst, nil
	}
	if len(e.PCRs) == 0 {
		return dst, errors.New("cannot make boot leaf: the evidence names no PCR")
	}
	for i, p := range e.PCRs {
		if p.Number > maxPCR || i > 0 && p.Number <= e.PCRs[i-1].Number {
			return dst, fmt.Errorf("cannot make boot leaf: PCR %d is not one, or not in ascending order", p.Number)
		}
		dst = fmt.Appendf(dst, "pcr %d %x\n", p.Number, p.Value)
	}
	for _, s := range []struct {
		name string
		Statement
	}{{"quote", e.Quote}, {"certify", e.Certify}} {
		if n := len(s.Attest); n == 0 || n > maxStatement {
			return dst, fmt.Errorf("cannot make boot leaf: the %s has %d bytes", s.name, n)
		}
		if n := len(s.Signature); n == 0 || n > maxStatement {
			return dst, fmt.Errorf("cannot make boot leaf: the signature of the %s has %d bytes", s.name, n)
		}
		dst = fmt.Appendf(dst, "%s %s %s\n", s.name, base64.StdEncoding.EncodeToString(s.Attest), base64.StdEncoding.EncodeToString(s.Signature))
	}
	return dst, nil
}

// ParseBoot reads the body of a boot leaf, of either form. It is as strict as ParseLeaf. What the evidence says is not looked at.
func ParseBoot(body []byte) (Boot, error) {
	b, err := parseBoot(body)
	if err != nil {
		return Boot{}, fmt.Errorf("cannot read boot leaf: %w", err)
	}
	return b, nil
}

func parseBoot(body []byte) (b Boot, err error) {
	if len(body) > maxBoot {
		return b, errors.New("it is too long")
	}
	lines := lineReader{rest: string(body)}
	switch magic := lines.next(); {
	case magic == bootMagic1:
	case magic == bootMagic2:
		b.Evidence = &BootEvidence{}
	case strings.HasPrefix(magic, "vitalgate/boot/v"):
		return b, ErrLaterBoot
	default:
		return b, errors.New("the first line is not vitalgate/boot and a version")
	}
	b.Resets = lines.uint32("resets")
	b.Restarts = lines.uint32("restarts")
	b.Counter = lines.uint("counter")
	b.Protection = lines.value("protection")
	b.Software = lines.value("software")
	b.LastSize = lines.uint("last-size")
	lines.base64("last-root", lines.value("last-root"), b.LastRoot[:])
	if e := b.Evidence; e != nil {
		for strings.HasPrefix(lines.rest, "pcr ") {
			e.PCRs = append(e.PCRs, lines.pcr())
		}
		e.Quote, e.Certify = lines.statement("quote"), lines.statement("certify")
	}
	if lines.err != nil {
		return b, lines.err
	}
	if again, err := b.AppendText(nil); err != nil || !bytes.Equal(again, body) {
		return b, errors.New("it is not in its canonical form")
	}
	return b, nil
}

func (r *lineReader) pcr() (p PCR) {
	number, value, _ := strings.Cut(r.value("pcr"), " ")
	n, err := strconv.ParseUint(number, 10, 8)
	if err != nil {
		r.fail("pcr is not a number and its value")
	}
	p.Number = uint8(n)
	r.hex("pcr", value, p.Value[:])
	return p
}

func (r *lineReader) statement(key string) (s Statement) {
	attest, signature, _ := strings.Cut(r.value(key), " ")
	var err1, err2 error
	s.Attest, err1 = base64.StdEncoding.Strict().DecodeString(attest)
	s.Signature, err2 = base64.StdEncoding.Strict().DecodeString(signature)
	if err1 != nil || err2 != nil {
		r.fail("%s is not a statement and its signature in base64", key)
	}
	return s
}

// Boot makes the boot leaf of a start.
func (s *Sealer) Boot(next uint64, b Boot) (Leaf, error) {
	if next >= MaxIndex-2 {
		return nil, errors.New("cannot make boot leaf: the log is full")
	}
	body, err := b.AppendText(nil)
	if err != nil {
		return nil, err
	}
	if next < s.next {
		s.End()
	}
	s.next = next + 1
	h := Header{Box: s.box, Index: next, Kind: KindBoot, Epoch: next, Arrived: s.Now()}
	return append(h.AppendText(nil), body...), nil
}
