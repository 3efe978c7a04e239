package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// What follows needs no TPM: it is the side of those who must be convinced.

// Evidence is what every statement of a TPM carries (TPMS_ATTEST, part 2 §10.12.12).
type Evidence struct {
	Resets, Restarts uint32
	Clock            uint64 // milliseconds
	Safe             bool   // the clock has not gone back since it was last written
	Firmware         uint64 // vendor specific
}

// LAK is an attestation key as a verifier knows it.
type LAK struct {
	public *ecdsa.PublicKey
	name   []byte
}

// ParseLAK reads a public area (TPMT_PUBLIC) and accepts nothing but a restricted P-256 signing key that cannot leave
// its TPM. That it is in a TPM at all is shown by the answer to a [Challenge].
func ParseLAK(area []byte) (*LAK, error) {
	public, name, err := parseKey(area, true)
	if err != nil {
		return nil, fmt.Errorf("cannot accept the attestation key: %w", err)
	}
	return &LAK{public, name}, nil
}

// Public is the key that signs the statements.
func (k *LAK) Public() *ecdsa.PublicKey { return k.public }

// parseKey rebuilds the area from our own template and the point in it: whatever else it says is refused.
func parseKey(area []byte, restricted bool) (*ecdsa.PublicKey, []byte, error) {
	got, err := decode[tpm2.TPMTPublic](area)
	if err != nil {
		return nil, nil, fmt.Errorf("the public area cannot be read: %w", err)
	}
	point, err := got.Unique.ECC()
	if err != nil {
		return nil, nil, errors.New("the key is not an ECC key")
	}
	want := signingKey(restricted)
	want.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, point)
	if !bytes.Equal(tpm2.Marshal(want), area) {
		return nil, nil, errors.New("the key has other attributes than a key of this kind must have")
	}
	public, err := ecdsaKey(want)
	if err != nil {
		return nil, nil, err
	}
	if _, err := public.ECDH(); err != nil { // is the point on the curve?
		return nil, nil, fmt.Errorf("the key is not a P-256 key: %w", err)
	}
	name, err := tpm2.ObjectName(&want)
	if err != nil {
		return nil, nil, err
	}
	return public, name.Buffer, nil
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

// open checks who says it, that a TPM has put it together, and that it answers our question.
func (k *LAK) open(s Statement, nonce []byte, kind tpm2.TPMST) (*tpm2.TPMSAttest, Evidence, error) {
	digest := sha256.Sum256(s.Attest)
	if !ecdsa.VerifyASN1(k.public, digest[:], s.Signature) {
		return nil, Evidence{}, errors.New("the signature is not the attestation key's")
	}
	a, err := decode[tpm2.TPMSAttest](s.Attest)
	if err != nil {
		return nil, Evidence{}, fmt.Errorf("the statement cannot be read: %w", err)
	}
	if a.Magic != tpm2.TPMGeneratedValue {
		return nil, Evidence{}, errors.New("the statement was not made by a TPM")
	}
	if a.Type != kind {
		return nil, Evidence{}, fmt.Errorf("the statement is of another kind (%#x)", uint16(a.Type))
	}
	if !bytes.Equal(a.ExtraData.Buffer, nonce) {
		return nil, Evidence{}, errors.New("the statement answers another question (nonce)")
	}
	i := a.ClockInfo
	return a, Evidence{Resets: i.ResetCount, Restarts: i.RestartCount, Clock: i.Clock, Safe: bool(i.Safe), Firmware: a.FirmwareVersion}, nil
}

// Certified checks a statement of [Attestor.CertifyData] or [Attestor.CertifyTLS] about the key with the given public
// area, and returns that key: P-256, born in the TPM of the LAK, unable to leave it.
func (k *LAK) Certified(s Statement, nonce, area []byte) (*ecdsa.PublicKey, Evidence, error) {
	a, e, err := k.open(s, nonce, tpm2.TPMSTAttestCertify)
	if err != nil {
		return nil, e, fmt.Errorf("cannot accept the certified key: %w", err)
	}
	public, name, err := parseKey(area, false)
	if err != nil {
		return nil, e, fmt.Errorf("cannot accept the certified key: %w", err)
	}
	info, err := a.Attested.Certify()
	if err != nil {
		return nil, e, fmt.Errorf("cannot accept the certified key: %w", err)
	}
	if !bytes.Equal(info.Name.Buffer, name) {
		return nil, e, errors.New("cannot accept the certified key: the statement is about another key")
	}
	return public, e, nil
}

// Quoted checks a statement of [Attestor.Quote] and that it is about exactly these values.
func (k *LAK) Quoted(s Statement, nonce []byte, values PCRs) (Evidence, error) {
	a, e, err := k.open(s, nonce, tpm2.TPMSTAttestQuote)
	if err != nil {
		return e, fmt.Errorf("cannot accept the quote: %w", err)
	}
	info, err := a.Attested.Quote()
	if err != nil {
		return e, fmt.Errorf("cannot accept the quote: %w", err)
	}
	want, err := selectPCRs(values.numbers())
	if err != nil {
		return e, fmt.Errorf("cannot accept the quote: %w", err)
	}
	for n, v := range values {
		if len(v) != sha256.Size {
			return e, fmt.Errorf("cannot accept the quote: the value of PCR %d has %d bytes", n, len(v))
		}
	}
	if !bytes.Equal(tpm2.Marshal(info.PCRSelect), tpm2.Marshal(want)) {
		return e, errors.New("cannot accept the quote: it is about other PCRs")
	}
	if !bytes.Equal(info.PCRDigest.Buffer, values.digest()) {
		return e, errors.New("cannot accept the quote: the PCRs have other values")
	}
	return e, nil
}

// Counted checks a statement of [Attestor.CertifyCounter] and returns the value of the boot counter.
func (k *LAK) Counted(s Statement, nonce []byte) (uint64, Evidence, error) {
	a, e, err := k.open(s, nonce, tpm2.TPMSTAttestNV)
	if err != nil {
		return 0, e, fmt.Errorf("cannot accept the counter: %w", err)
	}
	info, err := a.Attested.NV()
	if err != nil {
		return 0, e, fmt.Errorf("cannot accept the counter: %w", err)
	}
	area := counterArea()
	area.Attributes.Written = true
	name, err := tpm2.NVName(&area)
	if err != nil {
		return 0, e, err
	}
	if !bytes.Equal(info.IndexName.Buffer, name.Buffer) || info.Offset != 0 || len(info.NVContents.Buffer) != 8 {
		return 0, e, errors.New("cannot accept the counter: the statement is about another index")
	}
	return binary.BigEndian.Uint64(info.NVContents.Buffer), e, nil
}

// Authorities are those whose word for a TPM is believed, as pools of root certificates.
type Authorities struct {
	Hardware      *x509.CertPool // makers of chips
	Emulated      *x509.CertPool // whoever vouches for emulators, for trials
	Intermediates *x509.CertPool
}

// Verify follows the certificate of the endorsement key to an authority and says which class that makes the TPM. A key
// without a certificate, or with one of an unknown maker, is an error: nobody vouches for it.
func (e EndorsementKey) Verify(a Authorities, at time.Time) (Class, error) {
	if len(e.Certificate) == 0 {
		return "", errors.New("cannot accept the endorsement key: the TPM holds no certificate for it")
	}
	cert, err := ParseEndorsementCertificate(e.Certificate)
	if err != nil {
		return "", fmt.Errorf("cannot accept the endorsement key: %w", err)
	}
	area, err := e.area()
	if err != nil {
		return "", err
	}
	if !sameKey(cert, *area) {
		return "", errors.New("cannot accept the endorsement key: the certificate is for another key")
	}
	// Its subject alternative name is critical and holds a directoryName alone (EK Credential Profile §3.2.9), a form that
	// crypto/x509 leaves to its user.
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	for _, word := range []struct {
		class Class
		roots *x509.CertPool
	}{{Hardware, a.Hardware}, {Emulated, a.Emulated}} {
		if word.roots == nil {
			continue
		}
		_, err = cert.Verify(x509.VerifyOptions{Roots: word.roots, Intermediates: a.Intermediates, CurrentTime: at,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err == nil {
			return word.class, nil
		}
	}
	if err == nil {
		err = errors.New("no authority is configured")
	}
	return "", fmt.Errorf("cannot accept the endorsement key: %w", err)
}

func (e EndorsementKey) area() (*tpm2.TPMTPublic, error) {
	area, err := decode[tpm2.TPMTPublic](e.Area)
	if err != nil {
		return nil, fmt.Errorf("cannot read the endorsement key: %w", err)
	}
	if o := area.ObjectAttributes; !o.FixedTPM || !o.FixedParent || !o.SensitiveDataOrigin || !o.Restricted || !o.Decrypt || o.SignEncrypt {
		return nil, errors.New("cannot accept the endorsement key: it has not the attributes of one")
	}
	return area, nil
}

// Challenge makes a secret of 32 bytes and wraps it so that only a TPM that holds both the endorsement key and the LAK
// can read it (TPM2_MakeCredential, part 1 §24, without a TPM).
func (e EndorsementKey) Challenge(lak *LAK) (c Challenge, secret []byte, err error) {
	area, err := e.area()
	if err != nil {
		return c, nil, err
	}
	to, err := tpm2.ImportEncapsulationKey(area)
	if err != nil {
		return c, nil, fmt.Errorf("cannot challenge the endorsement key: %w", err)
	}
	secret = random(32)
	c.Credential, c.Secret, err = tpm2.CreateCredential(rand.Reader, to, lak.name, secret)
	if err != nil {
		return c, nil, fmt.Errorf("cannot challenge the endorsement key: %w", err)
	}
	return c, secret, nil
}

var oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

// ParseEndorsementCertificate reads a certificate as makers store it in NV: alone, behind the header of the TPM 1.2
// profile (TCG PC Client TPM 1.2 §7.4.5), and with the rest of the index filled with 00 or ff.
func ParseEndorsementCertificate(data []byte) (*x509.Certificate, error) {
	if len(data) > 1<<16 {
		return nil, fmt.Errorf("cannot read the endorsement certificate: %d bytes are too many", len(data))
	}
	if len(data) > 5 && bytes.HasPrefix(data, []byte{0x10, 0x01, 0x00}) { // TCG_TAG_PCCLIENT_STORED_CERT, full certificate
		data = data[5:]
	}
	var cert asn1.RawValue
	rest, err := asn1.Unmarshal(data, &cert)
	if err != nil {
		return nil, fmt.Errorf("cannot read the endorsement certificate: %w", err)
	}
	if len(bytes.Trim(rest, "\x00")) != 0 && len(bytes.Trim(rest, "\xff")) != 0 {
		return nil, errors.New("cannot read the endorsement certificate: something other than padding follows it")
	}
	c, err := x509.ParseCertificate(cert.FullBytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read the endorsement certificate: %w", err)
	}
	return c, nil
}
