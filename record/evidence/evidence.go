// Package evidence is a file that shows that a box's log was bent: anyone can check it, offline, with nothing of the
// network that found it. It holds what the key of the box has signed, and that contradicts itself (docs/spec/evidence.md).
package evidence

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/cosign"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// Version of the files.
const Version = 1

// maxFile bounds a file, in bytes.
const maxFile = 1 << 20

// Kind says what the file shows.
type Kind string

const (
	Fork     Kind = "fork"     // two histories, signed in two starts of the box
	Clone    Kind = "clone"    // two histories, signed in one and the same start of its chip
	Rollback Kind = "rollback" // the box was set back: its disk, by its own word at its start, or its chip
	Gap      Kind = "gap"      // signed records that none of the peers named in it has
)

// File is one piece of evidence.
type File struct {
	Version int     `json:"version"`
	Kind    Kind    `json:"kind"`
	Box     string  `json:"box"`              // facility/name
	Key     string  `json:"key"`              // PEM SubjectPublicKeyInfo of the box's log
	First   *Prefix `json:"first"`            //
	Second  *Prefix `json:"second,omitempty"` // of fork, clone and rollback of the chip
	Start   *Record `json:"start,omitempty"`  // of rollback of the disk: the boot leaf
	From    uint64  `json:"from,omitempty"`   // of gap: first index that is missing
	To      uint64  `json:"to,omitempty"`     // of gap: first index after those
	Voices  []Voice `json:"voices,omitempty"` // of gap
}

// Prefix is a record.Prefix.
type Prefix struct {
	Size       uint64   `json:"size"`
	Root       string   `json:"root"`       // base64
	Proof      []string `json:"proof"`      // base64
	Checkpoint string   `json:"checkpoint"` // signed note
}

// Record is a published record.
type Record struct {
	Leaf  []byte `json:"leaf"`  // base64
	Proof string `json:"proof"` // tlog-proof
}

// Voice is the word of one peer that it has not got the records of a gap.
type Voice struct {
	Card      cosign.Card `json:"card"`
	At        time.Time   `json:"at"` // UTC, whole seconds
	Signature []byte      `json:"signature"`
}

// Reason says, in one stable word, why evidence is refused.
type Reason string

const (
	ReasonMalformed Reason = "malformed" // not evidence of this version, in its one form
	ReasonKey       Reason = "key"       // of another key than the one it is compared with
	ReasonSignature Reason = "signature" // a part was not signed by that key
	ReasonProof     Reason = "proof"     // a part does not belong to what was signed
	ReasonNothing   Reason = "nothing"   // the parts do not contradict each other
	ReasonKind      Reason = "kind"      // they do, but show something else than the file says
	ReasonVoices    Reason = "voices"    // a peer's word is not that peer's, or is counted twice
	ReasonAuthority Reason = "authority" // peers' words, and no authority to check them against
)

// Refusal is the error of evidence that shows nothing.
type Refusal struct {
	Reason Reason
	What   string
}

func (r *Refusal) Error() string {
	return "cannot accept the evidence (" + string(r.Reason) + "): " + r.What
}

func refuse(r Reason, what string) error { return &Refusal{r, what} }

// ReasonOf is the reason of a refusal, "" if err is none.
func ReasonOf(err error) Reason {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}

// Finding is what evidence shows.
type Finding struct {
	Kind     Kind
	Box      record.BoxID
	Key      *ecdsa.PublicKey
	Sentence string
}

// Fingerprint names the key: the SHA-256 of its SubjectPublicKeyInfo, in hex.
func (f Finding) Fingerprint() string {
	spki, err := x509.MarshalPKIXPublicKey(f.Key)
	if err != nil {
		return "" // it was parsed from one
	}
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// start begins a file against the key of a box.
func start(kind Kind, box record.BoxID, key *ecdsa.PublicKey) (*File, error) {
	pem, err := enrolment.FormatKey(key)
	if err != nil {
		return nil, err
	}
	return &File{Version: Version, Kind: kind, Box: box.String(), Key: pem}, nil
}

// Diverged makes the evidence of two prefixes of one size: two histories.
func Diverged(box record.BoxID, key *ecdsa.PublicKey, first, second record.Prefix) (*File, error) {
	f, err := start(Fork, box, key)
	if err != nil {
		return nil, err
	}
	f.First, f.Second = format(first), format(second)
	a, errA := first.Open(box, key)
	b, errB := second.Open(box, key)
	if err := errors.Join(errA, errB); err != nil {
		return nil, err
	}
	if oneStart(a, b) {
		f.Kind = Clone
	}
	return f.checked()
}

// SetBack makes the evidence that the chip was set back: second is the log of first as a later checkpoint shows it, whose
// counters are lower.
func SetBack(box record.BoxID, key *ecdsa.PublicKey, first, second record.Prefix) (*File, error) {
	f, err := start(Rollback, box, key)
	if err != nil {
		return nil, err
	}
	f.First, f.Second = format(first), format(second)
	return f.checked()
}

// Confessed makes the evidence that the disk was set back: by the boot leaf, the box found less on its disk than an earlier
// start of it had signed.
func Confessed(box record.BoxID, key *ecdsa.PublicKey, first record.Prefix, boot record.Verified) (*File, error) {
	f, err := start(Rollback, box, key)
	if err != nil {
		return nil, err
	}
	f.First, f.Start = format(first), &Record{Leaf: boot.Leaf(), Proof: string(boot.Published().Text())}
	return f.checked()
}

// Missing begins the evidence of a gap, for voices to be added.
func Missing(box record.BoxID, key *ecdsa.PublicKey, first record.Prefix, from, to uint64) (*File, error) {
	f, err := start(Gap, box, key)
	if err != nil {
		return nil, err
	}
	f.First, f.From, f.To = format(first), from, to
	return f, nil
}

// words are what a voice says: of which log, of which records, when.
func (f *File) words(at time.Time) []byte {
	sum := sha256.Sum256([]byte(f.First.Checkpoint))
	return fmt.Appendf(nil, "vitalgate/lack/v1\n%s\n%x\n%d\n%d\n%s\n", f.Box, sum, f.From, f.To, at.UTC().Format(time.RFC3339))
}

// Say adds the word of a peer, once.
func (f *File) Say(card cosign.Card, secret *cosign.Secret, at time.Time) error {
	for _, v := range f.Voices {
		if v.Card.Peer == card.Peer {
			return refuse(ReasonVoices, fmt.Sprintf("the word of peer %s stands in it already, of %s; let another peer add its own", card.Peer, v.At.Format(time.RFC3339)))
		}
	}
	at = at.UTC().Truncate(time.Second)
	signature, err := secret.Statement(f.words(at))
	if err != nil {
		return err
	}
	f.Voices = append(f.Voices, Voice{card, at, signature})
	return nil
}

// checked is f if it shows what it says.
func (f *File) checked() (*File, error) {
	if _, err := f.Verify(nil); err != nil {
		return nil, err
	}
	return f, nil
}

// Bytes is the file.
func (f *File) Bytes() ([]byte, error) {
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}

// Parse reads a file. It looks at its form only: Verify decides what it shows. The error is a *Refusal.
func Parse(b []byte) (*File, error) {
	if len(b) > maxFile {
		return nil, refuse(ReasonMalformed, "the file is too large")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var f File
	if err := d.Decode(&f); err != nil {
		return nil, refuse(ReasonMalformed, "the file is not whole: "+err.Error())
	}
	if f.Version != Version {
		return nil, refuse(ReasonMalformed, fmt.Sprintf("the file has version %d, this program knows %d", f.Version, Version))
	}
	if again, err := f.Bytes(); err != nil || !bytes.Equal(again, b) {
		return nil, refuse(ReasonMalformed, "the file is not in its one form")
	}
	return &f, nil
}

// Verify says what the evidence shows. authority is the certificate of the facility whose peers speak in it; only a gap
// needs it, because there the key of the box alone contradicts nothing. The error is a *Refusal.
func (f *File) Verify(authority *x509.Certificate) (Finding, error) {
	box, err := record.ParseBoxID(f.Box)
	if err != nil {
		return Finding{}, refuse(ReasonMalformed, "the box is not facility/name")
	}
	key, err := enrolment.ParseKey(f.Key)
	if err != nil {
		return Finding{}, refuse(ReasonMalformed, "the key is not a P-256 key in PEM")
	}
	if again, err := enrolment.FormatKey(key); err != nil || again != f.Key {
		return Finding{}, refuse(ReasonMalformed, "the key is not in its one form")
	}
	if f.First == nil {
		return Finding{}, refuse(ReasonMalformed, "there is no first checkpoint")
	}
	if gap := f.Kind == Gap; gap != (f.To != 0) || gap != (len(f.Voices) > 0) || gap && f.Second != nil || gap && f.Start != nil || f.From != 0 && !gap {
		return Finding{}, refuse(ReasonMalformed, "it has parts that do not belong to its kind, or lacks some")
	}
	first, a, err := open(f.First, box, key)
	if err != nil {
		return Finding{}, err
	}
	found := Finding{Kind: f.Kind, Box: box, Key: key}
	switch {
	case f.Kind == Gap:
		found.Sentence, err = f.gap(first, a, authority)
	case f.Start != nil && f.Second == nil:
		found.Kind, found.Sentence, err = f.confessed(first, a, box, key)
	case f.Second != nil && f.Start == nil:
		var second record.Prefix
		var b record.Checkpoint
		if second, b, err = open(f.Second, box, key); err == nil {
			found.Kind, found.Sentence, err = compare(first, second, a, b)
		}
	default:
		return Finding{}, refuse(ReasonMalformed, "it has parts that do not belong to its kind, or lacks some")
	}
	if err != nil {
		return Finding{}, err
	}
	if found.Kind != f.Kind {
		return Finding{}, refuse(ReasonKind, fmt.Sprintf("it shows a %s, and says %.16q", found.Kind, f.Kind))
	}
	return found, nil
}

// oneStart says whether two checkpoints were signed between two starts of the box: its chip counts each.
func oneStart(a, b record.Checkpoint) bool { return a.Boot == b.Boot && a.Counter == b.Counter }

// compare says what two prefixes of one size contradict each other in.
func compare(first, second record.Prefix, a, b record.Checkpoint) (Kind, string, error) {
	switch {
	case first.Size != second.Size:
		return "", "", refuse(ReasonNothing, "the two parts show the log at two sizes, so nothing follows from their roots")
	case first.Root != second.Root && oneStart(a, b):
		return Clone, fmt.Sprintf("Within one start of its chip (counter %d) the key has signed two histories that differ within the first %d records: a copy of the box is at work, or an image of it was put back while it ran.", a.Counter, first.Size), nil
	case first.Root != second.Root:
		return Fork, fmt.Sprintf("The key has signed two histories that differ within the first %d records, one in the start that its chip counts as %d, one in %d: the box's disk was set back or copied.", first.Size, a.Counter, b.Counter), nil
	case a.Size == first.Size && b.Size > a.Size && Earlier(b, a):
		return Rollback, fmt.Sprintf("The log went on from %d to %d records while the counters of the chip went back (start %d at %d ms, then start %d at %d ms): the state of the chip was set back, which a real one does not allow.",
			a.Size, b.Size, a.Counter, a.Clock, b.Counter, b.Clock), nil
	}
	return "", "", refuse(ReasonNothing, "the two checkpoints do not contradict each other")
}

// Earlier says whether the chip's counters put a before b. All only rise: the NV counter and the count of resets with each
// start, the clock within one.
func Earlier(a, b record.Checkpoint) bool {
	return a.Counter < b.Counter || a.Boot < b.Boot || oneStart(a, b) && a.Clock < b.Clock
}

func (f *File) confessed(first record.Prefix, a record.Checkpoint, box record.BoxID, key *ecdsa.PublicKey) (Kind, string, error) {
	p, err := record.ParseProof(f.Start.Leaf, []byte(f.Start.Proof))
	if err != nil {
		return "", "", refuse(ReasonMalformed, err.Error())
	}
	v, err := record.Verify(p, box, key)
	if err != nil {
		return "", "", refuse(reasonOf(err), err.Error())
	}
	if v.Header().Kind != record.KindBoot {
		return "", "", refuse(ReasonNothing, "the record is not a boot leaf")
	}
	boot, err := record.ParseBoot(v.Body())
	if err != nil {
		return "", "", refuse(ReasonMalformed, err.Error())
	}
	if a.Size != first.Size || boot.Counter <= a.Counter || boot.LastSize >= a.Size {
		return "", "", refuse(ReasonNothing, "the box found at its start all that it had signed before")
	}
	return Rollback, fmt.Sprintf("In the start that its chip counts as %d the key signed a log of %d records; in the later start %d the box found %d of them signed on its disk: the disk was set back.",
		a.Counter, a.Size, boot.Counter, boot.LastSize), nil
}

func (f *File) gap(first record.Prefix, a record.Checkpoint, authority *x509.Certificate) (string, error) {
	if f.From >= f.To || f.To > a.Size || first.Size != a.Size {
		return "", refuse(ReasonProof, "the checkpoint does not reach over the missing records")
	}
	if authority == nil {
		return "", refuse(ReasonAuthority, "it rests on the words of peers; name the certificate of their facility, which vouches for them")
	}
	seen := map[string]bool{}
	var names []string
	var from, to time.Time
	for _, v := range f.Voices {
		keys, _, err := v.Card.Open(authority)
		if err != nil {
			return "", refuse(ReasonVoices, err.Error())
		}
		if seen[v.Card.Peer] {
			return "", refuse(ReasonVoices, "peer "+v.Card.Peer+" speaks twice")
		}
		if !keys.States(f.words(v.At), v.Signature) || v.At.Location() != time.UTC || v.At.Nanosecond() != 0 {
			return "", refuse(ReasonVoices, "peer "+v.Card.Peer+" has not said this")
		}
		seen[v.Card.Peer] = true
		names = append(names, v.Card.Peer)
		if from.IsZero() || v.At.Before(from) {
			from = v.At
		}
		if v.At.After(to) {
			to = v.At
		}
	}
	return fmt.Sprintf("The key has signed a log of %d records; of these, %d to %d are with none of the peers %s of facility %s, by their word between %s and %s.",
		a.Size, f.From, f.To-1, strings.Join(names, ", "), f.Voices[0].Card.Facility, from.Format(time.RFC3339), to.Format(time.RFC3339)), nil
}

func format(p record.Prefix) *Prefix {
	f := &Prefix{Size: p.Size, Root: base64.StdEncoding.EncodeToString(p.Root[:]), Proof: []string{}, Checkpoint: string(p.Checkpoint)}
	for _, h := range p.Proof {
		f.Proof = append(f.Proof, base64.StdEncoding.EncodeToString(h[:]))
	}
	return f
}

func open(f *Prefix, box record.BoxID, key *ecdsa.PublicKey) (p record.Prefix, c record.Checkpoint, err error) {
	p = record.Prefix{Size: f.Size, Checkpoint: record.SignedCheckpoint(f.Checkpoint)}
	if p.Root, err = hash(f.Root); err != nil {
		return p, c, err
	}
	for _, s := range f.Proof {
		h, err := hash(s)
		if err != nil {
			return p, c, err
		}
		p.Proof = append(p.Proof, h)
	}
	if c, err = p.Open(box, key); err != nil {
		return p, c, refuse(reasonOf(err), err.Error())
	}
	return p, c, nil
}

func hash(s string) (h record.Hash, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, refuse(ReasonMalformed, "a hash is not 32 bytes in base64")
	}
	return record.Hash(b), nil
}

// reasonOf turns the reason for which a part is refused into that of the whole.
func reasonOf(err error) Reason {
	switch record.ReasonOf(err) {
	case record.ReasonOrigin, record.ReasonSignature:
		return ReasonSignature
	case record.ReasonSize, record.ReasonProof, record.ReasonHeader, record.ReasonBox, record.ReasonIndex:
		return ReasonProof
	}
	return ReasonMalformed
}
