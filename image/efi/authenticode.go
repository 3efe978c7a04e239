package efi

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
)

// Signer is a key of secure boot with its certificate. UEFI firmware knows RSA everywhere, and ECDSA hardly anywhere.
type Signer struct {
	Key         crypto.Signer
	Certificate *x509.Certificate
}

var (
	oidSignedData    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidData          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidContentType   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidRSA           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidSHA256        = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidIndirectData  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}  // SPC_INDIRECT_DATA_OBJID
	oidPEImage       = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 2, 1, 15} // SPC_PE_IMAGE_DATAOBJ
	sha256Algorithm  = pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}
)

// PKCS #7 v1.5 (RFC 2315) §9, as far as Authenticode and UEFI use it.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"optional"`
	}
	signedData struct {
		Version      int
		Digests      []pkix.AlgorithmIdentifier `asn1:"set"`
		Content      contentInfo
		Certificates asn1.RawValue
		Signers      []signerInfo `asn1:"set"`
	}
	signerInfo struct {
		Version   int
		Issuer    issuerAndSerial
		Digest    pkix.AlgorithmIdentifier
		Signed    asn1.RawValue `asn1:"optional,tag:0"`
		Algorithm pkix.AlgorithmIdentifier
		Signature []byte
	}
	issuerAndSerial struct {
		Issuer asn1.RawValue
		Serial *big.Int
	}
	attribute struct {
		Type   asn1.ObjectIdentifier
		Values []asn1.RawValue `asn1:"set"`
	}
	indirectData struct {
		Type struct {
			ID    asn1.ObjectIdentifier
			Value asn1.RawValue
		}
		Digest struct {
			Algorithm pkix.AlgorithmIdentifier
			Digest    []byte
		}
	}
)

// peImageData is SpcPeImageData without flags and with an empty file name; every signer of Linux writes these bytes.
var peImageData = []byte{0x30, 0x09, 0x03, 0x01, 0x00, 0xa0, 0x04, 0xa2, 0x02, 0x80, 0x00}

// sign makes a SignedData over content. Without a time among the attributes, so that the same input gives the same bytes.
func (s Signer) sign(content contentInfo, signed []byte, attributes bool) ([]byte, error) {
	info := signerInfo{
		Version: 1, Issuer: issuerAndSerial{asn1.RawValue{FullBytes: s.Certificate.RawIssuer}, s.Certificate.SerialNumber},
		Digest: sha256Algorithm, Algorithm: pkix.AlgorithmIdentifier{Algorithm: oidRSA, Parameters: asn1.NullRawValue},
	}
	hash := sha256.Sum256(signed)
	if attributes {
		set, err := attributeSet(content.Type, hash[:])
		if err != nil {
			return nil, err
		}
		info.Signed = asn1.RawValue{FullBytes: append([]byte{0xa0}, set[1:]...)} // [0] IMPLICIT in place of SET (RFC 2315 §9.2)
		hash = sha256.Sum256(set)
	}
	if _, ok := s.Key.Public().(*rsa.PublicKey); !ok {
		return nil, errors.New("cannot sign for UEFI: the key of secure boot must be an RSA key")
	}
	var err error
	if info.Signature, err = s.Key.Sign(nil, hash[:], crypto.SHA256); err != nil {
		return nil, fmt.Errorf("cannot sign for UEFI: %w", err)
	}
	return asn1.Marshal(signedData{
		Version: 1, Digests: []pkix.AlgorithmIdentifier{sha256Algorithm}, Content: content,
		Certificates: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: s.Certificate.Raw},
		Signers:      []signerInfo{info},
	})
}

func attributeSet(contentType asn1.ObjectIdentifier, hash []byte) ([]byte, error) {
	id, err := asn1.Marshal(contentType)
	if err != nil {
		return nil, err
	}
	sum, err := asn1.Marshal(hash)
	if err != nil {
		return nil, err
	}
	return asn1.MarshalWithParams([]attribute{
		{oidContentType, []asn1.RawValue{{FullBytes: id}}},
		{oidMessageDigest, []asn1.RawValue{{FullBytes: sum}}},
	}, "set")
}

// Sign appends the Authenticode signature to a PE file that has none.
func (s Signer) Sign(pe []byte) ([]byte, error) {
	pe = pad(bytes.Clone(pe), 8)
	hash, old, err := digest(pe)
	if err != nil {
		return nil, err
	}
	if old != nil {
		return nil, errors.New("cannot sign the EFI program: it is signed already")
	}
	var d indirectData
	d.Type.ID, d.Type.Value = oidPEImage, asn1.RawValue{FullBytes: peImageData}
	d.Digest.Algorithm, d.Digest.Digest = sha256Algorithm, hash[:]
	der, err := asn1.Marshal(d)
	if err != nil {
		return nil, err
	}
	var body asn1.RawValue
	if _, err := asn1.Unmarshal(der, &body); err != nil {
		return nil, err
	}
	// What is signed is the content without its own tag and length (RFC 2315 §9.3).
	inner, err := s.sign(contentInfo{oidIndirectData, explicit(der)}, body.Bytes, true)
	if err != nil {
		return nil, err
	}
	signature, err := asn1.Marshal(contentInfo{oidSignedData, explicit(inner)})
	if err != nil {
		return nil, err
	}
	// WIN_CERTIFICATE: length, revision 2.0, type PKCS_SIGNED_DATA; the table is a multiple of 8 bytes.
	table := pad(append(binary.LittleEndian.AppendUint32(nil, uint32(8+len(signature))), append([]byte{0, 2, 2, 0}, signature...)...), 8)
	m, err := parse(pe)
	if err != nil {
		return nil, err
	}
	m.set(certTable, len(pe))
	m.set(certTable+4, len(table))
	return append(pe, table...), nil
}

func explicit(der []byte) asn1.RawValue {
	return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: der}
}

// SignedBy checks the Authenticode signature of a PE file against the certificate that it carries, and gives that certificate:
// the file is unchanged since its holder signed it. Whether he is trusted is for the caller, as it is for the firmware's db.
func SignedBy(pe []byte) (*x509.Certificate, error) {
	hash, table, err := digest(pe)
	if err != nil {
		return nil, err
	}
	if len(table) < 8 {
		return nil, errors.New("cannot verify the EFI program: it is not signed")
	}
	n := int(binary.LittleEndian.Uint32(table) & 0x7fffffff)
	if n < 8 || n > len(table) || len(table)-n > 7 || !bytes.Equal(table[4:8], []byte{0, 2, 2, 0}) || len(bytes.Trim(table[n:], "\x00")) > 0 {
		return nil, errors.New("cannot verify the EFI program: its certificate table is not one PKCS #7 signature")
	}
	var outer contentInfo
	var sd signedData
	var d indirectData
	var body asn1.RawValue
	if rest, err := asn1.Unmarshal(table[8:n], &outer); err != nil || len(rest) > 0 || !outer.Type.Equal(oidSignedData) {
		return nil, errors.New("cannot verify the EFI program: its signature is not PKCS #7 signed data")
	}
	if _, err := asn1.Unmarshal(outer.Content.Bytes, &sd); err != nil || len(sd.Signers) != 1 || !sd.Content.Type.Equal(oidIndirectData) {
		return nil, errors.New("cannot verify the EFI program: its signature is not one Authenticode signature")
	}
	if _, err := asn1.Unmarshal(sd.Content.Content.Bytes, &d); err != nil || !bytes.Equal(d.Digest.Digest, hash[:]) {
		return nil, errors.New("cannot verify the EFI program: it was changed after it was signed")
	}
	if _, err := asn1.Unmarshal(sd.Content.Content.Bytes, &body); err != nil {
		return nil, fmt.Errorf("cannot verify the EFI program: %w", err)
	}
	sum := sha256.Sum256(body.Bytes)
	set, err := attributeSet(oidIndirectData, sum[:])
	if err != nil {
		return nil, err
	}
	signer := sd.Signers[0]
	if len(signer.Signed.FullBytes) == 0 || !bytes.Equal(signer.Signed.FullBytes[1:], set[1:]) {
		return nil, errors.New("cannot verify the EFI program: the signed attributes are not of this program")
	}
	certificate, err := x509.ParseCertificate(sd.Certificates.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot verify the EFI program: it carries no certificate: %w", err)
	}
	if err := certificate.CheckSignature(x509.SHA256WithRSA, set, signer.Signature); err != nil {
		return nil, fmt.Errorf("cannot verify the EFI program: it was not signed with the key of %q: %w", certificate.Subject.CommonName, err)
	}
	return certificate, nil
}
