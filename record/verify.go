package record

import (
	"bytes"
	"crypto/ecdsa"
	"errors"

	"golang.org/x/mod/sumdb/tlog"
)

// Reason says, in one stable word, why a record is refused. Peers quarantine by it.
type Reason string

// Up to ReasonProof, whoever carried the record may have damaged it. The last three are found in what the box itself has
// signed: they are evidence against the box.
const (
	ReasonMalformed  Reason = "malformed"  // the bytes are not a published record
	ReasonCheckpoint Reason = "checkpoint" // the checkpoint is not a signed note in canonical form
	ReasonOrigin     Reason = "origin"     // the checkpoint is of another box
	ReasonSignature  Reason = "signature"  // the checkpoint is not signed by the key of the box
	ReasonSize       Reason = "size"       // the checkpoint does not reach to the record
	ReasonProof      Reason = "proof"      // the signed tree does not hold the leaf at that index
	ReasonHeader     Reason = "header"     // the leaf is not a record of this version
	ReasonBox        Reason = "box"        // the leaf names another box than the log it is in
	ReasonIndex      Reason = "index"      // the leaf names another index than the place it is at
)

// Found by who opens a record, in what the box itself has signed.
const (
	ReasonEpoch   Reason = "epoch"   // the epoch leaf is malformed, or is another patient's than the record
	ReasonShare   Reason = "share"   // a share of the epoch's key is not sealed to the reader that it names, or for another epoch
	ReasonSeal    Reason = "seal"    // the body is not sealed with the key of its epoch, under its header
	ReasonContent Reason = "content" // the content is not the one that the header commits to, or not in its form
)

// Refusal is the error of a record or a checkpoint that is not to be believed.
type Refusal struct {
	Reason Reason
	What   string // one sentence; no value of the record
}

func (r *Refusal) Error() string { return "cannot accept record (" + string(r.Reason) + "): " + r.What }

func refuse(r Reason, what string) error { return &Refusal{r, what} }

// ReasonOf is the reason of a refusal, "" if err is none.
func ReasonOf(err error) Reason {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return ""
}

// Verified is a published record that Verify has accepted; it can be made in no other way.
type Verified struct {
	published  Published
	hash       Hash // of the leaf
	header     Header
	body       []byte
	checkpoint Checkpoint
}

func (v Verified) Header() Header         { return v.header }
func (v Verified) Leaf() Leaf             { return v.published.Leaf }
func (v Verified) LeafHash() Hash         { return v.hash }
func (v Verified) Body() []byte           { return v.body } // sealed, or the text of a control leaf
func (v Verified) Checkpoint() Checkpoint { return v.checkpoint }
func (v Verified) Published() Published   { return v.published }

// Verify checks one record against the public key of the box: the signature of the checkpoint, the path from the leaf to the
// signed root, and that the leaf names this box and this index. It needs nothing else. The error is a *Refusal.
func Verify(p Published, box BoxID, pub *ecdsa.PublicKey) (Verified, error) {
	return NewVerifier(box, pub).Verify(p)
}

// Verifier verifies the records of one box. It remembers the last checkpoint that it accepted, so that the records of one
// checkpoint cost one signature check, and the last path, so that records in their order cost two nodes each. It is not for
// concurrent use.
type Verifier struct {
	box    BoxID
	pub    *ecdsa.PublicKey
	last   SignedCheckpoint
	open   Checkpoint
	proven proven
}

// NewVerifier returns a Verifier for the records that pub signs as box.
func NewVerifier(box BoxID, pub *ecdsa.PublicKey) *Verifier { return &Verifier{box: box, pub: pub} }

// Verify is the function Verify for the box of v.
func (v *Verifier) Verify(p Published) (Verified, error) {
	c, err := v.Checkpoint(p.Checkpoint)
	if err != nil {
		return Verified{}, err
	}
	if p.Index >= c.Size {
		return Verified{}, refuse(ReasonSize, "the checkpoint signs a log that ends before this record")
	}
	if len(p.Leaf) > MaxLeaf || len(p.Path) > maxLevels {
		return Verified{}, refuse(ReasonMalformed, "the record is larger than the format allows")
	}
	hash := tlog.RecordHash(p.Leaf)
	if !v.proven.leads(p.Path, p.Index, hash, c) {
		return Verified{}, refuse(ReasonProof, "the path does not lead from the leaf to the signed root")
	}
	h, body, err := parseLeaf(p.Leaf)
	if err != nil {
		return Verified{}, refuse(ReasonHeader, err.Error())
	}
	if h.Box != v.box {
		return Verified{}, refuse(ReasonBox, "the leaf names another box")
	}
	if h.Index != p.Index {
		return Verified{}, refuse(ReasonIndex, "the leaf names another index than its place in the log")
	}
	return Verified{p, hash, h, body, c}, nil
}

// Checkpoint is OpenCheckpoint for the box of v; it costs nothing for the one that was accepted last.
func (v *Verifier) Checkpoint(sc SignedCheckpoint) (Checkpoint, error) {
	if v.last != nil && bytes.Equal(v.last, sc) {
		return v.open, nil
	}
	c, err := OpenCheckpoint(sc, v.box, v.pub)
	if err != nil {
		return Checkpoint{}, err
	}
	v.last, v.open = bytes.Clone(sc), c
	return c, nil
}
