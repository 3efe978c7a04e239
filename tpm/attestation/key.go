package attestation

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// CounterHandle is the NV index of the boot counter.
const CounterHandle = tpm2.TPMHandle(0x01800100)

// SigningKey is the template of the keys of a box: P-256, ECDSA with SHA-256, born in this chip and bound to it. An
// unrestricted key signs what it is given; a restricted one signs only what the TPM itself has put together, so one key
// must never be both. A key with a policy signs only where the policy holds; its password alone then opens no more than
// TPM2_Certify (admin role, part 1 §19.2).
func SigningKey(restricted bool, policy []byte) tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: len(policy) == 0, NoDA: true, Restricted: restricted, SignEncrypt: true,
		},
		AuthPolicy: tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Symmetric: tpm2.TPMTSymDefObject{Algorithm: tpm2.TPMAlgNull},
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
			CurveID: tpm2.TPMECCNistP256,
			KDF:     tpm2.TPMTKDFScheme{Scheme: tpm2.TPMAlgNull},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
			Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
		}),
	}
}

// CounterArea is the boot counter as it must be defined.
func CounterArea() tpm2.TPMSNVPublic {
	return tpm2.TPMSNVPublic{
		NVIndex: CounterHandle, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
		Attributes: tpm2.TPMANV{AuthWrite: true, AuthRead: true, OwnerRead: true, NT: tpm2.TPMNTCounter, NoDA: true},
	}
}

// SigningPublic is the public key of an area that SigningKey has made.
func SigningPublic(area tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	k, err := ecdsaKey(area)
	if err == nil && k.Curve != elliptic.P256() {
		err = errors.New("the key is not a P-256 key")
	}
	return k, err
}

func ecdsaKey(area tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	p, err := tpm2.Pub(area)
	if err != nil {
		return nil, err
	}
	k, ok := p.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("the key is not an ECC key")
	}
	if _, err := k.ECDH(); err != nil { // is the point on the curve?
		return nil, fmt.Errorf("the key is not one of its curve: %w", err)
	}
	return k, nil
}

// Key is a key of a box as a verifier knows it.
type Key struct {
	public *ecdsa.PublicKey
	name   []byte
	policy []byte
}

// Public is the key itself.
func (k *Key) Public() *ecdsa.PublicKey { return k.public }

// Policy is the digest of the policy that must hold for the key to sign; empty where it signs under any firmware.
func (k *Key) Policy() []byte { return k.policy }

// parseKey rebuilds the area from our own template, the policy and the point in it: whatever else it says is refused.
func parseKey(area []byte, restricted bool) (*Key, error) {
	got, err := decode[tpm2.TPMTPublic](area)
	if err != nil {
		return nil, fmt.Errorf("the public area cannot be read: %w", err)
	}
	point, err := got.Unique.ECC()
	if err != nil {
		return nil, errors.New("the key is not an ECC key")
	}
	policy := got.AuthPolicy.Buffer
	if restricted {
		policy = nil // an attestation key speaks under any firmware: what it says tells which
	}
	want := SigningKey(restricted, policy)
	want.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, point)
	if !bytes.Equal(tpm2.Marshal(want), area) {
		return nil, errors.New("the key has other attributes than a key of this kind must have")
	}
	public, err := SigningPublic(want)
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(&want)
	if err != nil {
		return nil, err
	}
	return &Key{public, name.Buffer, policy}, nil
}

// structMost bounds every structure read from outside; the largest in use is an RSA-4096 public area of 600 bytes.
const structMost = 2048

// decode reads a TPM structure strictly: nothing left over, nothing encoded in a second way.
func decode[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](data []byte) (*T, error) {
	if len(data) > structMost {
		return nil, fmt.Errorf("%d bytes are too many", len(data))
	}
	v, err := tpm2.Unmarshal[T, P](data)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(tpm2.Marshal(*v), data) {
		return nil, errors.New("it is not in the one encoding the TPM uses")
	}
	return v, nil
}
