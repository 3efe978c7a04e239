package protocol

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Outcome of one test of the hardware.
type Outcome string

const (
	Pass      Outcome = "pass"
	Fail      Outcome = "fail"
	NotTested Outcome = "not tested" // what is missing for it stands in the sentence
)

// Report is what the hardware test found. It holds nothing of patients.
type Report struct {
	Version  int       `json:"version"`
	Verdict  string    `json:"verdict"` // one sentence, first
	Good     bool      `json:"good"`    // nothing failed; what was not tested is not counted
	Machine  string    `json:"machine"`
	Software string    `json:"software"`
	Factory  bool      `json:"factory"`
	Time     time.Time `json:"time"`
	Results  []Result  `json:"results"`
	Key      string    `json:"key,omitempty"`  // PEM SubjectPublicKeyInfo of the key that signed; compare it with the box's enrolment
	Held     string    `json:"held,omitempty"` // what holds the key, in the box's own words
}

// Result is that of one test.
type Result struct {
	Test     string             `json:"test"`    // "serial", "tpm" …
	Subject  string             `json:"subject"` // which line, chip, disk
	Outcome  Outcome            `json:"outcome"`
	Sentence string             `json:"sentence"`
	Remedy   string             `json:"remedy,omitempty"`  // what to do
	Figures  map[string]float64 `json:"figures,omitempty"` // with their unit in the name: fsync_p99_ms
}

// Envelope is a signed document: DSSE v1, as in-toto uses it. The signature is ECDSA P-256 with SHA-256, ASN.1, over the PAE, so
// openssl can check it.
type Envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     []byte      `json:"payload"`
	Signatures  []Signature `json:"signatures"`
}

// Signature is one signature of an envelope.
type Signature struct {
	KeyID string `json:"keyid"` // hex SHA-256 of the SubjectPublicKeyInfo
	Sig   []byte `json:"sig"`
}

const reportType = "application/vnd.vitalgate.hwtest+json"

// pae is the pre-authentication encoding of DSSE v1.
func pae(payloadType string, payload []byte) []byte {
	return append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(payloadType), payloadType, len(payload)), payload...)
}

// Sign names the key in the report and signs it.
func (r Report) Sign(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("cannot sign the report: %w", err)
	}
	r.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	payload, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(pae(reportType, payload))
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("cannot sign the report: %w", err)
	}
	id := sha256.Sum256(der)
	return json.Marshal(Envelope{PayloadType: reportType, Payload: payload, Signatures: []Signature{{KeyID: hex.EncodeToString(id[:]), Sig: sig}}})
}

// Unsigned is the envelope of a report that no key could sign.
func (r Report) Unsigned() ([]byte, error) {
	payload, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	return json.Marshal(Envelope{PayloadType: reportType, Payload: payload, Signatures: []Signature{}})
}

// ErrUnsigned says that a report is not signed: it may be anybody's.
var ErrUnsigned = errors.New("the report is not signed")

// OpenReport reads a report. With a key it must be signed by that; without one, by the key that it names itself, which only means
// something once that key was compared with the box's enrolment. With an error that is ErrUnsigned the report is there all the same.
func OpenReport(b []byte, key *ecdsa.PublicKey) (*Report, error) {
	var e Envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fmt.Errorf("cannot read the report: %w", err)
	}
	if e.PayloadType != reportType {
		return nil, fmt.Errorf("cannot read the report: it is of type %q, not %q", e.PayloadType, reportType)
	}
	var r Report
	if err := json.Unmarshal(e.Payload, &r); err != nil {
		return nil, fmt.Errorf("cannot read the report: %w", err)
	}
	if len(e.Signatures) == 0 {
		return &r, ErrUnsigned
	}
	if key == nil {
		block, _ := pem.Decode([]byte(r.Key))
		if block == nil {
			return nil, errors.New("cannot verify the report: it names no key; give the box's")
		}
		k, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("cannot verify the report: %w", err)
		}
		p, ok := k.(*ecdsa.PublicKey)
		if !ok || p.Curve != elliptic.P256() {
			return nil, errors.New("cannot verify the report: its key is not an ECDSA P-256 key")
		}
		key = p
	}
	digest := sha256.Sum256(pae(e.PayloadType, e.Payload))
	for _, s := range e.Signatures {
		if ecdsa.VerifyASN1(key, digest[:], s.Sig) {
			return &r, nil
		}
	}
	return nil, errors.New("cannot verify the report: it was changed, or it is of another box")
}

// Print shows a report to a person: the verdict, what failed and what to do, what passed, what was not tested.
func (r *Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%s\n%s, %s, %s\n", r.Verdict, r.Machine, r.Software, r.Time.Format(time.DateTime))
	for _, o := range []Outcome{Fail, Pass, NotTested} {
		for _, t := range r.Results {
			if t.Outcome != o {
				continue
			}
			fmt.Fprintf(w, "%-10s  %s %s: %s", strings.ToUpper(string(o)), t.Test, t.Subject, t.Sentence)
			for _, k := range slices.Sorted(maps.Keys(t.Figures)) {
				fmt.Fprintf(w, "  %s %.4g", k, t.Figures[k])
			}
			if fmt.Fprintln(w); t.Remedy != "" && o != Pass {
				fmt.Fprintf(w, "            %s\n", t.Remedy)
			}
		}
	}
}
