// Package attestation is what a TPM says of itself and of its keys, in the form in which it travels, and how those who
// must be convinced check it. It needs no TPM and runs on every system: package tpm makes what is checked here.
package attestation

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Statement is what a TPM says of itself or of a key, signed by an attestation key.
type Statement struct {
	Attest    []byte `json:"attest"`    // TPMS_ATTEST (part 2 §10.12.12), as the TPM made it
	Signature []byte `json:"signature"` // ECDSA over the digest of Attest, ASN.1 DER
}

// Areas are the public areas (TPMT_PUBLIC) of the keys of the box.
type Areas struct {
	LAK  []byte `json:"lak"`
	Data []byte `json:"data"`
	TLS  []byte `json:"tls"`
}

// PCRs are values of the SHA-256 bank by number.
type PCRs map[uint][]byte

// Digest is the SHA-256 of the values in the order of their numbers (part 1 §17.5).
func (p PCRs) Digest() []byte {
	h := sha256.New()
	for _, n := range p.numbers() {
		h.Write(p[n])
	}
	return h.Sum(nil)
}

func (p PCRs) numbers() []uint {
	var all []uint
	for n := range p {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

// SelectPCRs is the selection of PCRs of the SHA-256 bank.
func SelectPCRs(numbers ...uint) (tpm2.TPMLPCRSelection, error) {
	for _, n := range numbers {
		if n > 23 {
			return tpm2.TPMLPCRSelection{}, fmt.Errorf("there is no PCR %d", n)
		}
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(numbers...)}}}, nil
}

// Evidence is what every statement of a TPM carries (TPMS_ATTEST, part 2 §10.12.12).
type Evidence struct {
	Resets, Restarts uint32
	Clock            uint64 // milliseconds
	Safe             bool   // the clock has not gone back since it was last written
	Firmware         uint64 // vendor specific
}

// LAK is an attestation key as a verifier knows it: the one the box has made, or the maker's (IAK).
type LAK struct {
	public *ecdsa.PublicKey
	name   []byte
}

// ParseLAK reads a public area (TPMT_PUBLIC) and accepts nothing but a restricted P-256 signing key that cannot leave
// its TPM. That it is in a TPM at all is shown by the answer to a [Challenge].
func ParseLAK(area []byte) (*LAK, error) {
	k, err := parseKey(area, true)
	if err != nil {
		return nil, fmt.Errorf("cannot accept the attestation key: %w", err)
	}
	return &LAK{k.public, k.name}, nil
}

// Public is the key that signs the statements.
func (k *LAK) Public() *ecdsa.PublicKey { return k.public }

// digestFor is the digest a key of this curve signs: an initial attestation key on P-384 uses SHA-384.
func digestFor(k *ecdsa.PublicKey, data []byte) []byte {
	h := crypto.SHA256.New()
	if k.Curve == elliptic.P384() {
		h = crypto.SHA384.New()
	}
	h.Write(data)
	return h.Sum(nil)
}

// Why a statement is not believed.
var (
	ErrSignature = errors.New("the signature is not the attestation key's")
	ErrNotOfTPM  = errors.New("the statement was not made by a TPM")
	ErrKind      = errors.New("the statement is of another kind")
	ErrQuestion  = errors.New("the statement answers another question (nonce)")
	ErrPCRs      = errors.New("the PCRs have other values")
	ErrCounters  = errors.New("the counters are not those that are claimed")
)

// open checks who says it, that a TPM has put it together, and that it answers our question.
func (k *LAK) open(s Statement, nonce []byte, kind tpm2.TPMST) (*tpm2.TPMSAttest, Evidence, error) {
	if !ecdsa.VerifyASN1(k.public, digestFor(k.public, s.Attest), s.Signature) {
		return nil, Evidence{}, ErrSignature
	}
	a, err := decode[tpm2.TPMSAttest](s.Attest)
	if err != nil {
		return nil, Evidence{}, fmt.Errorf("%w: it cannot be read: %w", ErrNotOfTPM, err)
	}
	if a.Magic != tpm2.TPMGeneratedValue {
		return nil, Evidence{}, ErrNotOfTPM
	}
	if a.Type != kind {
		return nil, Evidence{}, fmt.Errorf("%w (%#x)", ErrKind, uint16(a.Type))
	}
	if !bytes.Equal(a.ExtraData.Buffer, nonce) {
		return nil, Evidence{}, ErrQuestion
	}
	i := a.ClockInfo
	return a, Evidence{Resets: i.ResetCount, Restarts: i.RestartCount, Clock: i.Clock, Safe: bool(i.Safe), Firmware: a.FirmwareVersion}, nil
}

// Certified checks that the TPM has certified the data key or the TLS key with the given public area, and returns that
// key: P-256, born in the TPM of the LAK, unable to leave it.
func (k *LAK) Certified(s Statement, nonce, area []byte) (*Key, Evidence, error) {
	return k.certified(s, nonce, area, false)
}

// Vouches checks that this attestation key has certified the LAK with the given public area: both are in one TPM.
func (k *LAK) Vouches(s Statement, nonce, lak []byte) error {
	_, _, err := k.certified(s, nonce, lak, true)
	return err
}

func (k *LAK) certified(s Statement, nonce, area []byte, restricted bool) (*Key, Evidence, error) {
	a, e, err := k.open(s, nonce, tpm2.TPMSTAttestCertify)
	if err != nil {
		return nil, e, fmt.Errorf("cannot accept the certified key: %w", err)
	}
	key, err := parseKey(area, restricted)
	if err != nil {
		return nil, e, fmt.Errorf("cannot accept the certified key: %w", err)
	}
	info, err := a.Attested.Certify()
	if err != nil {
		return nil, e, fmt.Errorf("cannot accept the certified key: %w", err)
	}
	if !bytes.Equal(info.Name.Buffer, key.name) {
		return nil, e, errors.New("cannot accept the certified key: the statement is about another key")
	}
	return key, e, nil
}

// Quoted checks that the TPM has said that its PCRs have exactly these values.
func (k *LAK) Quoted(s Statement, nonce []byte, values PCRs) (Evidence, error) {
	a, e, err := k.open(s, nonce, tpm2.TPMSTAttestQuote)
	if err != nil {
		return e, fmt.Errorf("cannot accept the quote: %w", err)
	}
	info, err := a.Attested.Quote()
	if err != nil {
		return e, fmt.Errorf("cannot accept the quote: %w", err)
	}
	want, err := SelectPCRs(values.numbers()...)
	if err != nil {
		return e, fmt.Errorf("cannot accept the quote: %w", err)
	}
	for n, v := range values {
		if len(v) != sha256.Size {
			return e, fmt.Errorf("cannot accept the quote: the value of PCR %d has %d bytes", n, len(v))
		}
	}
	if !bytes.Equal(tpm2.Marshal(info.PCRSelect), tpm2.Marshal(want)) {
		return e, fmt.Errorf("cannot accept the quote: it is about other PCRs, so %w", ErrPCRs)
	}
	if !bytes.Equal(info.PCRDigest.Buffer, values.Digest()) {
		return e, fmt.Errorf("cannot accept the quote: %w", ErrPCRs)
	}
	return e, nil
}

// Counted checks that the TPM has certified its boot counter, and returns its value.
func (k *LAK) Counted(s Statement, nonce []byte) (uint64, Evidence, error) {
	a, e, err := k.open(s, nonce, tpm2.TPMSTAttestNV)
	if err != nil {
		return 0, e, fmt.Errorf("cannot accept the counter: %w", err)
	}
	info, err := a.Attested.NV()
	if err != nil {
		return 0, e, fmt.Errorf("cannot accept the counter: %w", err)
	}
	area := CounterArea()
	area.Attributes.Written = true
	name, err := tpm2.NVName(&area)
	if err != nil {
		return 0, e, err
	}
	if !bytes.Equal(info.IndexName.Buffer, name.Buffer) || info.Offset != 0 || len(info.NVContents.Buffer) != 8 {
		return 0, e, fmt.Errorf("cannot accept the counter: the statement is about another index: %w", ErrCounters)
	}
	return binary.BigEndian.Uint64(info.NVContents.Buffer), e, nil
}
