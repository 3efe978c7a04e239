package efi

import (
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"time"
	"unicode/utf16"
)

// GUID is an EFI_GUID as it stands in memory and on disk.
type GUID [16]byte

// MustGUID reads the printed form of a constant.
func MustGUID(s string) GUID {
	var a uint32
	var b, c, d uint16
	var e uint64
	if n, err := fmt.Sscanf(s, "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e); n != 5 || err != nil {
		panic("not a GUID: " + s)
	}
	var g GUID
	binary.LittleEndian.PutUint32(g[0:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	binary.BigEndian.PutUint16(g[8:], d)
	for i := range 6 {
		g[10+i] = byte(e >> (8 * (5 - i)))
	}
	return g
}

func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g[0:]), binary.LittleEndian.Uint16(g[4:]),
		binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:16])
}

var (
	GlobalVariable   = MustGUID("8be4df61-93ca-11d2-aa0d-00e098032b8c") // EFI_GLOBAL_VARIABLE: PK, KEK, Boot####
	SecurityDatabase = MustGUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f") // EFI_IMAGE_SECURITY_DATABASE_GUID: db, dbx
	certPKCS7        = MustGUID("4aafd29d-68df-49ee-8aa9-347d375665a7") // EFI_CERT_TYPE_PKCS7_GUID
	certX509         = MustGUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072") // EFI_CERT_X509_GUID
)

// KeyAttributes are those of PK, KEK and db: non-volatile, at boot and run time, time-based authenticated (UEFI 2.10 §8.2).
const KeyAttributes = 0x27

// SignedVariable makes what is written to a key variable so that it holds just certificate: EFI_VARIABLE_AUTHENTICATION_2 and
// an EFI_SIGNATURE_LIST (UEFI 2.10 §8.2.2, §32.4.1), signed by the key above it: db by KEK, KEK by PK, PK by itself.
func SignedVariable(name string, vendor, owner GUID, certificate *x509.Certificate, by Signer, when time.Time) ([]byte, error) {
	var list []byte
	list = append(list, certX509[:]...)
	size := 16 + len(certificate.Raw)
	list = binary.LittleEndian.AppendUint32(list, uint32(28+size))
	list = binary.LittleEndian.AppendUint32(list, 0)
	list = binary.LittleEndian.AppendUint32(list, uint32(size))
	list = append(append(list, owner[:]...), certificate.Raw...)

	when = when.UTC()
	stamp := make([]byte, 16) // EFI_TIME
	binary.LittleEndian.PutUint16(stamp, uint16(when.Year()))
	copy(stamp[2:], []byte{byte(when.Month()), byte(when.Day()), byte(when.Hour()), byte(when.Minute()), byte(when.Second())})

	var signed []byte
	for _, c := range utf16.Encode([]rune(name)) {
		signed = binary.LittleEndian.AppendUint16(signed, c)
	}
	signed = append(signed, vendor[:]...)
	signed = binary.LittleEndian.AppendUint32(signed, KeyAttributes)
	signed = append(append(signed, stamp...), list...)
	signature, err := by.sign(contentInfo{Type: oidData}, signed, false)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the variable %s: %w", name, err)
	}
	out := stamp
	out = binary.LittleEndian.AppendUint32(out, uint32(24+len(signature)))
	out = append(out, 0x00, 0x02, 0xf1, 0x0e) // WIN_CERT_TYPE_EFI_GUID, revision 2.0
	out = append(append(out, certPKCS7[:]...), signature...)
	return append(out, list...), nil
}
