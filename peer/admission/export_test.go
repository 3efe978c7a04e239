package admission

import "github.com/vitalgate/vitalgate/tpm/attestation"

var ReasonOf = reasonOf

func (t Trust) Policy(pcrs attestation.PCRs, keys ...[]byte) ([]byte, error) {
	return t.policy(pcrs, keys...)
}
