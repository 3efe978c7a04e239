package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// ErrNoTPM is returned where only a TPM can answer: a software key has nobody to vouch for it.
var ErrNoTPM = errors.New("this box has no TPM, its keys are in a file")

// Attestor proves to others what holds the keys. Its statements are checked by package attestation.
// Qualifying data (nonce) is at most 32 bytes.
type Attestor struct{ chip *chip }

// Attestor returns ErrNoTPM for a software key.
func (t *TPM) Attestor() (*Attestor, error) {
	c, ok := t.keeper.(*chip)
	if !ok {
		return nil, ErrNoTPM
	}
	return &Attestor{c}, nil
}

// Areas returns the public areas of the keys.
func (a *Attestor) Areas() attestation.Areas {
	a.chip.mu.Lock()
	defer a.chip.mu.Unlock()
	area := func(name keyName) []byte { return tpm2.Marshal(a.chip.keys[name].area) }
	return attestation.Areas{LAK: area(lakKey), Data: area(dataKey), TLS: area(tlsKey)}
}

// CertifyData says that the data key lives in the same TPM as the LAK (TPM2_Certify, part 3 §18.2).
func (a *Attestor) CertifyData(ctx context.Context, nonce []byte) (attestation.Statement, error) {
	return a.certify(ctx, dataKey, nonce)
}

// CertifyTLS says the same of the TLS key.
func (a *Attestor) CertifyTLS(ctx context.Context, nonce []byte) (attestation.Statement, error) {
	return a.certify(ctx, tlsKey, nonce)
}

func (a *Attestor) certify(ctx context.Context, name keyName, nonce []byte) (s attestation.Statement, err error) {
	c := a.chip
	err = c.do(ctx, "certify the "+string(name)+" key", func(t transport.TPM, session tpm2.Session) error {
		r, err := tpm2.Certify{
			ObjectHandle:   c.keys[name].auth(c.own()),
			SignHandle:     c.keys[lakKey].auth(session),
			QualifyingData: tpm2.TPM2BData{Buffer: nonce},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(t)
		if err != nil {
			return err
		}
		s, err = statement(r.CertifyInfo.Bytes(), &r.Signature)
		return err
	})
	return s, err
}

// What the maker of a box leaves in its TPM (TCG Registry of Reserved TPM 2.0 Handles and Localities).
const (
	initialKey         = tpm2.TPMHandle(0x81020001) // IAK
	initialCertificate = tpm2.TPMHandle(0x01C90100)
)

// InitialKey is the attestation key that the maker of the box has certified, nil where there is none.
func (a *Attestor) InitialKey(ctx context.Context) (initial *attestation.InitialKey, err error) {
	err = a.chip.do(ctx, "read the initial attestation key", func(t transport.TPM, _ tpm2.Session) error {
		k, err := readKey(t, initialKey)
		if errors.Is(err, tpm2.TPMRCHandle) {
			return nil
		}
		if err != nil {
			return err
		}
		data, err := readNV(t, initialCertificate)
		if errors.Is(err, tpm2.TPMRCHandle) {
			return nil
		}
		if err != nil {
			return err
		}
		cert, err := attestation.ParseEndorsementCertificate(data)
		if err != nil {
			a.chip.log.Warn("the certificate of the initial attestation key is passed over", "why", err)
			return nil
		}
		initial = &attestation.InitialKey{Area: tpm2.Marshal(k.area), Certificate: cert.Raw}
		return nil
	})
	return initial, err
}

// CertifyLAK lets the initial attestation key say that the LAK lives in the same TPM.
func (a *Attestor) CertifyLAK(ctx context.Context, nonce []byte) (s attestation.Statement, err error) {
	c := a.chip
	err = c.do(ctx, "certify the attestation key", func(t transport.TPM, _ tpm2.Session) error {
		initial, err := readKey(t, initialKey)
		if err != nil {
			return err
		}
		r, err := tpm2.Certify{
			ObjectHandle:   c.keys[lakKey].auth(c.own()),
			SignHandle:     initial.auth(tpm2.PasswordAuth(nil)),
			QualifyingData: tpm2.TPM2BData{Buffer: nonce},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(t)
		if err != nil {
			return err
		}
		s, err = statement(r.CertifyInfo.Bytes(), &r.Signature)
		return err
	})
	return s, err
}

// Chain are the certificates of intermediate authorities that the chip keeps, as those of Intel do (EK Credential
// Profile §2.2.1.7).
func (a *Attestor) Chain(ctx context.Context) (chain [][]byte, err error) {
	err = a.chip.do(ctx, "read the certificate chain", func(t transport.TPM, _ tpm2.Session) error {
		const first, last = tpm2.TPMHandle(0x01C00100), tpm2.TPMHandle(0x01C001FF)
		var data []byte
		for index := first; index <= last; index++ { // one certificate may go on in the next index
			part, err := readNV(t, index)
			if errors.Is(err, tpm2.TPMRCHandle) {
				break
			}
			if err != nil {
				return err
			}
			data = append(data, part...)
		}
		certs, err := attestation.ParseChain(data)
		if err != nil {
			a.chip.log.Warn("the certificate chain of the TPM is passed over", "why", err)
			return nil
		}
		for _, c := range certs {
			chain = append(chain, c.Raw)
		}
		return nil
	})
	return chain, err
}

// Present is what the box shows of its TPM when it asks to be enrolled. Making endorsement keys can take a minute.
func (a *Attestor) Present(ctx context.Context) (*attestation.Presentation, error) {
	p := &attestation.Presentation{Areas: a.Areas()}
	var err error
	if p.Endorsements, err = a.EndorsementKeys(ctx); err != nil {
		return nil, err
	}
	if p.Chain, err = a.Chain(ctx); err != nil {
		return nil, err
	}
	p.Initial, err = a.InitialKey(ctx)
	return p, err
}

// Answer is what this TPM says to the question of a facility.
func (a *Attestor) Answer(ctx context.Context, q attestation.Question) (*attestation.Answer, error) {
	binding := q.Binding()
	r := &attestation.Answer{Version: attestation.QuestionVersion, Box: q.Box, Nonce: q.Nonce}
	var err error
	if r.Secret, err = a.Activate(ctx, attestation.EndorsementKey{Area: q.Endorsement}, q.Challenge); err != nil {
		return nil, err
	}
	if r.Data, err = a.CertifyData(ctx, binding); err != nil {
		return nil, err
	}
	if r.TLS, err = a.CertifyTLS(ctx, binding); err != nil {
		return nil, err
	}
	initial, err := a.InitialKey(ctx)
	if err != nil {
		return nil, err
	}
	if initial != nil {
		s, err := a.CertifyLAK(ctx, binding)
		if err != nil {
			return nil, err
		}
		r.Initial = &s
	}
	if r.Quote, r.PCRs, err = a.Quote(ctx, binding, q.PCRs...); err != nil {
		return nil, err
	}
	if r.Counter, err = a.CertifyCounter(ctx, binding); err != nil {
		return nil, err
	}
	r.Proof, err = a.chip.signer(dataKey).Sign(nil, binding, crypto.SHA256)
	return r, err
}

// CertifyCounter says the value of the boot counter (TPM2_NV_Certify, part 3 §31.16).
func (a *Attestor) CertifyCounter(ctx context.Context, nonce []byte) (s attestation.Statement, err error) {
	c := a.chip
	err = c.do(ctx, "certify the boot counter", func(t transport.TPM, session tpm2.Session) error {
		name, err := counterName(t)
		if err != nil {
			return err
		}
		r, err := tpm2.NVCertify{
			SignHandle:     c.keys[lakKey].auth(session),
			AuthHandle:     tpm2.AuthHandle{Handle: attestation.CounterHandle, Name: name, Auth: c.own()},
			NVIndex:        tpm2.NamedHandle{Handle: attestation.CounterHandle, Name: name},
			QualifyingData: tpm2.TPM2BData{Buffer: nonce},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			Size:           8,
		}.Execute(t)
		if err != nil {
			return err
		}
		s, err = statement(r.CertifyInfo.Bytes(), &r.Signature)
		return err
	})
	return s, err
}

// Start is what this TPM says of the run it is in, and that run. about makes the qualifying data from it. What is returned has been
// checked as a peer checks it.
func (a *Attestor) Start(ctx context.Context, about func(Boot) ([]byte, error)) (s attestation.Start, run Boot, err error) {
	lak, err := attestation.ParseLAK(a.Areas().LAK)
	if err != nil {
		return s, run, err
	}
	for range 3 { // the TPM may be reset meanwhile: then it says so in the statements
		if _, err := a.chip.clock(); err != nil {
			return s, run, err
		}
		run = a.chip.boot()
		nonce, err := about(run)
		if err != nil {
			return s, run, err
		}
		if s.Quote, s.PCRs, err = a.Quote(ctx, nonce, attestation.BootPCRs...); err != nil {
			return s, run, err
		}
		if s.Counter, err = a.CertifyCounter(ctx, nonce); err != nil {
			return s, run, err
		}
		if _, err = lak.Started(s, nonce, run); err == nil {
			return s, run, nil
		}
		if !errors.Is(err, attestation.ErrCounters) {
			return s, run, fmt.Errorf("cannot attest the start: %w", err)
		}
	}
	return s, run, errors.New("cannot attest the start: the TPM is reset again and again, or others raise its boot counter")
}

// Quote says the values of PCRs (TPM2_Quote, part 3 §18.4) and returns them beside.
func (a *Attestor) Quote(ctx context.Context, nonce []byte, numbers ...uint) (s attestation.Statement, values attestation.PCRs, err error) {
	c := a.chip
	err = c.do(ctx, "quote the PCRs", func(t transport.TPM, session tpm2.Session) error {
		selection, err := attestation.SelectPCRs(numbers...)
		if err != nil {
			return err
		}
		for range 3 { // a PCR may be extended between reading and quoting
			if values, err = readPCRs(t, numbers); err != nil {
				return err
			}
			r, err := tpm2.Quote{
				SignHandle:     c.keys[lakKey].auth(session),
				QualifyingData: tpm2.TPM2BData{Buffer: nonce},
				InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
				PCRSelect:      selection,
			}.Execute(t)
			if err != nil {
				return err
			}
			if s, err = statement(r.Quoted.Bytes(), &r.Signature); err != nil {
				return err
			}
			attest, err := r.Quoted.Contents()
			if err != nil {
				return err
			}
			info, err := attest.Attested.Quote()
			if err != nil {
				return err
			}
			if bytes.Equal(info.PCRDigest.Buffer, values.Digest()) {
				return nil
			}
		}
		return errors.New("the PCRs do not stand still")
	})
	return s, values, err
}

func readPCRs(t transport.TPM, numbers []uint) (attestation.PCRs, error) {
	values := attestation.PCRs{}
	for _, n := range numbers { // one by one: a TPM answers with at most 8 and may leave some for the next call
		selection, err := attestation.SelectPCRs(n)
		if err != nil {
			return nil, err
		}
		r, err := tpm2.PCRRead{PCRSelectionIn: selection}.Execute(t)
		if err != nil {
			return nil, err
		}
		if len(r.PCRValues.Digests) != 1 || len(r.PCRValues.Digests[0].Buffer) != sha256.Size {
			return nil, fmt.Errorf("the TPM has no SHA-256 value of PCR %d; enable the SHA-256 bank in the firmware setup", n)
		}
		values[n] = r.PCRValues.Digests[0].Buffer
	}
	return values, nil
}

// own is a session for one command beside the one that signs.
func (c *chip) own() tpm2.Session {
	return salted(c.keys[srkKey], tpm2.Auth([]byte(c.id.Auth)))
}

func statement(attest []byte, s *tpm2.TPMTSignature) (attestation.Statement, error) {
	sig, err := derSignature(s)
	return attestation.Statement{Attest: attest, Signature: sig}, err
}

// endorsements are the places where makers put the certificates of endorsement keys, best first, and what the keys are
// made from (TCG EK Credential Profile 2.5 §2.2.1.4, §2.2.1.5, annex B).
var endorsements = []struct {
	index    tpm2.TPMHandle
	template tpm2.TPMTPublic
}{
	{0x01C0000A, tpm2.ECCEKTemplate}, // L-2
	{0x01C00014, highRangeECC(tpm2.TPMAlgSHA256, 128, tpm2.TPMECCNistP256, policyB256)}, // H-2
	{0x01C00016, highRangeECC(tpm2.TPMAlgSHA384, 256, tpm2.TPMECCNistP384, policyB384)}, // H-3
	{0x01C00002, tpm2.RSAEKTemplate}, // L-1
	{0x01C00012, highRangeRSA()},     // H-1
}

// PolicyB: PolicySecret(endorsement) or PolicyAuthorizeNV, by name algorithm (EK Credential Profile annex B.6).
const (
	policyB256 = "\xca\x3d\x0a\x99\xa2\xb9\x39\x06\xf7\xa3\x34\x24\x14\xef\xcf\xb3\xa3\x85\xd4\x4c\xd1\xfd\x45\x90\x89\xd1\x9b\x50\x71\xc0\xb7\xa0"
	policyB384 = "\xb2\x6e\x7d\x28\xd1\x1a\x50\xbc\x53\xd8\x82\xbc\xf5\xfd\x3a\x1a\x07\x41\x48\xbb\x35\xd3\xb4\xe4\xcb\x1c\x0a\xd9\xbd\xe4\x19\xca" +
		"\xcb\x47\xba\x09\x69\x96\x46\x15\x0f\x9f\xc0\x00\xf3\xf8\x0e\x12"
)

func highRangeECC(nameAlg tpm2.TPMAlgID, bits tpm2.TPMKeyBits, curve tpm2.TPMECCCurve, policy string) tpm2.TPMTPublic {
	t := tpm2.ECCEKTemplate
	t.NameAlg = nameAlg
	t.ObjectAttributes.UserWithAuth = true
	t.AuthPolicy = tpm2.TPM2BDigest{Buffer: []byte(policy)}
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, bits),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		CurveID: curve,
	})
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

func highRangeRSA() tpm2.TPMTPublic {
	t := tpm2.RSAEKTemplate
	t.ObjectAttributes.UserWithAuth = true
	t.AuthPolicy = tpm2.TPM2BDigest{Buffer: []byte(policyB256)}
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	return t
}

// EndorsementKeys returns the endorsement keys the chip holds certificates of, or one without where it holds none.
// Making them in the chip can take a minute.
func (a *Attestor) EndorsementKeys(ctx context.Context) (keys []attestation.EndorsementKey, err error) {
	c := a.chip
	err = c.do(ctx, "read the endorsement keys", func(t transport.TPM, _ tpm2.Session) error {
		keys = nil
		for _, e := range endorsements {
			raw, err := readNV(t, e.index)
			if errors.Is(err, tpm2.TPMRCHandle) {
				continue
			}
			if err != nil {
				return fmt.Errorf("cannot read the endorsement certificate at %#x: %w", uint32(e.index), err)
			}
			cert, err := attestation.ParseEndorsementCertificate(raw)
			if err != nil {
				c.log.Warn("an endorsement certificate is passed over", "index", fmt.Sprintf("%#x", uint32(e.index)), "why", err)
				continue
			}
			ok, err := c.endorse(t, func(k key) bool { return attestation.SameKey(cert, k.area) }, func(k key) error {
				keys = append(keys, attestation.EndorsementKey{Area: tpm2.Marshal(k.area), Certificate: cert.Raw})
				return nil
			})
			if err != nil {
				return err
			}
			if !ok {
				c.log.Warn("an endorsement certificate names a key the TPM does not make", "index", fmt.Sprintf("%#x", uint32(e.index)))
			}
		}
		if len(keys) > 0 {
			return nil
		}
		_, err := c.endorse(t, func(key) bool { return true }, func(k key) error {
			keys = append(keys, attestation.EndorsementKey{Area: tpm2.Marshal(k.area)})
			return nil
		})
		return err
	})
	return keys, err
}

// endorse runs f with the first endorsement key that is wanted: one the maker left in place, or one made anew.
func (c *chip) endorse(t transport.TPM, wanted func(key) bool, f func(key) error) (found bool, err error) {
	const first, last = 0x81010000, 0x8101FFFF // EK Credential Profile §2.2.1.6
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 64}.Execute(t)
	if err != nil {
		return false, err
	}
	handles, err := r.CapabilityData.Data.Handles()
	if err != nil {
		return false, err
	}
	for _, h := range handles.Handle {
		if h < first || h > last {
			continue
		}
		k, err := readKey(t, h)
		if err != nil {
			return false, err
		}
		if a := k.area.ObjectAttributes; a.Restricted && a.Decrypt && wanted(k) {
			return true, f(k)
		}
	}
	for _, e := range endorsements {
		p, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			InPublic:      tpm2.New2B(e.template),
		}.Execute(t)
		if errors.Is(err, tpm2.TPMRCCurve) || errors.Is(err, tpm2.TPMRCValue) || errors.Is(err, tpm2.TPMRCKeySize) || errors.Is(err, tpm2.TPMRCHash) {
			continue // not every chip has every curve
		}
		if err != nil {
			return false, err
		}
		found, err := func() (bool, error) {
			defer forget(t, p.ObjectHandle)
			area, err := p.OutPublic.Contents()
			if err != nil {
				return false, err
			}
			k := key{p.ObjectHandle, p.Name, *area}
			if !wanted(k) {
				return false, nil
			}
			return true, f(k)
		}()
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// Activate reads the secret of a challenge (TPM2_ActivateCredential, part 3 §12.5): proof that the endorsement key and
// the LAK are in one TPM. A challenge for another TPM or another LAK is refused by the chip.
func (a *Attestor) Activate(ctx context.Context, ek attestation.EndorsementKey, challenge attestation.Challenge) (secret []byte, err error) {
	c := a.chip
	err = c.do(ctx, "answer the challenge of the enrolment", func(t transport.TPM, session tpm2.Session) error {
		found, err := c.endorse(t, func(k key) bool { return bytes.Equal(tpm2.Marshal(k.area), ek.Area) }, func(k key) error {
			r, err := tpm2.ActivateCredential{
				ActivateHandle: c.keys[lakKey].auth(session),
				KeyHandle:      k.auth(endorsementAuth(k.area)),
				CredentialBlob: tpm2.TPM2BIDObject{Buffer: challenge.Credential},
				Secret:         tpm2.TPM2BEncryptedSecret{Buffer: challenge.Secret},
			}.Execute(t)
			if err != nil {
				return err
			}
			secret = r.CertInfo.Buffer
			return nil
		})
		if err == nil && !found {
			err = errors.New("the challenge is for an endorsement key of another TPM")
		}
		return err
	})
	return secret, err
}

// endorsementAuth authorises the use of an endorsement key: those of the high range have an empty password, those of
// the low range ask for the endorsement hierarchy (PolicyA).
func endorsementAuth(area tpm2.TPMTPublic) tpm2.Session {
	if area.ObjectAttributes.UserWithAuth {
		return tpm2.PasswordAuth(nil)
	}
	return tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(t transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{
			AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
			PolicySession: session,
			NonceTPM:      nonce,
		}.Execute(t)
		return err
	})
}

// readNV reads an index that everybody or the owner may read.
func readNV(t transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	r, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if err != nil {
		return nil, err
	}
	area, err := r.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	auth := tpm2.AuthHandle{Handle: index, Name: r.NVName, Auth: tpm2.PasswordAuth(nil)}
	if !area.Attributes.AuthRead {
		auth = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	}
	const most = 512 // every chip gives as much at once (TPM_PT_NV_BUFFER_MAX)
	var data []byte
	for len(data) < int(area.DataSize) {
		r, err := tpm2.NVRead{
			AuthHandle: auth,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: r.NVName},
			Size:       uint16(min(most, int(area.DataSize)-len(data))),
			Offset:     uint16(len(data)),
		}.Execute(t)
		if err != nil {
			return nil, err
		}
		if len(r.Data.Buffer) == 0 {
			return nil, errors.New("the TPM gave no data")
		}
		data = append(data, r.Data.Buffer...)
	}
	return data, nil
}
