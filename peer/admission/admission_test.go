package admission_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/vitalgate/vitalgate/firmware/enrol"
	"github.com/vitalgate/vitalgate/peer/admission"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
	"github.com/vitalgate/vitalgate/tpm/tpmtest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// box is the box that wants in: a real TPM, asked by the code that the box runs.
type box struct {
	id  record.BoxID
	tpm *tpm.TPM
	dir string
}

func newBox(t testing.TB, name string, x *tpm.TPM) box {
	return box{record.BoxID{Facility: "f1", Name: name}, x, t.TempDir()}
}

func (b box) request(t testing.TB) *enrolment.Request {
	t.Helper()
	r, err := enrol.Request(t.Context(), b.id, b.tpm, b.dir)
	must(t, err)
	return carried(t, r)
}

func (b box) answer(t testing.TB, q *attestation.Question) *attestation.Answer {
	t.Helper()
	a, err := enrol.Answer(t.Context(), *q, b.id, b.tpm, b.dir)
	must(t, err)
	return carried(t, a)
}

// carried is v after a way through a file.
func carried[T any](t testing.TB, v *T) *T {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file.json")
	must(t, enrolment.Write(path, v))
	var out T
	must(t, enrolment.Read(path, "file of a test", &out))
	return &out
}

func desk(t testing.TB, trust string) admission.Desk {
	t.Helper()
	tr, err := admission.LoadTrust(trust)
	must(t, err)
	return admission.Desk{Dir: filepath.Join(t.TempDir(), "questions"), Trust: tr}
}

func refused(t testing.TB, err error, why admission.Reason) {
	t.Helper()
	var r *admission.Refusal
	if !errors.As(err, &r) || r.Reason != why {
		t.Errorf("want a refusal for %q, got %v", why, err)
	}
}

func TestABoxIsAdmittedByItsTPM(t *testing.T) {
	x, trust := tpmtest.Manufactured(t)
	b, d := newBox(t, "gw1", x), desk(t, trust)
	r := b.request(t)
	q, err := d.Ask(r)
	must(t, err)
	q = carried(t, q)
	a := b.answer(t, q)

	files, err := filepath.Glob(filepath.Join(d.Dir, "*"))
	must(t, err)
	if len(files) != 1 {
		t.Fatalf("%v", files)
	}
	if st, err := os.Stat(files[0]); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("others may read the secret of the question: %v %v", st.Mode(), err)
	}

	// Everything the box says is signed by its TPM, or compared: no byte of it may differ.
	text, err := json.Marshal(a)
	must(t, err)
	for i := 0; i < len(text); i += 11 {
		bad := bytes.Clone(text)
		bad[i] ^= 1
		var changed attestation.Answer
		if json.Unmarshal(bad, &changed) != nil {
			continue
		}
		if again, err := json.Marshal(&changed); err == nil && bytes.Equal(again, text) {
			continue // the change has no meaning, such as the case of a name
		}
		_, err := d.Admit(r, &changed)
		var refusal *admission.Refusal
		if !errors.As(err, &refusal) {
			t.Fatalf("byte %d of the answer changed (%s): %v", i, bad[max(0, i-20):min(len(bad), i+20)], err)
		}
	}

	v, err := d.Admit(r, a)
	must(t, err)
	if v.Chip.Class != attestation.Emulated || v.Chip.Maker != "swtpm" || v.Counter != x.Boot().Counter || len(v.Fingerprint) != 64 || len(v.Policy) != 0 {
		t.Errorf("the verdict is %+v", v)
	}
	lak, err := attestation.ParseLAK(v.LAK) // what the registry keeps checks what the box says later
	must(t, err)
	later, err := x.Attestor()
	must(t, err)
	s, err := later.CertifyCounter(t.Context(), []byte("a boot"))
	must(t, err)
	_, _, err = lak.Counted(s, []byte("a boot"))
	must(t, err)

	_, err = d.Admit(r, a) // the decision was put off: the answer is good still
	must(t, err)
	must(t, d.Forget(r.Box))
	_, err = d.Admit(r, a) // the same answer again
	refused(t, err, admission.NotAsked)
	q2, err := d.Ask(r)
	must(t, err)
	_, err = d.Admit(r, a) // and to a new question
	refused(t, err, admission.OtherQuestion)
	_, err = d.Admit(r, b.answer(t, q2))
	must(t, err)
}

func TestWhoIsNotAdmitted(t *testing.T) {
	x, trust := tpmtest.Manufactured(t)
	other := tpmtest.Open(t) // a TPM that nobody vouches for
	honest, liar := newBox(t, "gw1", x), newBox(t, "gw1", other)
	r, lie := honest.request(t), liar.request(t)
	d := desk(t, trust)

	t.Run("a box without a TPM", func(t *testing.T) {
		soft, err := tpm.Open(t.Context(), tpm.Options{Source: "software", Dir: t.TempDir()})
		must(t, err)
		defer soft.Close()
		_, err = d.Ask(newBox(t, "gw1", soft).request(t))
		refused(t, err, admission.NoTPM)
	})
	t.Run("a TPM without a certificate", func(t *testing.T) {
		_, err := d.Ask(lie)
		refused(t, err, admission.NoCertificate)
		if !strings.Contains(err.Error(), "Intel at https://") {
			t.Errorf("it does not say where a certificate could be: %v", err)
		}
	})
	t.Run("the certificate of another TPM", func(t *testing.T) {
		theirs, ours := shown(t, lie), shown(t, r)
		theirs.Endorsements[0].Certificate = ours.Endorsements[0].Certificate
		_, err := d.Ask(showing(t, lie, theirs))
		refused(t, err, admission.OtherKey)
	})
	t.Run("a maker that nobody trusts", func(t *testing.T) {
		_, err := desk(t, t.TempDir()).Ask(r)
		refused(t, err, admission.UnknownMaker)
	})
	t.Run("a certificate of a trusted root that is for a web server", func(t *testing.T) {
		maker := newAuthority(t)
		_, err := trusting(t, maker, "makers").Ask(lie, maker.certify(t, shown(t, lie).Endorsements[0], nil, name("id:49465800")))
		refused(t, err, admission.NotEndorsement)
	})
	t.Run("a certificate that names no chip", func(t *testing.T) {
		maker := newAuthority(t)
		_, err := trusting(t, maker, "makers").Ask(lie, maker.certify(t, shown(t, lie).Endorsements[0], endorsement, nil))
		refused(t, err, admission.NotEndorsement)
	})
	t.Run("a certificate that names another maker's chip", func(t *testing.T) {
		maker := newAuthority(t)
		d := trusting(t, maker, "makers")
		d.Trust.Chips.Makers[len(d.Trust.Chips.Makers)-1].IDs = []string{"id:4E544300"}
		cert := maker.certify(t, shown(t, lie).Endorsements[0], endorsement, name("id:49465800"))
		_, err := d.Ask(lie, cert)
		refused(t, err, admission.OtherMaker)
		d.Trust.Chips.Makers[len(d.Trust.Chips.Makers)-1].IDs = []string{"id:49465800"}
		q, err := d.Ask(lie, cert) // and with the right one it is hardware: the root decides, not the box
		must(t, err)
		v, err := d.Admit(lie, liar.answer(t, q), cert)
		must(t, err)
		if v.Chip.Class != attestation.Hardware || v.Chip.Manufacturer != "id:49465800" {
			t.Errorf("the verdict is %+v", v)
		}
	})
	t.Run("an attestation key that signs anything", func(t *testing.T) {
		p := shown(t, r)
		p.Areas.LAK = p.Areas.Data
		_, err := d.Ask(showing(t, r, p))
		refused(t, err, admission.AttestationKey)
	})
	t.Run("an answer to nothing", func(t *testing.T) {
		q, err := desk(t, trust).Ask(r)
		must(t, err)
		_, err = desk(t, trust).Admit(r, honest.answer(t, q))
		refused(t, err, admission.NotAsked)
	})
	t.Run("an answer that comes too late", func(t *testing.T) {
		d := desk(t, trust)
		q, err := d.Ask(r)
		must(t, err)
		a := honest.answer(t, q)
		d.Now = func() time.Time { return time.Now().Add(admission.Patience + time.Minute) }
		_, err = d.Admit(r, a)
		refused(t, err, admission.Expired)
	})
	t.Run("a request that was changed after the question", func(t *testing.T) {
		d := desk(t, trust)
		q, err := d.Ask(r)
		must(t, err)
		changed := *r
		changed.NKey = lie.NKey // a network credential of somebody else, with this box's keys
		_, err = d.Admit(&changed, honest.answer(t, q))
		refused(t, err, admission.OtherRequest)
	})
	t.Run("a question that binds this box to what another one asked", func(t *testing.T) {
		changed := *r
		changed.NKey = lie.NKey
		q, err := desk(t, trust).Ask(&changed)
		must(t, err)
		if _, err := enrol.Answer(t.Context(), *q, honest.id, x, honest.dir); err == nil {
			t.Error("the box has answered about a request that is not its own")
		}
	})
	t.Run("an answer of another version", func(t *testing.T) {
		d := desk(t, trust)
		q, err := d.Ask(r)
		must(t, err)
		a := honest.answer(t, q)
		a.Version++
		_, err = d.Admit(r, a)
		refused(t, err, admission.UnreadableAnswer)
	})

	// From here on a box lies in its answer: it shows the TPM of another box, or keys that lie elsewhere.
	answers := func(t *testing.T, r *enrolment.Request, lie func(q *attestation.Question, a *attestation.Answer)) error {
		t.Helper()
		d := desk(t, trust)
		q, err := d.Ask(r)
		must(t, err)
		att, err := x.Attestor()
		must(t, err)
		a, err := att.Answer(t.Context(), *q)
		must(t, err)
		lie(q, a)
		_, err = d.Admit(r, a)
		return err
	}
	nothing := func(*attestation.Question, *attestation.Answer) {}
	t.Run("another box's TPM is shown with keys of one's own", func(t *testing.T) {
		p := shown(t, lie)
		p.Endorsements = shown(t, r).Endorsements
		forged := showing(t, lie, p)
		d := desk(t, trust)
		q, err := d.Ask(forged)
		must(t, err)
		att, err := other.Attestor()
		must(t, err)
		if _, err := att.Answer(t.Context(), *q); err == nil {
			t.Fatal("the TPM has read a secret that is for another")
		}
		_, err = d.Admit(forged, &attestation.Answer{Version: attestation.QuestionVersion, Box: q.Box, Nonce: q.Nonce, Secret: make([]byte, 32)})
		refused(t, err, admission.WrongSecret)
	})
	t.Run("a key of the log in a file", func(t *testing.T) {
		forged := *r
		public, err := enrolment.FormatKey(&newKey(t).PublicKey)
		must(t, err)
		forged.DataKey = public
		refused(t, answers(t, &forged, nothing), admission.DataKey)
	})
	t.Run("a key of the log that the TPM has not certified", func(t *testing.T) {
		p := shown(t, r)
		p.Areas.Data = shown(t, lie).Areas.Data
		forged := *showing(t, r, p)
		forged.DataKey = lie.DataKey
		refused(t, answers(t, &forged, nothing), admission.DataKey)
	})
	t.Run("a key of the log that does not sign", func(t *testing.T) {
		refused(t, answers(t, r, func(_ *attestation.Question, a *attestation.Answer) { a.Proof = a.Data.Signature }), admission.DataKey)
	})
	t.Run("a certified key of an earlier question", func(t *testing.T) {
		att, err := x.Attestor()
		must(t, err)
		old, err := att.CertifyData(t.Context(), make([]byte, 32))
		must(t, err)
		refused(t, answers(t, r, func(_ *attestation.Question, a *attestation.Answer) { a.Data = old }), admission.DataKey)
	})
	t.Run("a key of the connection in a file", func(t *testing.T) {
		forged := *r
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "f1/gw1"}}, newKey(t))
		must(t, err)
		forged.TLSRequest = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}))
		refused(t, answers(t, &forged, nothing), admission.TLSKey)
	})
	t.Run("firmware that says it is another", func(t *testing.T) {
		refused(t, answers(t, r, func(_ *attestation.Question, a *attestation.Answer) {
			a.PCRs = maps.Clone(a.PCRs)
			a.PCRs[attestation.FirmwarePCR] = bytes.Repeat([]byte{1}, 32)
		}), admission.Quote)
	})
	t.Run("firmware that is silent of a PCR", func(t *testing.T) {
		refused(t, answers(t, r, func(_ *attestation.Question, a *attestation.Answer) { delete(a.PCRs, attestation.SecureBootPCR) }), admission.Quote)
	})
	t.Run("a statement in the place of another", func(t *testing.T) {
		refused(t, answers(t, r, func(_ *attestation.Question, a *attestation.Answer) { a.Counter = a.Quote }), admission.Counter)
	})
	must(t, answers(t, r, nothing)) // and the truth is admitted
}

// The keys of a box must be bound to firmware that this facility knows to be released, in a secure boot state it expects.
func TestTheFirmwareOfABoxIsTheFacilitysToJudge(t *testing.T) {
	release, other := newKey(t), newKey(t)
	firmware, err := attestation.Approve(release, attestation.Extend(make([]byte, 32), []byte("release 1")))
	must(t, err)
	dir := tpmtest.Dir(t)
	x, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: dir, Firmware: firmware})
	must(t, err)
	defer x.Close()
	a, err := x.Attestor()
	must(t, err)
	binding := bytes.Repeat([]byte{1}, 32)
	lak, err := attestation.ParseLAK(a.Areas().LAK)
	must(t, err)
	s, err := a.CertifyData(t.Context(), binding)
	must(t, err)
	key, _, err := lak.Certified(s, binding, a.Areas().Data)
	must(t, err)
	_, pcrs, err := a.Quote(t.Context(), binding, attestation.SecureBootPCR)
	must(t, err)
	state := hex.EncodeToString(pcrs[attestation.SecureBootPCR])

	free := []byte(nil) // what a key that signs under any firmware is bound to
	for name, c := range map[string]struct {
		releases map[string]string
		policy   []byte
		want     admission.Reason // "" admits
	}{
		"bound to the release":                 {map[string]string{"ours.pem": public(t, release)}, key.Policy(), ""},
		"in the state that is expected":        {map[string]string{"ours.pem": public(t, release), "ours.pcr7": "# UEFI of the factory\n" + state + "\n"}, key.Policy(), ""},
		"one of two releases":                  {map[string]string{"a.pem": public(t, other), "ours.pem": public(t, release)}, key.Policy(), ""},
		"no release, no policy":                {nil, free, ""},
		"another secure boot state":            {map[string]string{"ours.pem": public(t, release), "ours.pcr7": hex.EncodeToString(binding)}, key.Policy(), admission.SecureBoot},
		"bound to the release of somebody":     {map[string]string{"ours.pem": public(t, other)}, key.Policy(), admission.FirmwarePolicy},
		"bound to nothing though it must be":   {map[string]string{"ours.pem": public(t, release)}, free, admission.FirmwarePolicy},
		"bound to something nobody here knows": {nil, key.Policy(), admission.FirmwarePolicy},
	} {
		t.Run(name, func(t *testing.T) {
			trust := t.TempDir()
			must(t, os.MkdirAll(filepath.Join(trust, "releases"), 0o700))
			for file, text := range c.releases {
				must(t, os.WriteFile(filepath.Join(trust, "releases", file), []byte(text), 0o600))
			}
			tr, err := admission.LoadTrust(trust)
			must(t, err)
			got, err := tr.Policy(pcrs, c.policy, c.policy)
			if c.want == "" {
				must(t, err)
				if !bytes.Equal(got, c.policy) {
					t.Errorf("the policy is %x", got)
				}
				return
			}
			if admission.ReasonOf(err) != c.want {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
	tr, err := admission.LoadTrust(t.TempDir())
	must(t, err)
	if _, err := tr.Policy(pcrs, free, key.Policy()); admission.ReasonOf(err) != admission.FirmwarePolicy {
		t.Errorf("keys under different policies: %v", err)
	}
}

// The whole way with keys that are bound to a release: the facility computes what they must be bound to, and compares.
func TestABoxUnderReleasedFirmware(t *testing.T) {
	release := newKey(t)
	selection, err := attestation.SelectPCRs(attestation.FirmwarePCR)
	must(t, err)
	zero := sha256.Sum256(make([]byte, 32)) // an emulator has measured nothing
	calc, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	must(t, err)
	must(t, tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: zero[:]}, Pcrs: selection}.Update(calc))
	approved := attestation.Approval{Purpose: attestation.Identity, Policy: calc.Hash().Digest}
	digest := sha256.Sum256(append(bytes.Clone(approved.Policy), approved.Purpose...))
	approved.Signature, err = release.Sign(rand.Reader, digest[:], crypto.SHA256)
	must(t, err)
	firmware, err := attestation.NewFirmware(release.Public(), approved)
	must(t, err)
	x, err := tpm.Open(t.Context(), tpm.Options{Source: "swtpm", Dir: tpmtest.Dir(t), Firmware: firmware})
	must(t, err)
	defer x.Close()
	b, maker := newBox(t, "gw1", x), newAuthority(t)
	r := b.request(t)
	cert := maker.certify(t, shown(t, r).Endorsements[0], endorsement, name("id:49465800"))

	admit := func(files map[string]string) (*admission.Verdict, error) {
		d := trusting(t, maker, "makers")
		dir := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dir, "releases"), 0o700))
		for file, text := range files {
			must(t, os.WriteFile(filepath.Join(dir, "releases", file), []byte(text), 0o600))
		}
		tr, err := admission.LoadTrust(dir)
		must(t, err)
		d.Trust.Releases = tr.Releases
		q, err := d.Ask(r, cert)
		must(t, err)
		return d.Admit(r, b.answer(t, q), cert)
	}
	v, err := admit(map[string]string{"ours.pem": public(t, release), "ours.pcr7": hex.EncodeToString(make([]byte, 32))})
	must(t, err)
	if want, err := firmware.IdentityPolicy(make([]byte, 32)); err != nil || !bytes.Equal(v.Policy, want) || v.Chip.Class != attestation.Hardware {
		t.Errorf("the verdict is %+v", v)
	}
	_, err = admit(nil)
	refused(t, err, admission.FirmwarePolicy)
	_, err = admit(map[string]string{"theirs.pem": public(t, newKey(t))})
	refused(t, err, admission.FirmwarePolicy)
	_, err = admit(map[string]string{"ours.pem": public(t, release), "ours.pcr7": hex.EncodeToString(zero[:])})
	refused(t, err, admission.SecureBoot)
}

// The maker of the box stands in for the maker of the chip; the endorsement key still answers, so that the chip has its
// name in the registry and on its deny-list.
func TestABoxIsAdmittedByItsMaker(t *testing.T) {
	x := tpmtest.Open(t) // no certificate of its maker
	b := newBox(t, "gw1", x)
	r := b.request(t)
	maker := newAuthority(t)
	iak := newKey(t) // stands for the key in the TPM: what it says has the same form
	area := initialArea(t, &iak.PublicKey)
	p := shown(t, r)
	p.Initial = &attestation.InitialKey{Area: area, Certificate: maker.certifyInitial(t, &iak.PublicKey)}
	r = showing(t, r, p)
	d := trusting(t, maker, "box-makers")
	att, err := x.Attestor()
	must(t, err)

	answer := func(lak []byte) (*attestation.Answer, error) {
		q, err := d.Ask(r)
		must(t, err)
		a, err := att.Answer(t.Context(), *q)
		must(t, err)
		a.Initial = says(t, iak, lak, q.Binding())
		return a, nil
	}
	a, err := answer(p.Areas.LAK)
	must(t, err)
	v, err := d.Admit(r, a)
	must(t, err)
	ek, err := p.Endorsements[0].Fingerprint()
	must(t, err)
	if v.Chip.Class != attestation.Hardware || v.Chip.Maker != "root" || v.Fingerprint != ek {
		t.Errorf("the verdict is %+v", v)
	}
	a, err = answer(p.Areas.Data)
	must(t, err)
	_, err = d.Admit(r, a)
	refused(t, err, admission.AttestationKey)
	a, err = answer(p.Areas.LAK)
	must(t, err)
	a.Initial = nil
	_, err = d.Admit(r, a)
	refused(t, err, admission.AttestationKey)
	_, err = desk(t, t.TempDir()).Ask(r)
	refused(t, err, admission.NoCertificate)
	p.Endorsements = nil // a box that hides its chip from the deny-list
	_, err = d.Ask(showing(t, r, p))
	refused(t, err, admission.NoCertificate)
}

func TestTrustThatCannotBeUsedIsNamed(t *testing.T) {
	for file, text := range map[string]string{
		"makers/x.pem": "no certificate", "releases/x.pem": "no key", "box-makers/x.pem": "", "intermediates/x.pem": "-----BEGIN",
	} {
		dir := t.TempDir()
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
		if _, err := admission.LoadTrust(dir); err == nil {
			t.Errorf("%s is passed over", file)
		}
	}
}

func shown(t testing.TB, r *enrolment.Request) *attestation.Presentation {
	t.Helper()
	var p attestation.Presentation
	must(t, json.Unmarshal(r.TPM, &p))
	return &p
}

func showing(t testing.TB, r *enrolment.Request, p *attestation.Presentation) *enrolment.Request {
	t.Helper()
	b, err := json.Marshal(p)
	must(t, err)
	out := *r
	out.TPM = b
	return &out
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

func public(t testing.TB, k crypto.Signer) string {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(k.Public())
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
}

// authority is a maker with a root of its own.
type authority struct {
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	k := newKey(t)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	must(t, err)
	c, err = x509.ParseCertificate(der)
	must(t, err)
	return authority{k, c}
}

func trusting(t testing.TB, a authority, as string) admission.Desk {
	t.Helper()
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, as), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, as, "root.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw}), 0o600))
	return desk(t, dir)
}

var endorsement = []asn1.ObjectIdentifier{{2, 23, 133, 8, 1}}

func (a authority) certify(t testing.TB, ek attestation.EndorsementKey, usage []asn1.ObjectIdentifier, san []pkix.Extension) []byte {
	t.Helper()
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.Area)
	must(t, err)
	key, err := tpm2.Pub(*area)
	must(t, err)
	if k, ok := key.(*rsa.PublicKey); ok {
		key = k
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		UnknownExtKeyUsage: usage, ExtraExtensions: san}, a.root, key, a.key)
	must(t, err)
	return der
}

// name is the critical subject alternative name of an endorsement certificate: a directoryName alone.
func name(manufacturer string) []pkix.Extension {
	rdns, _ := asn1.Marshal(pkix.RDNSequence{{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 1}, Value: manufacturer}}, {{Type: asn1.ObjectIdentifier{2, 23, 133, 2, 2}, Value: "SLB 9672"}}})
	san, _ := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: rdns}})
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}}
}

func (a authority) certifyInitial(t testing.TB, k *ecdsa.PublicKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(3), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{2, 23, 133, 8, 3}}}, a.root, k, a.key)
	must(t, err)
	return der
}

func initialArea(t testing.TB, k *ecdsa.PublicKey) []byte {
	t.Helper()
	point, err := k.Bytes()
	must(t, err)
	area := attestation.SigningKey(true, nil)
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
	})
	return tpm2.Marshal(area)
}

// says is TPM2_Certify of the LAK by the initial key.
func says(t testing.TB, iak *ecdsa.PrivateKey, lak, binding []byte) *attestation.Statement {
	t.Helper()
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](lak)
	must(t, err)
	n, err := tpm2.ObjectName(area)
	must(t, err)
	attest := tpm2.Marshal(tpm2.TPMSAttest{Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify, ExtraData: tpm2.TPM2BData{Buffer: binding},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: *n})})
	digest := sha256.Sum256(attest)
	sig, err := ecdsa.SignASN1(rand.Reader, iak, digest[:])
	must(t, err)
	return &attestation.Statement{Attest: attest, Signature: sig}
}

// Whatever a box shows of its TPM, and whatever it answers, is taken or refused with a reason.
func FuzzAsk(f *testing.F) {
	f.Add([]byte(`{"areas":{"lak":"AA=="},"endorsements":[{"area":"AA==","certificate":"MAA="}],"chain":["MAA="],"initial":{"area":"","certificate":""}}`), []byte(`{"version":1}`))
	f.Add([]byte(`null`), []byte(`null`))
	trust, err := admission.LoadTrust(f.TempDir())
	must(f, err)
	d := admission.Desk{Dir: f.TempDir(), Trust: trust}
	f.Fuzz(func(t *testing.T, tpm, answer []byte) {
		if !json.Valid(tpm) {
			return
		}
		r := &enrolment.Request{Box: "f1/gw1", TPM: tpm}
		var why *admission.Refusal
		if _, err := d.Ask(r); err != nil && !errors.As(err, &why) {
			t.Fatal(err)
		}
		var a attestation.Answer
		if json.Unmarshal(answer, &a) != nil {
			return
		}
		if _, err := d.Admit(r, &a); err == nil || !errors.As(err, &why) {
			t.Fatalf("admitted: %v", err)
		}
	})
}
