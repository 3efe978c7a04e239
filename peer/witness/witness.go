// Package witness lets peers vouch for each other's view of a box's log. A peer cosigns a box's checkpoint (C2SP
// tlog-cosignature) after it has compared it with the largest one that it ever cosigned, and has written that down: so it
// never cosigns two histories, not even after its store was lost or put back. The cosigned checkpoints travel with what peers
// announce to each other anyway; a box that shows two peers two histories is found as soon as they hear of each other.
package witness

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/cosign"
	"github.com/vitalgate/vitalgate/record/durable"
)

// Log is the verified log of a box, as the store has it.
type Log interface {
	Checkpoint() (record.SignedCheckpoint, record.Checkpoint)
	Prefix(size uint64) (record.Prefix, error)                    // of the stored log
	Head(from string, sc record.SignedCheckpoint) (uint64, error) // compares, and keeps evidence of a contradiction
}

// Signer makes cosignatures; a *cosign.Secret is one.
type Signer interface {
	Cosign(sc record.SignedCheckpoint, at time.Time) ([]record.Signature, error)
}

// Why a checkpoint is not cosigned.
var (
	ErrBehind        = errors.New("the store holds less of the log than this peer has cosigned; it is waiting for the rest")
	ErrContradiction = errors.New("the log contradicts one that this peer has cosigned; the evidence is kept")
)

// maxPeers bounds the cards that are kept.
const maxPeers = 256

// Config is what a witness is made of.
type Config struct {
	Dir       string // what was cosigned, one file for each box
	Secret    Signer
	Card      *cosign.Card
	Authority *x509.Certificate
	// Member says whether the peer with this name is one of the facility now; pin is the hex SHA-256 of the
	// SubjectPublicKeyInfo of its certificate.
	Member func(peer, pin string) bool
}

// Witness works for one peer.
type Witness struct {
	Config

	mu    sync.Mutex
	logs  map[record.BoxID]*seen
	cards map[string]known
}

// known is a peer whose card was accepted.
type known struct {
	keys cosign.Public
	pin  string
	card *cosign.Card
}

// seen is what is known of one box's log.
type seen struct {
	mine   record.SignedCheckpoint // the largest that this peer has cosigned, as the box signed it
	size   uint64                  // of mine
	root   record.Hash             // of mine
	note   record.SignedCheckpoint // mine with the cosignatures
	at     time.Time               // of the cosignature
	others map[string]Cosigned     // by peer
}

// Cosigned is the last checkpoint of a box that a peer has cosigned.
type Cosigned struct {
	Peer string                  `json:"peer"`
	Size uint64                  `json:"size"`
	At   time.Time               `json:"at"`
	Note record.SignedCheckpoint `json:"-"`
}

// New returns a witness. Nothing is read yet.
func New(c Config) *Witness {
	return &Witness{Config: c, logs: map[record.BoxID]*seen{}, cards: map[string]known{}}
}

func (w *Witness) path(id record.BoxID) string {
	return filepath.Join(w.Dir, id.Facility, id.Name+".checkpoint")
}

// log reads what was cosigned of a box before.
func (w *Witness) log(id record.BoxID) (*seen, error) {
	if s := w.logs[id]; s != nil {
		return s, nil
	}
	s := &seen{others: map[string]Cosigned{}}
	b, err := os.ReadFile(w.path(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot cosign for box %s: %w", id, err)
	}
	if err == nil {
		c, err := record.SignedCheckpoint(b).Unverified()
		if err != nil || c.Origin != id.Origin() {
			return nil, fmt.Errorf("cannot cosign for box %s: %s does not hold its checkpoint: %w; without knowing what was cosigned nothing may be. Restore the file", id, w.path(id), err)
		}
		s.mine, s.size, s.root = b, c.Size, c.Root
	}
	w.logs[id] = s
	return s, nil
}

// Cosign cosigns the last checkpoint of a box's log, if that continues what was cosigned before, and returns it with the
// cosignature. What is going to be cosigned is on the disk before it is.
func (w *Witness) Cosign(id record.BoxID, log Log, now time.Time) (record.SignedCheckpoint, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, err := w.log(id)
	if err != nil {
		return nil, err
	}
	sc, c := log.Checkpoint()
	switch {
	case c.Size == 0:
		return nil, errors.New("there is nothing to cosign yet")
	case s.note != nil && bytes.Equal(sc, s.mine):
		return s.note, nil
	case c.Size < s.size:
		return nil, ErrBehind
	case s.size > 0:
		before, err := log.Prefix(s.size)
		if err != nil {
			return nil, fmt.Errorf("cannot cosign for box %s: %w", id, err)
		}
		if before.Root != s.root {
			if _, err := log.Head("this peer's own cosignature", s.mine); err != nil {
				return nil, err
			}
			return nil, ErrContradiction
		}
	}
	if !bytes.Equal(sc, s.mine) {
		if err := w.write(id, sc); err != nil {
			return nil, fmt.Errorf("cannot cosign for box %s: %w", id, err)
		}
	}
	s.mine, s.size, s.root, s.note = sc, c.Size, c.Root, nil
	lines, err := w.Secret.Cosign(sc, now)
	if err != nil {
		return nil, err
	}
	if s.note, err = sc.Cosigned(lines...); err != nil {
		return nil, err
	}
	s.at = now.UTC().Truncate(time.Second)
	return s.note, nil
}

// write puts the checkpoint in the place of the one before, whole or not at all, and durably.
func (w *Witness) write(id record.BoxID, sc record.SignedCheckpoint) error {
	path := w.path(id)
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := durable.WriteFile(path, sc); err != nil {
		return err
	}
	for _, p := range []string{w.Dir, filepath.Dir(w.Dir)} { // the folders may be new too
		if err := durable.SyncDir(p); err != nil {
			return err
		}
	}
	return nil
}

// Meet takes the card of another peer. A card that is not one of a member's is refused; the name it speaks with is the one
// that the facility's authority gave it.
func (w *Witness) Meet(data []byte) error {
	var c cosign.Card
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return errors.New("cannot accept the card of a peer: it is not whole")
	}
	keys, cert, err := c.Open(w.Authority)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	pin := hex.EncodeToString(sum[:])
	if c.Facility != w.Card.Facility || !w.Member(c.Peer, pin) {
		return fmt.Errorf("cannot accept the card of peer %s: it is no peer of this facility (any more)", c.Peer)
	}
	if c.Peer == w.Card.Peer {
		return nil // our own, or somebody's with our name: we know our keys
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.cards[c.Peer]; ok || len(w.cards) < maxPeers {
		w.cards[c.Peer] = known{keys, pin, &c}
	}
	return nil
}

// Hear takes a cosigned checkpoint that was verified as one of the box. Cosignatures of peers that are not known count for
// nothing.
func (w *Witness) Hear(id record.BoxID, note record.SignedCheckpoint) error {
	c, err := note.Unverified()
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s, err := w.log(id)
	if err != nil {
		return err
	}
	var bad []error
	for name, k := range w.cards {
		lines, at, err := k.keys.Verify(note)
		if errors.Is(err, cosign.ErrNone) {
			continue
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		if old, ok := s.others[name]; ok && (old.Size > c.Size || old.Size == c.Size && !at.After(old.At)) {
			continue
		}
		alone, err := note.Cosigned(lines...)
		if err != nil {
			return err
		}
		s.others[name] = Cosigned{name, c.Size, at, alone}
	}
	return errors.Join(bad...)
}

// Cosigners are the peers that have cosigned the log of a box, this one among them, and the last checkpoint that each has,
// by name. Those that are no longer members are left out.
func (w *Witness) Cosigners(id record.BoxID) []Cosigned {
	w.mu.Lock()
	defer w.mu.Unlock()
	all, _ := w.cosigners(id)
	return all
}

func (w *Witness) cosigners(id record.BoxID) (all []Cosigned, mine record.SignedCheckpoint) {
	s := w.logs[id]
	if s == nil {
		return nil, nil
	}
	for _, name := range slices.Sorted(maps.Keys(s.others)) {
		if w.Member(name, w.cards[name].pin) {
			all = append(all, s.others[name])
		}
	}
	if s.note == nil {
		return all, nil
	}
	return append(all, Cosigned{w.Card.Peer, s.size, s.at, s.note}), s.mine
}

// Note is the largest checkpoint of a box that this peer has cosigned, with the cosignatures of all who have cosigned the
// same one; nil where there is none.
func (w *Witness) Note(id record.BoxID) record.SignedCheckpoint {
	w.mu.Lock()
	all, mine := w.cosigners(id)
	w.mu.Unlock()
	var lines []record.Signature
	for _, c := range all {
		bare, err := c.Note.Cosigned()
		if err != nil || !bytes.Equal(bare, mine) {
			continue
		}
		if _, by, err := c.Note.Split(); err == nil && len(lines) < maxLines {
			lines = append(lines, by[1:]...)
		}
	}
	if mine == nil {
		return nil
	}
	note, err := mine.Cosigned(lines...)
	if err != nil {
		return nil
	}
	return note
}

// maxLines is how many cosignature lines fit on a checkpoint beside the box's own: those of seven peers.
const maxLines = 14

// Cards are those of the peers that are known, this one's among them.
func (w *Witness) Cards() []cosign.Card {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := []cosign.Card{*w.Card}
	for _, name := range slices.Sorted(maps.Keys(w.cards)) {
		if k := w.cards[name]; w.Member(name, k.pin) {
			all = append(all, *k.card)
		}
	}
	return all
}
