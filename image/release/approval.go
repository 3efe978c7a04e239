package release

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// Where the stub puts the sections .pcrsig and .pcrpkey (systemd-stub(7)).
const (
	ApprovalPath    = "/.extra/tpm2-pcr-signature.json"
	ApprovalKeyPath = "/.extra/tpm2-pcr-public-key.pem"
)

// OpenedMark is extended into PCR 11 when the data key has been unsealed, so that nobody unseals it again in this run; what
// may be used while the box runs is approved for the value after it.
const OpenedMark = "vitalgate: data opened"

// Approval is a signature of the pcr key over the policy "PCR 11 has this value" (TPM 2.0 Library, part 3 §23.16,
// TPM2_PolicyAuthorize, with an empty policyRef), in the form of systemd's .pcrsig section.
type Approval struct {
	PCRs      []int  `json:"pcrs"`
	Key       string `json:"pkfp"` // SHA-256 of the public key, DER
	Policy    string `json:"pol"`
	Signature []byte `json:"sig"`
}

// Approve makes the .pcrsig section for the two values PCR 11 has in the life of a release: at start, and with the data open.
func Approve(start [32]byte, key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	fp := sha256.Sum256(der)
	var all []Approval
	for _, pcr := range [][32]byte{start, Opened(start)} {
		policy := PCR11Policy(pcr)
		hash := sha256.Sum256(policy[:]) // aHash of approvedPolicy and an empty policyRef
		signature, err := key.Sign(nil, hash[:], crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("cannot approve PCR 11: %w", err)
		}
		all = append(all, Approval{[]int{11}, hex.EncodeToString(fp[:]), hex.EncodeToString(policy[:]), signature})
	}
	return json.Marshal(map[string][]Approval{"sha256": all})
}

// Opened is the value of PCR 11 after [OpenedMark].
func Opened(start [32]byte) [32]byte {
	mark := sha256.Sum256([]byte(OpenedMark))
	return sha256.Sum256(append(start[:], mark[:]...))
}

// PCR11Policy is the digest of TPM2_PolicyPCR over PCR 11 of the SHA-256 bank (part 3 §23.7).
func PCR11Policy(pcr [32]byte) [32]byte {
	values := sha256.Sum256(pcr[:])
	b := make([]byte, 32, 128)
	b = append(b, 0, 0, 0x01, 0x7f)                         // TPM_CC_PolicyPCR
	b = append(b, 0, 0, 0, 1, 0, 0x0b, 3, 0x00, 0x08, 0x00) // TPML_PCR_SELECTION: SHA-256, PCR 11
	return sha256.Sum256(append(b, values[:]...))
}

// ReadApprovals reads a .pcrsig section.
func ReadApprovals(text []byte) ([]Approval, error) {
	var banks map[string][]Approval
	if err := json.Unmarshal(text, &banks); err != nil {
		return nil, fmt.Errorf("cannot read the release's approval of PCR 11: %w", err)
	}
	if len(banks["sha256"]) == 0 {
		return nil, errors.New("cannot read the release's approval of PCR 11: it has none for SHA-256")
	}
	return banks["sha256"], nil
}

// Check says whether key made the approval, and what policy it approves.
func (a Approval) Check(key *ecdsa.PublicKey) (policy [32]byte, err error) {
	b, err := hex.DecodeString(a.Policy)
	if err != nil || len(b) != len(policy) || len(a.PCRs) != 1 || a.PCRs[0] != 11 {
		return policy, errors.New("cannot use the release's approval: it is not for PCR 11")
	}
	hash := sha256.Sum256(b)
	if !ecdsa.VerifyASN1(key, hash[:], a.Signature) {
		return policy, errors.New("cannot use the release's approval: the key that came with it did not make it")
	}
	return [32]byte(b), nil
}
