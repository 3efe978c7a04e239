package tpm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
	"github.com/vitalgate/vitalgate/tpm/tpmtest"
)

func attestor(t testing.TB, x *tpm.TPM) (*tpm.Attestor, *attestation.LAK) {
	t.Helper()
	a, err := x.Attestor()
	must(t, err)
	lak, err := attestation.ParseLAK(a.Areas().LAK)
	must(t, err)
	return a, lak
}

var nonce = bytes.Repeat([]byte{7}, 32)

func refused(t *testing.T, err error, why string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("want a refusal for %q, got %v", why, err)
	}
}

func TestCertifiedKeys(t *testing.T) {
	x, other := tpmtest.Open(t), tpmtest.Open(t)
	a, lak := attestor(t, x)
	b, stranger := attestor(t, other)
	areas := a.Areas()

	data, err := a.CertifyData(t.Context(), nonce)
	must(t, err)
	got, e, err := lak.Certified(data, nonce, areas.Data)
	must(t, err)
	if !got.Public().Equal(x.Data().Public()) {
		t.Fatal("certified is not the key that signs")
	}
	if e.Resets != x.Boot().Resets || e.Restarts != x.Boot().Restarts {
		t.Fatalf("the statement has %+v, the box says %+v: the LAK is not in the endorsement hierarchy", e, x.Boot())
	}
	client, err := a.CertifyTLS(t.Context(), nonce)
	must(t, err)
	got, _, err = lak.Certified(client, nonce, areas.TLS)
	must(t, err)
	if !got.Public().Equal(x.TLS().Public()) {
		t.Fatal("certified is not the TLS key")
	}

	_, _, err = lak.Certified(client, nonce, areas.Data)
	refused(t, err, "another key")
	_, _, err = lak.Certified(data, nonce, b.Areas().Data)
	refused(t, err, "another key")
	_, _, err = lak.Certified(data, nonce[1:], areas.Data)
	refused(t, err, "another question")
	_, _, err = stranger.Certified(data, nonce, areas.Data)
	refused(t, err, "not the attestation key's")
	_, _, err = lak.Certified(data, nonce, areas.LAK)
	refused(t, err, "other attributes")
	counter, err := a.CertifyCounter(t.Context(), nonce)
	must(t, err)
	_, _, err = lak.Certified(counter, nonce, areas.Data)
	refused(t, err, "another kind")
	for i := range areas.Data { // an area with weaker attributes, another key, another scheme
		bad := bytes.Clone(areas.Data)
		bad[i] ^= 1
		if _, _, err := lak.Certified(data, nonce, bad); err == nil {
			t.Errorf("accepted with byte %d of the public area changed", i)
		}
	}
	for i := range data.Attest {
		bad := attestation.Statement{Attest: bytes.Clone(data.Attest), Signature: data.Signature}
		bad.Attest[i] ^= 1
		if _, _, err := lak.Certified(bad, nonce, areas.Data); err == nil {
			t.Errorf("accepted with byte %d of the statement changed", i)
		}
	}
}

// The data key signs any digest, so it will sign a forged statement. Nobody may take that for the LAK's word.
func TestForgedStatement(t *testing.T) {
	x := tpmtest.Open(t)
	a, _ := attestor(t, x)
	_, err := attestation.ParseLAK(a.Areas().Data)
	refused(t, err, "other attributes")
	for i := range a.Areas().LAK {
		bad := a.Areas().LAK
		bad[i] ^= 1
		if _, err := attestation.ParseLAK(bad); err == nil {
			t.Errorf("a LAK with byte %d of its public area changed is accepted", i)
		}
	}
}

func TestCountedBoots(t *testing.T) {
	dir := tpmtest.Dir(t)
	var last uint64
	for range 3 {
		x := open(t, "swtpm", dir)
		a, lak := attestor(t, x)
		s, err := a.CertifyCounter(t.Context(), nonce)
		must(t, err)
		n, _, err := lak.Counted(s, nonce)
		must(t, err)
		if n != x.Boot().Counter || n <= last {
			t.Fatalf("the TPM counts %d, the box says %d, before it was %d", n, x.Boot().Counter, last)
		}
		last = n
		_, _, err = lak.Counted(s, nil)
		refused(t, err, "another question")
		data, err := a.CertifyData(t.Context(), nonce)
		must(t, err)
		_, _, err = lak.Counted(data, nonce)
		refused(t, err, "another kind")
		stop(t, x)
	}
}

func TestQuotedPCRs(t *testing.T) {
	x := tpmtest.Open(t)
	a, lak := attestor(t, x)
	numbers := []uint{11, 0, 1, 2, 3, 4, 5, 6, 7, 9, 23}
	s, values, err := a.Quote(t.Context(), nonce, numbers...)
	must(t, err)
	if len(values) != len(numbers) {
		t.Fatalf("%d values for %d PCRs", len(values), len(numbers))
	}
	_, err = lak.Quoted(s, nonce, values)
	must(t, err)
	_, err = lak.Quoted(s, nil, values)
	refused(t, err, "another question")
	values[7][0] ^= 1
	_, err = lak.Quoted(s, nonce, values)
	refused(t, err, "other values")
	values[7] = values[7][1:]
	_, err = lak.Quoted(s, nonce, values)
	refused(t, err, "31 bytes")
	delete(values, 7)
	_, err = lak.Quoted(s, nonce, values)
	refused(t, err, "other PCRs")
	_, _, err = a.Quote(t.Context(), nonce, 24)
	refused(t, err, "no PCR 24")
}

func TestStatementsSurviveADeadSwtpm(t *testing.T) {
	x := tpmtest.Open(t)
	a, lak := attestor(t, x)
	x.Kill(syscall.SIGKILL)
	s, err := a.CertifyData(t.Context(), nonce)
	must(t, err)
	_, e, err := lak.Certified(s, nonce, a.Areas().Data)
	must(t, err)
	if e.Resets != x.Boot().Resets {
		t.Fatalf("the statement has %d resets, the box says %d", e.Resets, x.Boot().Resets)
	}
}

func TestSoftwareKeyHasNobodyToVouch(t *testing.T) {
	x := open(t, "software", filepath.Join(t.TempDir(), "tpm"))
	defer stop(t, x)
	if _, err := x.Attestor(); !errors.Is(err, tpm.ErrNoTPM) {
		t.Fatalf("got %v", err)
	}
}

func refusedAs(t *testing.T, err, why error) {
	t.Helper()
	if !errors.Is(err, why) {
		t.Errorf("want a refusal because %v, got %v", why, err)
	}
}

// manufactured is a swtpm with endorsement keys and certificates of its own authority.
func manufactured(t *testing.T) (*tpm.TPM, attestation.Authorities) {
	t.Helper()
	x, trust := tpmtest.Manufactured(t)
	pool := func(file string) *x509.CertPool {
		pem, err := os.ReadFile(filepath.Join(trust, file))
		must(t, err)
		p := x509.NewCertPool()
		if !p.AppendCertsFromPEM(pem) {
			t.Fatalf("no certificate in %s", file)
		}
		return p
	}
	return x, attestation.Authorities{
		Makers:        []attestation.Maker{{Name: "swtpm", Class: attestation.Emulated, Roots: pool("emulators/swtpm.pem")}},
		Intermediates: pool("intermediates/swtpm.pem"),
	}
}

func TestEnrolment(t *testing.T) {
	x, authorities := manufactured(t)
	a, lak := attestor(t, x)
	other := tpmtest.Open(t)
	b, stranger := attestor(t, other)

	strangers := x509.NewCertPool()
	c, err := x509.ParseCertificate(selfSigned(t))
	must(t, err)
	strangers.AddCert(c)

	keys, err := a.EndorsementKeys(t.Context())
	must(t, err)
	if len(keys) != 2 {
		t.Fatalf("%d endorsement keys, swtpm has an RSA-2048 and a P-384 one", len(keys))
	}
	for _, key := range keys {
		wire, err := json.Marshal(key) // as it travels in a file
		must(t, err)
		var ek attestation.EndorsementKey
		must(t, json.Unmarshal(wire, &ek))
		chip, err := ek.Verify(authorities, time.Now())
		must(t, err)
		if chip.Class != tpm.Emulated || chip.Maker != "swtpm" || chip.Manufacturer != "id:00001014" || chip.Model != "swtpm" {
			t.Fatalf("the chip is %+v", chip)
		}
		challenge, secret, err := ek.Challenge(lak)
		must(t, err)
		answer, err := a.Activate(t.Context(), ek, challenge)
		must(t, err)
		if !bytes.Equal(answer, secret) {
			t.Fatal("the TPM read another secret")
		}

		_, err = attestation.EndorsementKey{Area: ek.Area}.Verify(authorities, time.Now())
		refusedAs(t, err, attestation.ErrNoCertificate)
		swapped := attestation.EndorsementKey{Area: ek.Area, Certificate: keys[0].Certificate}
		if bytes.Equal(ek.Certificate, keys[0].Certificate) {
			swapped.Certificate = keys[1].Certificate
		}
		_, err = swapped.Verify(authorities, time.Now())
		refusedAs(t, err, attestation.ErrOtherKey)
		_, err = ek.Verify(attestation.Authorities{Makers: []attestation.Maker{{Class: tpm.Hardware, Roots: strangers}}, Intermediates: authorities.Intermediates}, time.Now())
		refusedAs(t, err, attestation.ErrUnknownMaker)
		_, err = ek.Verify(attestation.Authorities{}, time.Now())
		refusedAs(t, err, attestation.ErrUnknownMaker)
		_, err = ek.Verify(authorities, time.Now().AddDate(-10, 0, 0))
		refused(t, err, "not yet valid")
		another := authorities.Makers[0]
		another.IDs = []string{"id:49465800"}
		_, err = ek.Verify(attestation.Authorities{Makers: []attestation.Maker{another}, Intermediates: authorities.Intermediates}, time.Now())
		refusedAs(t, err, attestation.ErrOtherMaker)

		// A box that shows this TPM's certificate but another TPM's keys cannot answer.
		challenge, _, err = ek.Challenge(stranger)
		must(t, err)
		if _, err := a.Activate(t.Context(), ek, challenge); err == nil {
			t.Fatal("the TPM answered a challenge for another attestation key")
		}
		if _, err := b.Activate(t.Context(), ek, challenge); err == nil || !strings.Contains(err.Error(), "another TPM") {
			t.Fatalf("another TPM and the challenge for this one: %v", err)
		}
		challenge.Credential[0] ^= 1
		if _, err := a.Activate(t.Context(), ek, challenge); err == nil {
			t.Fatal("the TPM answered a changed challenge")
		}
	}
	signs(t, x.Data()) // and all that refusing has not harmed the box
}

func TestEndorsementKeyWithoutCertificate(t *testing.T) {
	x := tpmtest.Open(t)
	a, lak := attestor(t, x)
	keys, err := a.EndorsementKeys(t.Context())
	must(t, err)
	if len(keys) != 1 || keys[0].Certificate != nil {
		t.Fatalf("%d keys", len(keys))
	}
	challenge, secret, err := keys[0].Challenge(lak) // it can still answer: an authority may know the key itself
	must(t, err)
	answer, err := a.Activate(t.Context(), keys[0], challenge)
	must(t, err)
	if !bytes.Equal(answer, secret) {
		t.Fatal("the TPM read another secret")
	}
}

// The templates must give the very keys the maker has certified, on a chip that does not keep them in place.
func TestEndorsementTemplates(t *testing.T) {
	x, _ := manufactured(t)
	a, _ := attestor(t, x)
	kept, err := a.EndorsementKeys(t.Context())
	must(t, err)
	must(t, x.EvictEndorsementKeys())
	made, err := a.EndorsementKeys(t.Context())
	must(t, err)
	if !slices.EqualFunc(kept, made, func(a, b attestation.EndorsementKey) bool {
		return bytes.Equal(a.Area, b.Area) && bytes.Equal(a.Certificate, b.Certificate)
	}) {
		t.Fatalf("kept %d keys, made %d other ones", len(kept), len(made))
	}
}

func selfSigned(t testing.TB) []byte {
	x := open(t, "software", filepath.Join(t.TempDir(), "ca"))
	defer stop(t, x)
	tmpl := &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}
	return certificate(t, tmpl, tmpl, x.Data().Public(), x.Data()).Raw
}

// The maker of a box has made an attestation key in its TPM and certified it: that stands in for the maker of the chip.
func TestInitialKey(t *testing.T) {
	x := tpmtest.Open(t)
	a, lak := attestor(t, x)
	if k, err := a.InitialKey(t.Context()); k != nil || err != nil {
		t.Fatalf("a new TPM has the initial key %v, %v", k, err)
	}
	authority := open(t, "software", filepath.Join(t.TempDir(), "ca"))
	defer stop(t, authority)
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: "box maker"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	root := certificate(t, ca, ca, authority.Data().Public(), authority.Data())
	must(t, x.Deliver(t.Context(), func(public *ecdsa.PublicKey) []byte {
		return certificate(t, &x509.Certificate{NotAfter: time.Now().Add(time.Hour), Policies: []x509.OID{verifiedRestricted(t)}}, root, public, authority.Data()).Raw
	}))
	k, err := a.InitialKey(t.Context())
	must(t, err)
	if k == nil {
		t.Fatal("the initial key is not found")
	}
	makers := attestation.Authorities{Makers: []attestation.Maker{{Name: "box maker", Class: tpm.Hardware, Roots: x509.NewCertPool()}}}
	makers.Makers[0].Roots.AddCert(root)
	initial, chip, err := k.Verify(makers, time.Now())
	must(t, err)
	if chip.Class != tpm.Hardware || chip.Maker != "box maker" {
		t.Errorf("the chip is %+v", chip)
	}
	s, err := a.CertifyLAK(t.Context(), nonce)
	must(t, err)
	must(t, initial.Vouches(s, nonce, a.Areas().LAK))
	refused(t, initial.Vouches(s, nonce[1:], a.Areas().LAK), "another question")
	refused(t, lak.Vouches(s, nonce, a.Areas().LAK), "not the attestation key's")
	refused(t, initial.Vouches(s, nonce, a.Areas().Data), "other attributes")

	_, _, err = k.Verify(attestation.Authorities{}, time.Now())
	refusedAs(t, err, attestation.ErrUnknownMaker)
	plain := *k
	plain.Certificate = certificate(t, &x509.Certificate{NotAfter: time.Now().Add(time.Hour)}, root, initial.Public(), authority.Data()).Raw
	_, _, err = plain.Verify(makers, time.Now())
	refusedAs(t, err, attestation.ErrNotInitial)
	plain.Area = a.Areas().LAK
	plain.Certificate = k.Certificate
	_, _, err = plain.Verify(makers, time.Now())
	refusedAs(t, err, attestation.ErrOtherKey)
}

// verifiedRestricted is tcg-cap-verifiedTPMRestricted.
func verifiedRestricted(t *testing.T) x509.OID {
	oid, err := x509.ParseOID("2.23.133.11.1.3")
	must(t, err)
	return oid
}

func BenchmarkCertifyCounter(b *testing.B) {
	a, _ := attestor(b, tpmtest.Open(b))
	for b.Loop() {
		if _, err := a.CertifyCounter(b.Context(), nonce); err != nil {
			b.Fatal(err)
		}
	}
}
