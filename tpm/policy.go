package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// ErrFirmware marks the refusal of a key or a secret that is bound to the firmware: what runs on this box was not
// approved by the release key, or was not started under the secure boot state the key was made under.
var ErrFirmware = errors.New("not the firmware this key is bound to")

// gate satisfies the policies that a release of the firmware opens.
type gate struct {
	firmware *attestation.Firmware
	verified map[string]tpm2.TPMTTKVerified // tickets by signature: checking one costs as much as signing
}

// satisfy runs in a fresh policy session what [attestation.Firmware] has put into the policy: PCR 11 is as approved for this
// purpose, PCR 7 is as it is (whether that is right is decided when the session is used).
func (g *gate) satisfy(t transport.TPM, session tpm2.TPMISHPolicy, purpose attestation.Purpose) error {
	if err := policyPCR(t, session, attestation.FirmwarePCR); err != nil {
		return err
	}
	now, err := tpm2.PolicyGetDigest{PolicySession: session}.Execute(t)
	if err != nil {
		return err
	}
	for _, a := range g.firmware.Approvals {
		if a.Purpose != purpose || !bytes.Equal(a.Policy, now.PolicyDigest.Buffer) {
			continue
		}
		ticket, name, err := g.verify(t, a)
		if err != nil {
			return err
		}
		_, err = tpm2.PolicyAuthorize{
			PolicySession: session, ApprovedPolicy: now.PolicyDigest, PolicyRef: tpm2.TPM2BDigest{Buffer: []byte(purpose)}, KeySign: name, CheckTicket: ticket,
		}.Execute(t)
		if err != nil {
			return err
		}
		return policyPCR(t, session, attestation.SecureBootPCR)
	}
	return fmt.Errorf("PCR %d has no value that the release key has approved for %q: %w", attestation.FirmwarePCR, purpose, ErrFirmware)
}

// verify lets the TPM check the signature of an approval once.
func (g *gate) verify(t transport.TPM, a attestation.Approval) (ticket tpm2.TPMTTKVerified, name tpm2.TPM2BName, err error) {
	area, err := g.firmware.ReleaseArea()
	if err != nil {
		return ticket, name, err
	}
	n, err := tpm2.ObjectName(&area)
	if err != nil {
		return ticket, name, err
	}
	if ticket, ok := g.verified[string(a.Signature)]; ok {
		return ticket, *n, nil
	}
	digest, signature, err := g.firmware.Verification(a)
	if err != nil {
		return ticket, name, fmt.Errorf("%w: %w", err, ErrFirmware)
	}
	k, err := tpm2.LoadExternal{InPublic: tpm2.New2B(area), Hierarchy: tpm2.TPMRHOwner}.Execute(t)
	if err != nil {
		return ticket, name, fmt.Errorf("cannot load the release key: %w", err)
	}
	defer tpm2.FlushContext{FlushHandle: k.ObjectHandle}.Execute(t) // if it fails the next Reset or the resource manager forgets it
	r, err := tpm2.VerifySignature{
		KeyHandle: tpm2.NamedHandle{Handle: k.ObjectHandle, Name: k.Name}, Digest: tpm2.TPM2BDigest{Buffer: digest}, Signature: signature,
	}.Execute(t)
	if errors.Is(err, tpm2.TPMRCSignature) {
		return ticket, name, fmt.Errorf("the approval of this firmware is not signed by its release key: %w", ErrFirmware)
	}
	if err != nil {
		return ticket, name, fmt.Errorf("cannot check the approval of the firmware: %w", err)
	}
	if g.verified == nil {
		g.verified = map[string]tpm2.TPMTTKVerified{}
	}
	g.verified[string(a.Signature)] = r.Validation
	return r.Validation, *n, nil
}

func policyPCR(t transport.TPM, session tpm2.TPMISHPolicy, number uint) error {
	selection, err := attestation.SelectPCRs(number)
	if err != nil {
		return err
	}
	_, err = tpm2.PolicyPCR{PolicySession: session, Pcrs: selection}.Execute(t)
	return err
}

func extendPCR(t transport.TPM, number uint, digest []byte) error {
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(number), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}},
	}.Execute(t)
	return err
}
