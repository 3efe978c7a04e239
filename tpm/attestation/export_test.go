package attestation

import "github.com/google/go-tpm/tpm2"

// DecodeAttest reads a statement that nobody signed.
func DecodeAttest(data []byte) error {
	_, err := decode[tpm2.TPMSAttest](data)
	return err
}
