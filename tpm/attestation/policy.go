package attestation

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// The firmware of a box measures itself into PCR 11 (the UKI) under the secure boot state that PCR 7 tells. A key or a
// secret of the box is bound to both: to PCR 7 as it was when it was made, and to whatever value of PCR 11 the release
// key approves (TPM2_PolicyAuthorize, part 3 §23.16). An update therefore brings a new approval and changes no key.
// PCR 11 alone would not do: any program may extend it with the public measurements of a genuine release.
const (
	FirmwarePCR   = 11
	SecureBootPCR = 7
)

// Purpose is what an approval is for (policyRef). The two differ in the value of PCR 11: after the disk is open it is
// extended by [Opened], so that what unsealed the disk once cannot do so again, and an identity is used only from then on.
type Purpose string

const (
	Unsealing Purpose = "vitalgate unseal"
	Identity  Purpose = "vitalgate identity"
)

// Opened is what PCR 11 is extended with when the disk is open.
var Opened = sha256.Sum256([]byte("vitalgate: the disk is open"))

// Extend is TPM2_PCR_Extend of the SHA-256 bank.
func Extend(pcr, digest []byte) []byte {
	sum := sha256.Sum256(append(append([]byte{}, pcr...), digest...))
	return sum[:]
}

// Approval is the release key's word for one value of PCR 11.
type Approval struct {
	Purpose   Purpose `json:"purpose"`
	Policy    []byte  `json:"policy"`    // digest of TPM2_PolicyPCR over that value
	Signature []byte  `json:"signature"` // over SHA-256(policy || purpose): ECDSA in ASN.1 DER, or RSASSA-PKCS1-v1_5
}

// Firmware is what a release brings with it: the key that approves releases, and its approvals of this one.
type Firmware struct {
	release   crypto.PublicKey
	Approvals []Approval
}

// NewFirmware takes the public key of whoever releases the firmware, ECDSA P-256 or RSA of 2048 to 4096 bits.
func NewFirmware(release crypto.PublicKey, approvals ...Approval) (*Firmware, error) {
	f := &Firmware{release, approvals}
	if _, err := f.ReleaseArea(); err != nil {
		return nil, err
	}
	return f, nil
}

// ParseFirmware reads what stands beside a release: the release key (PEM, PUBLIC KEY) and its approvals (JSON, as
// [Firmware.MarshalApprovals] writes them). Approvals may be nil for a verifier, who needs the key alone.
func ParseFirmware(releasePEM, approvals []byte) (*Firmware, error) {
	block, _ := pem.Decode(releasePEM)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("cannot read the release key: it is not PEM of type PUBLIC KEY")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the release key: %w", err)
	}
	f, err := NewFirmware(key)
	if err != nil || approvals == nil {
		return f, err
	}
	if err := json.Unmarshal(approvals, &f.Approvals); err != nil {
		return nil, fmt.Errorf("cannot read the approvals of the release: %w", err)
	}
	return f, nil
}

// MarshalApprovals is the file that goes with the release.
func (f *Firmware) MarshalApprovals() ([]byte, error) { return json.Marshal(f.Approvals) }

// Approve makes the approvals of a release whose UKI measures itself to this value of PCR 11. Each lets the box do one
// thing: open its disk, and then be itself.
func Approve(release crypto.Signer, measured []byte) (*Firmware, error) {
	f, err := NewFirmware(release.Public())
	if err != nil {
		return nil, err
	}
	if len(measured) != sha256.Size {
		return nil, fmt.Errorf("cannot approve the firmware: PCR 11 has 32 bytes, not %d", len(measured))
	}
	for _, purpose := range []Purpose{Unsealing, Identity} {
		policy, err := purpose.policy(measured)
		if err != nil {
			return nil, err
		}
		a := Approval{Purpose: purpose, Policy: policy}
		sum := a.digest()
		// Without a source of randomness an ECDSA signature follows from key and digest (RFC 6979): a build gives the same bytes again.
		if a.Signature, err = release.Sign(nil, sum[:], crypto.SHA256); err != nil {
			return nil, fmt.Errorf("cannot approve the firmware: %w", err)
		}
		f.Approvals = append(f.Approvals, a)
	}
	return f, nil
}

// policy is the digest of TPM2_PolicyPCR when this purpose may be served, in the run of a release with this measurement.
func (p Purpose) policy(measured []byte) ([]byte, error) {
	if p == Identity {
		measured = Extend(measured, Opened[:])
	}
	return policyPCR(make([]byte, sha256.Size), FirmwarePCR, measured)
}

// Approves checks that the release key has approved a UKI that measures itself to this value of PCR 11, for both purposes.
func (f *Firmware) Approves(measured []byte) error {
	for _, purpose := range []Purpose{Unsealing, Identity} {
		policy, err := purpose.policy(measured)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(f.Approvals, func(a Approval) bool {
			return a.Purpose == purpose && bytes.Equal(a.Policy, policy) && f.signed(a)
		}) {
			return fmt.Errorf("the release key has not approved PCR 11 = %x for %q", measured, purpose)
		}
	}
	return nil
}

func (f *Firmware) signed(a Approval) bool {
	sum := a.digest()
	switch k := f.release.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, sum[:], a.Signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], a.Signature) == nil
	}
	return false
}

// digest is aHash, what the release key signs (part 3 §23.16).
func (a Approval) digest() [sha256.Size]byte {
	return sha256.Sum256(append(append([]byte{}, a.Policy...), a.Purpose...))
}

// Verification is an approval as TPM2_VerifySignature takes it.
func (f *Firmware) Verification(a Approval) (digest []byte, signature tpm2.TPMTSignature, err error) {
	sum := a.digest()
	switch f.release.(type) {
	case *ecdsa.PublicKey:
		var s struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(a.Signature, &s); err != nil || len(rest) > 0 || s.R.Sign() < 0 || s.S.Sign() < 0 || s.R.BitLen() > 256 || s.S.BitLen() > 256 {
			return nil, signature, errors.New("the approval's signature is not ECDSA P-256")
		}
		return sum[:], tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash:       tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: s.R.FillBytes(make([]byte, 32))},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: s.S.FillBytes(make([]byte, 32))},
		})}, nil
	default:
		return sum[:], tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{
			Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: a.Signature},
		})}, nil
	}
}

// ReleaseArea is the release key as TPM2_LoadExternal takes it. Its Name stands in every policy, so it may never change.
func (f *Firmware) ReleaseArea() (tpm2.TPMTPublic, error) {
	area := tpm2.TPMTPublic{NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: tpm2.TPMAObject{SignEncrypt: true, UserWithAuth: true}}
	switch k := f.release.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // uncompressed: 4, X, Y (SEC 1 §2.3.3)
		if err != nil || k.Curve != elliptic.P256() {
			break
		}
		area.Type = tpm2.TPMAlgECC
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256})
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]},
			Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
		})
		return area, nil
	case *rsa.PublicKey:
		bits := k.N.BitLen()
		if bits < 2048 || bits > 4096 || bits%1024 != 0 || k.E != 65537 {
			break
		}
		area.Type = tpm2.TPMAlgRSA
		area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: tpm2.TPMKeyBits(bits)})
		area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
		return area, nil
	}
	return area, errors.New("cannot use the release key: it must be ECDSA P-256, or RSA of 2048, 3072 or 4096 bits with exponent 65537")
}

// UnsealPolicy is the digest of the policy of the disk's key under this secure boot state:
// PolicyAuthorize(release, "vitalgate unseal"), PolicyPCR(7).
func (f *Firmware) UnsealPolicy(secureBoot []byte) ([]byte, error) {
	return f.policy(Unsealing, secureBoot)
}

// IdentityPolicy is the digest of the policy of the data key and the TLS key under this secure boot state:
// PolicyAuthorize(release, "vitalgate identity"), PolicyPCR(7), PolicyAuthValue.
func (f *Firmware) IdentityPolicy(secureBoot []byte) ([]byte, error) {
	policy, err := f.policy(Identity, secureBoot)
	if err != nil {
		return nil, err
	}
	return extendPolicy(policy, tpm2.TPMCCPolicyAuthValue), nil
}

func (f *Firmware) policy(purpose Purpose, secureBoot []byte) ([]byte, error) {
	if len(secureBoot) != sha256.Size {
		return nil, fmt.Errorf("PCR 7 has 32 bytes, not %d", len(secureBoot))
	}
	area, err := f.ReleaseArea()
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(&area)
	if err != nil {
		return nil, err
	}
	policy := extendPolicy(make([]byte, sha256.Size), tpm2.TPMCCPolicyAuthorize, name.Buffer)
	sum := sha256.Sum256(append(policy, purpose...))
	return policyPCR(sum[:], SecureBootPCR, secureBoot)
}

// policyPCR extends a policy digest as TPM2_PolicyPCR does (part 3 §23.7).
func policyPCR(policy []byte, number uint, value []byte) ([]byte, error) {
	selection, err := SelectPCRs(number)
	if err != nil {
		return nil, err
	}
	return extendPolicy(policy, tpm2.TPMCCPolicyPCR, tpm2.Marshal(selection), PCRs{number: value}.Digest()), nil
}

// extendPolicy is PolicyUpdate (part 3 §23.2.3) without its second step.
func extendPolicy(policy []byte, command tpm2.TPMCC, parts ...[]byte) []byte {
	h := sha256.New()
	h.Write(policy)
	h.Write([]byte{byte(command >> 24), byte(command >> 16), byte(command >> 8), byte(command)})
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}
