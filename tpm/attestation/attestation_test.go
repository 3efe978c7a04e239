package attestation_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"os/exec"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/tpm/attestation"
	"github.com/vitalgate/vitalgate/tpm/tpmtest"
)

var nonce = bytes.Repeat([]byte{7}, 32)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func selfSigned(t testing.TB) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	return der
}

func TestEndorsementCertificateQuirks(t *testing.T) {
	cert := selfSigned(t)
	for name, data := range map[string][]byte{
		"alone":       cert,
		"padded ff":   append(bytes.Clone(cert), bytes.Repeat([]byte{0xff}, 300)...),
		"padded 00":   append(bytes.Clone(cert), make([]byte, 300)...),
		"1.2 header":  append([]byte{0x10, 0x01, 0x00, byte(len(cert) >> 8), byte(len(cert))}, cert...),
		"header, pad": append(append([]byte{0x10, 0x01, 0x00, byte(len(cert) >> 8), byte(len(cert))}, cert...), 0xff, 0xff),
	} {
		c, err := attestation.ParseEndorsementCertificate(data)
		if err != nil || !bytes.Equal(c.Raw, cert) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, data := range map[string][]byte{
		"nothing":        nil,
		"only padding":   bytes.Repeat([]byte{0xff}, 100),
		"cut short":      cert[:len(cert)-1],
		"something else": append(bytes.Clone(cert), 1, 2, 3),
	} {
		if _, err := attestation.ParseEndorsementCertificate(data); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func FuzzParseEndorsementCertificate(f *testing.F) {
	cert := selfSigned(f)
	f.Add(cert)
	f.Add(append([]byte{0x10, 0x01, 0x00, 0, 0}, cert...))
	f.Add([]byte{0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := attestation.ParseEndorsementCertificate(data)
		if (c == nil) == (err == nil) {
			t.Fatal("neither a certificate nor an error")
		}
	})
}

// What a lying box sends to those who verify it.
func FuzzVerify(f *testing.F) {
	f.Add([]byte{0, 0x23, 0, 0x0b}, []byte("\xffTCG\x80\x17"), []byte{0x30, 6, 2, 1, 1, 2, 1, 1})
	if _, err := exec.LookPath("swtpm"); err == nil {
		x := tpmtest.Open(f)
		a, err := x.Attestor()
		must(f, err)
		s, err := a.CertifyData(f.Context(), nonce)
		must(f, err)
		f.Add(a.Areas().LAK, s.Attest, s.Signature)
		f.Add(a.Areas().Data, s.Attest, s.Signature)
		keys, err := a.EndorsementKeys(f.Context())
		must(f, err)
		f.Add(keys[0].Area, s.Attest, s.Signature)
	}
	f.Fuzz(func(t *testing.T, area, attest, sig []byte) {
		attestation.DecodeAttest(attest)
		if lak, err := attestation.ParseLAK(area); err == nil {
			s := attestation.Statement{Attest: attest, Signature: sig}
			lak.Certified(s, nonce, area)
			lak.Quoted(s, nonce, attestation.PCRs{0: make([]byte, 32)})
			lak.Counted(s, nonce)
			(attestation.EndorsementKey{Area: area}).Challenge(lak)
		}
		ek := attestation.EndorsementKey{Area: area, Certificate: attest}
		ek.Verify(attestation.Authorities{}, time.Now())
		ek.Challenge(&attestation.LAK{})
	})
}
