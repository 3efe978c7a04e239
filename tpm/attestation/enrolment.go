package attestation

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// The enrolment of a box by evidence is a question and an answer between its request and its grant:
//
//	box       request    the keys of the box, and a Presentation of its TPM
//	facility  Question   a secret that only this TPM can read, and a nonce
//	box       Answer     the secret, and what the TPM says of the keys and of its PCRs
//	facility  grant
//
// They are files or the bodies of messages; who carries them can withhold them and learns nothing that is secret.

// Presentation is what a box shows of its TPM when it asks to be enrolled.
type Presentation struct {
	Areas        Areas            `json:"areas"`
	Endorsements []EndorsementKey `json:"endorsements"`
	Chain        [][]byte         `json:"chain,omitempty"`   // intermediate authorities that the chip keeps beside its certificates, X.509 DER
	Initial      *InitialKey      `json:"initial,omitempty"` // where the maker of the box has certified a key
}

// Certify adds a certificate that the chip does not keep itself to the endorsement key it is for: the makers of some
// chips give theirs out by a service of their own.
func (p *Presentation) Certify(der []byte) {
	cert, err := ParseEndorsementCertificate(der)
	if err != nil {
		return
	}
	for i, ek := range p.Endorsements {
		if area, err := ek.area(); err == nil && SameKey(cert, *area) {
			p.Endorsements[i].Certificate = cert.Raw
		}
	}
}

// InitialKey is the attestation key that the maker of the box has made and certified (IAK; TCG "TPM 2.0 Keys for Device
// Identity and Attestation").
type InitialKey struct {
	Area        []byte `json:"area"`        // TPMT_PUBLIC
	Certificate []byte `json:"certificate"` // X.509 DER
}

// QuestionVersion is the version of both messages.
const QuestionVersion = 1

// Question is what the facility asks a box that wants to be enrolled.
type Question struct {
	Version     int       `json:"version"`
	Box         string    `json:"box"`
	Request     []byte    `json:"request"`     // SHA-256 of the request it is about
	Nonce       []byte    `json:"nonce"`       // 32 bytes, never used again
	Endorsement []byte    `json:"endorsement"` // public area of the endorsement key that reads the challenge
	Challenge   Challenge `json:"challenge"`
	PCRs        []uint    `json:"pcrs"`
	Expires     time.Time `json:"expires"`
}

// Answer is what the box says to that.
type Answer struct {
	Version int        `json:"version"`
	Box     string     `json:"box"`
	Nonce   []byte     `json:"nonce"`
	Secret  []byte     `json:"secret"`            // of the challenge
	Data    Statement  `json:"data"`              // the LAK certifies the data key
	TLS     Statement  `json:"tls"`               // and the TLS key
	Initial *Statement `json:"initial,omitempty"` // the initial key certifies the LAK
	Quote   Statement  `json:"quote"`
	PCRs    PCRs       `json:"pcrs"`
	Counter Statement  `json:"counter"`
	Proof   []byte     `json:"proof"` // signature of the data key over the binding: it signs under the firmware that runs
}

// Binding is the qualifying data of every statement in the answer: to this question, about this request.
func (q Question) Binding() []byte {
	h := sha256.New()
	h.Write([]byte("vitalgate enrolment v1\n"))
	h.Write(q.Nonce)
	h.Write(q.Request)
	return h.Sum(nil)
}

var (
	oidVerifiedTPMRestricted = asn1.ObjectIdentifier{2, 23, 133, 11, 1, 3} // tcg-cap-verifiedTPMRestricted
	oidAIKCertificate        = asn1.ObjectIdentifier{2, 23, 133, 8, 3}     // tcg-kp-AIKCertificate
)

// ErrNotInitial is why an initial key is not accepted though a maker vouches for its certificate.
var ErrNotInitial = errors.New("the certificate is not one of an attestation key")

// Verify follows the certificate of the initial key to a maker of boxes. The certificate must say that its authority has
// seen the key to be one of a TPM that signs only what the TPM has put together.
func (k InitialKey) Verify(makers Authorities, at time.Time) (*LAK, Chip, error) {
	lak, chip, err := k.verify(makers, at)
	if err != nil {
		return nil, Chip{}, fmt.Errorf("cannot accept the initial attestation key: %w", err)
	}
	return lak, chip, nil
}

func (k InitialKey) verify(makers Authorities, at time.Time) (*LAK, Chip, error) {
	area, err := decode[tpm2.TPMTPublic](k.Area)
	if err != nil {
		return nil, Chip{}, fmt.Errorf("its public area cannot be read: %w", err)
	}
	if o := area.ObjectAttributes; !o.FixedTPM || !o.FixedParent || !o.SensitiveDataOrigin || !o.Restricted || !o.SignEncrypt || o.Decrypt {
		return nil, Chip{}, errors.New("it has not the attributes of one")
	}
	public, err := ecdsaKey(*area)
	if err != nil {
		return nil, Chip{}, err
	}
	cert, err := ParseEndorsementCertificate(k.Certificate)
	if err != nil {
		return nil, Chip{}, err
	}
	if !SameKey(cert, *area) {
		return nil, Chip{}, ErrOtherKey
	}
	if !slices.ContainsFunc(cert.PolicyIdentifiers, oidVerifiedTPMRestricted.Equal) && !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidAIKCertificate.Equal) {
		return nil, Chip{}, fmt.Errorf("%w: it has neither the policy tcg-cap-verifiedTPMRestricted nor the extended key usage tcg-kp-AIKCertificate", ErrNotInitial)
	}
	maker, err := makers.vouching(cert, at)
	if err != nil {
		return nil, Chip{}, err
	}
	name, err := tpm2.ObjectName(area)
	if err != nil {
		return nil, Chip{}, err
	}
	return &LAK{public, name.Buffer}, Chip{Class: maker.Class, Maker: maker.Name, Model: printable(cert.Subject.String())}, nil
}

// ParseChain reads certificates that stand one behind the other, as chips keep them in NV.
func ParseChain(data []byte) (all []*x509.Certificate, err error) {
	for len(data) > 0 && data[0] == 0x30 {
		var one asn1.RawValue
		if data, err = asn1.Unmarshal(data, &one); err != nil {
			return nil, fmt.Errorf("cannot read the certificate chain of the TPM: %w", err)
		}
		c, err := x509.ParseCertificate(one.FullBytes)
		if err != nil {
			return nil, fmt.Errorf("cannot read the certificate chain of the TPM: %w", err)
		}
		all = append(all, c)
	}
	return all, nil
}
