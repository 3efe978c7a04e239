package attestation

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// EndorsementKey is a key the maker of the TPM put into it, and the maker's word for that.
type EndorsementKey struct {
	Area        []byte `json:"area"`                  // TPMT_PUBLIC
	Certificate []byte `json:"certificate,omitempty"` // X.509 DER; empty where the chip holds none
}

// Challenge is a secret that only the TPM with both the endorsement key and the LAK can read (part 1 §24).
type Challenge struct {
	Credential []byte `json:"credential"` // TPMS_ID_OBJECT
	Secret     []byte `json:"secret"`     // TPM2B_ENCRYPTED_SECRET without its size
}

// Class says what holds the keys of a box.
type Class string

const (
	Hardware Class = "hardware" // a TPM whose maker vouches for it
	Emulated Class = "emulated" // an emulator: a process with its state in files
	Software Class = "software" // a key in a file
)

// Maker is one who certifies endorsement keys.
type Maker struct {
	Name  string
	Class Class
	// IDs are how the maker is named in the certificates (TCG Vendor ID Registry), such as "id:49465800"; with none any
	// name will do.
	IDs   []string
	Roots *x509.CertPool
}

// Authorities are those whose word for a TPM is believed.
type Authorities struct {
	Makers        []Maker
	Intermediates *x509.CertPool // of all makers, not believed by themselves
}

// Chip is a TPM as its maker describes it.
type Chip struct {
	Class        Class  `json:"class"`
	Maker        string `json:"maker"`        // by the root that vouches
	Manufacturer string `json:"manufacturer"` // tcg-at-tpmManufacturer, such as "id:49465800"
	Model        string `json:"model"`        // tcg-at-tpmModel
	Version      string `json:"version"`      // tcg-at-tpmVersion, such as "id:0007003D"
}

// Why an endorsement key is not accepted, besides a certificate that cannot be read.
var (
	ErrNoCertificate  = errors.New("there is no certificate of the maker for it")
	ErrOtherKey       = errors.New("the certificate is for another key")
	ErrNotEndorsement = errors.New("the certificate is not one of an endorsement key")
	ErrUnknownMaker   = errors.New("no maker that is trusted here vouches for it")
	ErrOtherMaker     = errors.New("the certificate names a maker other than the one whose root vouches for it")
)

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate, EK Credential Profile §3.2.16
	oidManufacturer   = asn1.ObjectIdentifier{2, 23, 133, 2, 1} // tcg-at-tpmManufacturer, §3.1.2
	oidModel          = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidVersion        = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
)

// Verify follows the certificate of the endorsement key to a maker and says what that makes the TPM. The class comes from
// the root alone. That a root vouches is not enough: makers certify other things under it, so the certificate must say that
// it is for an endorsement key, be for this key, and name the maker whose root it is.
func (e EndorsementKey) Verify(a Authorities, at time.Time) (Chip, error) {
	chip, err := e.verify(a, at)
	if err != nil {
		return Chip{}, fmt.Errorf("cannot accept the endorsement key: %w", err)
	}
	return chip, nil
}

func (e EndorsementKey) verify(a Authorities, at time.Time) (Chip, error) {
	area, err := e.area()
	if err != nil {
		return Chip{}, err
	}
	if len(e.Certificate) == 0 {
		return Chip{}, ErrNoCertificate
	}
	cert, err := ParseEndorsementCertificate(e.Certificate)
	if err != nil {
		return Chip{}, err
	}
	if !SameKey(cert, *area) {
		return Chip{}, ErrOtherKey
	}
	if !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return Chip{}, fmt.Errorf("%w: it lacks the extended key usage tcg-kp-EKCertificate", ErrNotEndorsement)
	}
	chip, err := describe(cert)
	if err != nil {
		return Chip{}, fmt.Errorf("%w: %w", ErrNotEndorsement, err)
	}
	maker, err := a.vouching(cert, at)
	if err != nil {
		return Chip{}, err
	}
	if len(maker.IDs) > 0 && !slices.Contains(maker.IDs, chip.Manufacturer) {
		return Chip{}, fmt.Errorf("%w: it names %q, the root is of %s", ErrOtherMaker, chip.Manufacturer, maker.Name)
	}
	chip.Class, chip.Maker = maker.Class, maker.Name
	return chip, nil
}

// vouching is the maker whose root the certificate leads to.
func (a Authorities) vouching(cert *x509.Certificate, at time.Time) (Maker, error) {
	// The subject alternative name is critical and holds a directoryName alone (EK Credential Profile §3.2.9), a form that
	// crypto/x509 leaves to its user.
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	var why error
	for _, m := range a.Makers {
		_, err := cert.Verify(x509.VerifyOptions{Roots: m.Roots, Intermediates: a.Intermediates, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err == nil {
			return m, nil
		}
		// Of the makers' answers one that is not "unknown authority" tells most.
		if unknown := new(x509.UnknownAuthorityError); !errors.As(err, unknown) || why == nil {
			why = err
		}
	}
	if why == nil {
		why = errors.New("no maker is configured")
	}
	return Maker{}, fmt.Errorf("%w (issuer %q): %w", ErrUnknownMaker, cert.Issuer, why)
}

// describe reads the directoryName in the subject alternative name (EK Credential Profile §3.2.9).
func describe(cert *x509.Certificate) (Chip, error) {
	i := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSubjectAltName) })
	if i < 0 {
		return Chip{}, errors.New("it has no subject alternative name")
	}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(cert.Extensions[i].Value, &names); err != nil || len(rest) > 0 {
		return Chip{}, errors.New("its subject alternative name cannot be read")
	}
	var chip Chip
	for _, n := range names {
		const directoryName = 4
		if n.Class != asn1.ClassContextSpecific || n.Tag != directoryName {
			continue
		}
		var rdns pkix.RDNSequence
		if rest, err := asn1.Unmarshal(n.Bytes, &rdns); err != nil || len(rest) > 0 {
			return Chip{}, errors.New("its directory name cannot be read")
		}
		for _, set := range rdns {
			for _, attribute := range set {
				text, _ := attribute.Value.(string)
				switch text = printable(text); {
				case attribute.Type.Equal(oidManufacturer):
					chip.Manufacturer = text
				case attribute.Type.Equal(oidModel):
					chip.Model = text
				case attribute.Type.Equal(oidVersion):
					chip.Version = text
				}
			}
		}
	}
	if chip.Manufacturer == "" {
		return Chip{}, errors.New("it does not name the manufacturer of the TPM")
	}
	return chip, nil
}

// printable keeps what a certificate says from doing anything in a log or on a page but be read.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), 64)])
}

// SameKey says whether the certificate is for the key with this public area.
func SameKey(cert *x509.Certificate, area tpm2.TPMTPublic) bool {
	public, err := tpm2.Pub(area)
	if err != nil {
		return false
	}
	switch k := public.(type) {
	case *ecdsa.PublicKey:
		return k.Equal(cert.PublicKey)
	case *rsa.PublicKey:
		return k.Equal(cert.PublicKey)
	}
	return false
}

// Fingerprint tells one chip from another: SHA-256 of the SubjectPublicKeyInfo of its endorsement key, in hex.
func (e EndorsementKey) Fingerprint() (string, error) {
	area, err := e.area()
	if err != nil {
		return "", fmt.Errorf("cannot tell the chip: %w", err)
	}
	public, err := tpm2.Pub(*area)
	if err != nil {
		return "", fmt.Errorf("cannot tell the chip: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("cannot tell the chip: %w", err)
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:]), nil
}

func (e EndorsementKey) area() (*tpm2.TPMTPublic, error) {
	area, err := decode[tpm2.TPMTPublic](e.Area)
	if err != nil {
		return nil, fmt.Errorf("its public area cannot be read: %w", err)
	}
	if o := area.ObjectAttributes; !o.FixedTPM || !o.FixedParent || !o.SensitiveDataOrigin || !o.Restricted || !o.Decrypt || o.SignEncrypt {
		return nil, errors.New("it has not the attributes of one")
	}
	return area, nil
}

// Challenge makes a secret of 32 bytes and wraps it so that only a TPM that holds both the endorsement key and the LAK
// can read it (TPM2_MakeCredential, part 1 §24, without a TPM).
func (e EndorsementKey) Challenge(lak *LAK) (c Challenge, secret []byte, err error) {
	area, err := e.area()
	if err != nil {
		return c, nil, fmt.Errorf("cannot challenge the endorsement key: %w", err)
	}
	to, err := tpm2.ImportEncapsulationKey(area)
	if err != nil {
		return c, nil, fmt.Errorf("cannot challenge the endorsement key: %w", err)
	}
	secret = make([]byte, 32)
	rand.Read(secret) // never fails (crypto/rand)
	c.Credential, c.Secret, err = tpm2.CreateCredential(rand.Reader, to, lak.name, secret)
	if err != nil {
		return c, nil, fmt.Errorf("cannot challenge the endorsement key: %w", err)
	}
	return c, secret, nil
}

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
