// Package admission decides for a facility what holds the keys of a box that wants to be enrolled, from what the TPM of the
// box says and never from what the box says. [Desk.Ask] reads a request and asks; [Desk.Admit] reads the answer and gives
// a Verdict, which stands in the registry with the keys. Every refusal has its reason.
package admission

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/durable"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// Reason is why a box is not admitted.
type Reason string

const (
	NoTPM            Reason = "no-tpm"            // the request shows no TPM
	NoCertificate    Reason = "no-certificate"    // nobody vouches for the TPM that is shown
	OtherKey         Reason = "other-key"         // the maker's certificate is for another key
	NotEndorsement   Reason = "not-endorsement"   // the maker's certificate is for something else than a TPM
	UnknownMaker     Reason = "unknown-maker"     // no maker that is trusted here vouches for it
	OtherMaker       Reason = "other-maker"       // the certificate names another maker than its root
	AttestationKey   Reason = "attestation-key"   // the attestation key could leave the TPM, or sign what the TPM has not made
	NotAsked         Reason = "not-asked"         // there is no open question: none was asked, or it was answered before
	Expired          Reason = "expired"           // the question was asked too long ago
	OtherRequest     Reason = "other-request"     // the request is not the one that was asked about
	OtherQuestion    Reason = "other-question"    // the answer is to another question
	WrongSecret      Reason = "wrong-secret"      // the attestation key is not in the TPM that is shown
	DataKey          Reason = "data-key"          // the key of the log is not one of this TPM, or does not sign
	TLSKey           Reason = "tls-key"           // the key of the connection is not one of this TPM
	Quote            Reason = "quote"             // the state of the firmware is not what the TPM says
	Counter          Reason = "counter"           // the boot counter is not what the TPM says
	SecureBoot       Reason = "secure-boot"       // the box was not started under the secure boot keys of its release
	FirmwarePolicy   Reason = "firmware-policy"   // the keys would sign under firmware that nobody has released
	UnreadableAnswer Reason = "unreadable-answer" // it is not an answer
)

// Refusal is a box that is not admitted.
type Refusal struct {
	Reason Reason
	Box    string
	Err    error // what was found, and what to do
}

func (r *Refusal) Error() string {
	step := ""
	if r.Reason == UnknownMaker {
		step = "; if that maker is to be believed, put the certificate of his root into the folder makers of trust/ in the hub's data folder (of an emulator into emulators), and one that stands between into intermediates"
	}
	return fmt.Sprintf("cannot admit box %s (%s): %v%s", r.Box, r.Reason, r.Err, step)
}

func (r *Refusal) Unwrap() error { return r.Err }

// Verdict is what the facility has found of the keys of a box.
type Verdict struct {
	Chip        attestation.Chip // what the maker says; its Class comes from the root that vouches
	Fingerprint string           // of the endorsement key, hex SHA-256 of its SubjectPublicKeyInfo: tells the chip
	LAK         []byte           // public area of the key that vouches for what the box says later
	Policy      []byte           // of the keys: under which firmware they sign; empty: any
	PCRs        attestation.PCRs
	Counter     uint64 // boot counter
	Firmware    uint64 // of the chip, as its maker counts
}

// quoted are the PCRs that the answer tells.
var quoted = attestation.BootPCRs

// open is a question that waits for its answer, in a file of its own.
type open struct {
	Question attestation.Question `json:"question"`
	Secret   []byte               `json:"secret"`
}

// Patience is how long a question may wait for its answer: the sneaker-net is slow.
const Patience = 14 * 24 * time.Hour

// Desk is where a facility asks and admits. Dir keeps the open questions; they hold secrets.
type Desk struct {
	Dir   string
	Trust Trust
	Now   func() time.Time // nil is time.Now
}

func (d Desk) now() time.Time {
	if d.Now == nil {
		return time.Now()
	}
	return d.Now()
}

func (d Desk) path(box record.BoxID) string {
	return filepath.Join(d.Dir, box.Facility+"_"+box.Name+".json") // neither has an underscore
}

// Ask reads what the request shows of the TPM and makes the question about it. An earlier question to the same box is
// forgotten. Certificates are those of endorsement keys that the chip does not keep itself, from the maker's service.
func (d Desk) Ask(r *enrolment.Request, certificates ...[]byte) (*attestation.Question, error) {
	refuse := refusals(r.Box)
	shown, err := presentation(r)
	if err != nil {
		return nil, refuse(NoTPM, err)
	}
	lak, err := attestation.ParseLAK(shown.Areas.LAK)
	if err != nil {
		return nil, refuse(AttestationKey, err)
	}
	for _, c := range certificates {
		shown.Certify(c)
	}
	ek, _, err := d.Trust.endorsement(shown, d.now())
	if err != nil {
		return nil, refuse(reasonOf(err), err)
	}
	digest, err := r.Digest()
	if err != nil {
		return nil, err
	}
	q := attestation.Question{Version: attestation.QuestionVersion, Box: r.Box, Request: digest, Nonce: make([]byte, 32), Endorsement: ek.Area,
		PCRs: quoted, Expires: d.now().Add(Patience).UTC().Truncate(time.Second)}
	rand.Read(q.Nonce) // never fails (crypto/rand)
	var secret []byte
	if q.Challenge, secret, err = ek.Challenge(lak); err != nil {
		return nil, refuse(NotEndorsement, err)
	}
	return &q, d.keep(r, open{q, secret})
}

// Admit reads the answer. Who is admitted was asked before. The question stays open until what was decided of the box stands, so that
// a decision that is put off needs no second way to the box; then comes Forget.
func (d Desk) Admit(r *enrolment.Request, a *attestation.Answer, certificates ...[]byte) (*Verdict, error) {
	refuse := refusals(r.Box)
	id, err := record.ParseBoxID(r.Box)
	if err != nil {
		return nil, err
	}
	asked, err := d.asked(id)
	if err != nil {
		return nil, refuse(NotAsked, err)
	}
	return d.judge(r, asked, a, certificates)
}

// Forget closes the question to a box: its answer is worth nothing any more.
func (d Desk) Forget(box string) error {
	id, err := record.ParseBoxID(box)
	if err != nil {
		return err
	}
	if err := os.Remove(d.path(id)); err != nil {
		return fmt.Errorf("cannot forget the question to box %s: %w", box, err)
	}
	return nil
}

func (d Desk) judge(r *enrolment.Request, asked open, a *attestation.Answer, certificates [][]byte) (*Verdict, error) {
	refuse := refusals(r.Box)
	q := asked.Question
	digest, err := r.Digest()
	if err != nil {
		return nil, err
	}
	switch {
	case a.Version != attestation.QuestionVersion:
		return nil, refuse(UnreadableAnswer, fmt.Errorf("the version of the answer is %d, this program knows %d", a.Version, attestation.QuestionVersion))
	case !bytes.Equal(digest, q.Request):
		return nil, refuse(OtherRequest, errors.New("the request is not the one that was asked about; ask again (vitalpeer box ask)"))
	case a.Box != r.Box || !bytes.Equal(a.Nonce, q.Nonce):
		return nil, refuse(OtherQuestion, fmt.Errorf("the answer is to another question, of box %s; take the answer to the last question", a.Box))
	case d.now().After(q.Expires):
		return nil, refuse(Expired, fmt.Errorf("the question was good until %s; ask again (vitalpeer box ask)", q.Expires.Format(time.DateTime)))
	}
	shown, err := presentation(r)
	if err != nil {
		return nil, refuse(NoTPM, err)
	}
	for _, c := range certificates {
		shown.Certify(c)
	}
	lak, err := attestation.ParseLAK(shown.Areas.LAK)
	if err != nil {
		return nil, refuse(AttestationKey, err)
	}
	ek, chip, err := d.Trust.endorsement(shown, d.now())
	if err != nil {
		return nil, refuse(reasonOf(err), err)
	}
	if !bytes.Equal(ek.Area, q.Endorsement) || subtle.ConstantTimeCompare(a.Secret, asked.Secret) != 1 {
		return nil, refuse(WrongSecret, errors.New("the TPM that is shown has not read the challenge: its attestation key is elsewhere"))
	}
	binding := q.Binding()
	if chip.initial != nil {
		if a.Initial == nil {
			return nil, refuse(AttestationKey, errors.New("the initial attestation key has not certified the one of the box"))
		}
		if err := chip.initial.Vouches(*a.Initial, binding, shown.Areas.LAK); err != nil {
			return nil, refuse(AttestationKey, err)
		}
	}
	v := &Verdict{Chip: chip.Chip, LAK: shown.Areas.LAK, PCRs: a.PCRs}
	if v.Fingerprint, err = ek.Fingerprint(); err != nil {
		return nil, refuse(NotEndorsement, err)
	}
	if err := d.keys(v, r, lak, shown, binding, a); err != nil {
		return nil, err
	}
	return v, nil
}

// keys checks what the attestation key says of the keys of the request and of the firmware.
func (d Desk) keys(v *Verdict, r *enrolment.Request, lak *attestation.LAK, shown *attestation.Presentation, binding []byte, a *attestation.Answer) error {
	refuse := refusals(r.Box)
	data, evidence, err := lak.Certified(a.Data, binding, shown.Areas.Data)
	if err != nil {
		return refuse(DataKey, err)
	}
	v.Firmware = evidence.Firmware
	if asked, err := enrolment.ParseKey(r.DataKey); err != nil || !data.Public().Equal(asked) {
		return refuse(DataKey, errors.New("the key of the log in the request is not the one that the TPM has certified"))
	}
	if !ecdsa.VerifyASN1(data.Public(), binding, a.Proof) {
		return refuse(DataKey, errors.New("the key of the log has not signed"))
	}
	client, _, err := lak.Certified(a.TLS, binding, shown.Areas.TLS)
	if err != nil {
		return refuse(TLSKey, err)
	}
	csr, err := r.CertificateRequest()
	if err != nil {
		return refuse(TLSKey, err)
	}
	if !client.Public().Equal(csr.PublicKey) {
		return refuse(TLSKey, errors.New("the key of the connection in the request is not the one that the TPM has certified"))
	}
	if len(a.PCRs) != len(quoted) {
		return refuse(Quote, fmt.Errorf("%d PCRs were asked for, %d are told", len(quoted), len(a.PCRs)))
	}
	for _, n := range quoted {
		if a.PCRs[n] == nil {
			return refuse(Quote, fmt.Errorf("PCR %d is not told", n))
		}
	}
	if _, err := lak.Quoted(a.Quote, binding, a.PCRs); err != nil {
		return refuse(Quote, err)
	}
	if v.Counter, _, err = lak.Counted(a.Counter, binding); err != nil {
		return refuse(Counter, err)
	}
	if v.Policy, err = d.Trust.policy(a.PCRs, data.Policy(), client.Policy()); err != nil {
		return refuse(reasonOf(err), err)
	}
	return nil
}

func refusals(box string) func(Reason, error) error {
	return func(why Reason, err error) error { return &Refusal{Reason: why, Box: box, Err: err} }
}

// reasonOf names what the parts below have found.
func reasonOf(err error) Reason {
	for _, e := range []struct {
		err    error
		reason Reason
	}{
		{attestation.ErrNoCertificate, NoCertificate},
		{attestation.ErrOtherKey, OtherKey},
		{attestation.ErrNotEndorsement, NotEndorsement},
		{attestation.ErrNotInitial, NotEndorsement},
		{attestation.ErrUnknownMaker, UnknownMaker},
		{attestation.ErrOtherMaker, OtherMaker},
		{errSecureBoot, SecureBoot},
		{errPolicy, FirmwarePolicy},
	} {
		if errors.Is(err, e.err) {
			return e.reason
		}
	}
	return NotEndorsement
}

func presentation(r *enrolment.Request) (*attestation.Presentation, error) {
	if r.TPM == nil {
		return nil, errors.New("the request shows no TPM; such a box can be enrolled on trust only (vitalpeer box add without an answer)")
	}
	var p attestation.Presentation
	if err := json.Unmarshal(r.TPM, &p); err != nil {
		return nil, fmt.Errorf("what the request shows of its TPM cannot be read: %w", err)
	}
	if len(p.Endorsements) > 8 || len(p.Chain) > 16 {
		return nil, errors.New("the request shows more certificates than a TPM has")
	}
	return &p, nil
}

// Chips names every chip that a request shows, proven or not, as a deny-list does. A chip may have several endorsement keys.
func Chips(r *enrolment.Request) (all []string, err error) {
	if r.TPM == nil {
		return nil, nil
	}
	shown, err := presentation(r)
	if err != nil {
		return nil, refusals(r.Box)(NoTPM, err)
	}
	for _, ek := range shown.Endorsements {
		name, err := ek.Fingerprint()
		if err != nil {
			return nil, refusals(r.Box)(NotEndorsement, err)
		}
		all = append(all, name)
	}
	return all, nil
}

// keep writes the question down before anybody hears it.
func (d Desk) keep(r *enrolment.Request, o open) error {
	id, err := record.ParseBoxID(r.Box)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return fmt.Errorf("cannot keep the question: %w", err)
	}
	if err := durable.WriteFile(d.path(id), append(b, '\n')); err != nil {
		return fmt.Errorf("cannot keep the question: %w", err)
	}
	return nil
}

func (d Desk) asked(box record.BoxID) (o open, err error) {
	err = enrolment.Read(d.path(box), "open question", &o)
	if errors.Is(err, fs.ErrNotExist) {
		return o, errors.New("there is no open question to this box: it was answered before, or none was asked (vitalpeer box ask)")
	}
	return o, err
}

// chain is a pool with what the chip keeps of intermediate authorities. A pool of these is believed by no one by itself.
func chain(known *x509.CertPool, shown [][]byte) *x509.CertPool {
	pool := known.Clone()
	for _, der := range shown {
		if c, err := x509.ParseCertificate(der); err == nil {
			pool.AddCert(c)
		}
	}
	return pool
}
